"""A run rebuilt from what its provider has of it, when the local store is lost: nothing is paid for twice.

    input ──▶ rows and tasks ──▶ the account's batches that ask them ──▶ taken over as this store's own
                                   ended: what they did is taken in        out: a start of the run collects them

A task can be in one batch at a time. What a batch left undone stands in a later one again: so those that have ended
are taken over and taken in one after another, the oldest first, and those that are out come last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from runner import takeup
from runner.amnesia import is_worth_adopting
from runner.api.account import Account
from runner.asking import Asking
from runner.batching import Batching, batch
from runner.errors import BadInput, Interrupted, NotFinished, UsageError
from runner.expand import expand
from runner.job import Job
from runner.model import RunState, TaskState
from runner.pricing import Prices
from runner.remote import RemoteBatch
from runner.reunion import Gone, Reunion
from runner.stop import Stop
from runner.store import batches, remotes, runs, series, totals
from runner.store.database import Store
from runner.store.identity import Identity
from runner.store.locks import SeriesLock
from runner.store.place import path_of
from runner.store.runs import Run
from runner.store.series import Tenure
from runner.submission import mark_of

Emit = Callable[[dict[str, Any]], None]

MOST_PROBED = 50
"""Runs of other inputs that are looked into for rows of this one."""


@dataclass(frozen=True, slots=True)
class Adopt:
    """What to rebuild, at whose account. `input` is None for standard input (`stdin`); `of_run` is the beginning of
    the id of the run whose batches to take over, None for those of this job and input."""

    job: Job
    account: Account
    identity: Identity
    store_url: str
    prices: Prices
    input: Path | None
    stdin: BinaryIO | None
    max_line: int
    of_run: str | None = None


@dataclass(slots=True)
class Adopted:
    """What was taken over. `rows` are those of the batches, `gone` the batches whose files are no longer there."""

    run: str
    of_runs: set[str] = field(default_factory=set)
    batches: int = 0
    rows: int = 0
    answered: int = 0
    out: int = 0
    out_rows: int = 0
    left: int = 0
    gone: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def adopt(what: Adopt, *, stop: Stop, emit: Emit) -> Adopted:
    """Take over the batches at the account that ask rows of this input. Pays nothing. NotFinished where some could
    not be taken in yet; the same again goes on."""
    with (
        SeriesLock(path_of(what.store_url), what.identity.digest),
        Store.open(what.store_url) as store,
    ):
        with store.write() as connection:
            tenure = series.take(connection, what.identity)
        this = _read_input(store, tenure, what, stop, emit)
        adopted = Adopted(this.name)
        before = _answered(store, this)
        reunion = Reunion(store, tenure, this, what.job, what.account, what.prices)
        try:
            _Adoption(store, tenure, this, what, reunion, stop=stop, emit=emit).run(adopted)
        finally:
            reunion.clean_up()
        with store.read() as connection:
            out = batches.out(connection, tenure.series_id)
            states = totals.by_state(connection, this.id)
        adopted.left = states.get(TaskState.READY.value, 0)
        adopted.out, adopted.out_rows = len(out), states.get(TaskState.BATCHED.value, 0)
        adopted.answered = _answered(store, this) - before
        return adopted


def _read_input(store: Store, tenure: Tenure, what: Adopt, stop: Stop, emit: Emit) -> Run:
    """The run of this job over this input, its rows and all their tasks in the store."""
    this = takeup.take_up(
        store,
        tenure,
        what.job,
        takeup.Source(what.input, what.stdin, limit=None, max_line=what.max_line),
        stopping=stop,
        told=lambda count: emit({"event": "ingesting", "rows": count}),
    )
    if this.rows_invalid == this.rows_in:
        raise BadInput(
            f"{what.input or 'Standard input'} has no good line: is it the input that the batches were made of? "
            "Nothing was taken over."
        )
    with store.write() as connection:
        series.fence(connection, tenure)
        if this.state is RunState.REJECTED:
            runs.move(connection, this.id, RunState.INGESTING)
        if this.state in (RunState.INGESTING, RunState.REJECTED):
            runs.move(connection, this.id, RunState.ACTIVE)
        this = runs.get(connection, this.id)
    while expand(store, tenure, this.id) is not None:
        _refuse_when_stopped(stop)
    return this


class _Adoption:
    def __init__(
        self,
        store: Store,
        tenure: Tenure,
        this: Run,
        what: Adopt,
        reunion: Reunion,
        *,
        stop: Stop,
        emit: Emit,
    ) -> None:
        self._store = store
        self._tenure = tenure
        self._run = this
        self._what = what
        self._reunion = reunion
        self._stop = stop
        self._emit = emit

    def run(self, adopted: Adopted) -> None:
        self._take_in()
        listed = self._reunion.listed()
        with self._store.read() as connection:
            worth = [
                one for one in listed if is_worth_adopting(one) and not remotes.is_known(connection, one.id)
            ]
        adopted.others = sorted({_run_of(one) for one in worth})
        chosen = self._chosen(worth)
        adopted.of_runs = {_run_of(one) for one in chosen}
        for one in sorted(chosen, key=lambda one: (not one.has_ended, one.created_at or 0.0, one.id)):
            _refuse_when_stopped(self._stop)
            if self._reunion.is_complete():
                return
            self._take_over(one, adopted)

    def _take_over(self, remote: RemoteBatch, adopted: Adopted) -> None:
        lines = self._reunion.adopt(remote)
        if isinstance(lines, Gone):
            adopted.gone.append(remote.id)
            return
        if not lines:
            return
        adopted.batches += 1
        adopted.rows += lines
        self._emit(
            {
                "event": "batch",
                "run": self._run.name,
                "batch": remote.id,
                "state": "adopted",
                "lines": lines,
                "message": f"taken over from run {_run_of(remote)} ({remote.status})",
            }
        )
        if remote.has_ended:
            self._take_in()

    def _take_in(self) -> None:
        """Take in what those that have ended did. NotFinished if one of them cannot be now."""
        with self._store.read() as connection:
            if not batches.out(connection, self._tenure.series_id):
                return
        try:
            batch(
                Batching(self._asking(), quarantine=600.0, waits=False, plans=False),
                stop=self._stop,
                emit=self._emit,
            )
        except NotFinished:
            pass
        with self._store.read() as connection:
            out = batches.out(connection, self._tenure.series_id)
        still = [one for one in out if one.seen is not None and one.seen.has_ended]
        if still:
            raise NotFinished(
                f"What {len(still)} ended batch{'' if len(still) == 1 else 'es'} did could not be fetched yet. Run the "
                "same command again later, before the run itself: what is left of them may be in other batches."
            )

    def _asking(self) -> Asking:
        return Asking(
            store=self._store,
            tenure=self._tenure,
            run=self._run,
            job=self._what.job,
            account=self._what.account,
            prices=self._what.prices,
            budget=None,
            concurrency=None,
            on_ambiguous="retry",
            grace=25.0,
        )

    def _chosen(self, worth: list[RemoteBatch]) -> list[RemoteBatch]:
        """The batches of the run that was named, else those of this job and input, else those of the newest run that
        asked some of its rows."""
        if self._what.of_run is not None:
            return self._of_run(worth, self._what.of_run)
        mark = mark_of(self._run.meaning, self._run.fingerprint.sha256)
        marked = [one for one in worth if mark and one.metadata.get("mark") == mark]
        if marked:
            return marked
        by_run: dict[str, list[RemoteBatch]] = {}
        for one in sorted(worth, key=lambda one: one.created_at or 0.0, reverse=True):
            by_run.setdefault(_run_of(one), []).append(one)
        for of_run in list(by_run.values())[:MOST_PROBED]:
            _refuse_when_stopped(self._stop)
            if any(self._reunion.asks_ours(one) for one in of_run[:1]):
                return of_run
        return []

    def _of_run(self, worth: list[RemoteBatch], name: str) -> list[RemoteBatch]:
        found = sorted({_run_of(one) for one in worth if _run_of(one).startswith(name)})
        if len(found) > 1:
            raise UsageError(f"'{name}' begins several runs ({', '.join(found)}): give more letters.")
        if not found:
            known = ", ".join(sorted({_run_of(one) for one in worth})) or "none"
            raise UsageError(
                f"No batch of a run '{name}' at {self._what.account.origin} is one that this store does not know. Runs "
                f"that have some: {known}."
            )
        return [one for one in worth if _run_of(one) == found[0]]


def _run_of(remote: RemoteBatch) -> str:
    return remote.metadata.get("run") or "unknown"


def _answered(store: Store, this: Run) -> int:
    with store.read() as connection:
        return totals.by_state(connection, this.id).get(TaskState.ANSWERED.value, 0)


def _refuse_when_stopped(stop: Stop) -> None:
    if stop():
        raise Interrupted("Stopped. What was taken over is kept; the same command goes on.")
