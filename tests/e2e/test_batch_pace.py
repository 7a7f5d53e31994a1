"""A server that puts every line back is not given batch after batch: lines refused for speed cost no attempt."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from e2e.batch_runs import Case, screens
from faultserver import named_batches
from faultserver.courses import Course

ALL_TOO_FAST = Course(name="all-429", plan=lambda index, total: "429")
POLL = 0.3


def test_after_batches_in_vain_the_next_waits_longer_each_time(tmp_path: Path, empty_store: Path) -> None:
    faults = named_batches("plain")
    for _ in range(3):
        faults = faults.with_course(ALL_TOO_FAST)
    options = ("--poll", f"{POLL}s")
    case = Case(tmp_path / "case", empty_store, rows=5, batches=faults, batch_time=0.02, options=options)
    with screens() as command:
        found = case.run(command)

    assert found.code == 0
    assert found.answered == case.ids
    assert max(found.executed.values()) == 1
    creates = [
        one
        for one in found.ledger.arrivals
        if one.operation is not None and one.operation.name == "batches.create"
    ]
    created = [one.time for one in creates]
    gaps = [later - earlier for earlier, later in pairwise(created)]
    assert len(gaps) == 3
    assert all(gap >= POLL * 2**n for n, gap in enumerate(gaps))
