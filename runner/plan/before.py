"""What the series knows already of the questions that a plan asks, by the user's own store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runner.job import Job
from runner.model import RunState, TaskState
from runner.store import batches, runs, series, totals
from runner.store.database import Store
from runner.store.identity import Identity
from runner.store.questions import Fate, fate
from runner.store.runs import Run

_UNREAD = (RunState.INGESTING, RunState.REJECTED)


class Before:
    """What came before. `run` is the run that the same command would go on with, None where it would begin a
    new one; `spent` what that run has spent of its budget, in pico-dollars; `queue_limit` tells how many tokens of
    a model the account's queue of batches was last known to take."""

    def __init__(
        self,
        fate_of: Callable[[bytes, int], Fate | None] | None = None,
        run: Run | None = None,
        spent: int = 0,
        accepted: frozenset[str] | None = None,
        queue_limit: Callable[[str], int | None] = lambda _: None,
    ) -> None:
        self._fate_of = fate_of
        self._accepted = accepted
        self.queue_limit = queue_limit
        self.run = run
        self.spent = spent

    @property
    def calls_per_second(self) -> float | None:
        """How fast the run was last let ask at the standard price; None where nothing is known."""
        found = None if self.run is None else (self.run.progress or {}).get("calls_per_second_allowed")
        return None if found is None else float(found)

    def is_answered(self, fate: Fate) -> bool:
        """Whether the row has its answer."""
        accepted = self._accepted is None or fate.finish_reason in self._accepted
        return fate.state is TaskState.ANSWERED and accepted and not fate.has_fault

    def needs_retry(self, fate: Fate) -> bool:
        """Whether the row failed, or is held, so that the same command leaves it as it is."""
        if fate.state is TaskState.FAILED:
            # A new run of the series asks again what failed in an earlier one.
            return self.run is not None and (
                fate.run_id == self.run.id or self.run.state is RunState.FINISHED
            )
        return fate.state in (TaskState.ANSWERED, TaskState.HELD) and not self.is_answered(fate)

    def of(self, hash_: bytes, occurrence: int) -> Fate | None:
        """What became of a question; None if it was never asked."""
        return None if self._fate_of is None else self._fate_of(hash_, occurrence)


@contextmanager
def before(
    path: Path, identity: Identity, job: Job, *, limit: int | None, sha256: str | None
) -> Iterator[Before]:
    """What the store at `path` knows of the series; the input's own run is told by job, limit and SHA-256."""
    if not path.exists():
        yield Before()
        return
    with Store.read_only(str(path)) as store, store.read() as connection:
        series_id = series.find(connection, identity)

        def queue_limit(model: str) -> int | None:
            return batches.queue_limit(connection, identity.account, model)

        if series_id is None:
            yield Before(queue_limit=queue_limit)
            return
        same = [
            one
            for one in runs.of_series(connection, series_id)
            if one.state not in _UNREAD
            and (one.meaning, one.row_limit) == (job.meaning_digest(), limit)
            and one.fingerprint.sha256 == sha256
        ]
        run = same[0] if same else None
        spent = 0 if run is None else totals.spent(connection, run.id)

        def fate_of(hash_: bytes, occurrence: int) -> Fate | None:
            return fate(connection, series_id, hash_, occurrence)

        yield Before(fate_of, run, spent, job.accepts, queue_limit)
