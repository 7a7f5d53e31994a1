"""The ready jobs give the outputs in `sample_data/expected/`, byte for byte, and each broken line its code.

    RUNNER_EXPECTED=write .venv/bin/pytest tests/e2e/test_samples.py      makes the expected files anew

Do so after a change of the simulator's answers, the prices or the output's form, and read the difference. The
summaries are kept without the run's id and its times. Of the embeddings the first rows are kept as they are,
and the whole output's SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "sample_data"
EXPECTED = SAMPLES / "expected"
COMMANDS = {
    "classify_tickets": "jobs/classify_tickets.yaml",
    "embed_corpus": "jobs/embed_corpus.yaml",
    "summarize_documents": "jobs/summarize_documents.yaml",
    "requests": "sample_data/requests.jsonl",
}
BROKEN = {
    "broken": ("jobs/classify_tickets.yaml", "--input", SAMPLES / "broken.jsonl"),
    "broken_requests": ("sample_data/broken_requests.jsonl",),
}
KEPT_ROWS = {"embed_corpus": 40}
OF_THE_MOMENT = ("run", "started_at", "finished_at", "seconds")


def lines_of(path: Path) -> list[bytes]:
    data = path.read_bytes()
    assert data.endswith(b"\n")
    return data[:-1].split(b"\n")


def lasting(summary: Path) -> bytes:
    """A summary without what differs from run to run."""
    found: dict[str, Any] = orjson.loads(summary.read_bytes())
    for name in OF_THE_MOMENT:
        del found[name]
    return orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n"


def files_of(name: str, output: Path) -> dict[str, bytes]:
    """What is kept of an output, by the names of the expected files."""
    kept = {f"{name}.jsonl": output.read_bytes()}
    if (rows := KEPT_ROWS.get(name)) is not None:
        whole = hashlib.sha256(output.read_bytes()).hexdigest()
        kept[f"{name}.jsonl"] = b"".join(line + b"\n" for line in lines_of(output)[:rows])
        kept[f"{name}.sha256"] = f"{whole}  {name}.jsonl\n".encode()
    return {**kept, f"{name}.summary.json": lasting(output.with_name(f"{output.name}.summary.json"))}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_sample_gives_what_is_expected(name: str, cli: Callable[..., Any], tmp_path: Path) -> None:
    output = tmp_path / f"{name}.jsonl"

    ended = cli("run", ROOT / COMMANDS[name], "--provider", "sim", "-o", output)

    assert ended.code == 0, ended.err
    found = files_of(name, output)
    if os.environ.get("RUNNER_EXPECTED") == "write":
        for file, data in found.items():
            (EXPECTED / file).write_bytes(data)
    assert {file: (EXPECTED / file).read_bytes() == data for file, data in found.items()} == dict.fromkeys(
        found, True
    )


def test_every_expected_file_is_one_that_a_sample_gives() -> None:
    ends = (".jsonl", ".summary.json")
    known = {name + end for name in COMMANDS for end in ends} | {f"{name}.sha256" for name in KEPT_ROWS}

    assert {path.name for path in EXPECTED.iterdir()} == known


@pytest.mark.parametrize("name", COMMANDS)
def test_the_expected_output_has_a_line_for_each_line_of_the_input(name: str) -> None:
    source = {"classify_tickets": "tickets", "embed_corpus": "corpus", "summarize_documents": "documents"}
    # The tickets hold half a character, as life does, which orjson refuses.
    given = [json.loads(line) for line in lines_of(SAMPLES / f"{source.get(name, name)}.jsonl")]
    got = [json.loads(line) for line in lines_of(EXPECTED / f"{name}.jsonl")]

    key = next(field for field in ("id", "doc_id", "custom_id") if field in given[0])
    rows = KEPT_ROWS.get(name, len(given))
    assert [row[key] for row in got] == [row[key] for row in given[:rows]]
    counted = orjson.loads((EXPECTED / f"{name}.summary.json").read_bytes())["rows"]
    assert counted == {"in": len(given), "ok": len(given), "failed": 0, "invalid": 0, "skipped": 0}


def table_of(name: str) -> list[tuple[int, str]]:
    """The bad lines and their codes, as the table beside a broken file has them."""
    text = (SAMPLES / f"{name}.md").read_text()
    return [(int(line), code) for line, code in re.findall(r"^\| (\d+) \| (\w+) \|", text, re.MULTILINE)]


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_line_gives_its_code_and_the_good_ones_run(
    name: str, cli: Callable[..., Any], tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    errors = output.with_name("out.jsonl.errors.jsonl")
    job, *rest = BROKEN[name]
    command = ("run", ROOT / str(job), *rest, "--provider", "sim", "-o", output)
    wanted = table_of(name)

    refused = cli(*command)
    assert refused.code == 65
    assert not output.exists()
    assert [(one["line"], one["code"]) for one in map(orjson.loads, lines_of(errors))] == wanted
    shown = re.findall(r"^  line (\d+).*\[(\w+)\]$", refused.err, re.MULTILINE)
    assert [(int(line), code) for line, code in shown] == wanted[:20]

    skipping = cli(*command, "--skip-invalid")
    assert skipping.code == 3
    source = (SAMPLES / f"{name}.jsonl").read_bytes().split(b"\n")
    lines = [number for number, line in enumerate(source, 1) if line.strip()]
    rows = dict(zip(lines, map(orjson.loads, lines_of(output)), strict=True))
    assert [(line, row["error"]["code"]) for line, row in rows.items() if row.get("error")] == wanted
    counted = orjson.loads((tmp_path / "out.jsonl.summary.json").read_bytes())["rows"]
    assert counted == {
        "in": len(lines),
        "ok": len(lines) - len(wanted),
        "failed": 0,
        "invalid": len(wanted),
        "skipped": 0,
    }
    assert len(lines_of(errors)) == len(wanted)
