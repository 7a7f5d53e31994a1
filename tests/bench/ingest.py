"""How fast lines become rows of the store, checked, and what memory that takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from inputs import record_job
from measuring import Cost, Figure, median, rate, work

ROWS = 200_000
FEW_ROWS = 10_000
TIMES = 3


def figures(folder: Path, *, rows: int = ROWS) -> Iterator[Figure]:
    """The Batch API's format, then a templated job, each beside the bare loop over the same file."""
    for kind, name, target in (
        ("requests", "Batch API's format", "40,000/s"),
        ("records", "templated job", "20,000/s"),
    ):
        yield from _of_kind(folder, kind, name, target, rows)


def _of_kind(folder: Path, kind: str, name: str, target: str, rows: int) -> Iterator[Figure]:
    few = _filled(folder, kind, FEW_ROWS, times=1)[1]
    said, rss, bare = _filled(folder, kind, rows, times=TIMES)
    cpu = said["read_cpu"]
    yield Figure(
        "ingest",
        f"{name}, {rows:,} rows of 1 kB",
        f"{rate(rows, cpu)} of CPU, {rate(rows, said['read_wall'])} of wall time",
        target,
        f"{cpu / bare:.1f} x the bare loop ({rate(rows, bare)} of CPU)",
    )
    yield Figure(
        "ingest", f"{name}, peak memory", f"{rss:.0f} MB", "150 MB", f"{few:.0f} MB for {FEW_ROWS:,} rows"
    )


def _filled(folder: Path, kind: str, rows: int, *, times: int) -> tuple[dict[str, float], float, float]:
    """What the reading said, the most memory it held in MB, and the bare loop's CPU seconds."""
    data, store = folder / f"{kind}.jsonl", folder / "ingest.db"
    work("inputs", [kind, rows, data], folder)
    source = record_job(folder, data) if kind == "records" else data
    bare = median(lambda: work("inputs", ["bare", data, folder / "bare.out"], folder), times)

    def read_in() -> Cost:
        for left in folder.glob("ingest.db*"):
            if left.is_file():
                left.unlink()
        return work("filling", [source, store, 0], folder)

    filled = median(read_in, times)
    return filled.said, filled.rss, bare.said["cpu"]
