"""Texts become one matrix, or lines, by the command line: the same vectors either way, and paid once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "jobs" / "embed_corpus.yaml"
SIM = ("--provider", "sim")


def lines_of(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    assert data.endswith(b"\n")
    return [json.loads(line) for line in data[:-1].split(b"\n")]


def digests(folder: Path, *names: str) -> list[str]:
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]


def test_a_corpus_becomes_a_matrix_with_its_keys(cli: Callable[..., Any], tmp_path: Path) -> None:
    files = ("v.npy", "v.npy.keys.jsonl")
    first = cli("run", CORPUS, *SIM, "-o", tmp_path / "v.npy")
    assert first.code == 0, first.err
    matrix, keys = np.load(tmp_path / "v.npy"), lines_of(tmp_path / "v.npy.keys.jsonl")
    summary = json.loads((tmp_path / "v.npy.summary.json").read_bytes())
    assert (matrix.shape, matrix.dtype) == ((400, 512), np.dtype("<f4"))
    assert [one["line"] for one in keys] == list(range(1, 401))
    assert not (tmp_path / "v.npy.errors.jsonl").exists()
    before = digests(tmp_path, *files)

    again = cli("run", CORPUS, *SIM, "-o", tmp_path / "v.npy")
    assert again.code == 0
    assert "Nothing to do" in again.err
    (tmp_path / files[1]).unlink()
    assert cli("run", CORPUS, *SIM, "-o", tmp_path / "v.npy").code == 0
    assert digests(tmp_path, *files) == before

    assert cli("export", "last", "-o", tmp_path / "again.npy").code == 0
    assert digests(tmp_path, "again.npy", "again.npy.keys.jsonl") == before
    assert cli("export", "last", "-o", tmp_path / "v.jsonl").code == 0
    drawn = lines_of(tmp_path / "v.jsonl")
    assert [line["id"] for line in drawn] == [one["key"] for one in keys]
    assert np.array([line["result"]["output"] for line in drawn]).astype("<f4").tobytes() == matrix.tobytes()
    paid = sum(line["result"]["usage"]["input"] for line in drawn if not line["result"].get("reused", False))
    assert paid == summary["tokens"]["input"]


def test_what_there_is_of_a_matrix(cli: Callable[..., Any], tmp_path: Path) -> None:
    assert cli("run", CORPUS, *SIM, "-o", tmp_path / "ten.npy", "--limit", "10").code == 0
    stopped = cli("run", CORPUS, *SIM, "-o", tmp_path / "v.npy", "--budget", "0.0000001")
    assert stopped.code == 4, stopped.err
    assert not (tmp_path / "v.npy").exists()

    assert cli("export", "last", "-o", tmp_path / "part.npy", "--partial").code == 3
    part, ten = np.load(tmp_path / "part.npy"), np.load(tmp_path / "ten.npy")
    keys = lines_of(tmp_path / "part.npy.keys.jsonl")
    summary = json.loads((tmp_path / "part.npy.summary.json").read_bytes())
    answered = [n for n, one in enumerate(keys) if "error" not in one]
    assert part.shape == (400, 512)
    assert part[:10].tobytes() == ten.tobytes()
    assert answered == [n for n in range(400) if not np.isnan(part[n]).any()]
    assert summary["rows"]["skipped"] == 400 - len(answered)
    assert {one["error"]["code"] for one in keys if "error" in one} == {"skipped"}


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("jobs/classify_tickets.yaml", "this job asks the endpoint responses"),
        ("sample_data/requests.jsonl", "line 1 asks /v1/chat/completions"),
    ],
)
def test_a_matrix_of_what_is_no_vector_is_refused(
    cli: Callable[..., Any], tmp_path: Path, asked: str, why: str
) -> None:
    ended = cli("run", ROOT / asked, *SIM, "-o", tmp_path / "v.npy")

    assert ended.code == 2
    assert why in ended.err
    assert "Nothing was sent" in ended.err
    assert not list(tmp_path.glob("v.npy*"))
