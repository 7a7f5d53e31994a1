"""Thousands of calls in flight: how much of what the latency allows is used, and what memory that takes."""

from __future__ import annotations

import json
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from inputs import write
from lean_server import FIGURES
from measuring import BENCH, Figure, runner, serving

CONCURRENCY = 5_000
LATENCY = 10.0
ROWS = 25_000
SHARE = 0.95
MOST_MB = 350
CASES = {"told": "limits told that do not bind", "silent": "a server that tells no limits"}


def figures(
    folder: Path, *, rows: int = ROWS, concurrency: int = CONCURRENCY, names: Sequence[str] = tuple(CASES)
) -> Iterator[Figure]:
    """The same calls to a server that tells its limits, and to one that is silent."""
    requests = folder / "short.jsonl"
    write("short", rows, requests)
    for name in names:
        yield from _measured(folder, requests, name, rows, concurrency)


def _measured(folder: Path, requests: Path, name: str, rows: int, concurrency: int) -> Iterator[Figure]:
    server = [str(BENCH / "lean_server.py"), "flight", str(LATENCY), str(concurrency), name]
    with serving(server, folder) as url, tempfile.TemporaryDirectory(dir=folder) as kept:
        command = ["run", str(requests), "-o", f"{kept}/out.jsonl", "--base-url", url, "--quiet"]
        command += ["--concurrency", str(concurrency), "--store", f"sqlite:///{kept}/store.db"]
        cost = runner(command, folder)
        with urllib.request.urlopen(url.removesuffix("/v1") + FIGURES) as said:
            seen: dict[str, Any] = json.load(said)
    assert seen["arrived"] == rows, seen
    what = f"{concurrency:,} calls in flight, {LATENCY:.0f} s each, {CASES[name]}"
    possible = concurrency / LATENCY
    calls, seconds = seen["steady"]
    found = calls / seconds if seconds else 0.0
    held = f"at most {seen['most']:,} held, full {seen['full_after']:.1f} s after the first call"
    yield Figure(
        "flight",
        what,
        f"{found:.0f} calls/s once full ({100 * found / possible:.1f} %), {cost.cpu / rows * 1e6:.0f} us of CPU a call",
        f"{SHARE * possible:.0f}/s",
        f"{possible:.0f}/s possible; {held}" if seen["is_full"] else f"never full; {held}",
    )
    yield Figure("flight", "the same: peak memory", f"{cost.rss:.0f} MB", f"{MOST_MB} MB", f"{rows:,} rows")
