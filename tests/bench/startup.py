"""How long a command takes that has nothing to do but to look."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from filling import NOWHERE
from inputs import write
from measuring import Figure, measure, median_wall, runner, work

ROWS = 10_000
TIMES = 5
BARE = "a bare interpreter in the same run"


def figures(folder: Path) -> Iterator[Figure]:
    """Start-up of the help, of `status`, and of a run that is finished already."""
    bare = median_wall(lambda: measure(["-c", "pass"], folder), TIMES)

    def figure(what: str, wall: float, target: str = "") -> Figure:
        return Figure(
            "startup", what, f"{wall:.2f} s", target, f"{wall / bare:.1f} x a bare interpreter ({bare:.3f} s)"
        )

    yield figure("runner --help", median_wall(lambda: runner(["--help"], folder), TIMES), "0.3 s")
    requests, store = folder / "requests.jsonl", folder / "store.db"
    write("requests", ROWS, requests)
    work("filling", [requests, store, ROWS], folder)
    kept = ["--store", f"sqlite:///{store}"]
    run = ["run", str(requests), "-o", str(folder / "out.jsonl"), "--base-url", NOWHERE, *kept]
    runner(run, folder)
    size = f"{ROWS:,} rows done"
    yield figure(
        f"runner status, {size}", median_wall(lambda: runner(["status", *kept], folder), TIMES), "0.7 s"
    )
    yield figure(
        f"runner status last, {size}",
        median_wall(lambda: runner(["status", "last", *kept], folder), TIMES),
        "0.7 s",
    )
    yield figure(f"the same run again, {size}", median_wall(lambda: runner(run, folder), TIMES))
