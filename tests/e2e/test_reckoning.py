"""What batches say that they have used is held against what their rows' answers say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from e2e.conftest import Ended
from e2e.in_place import InPlace, in_place
from faultserver import BatchFaults, named_batches

ROWS = 10


@pytest.fixture
def cli(tmp_path: Path, store: Path, empty_store: Path) -> Iterator[InPlace]:
    with in_place(tmp_path, store, empty_store) as made:
        yield made


def run(cli: InPlace, requests: Path, faults: BatchFaults, *more: str) -> tuple[Ended, dict[str, Any]]:
    """A whole run in batch mode; how it ended, and its summary."""
    cli.serve(faults, batch_time=0.1)
    ended = cli("run", requests, "--mode", "batch", "-o", "out.jsonl", "--poll", "0.1s", *more)
    return ended, orjson.loads((requests.parent / "out.jsonl.summary.json").read_bytes())


def test_usage_that_agrees_is_said_to(cli: InPlace, requests_file: Callable[..., Path]) -> None:
    ended, summary = run(cli, requests_file(ROWS), named_batches("expired:0.4"))

    assert ended.code == 0
    assert summary["batches"] == {"count": 2, "usage_known": 2, "usage_differs": None}
    assert "Usage:" not in ended.err


def test_usage_that_differs_is_told_by_how_much(cli: InPlace, requests_file: Callable[..., Path]) -> None:
    def more(shown: dict[str, Any], _batch: Any) -> None:
        usage = shown["usage"]
        shown["usage"] = usage | {
            "input_tokens": usage["input_tokens"] + 7,
            "total_tokens": usage["total_tokens"] + 7,
        }

    ended, summary = run(cli, requests_file(ROWS), named_batches("plain").with_view(more))

    assert ended.code == 0
    assert summary["batches"]["usage_differs"] == {"batches": 1, "input": 7, "output": 0, "total": 7}
    assert (
        "Usage: 1 batch names other tokens than the answered rows add up to (+7 input, +0 output" in ended.err
    )


@pytest.mark.parametrize("usage", [None, {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}])
def test_a_server_that_names_no_usage_is_not_said_to_differ(
    cli: InPlace, requests_file: Callable[..., Path], usage: Any
) -> None:
    def nothing(shown: dict[str, Any], _batch: Any) -> None:
        shown["usage"] = usage

    _, summary = run(cli, requests_file(ROWS), named_batches("plain").with_view(nothing))

    assert summary["batches"] == {"count": 1, "usage_known": 0, "usage_differs": None}


def test_a_run_without_batches_says_nothing_of_them(cli: InPlace, requests_file: Callable[..., Path]) -> None:
    _, summary = run(cli, requests_file(ROWS), named_batches("plain"), "--mode", "online")

    assert "batches" not in summary
