"""What a run costs that has almost nothing left to do: a store with many done rows, one to ask, all to draw."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from inputs import write
from measuring import Cost, Figure, fault_server, runner, work

MANY = 200_000
FEW = 10_000


def figures(folder: Path, *, rows: int = MANY) -> Iterator[Figure]:
    """The same resume with few rows done and with many."""
    (few, _), (many, again) = _resume(folder / "few", FEW), _resume(folder / "many", rows)
    what = f"resume, {rows:,} of {rows + 1:,} rows done"
    yield Figure(
        "memory",
        f"{what}: one call, all drawn",
        f"{many.wall:.1f} s, {many.cpu:.1f} s of CPU",
        "",
        f"{few.wall:.1f} s, {few.cpu:.1f} s of CPU for {FEW:,}",
    )
    yield Figure("memory", f"{what}: peak memory", f"{many.rss:.0f} MB", "150 MB", f"{few.rss:.0f} MB")
    yield Figure("memory", "the same run again", f"{again.wall:.2f} s, {again.rss:.0f} MB")


def _resume(folder: Path, rows: int) -> tuple[Cost, Cost]:
    """The run that asks the last row, and the same command again."""
    folder.mkdir()
    requests, store = folder / "requests.jsonl", folder / "store.db"
    write("requests", rows + 1, requests)
    with fault_server(folder) as url:
        work("filling", [requests, store, rows, url], folder)
        command = ["run", str(requests), "-o", str(folder / "out.jsonl"), "--base-url", url]
        command += ["--store", f"sqlite:///{store}"]
        return runner(command, folder), runner(command, folder)
