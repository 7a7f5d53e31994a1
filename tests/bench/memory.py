"""What a run costs that has almost nothing left to do: a store with many done rows, one to ask, all to draw."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from filling import NOWHERE
from inputs import write
from measuring import Cost, Figure, fault_server, runner, work

MANY = 200_000
FEW = 10_000


def figures(folder: Path, *, rows: int = MANY) -> Iterator[Figure]:
    """The same resume with few rows and with many."""
    few = _resume(folder, FEW)
    many = _resume(folder, rows)
    what = f"resume with {rows:,} of {rows + 1:,} rows done"
    yield Figure(
        "memory",
        f"{what}, one call, all drawn",
        f"{many.wall:.1f} s, {many.cpu:.1f} s of CPU",
        "",
        f"{few.wall:.1f} s, {few.cpu:.1f} s of CPU for {FEW:,}",
    )
    yield Figure(
        "memory", f"{what}, peak memory", f"{many.rss:.0f} MB", "150 MB", f"{few.rss:.0f} MB for {FEW:,}"
    )
    again = runner(_command(folder), folder)
    yield Figure("memory", "the same run again", f"{again.wall:.2f} s, {again.rss:.0f} MB")


def _command(folder: Path) -> list[str]:
    return ["resume", "last", "-o", str(folder / "out.jsonl"), "--store", f"sqlite:///{folder / 'store.db'}"]
