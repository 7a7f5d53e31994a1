"""How fast an output is drawn from a store that holds all its answers, and what memory that takes.

    python tests/bench/export.py JOB_OR_REQUESTS STORE OUT [BASE_URL]

draws it in a process of its own and prints the CPU seconds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from inputs import record_job
from measuring import Figure, median, rate, work

ROWS = 50_000
TIMES = 3


def figures(folder: Path, *, rows: int = ROWS) -> Iterator[Figure]:
    """The Batch API's format, then a job's own, each beside the bare loop over the output."""
    for kind, name in (("requests", "Batch API's format"), ("records", "a job's own format")):
        data, store, out = folder / f"{kind}.jsonl", folder / f"{kind}.db", folder / "drawn.jsonl"
        work("inputs", [kind, rows, data], folder)
        source = record_job(folder, data) if kind == "records" else data
        filled = work("filling", [source, store, rows], folder).said
        drawn = median(lambda: work("export", [source, store, out], folder), TIMES)  # noqa: B023
        bare = median(lambda: work("inputs", ["bare", out, folder / "bare.out"], folder), TIMES)  # noqa: B023
        cpu, beside = drawn.said["cpu"], bare.said["cpu"]
        yield Figure(
            "export",
            f"{name}, {rows:,} rows",
            f"{rate(rows, cpu)} of CPU, {rate(rows, drawn.said['wall'])} of wall time",
            "40,000/s",
            f"{cpu / beside:.1f} x the bare loop over the output ({rate(rows, beside)} of CPU)",
        )
        yield Figure("export", f"{name}, peak memory", f"{drawn.rss:.0f} MB", "150 MB")
    yield Figure(
        "export",
        "the store's own part of a call (claim, settle)",
        f"{filled['answer_cpu'] / rows * 1e6:.0f} us of CPU a call",
    )


def draw(source: str, store_path: str, out: Path, base_url: str | None = None) -> dict[str, float]:
    """Draw the newest run's output; seconds of CPU and of wall time."""
    from filling import NOWHERE, account

    from runner.cli.account import identity_of
    from runner.cli.options import job_of
    from runner.export import Outputs, export
    from runner.store import runs, series
    from runner.store.database import Store

    job = job_of(source, None)
    with Store.open(f"sqlite:///{store_path}") as store:
        with store.write() as connection:
            tenure = series.take(connection, identity_of(job, account(base_url or NOWHERE)))
        with store.read() as connection:
            this = runs.find(connection, "last")
        cpu, wall = time.process_time(), time.perf_counter()
        totals = export(store, this, job, Outputs(store, tenure, out))
        return {
            "cpu": time.process_time() - cpu,
            "wall": time.perf_counter() - wall,
            "ok": totals.ok,
        }


if __name__ == "__main__":
    print(json.dumps(draw(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])))
