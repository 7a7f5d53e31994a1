"""What a run would be, before a cent is spent: every line checked, every question counted and priced.

The input is read into a store of its own, in a folder that is deleted afterwards; no API is called.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from runner.errors import LISTED_FAULTS, BadInput
from runner.files import LineReader
from runner.ingest import Ingested, ingest
from runner.job import Job
from runner.model import Demand, Usage
from runner.pricing import Prices, usd
from runner.question import Question, Questions, worst_case
from runner.store import rows, runs, series, tasks
from runner.store.database import Store
from runner.store.series import Identity
from runner.takeup import Source

WAYS = {"online": (None, False), "flex": ("flex", False), "batch": (None, True)}


@dataclass(slots=True)
class _Sums:
    """What the questions come to. Costs are in pico-dollars by way, None once a question has no known price
    that way: `least` counts the input alone, `most` the longest answers."""

    input_tokens: int = 0
    output_tokens: int | None = 0
    least: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(WAYS, 0))
    most: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(WAYS, 0))
    dearest_call: int | None = 0
    models: dict[str, int] = field(default_factory=dict)

    def add(self, question: Question, prices: Prices) -> None:
        demand = question.endpoint.demand(question.request, len(question.body))
        self.models[question.model] = self.models.get(question.model, 0) + 1
        self.input_tokens += demand.input_tokens
        longest = demand.max_output if demand.max_output is not None else prices.max_output(question.model)
        self.output_tokens = _plus(self.output_tokens, None if longest is None else longest * demand.choices)
        for way, (tier, batch) in WAYS.items():
            usage = Usage(input=demand.input_tokens, total=demand.input_tokens)
            self.least[way] = _plus(self.least[way], prices.cost(question.model, tier, usage, batch=batch))
            self.most[way] = _plus(self.most[way], _most(question, demand, prices, tier, batch=batch))
        worst = worst_case(question, demand, prices)
        self.dearest_call = (
            None if worst is None or self.dearest_call is None else max(self.dearest_call, worst)
        )


@dataclass(slots=True)
class _Counted:
    asked: int = 0
    reused: int = 0
    repeated: int = 0
    sums: _Sums = field(default_factory=_Sums)


class _Before:
    """What the series has been answered already, by the user's own store."""

    def __init__(self, store: Store | None, series_id: int) -> None:
        self._store = store
        self._series_id = series_id

    @classmethod
    def of(cls, path: Path, identity: Identity) -> _Before:
        if not path.exists():
            return cls(None, 0)
        store = Store.read_only(str(path))
        with store.read() as connection:
            found = series.find(connection, identity)
        return cls(None if found is None else store, found or 0)

    def has(self, hash_: bytes, occurrence: int) -> bool:
        if self._store is None:
            return False
        with self._store.read() as connection:
            return tasks.is_answered(connection, self._series_id, hash_, occurrence)

    def close(self) -> None:
        if self._store is not None:
            self._store.close()


def plan(
    job: Job,
    source: Source,
    identity: Identity,
    prices: Prices,
    *,
    store_path: Path,
    skip_invalid: bool,
    budget: int | None,
) -> dict[str, Any]:
    """The plan of a run as a JSON-able value. BadInput with every fault if lines cannot be asked."""
    questions = Questions(job)
    with (
        tempfile.TemporaryDirectory(prefix="runner-plan-") as folder,
        Store.open(f"sqlite:///{folder}/plan.db") as store,
    ):
        run_id, got = _read(store, job, source, identity, questions)
        _refuse(store, run_id, got, skip_invalid=skip_invalid)
        came_to = _count(store, run_id, job, questions, prices, _Before.of(store_path, identity))
    sums = came_to.sums
    return {
        "job": job.name,
        "rows": {
            "in": got.rows,
            "good": got.rows - got.invalid,
            "invalid": got.invalid,
            "blank_lines": got.blank,
        },
        "tasks": {"to_ask": came_to.asked, "answered_before": came_to.reused, "repeats": came_to.repeated},
        "calls": came_to.asked,
        "models": dict(sorted(sums.models.items())),
        "tokens": {"input": sums.input_tokens, "output_at_most": sums.output_tokens},
        "cost_usd": {way: {"least": usd(sums.least[way]), "most": usd(sums.most[way])} for way in WAYS},
        "budget": {
            "usd": usd(budget),
            "dearest_call_usd": usd(sums.dearest_call),
            "calls_in_flight": budget // sums.dearest_call
            if budget is not None and sums.dearest_call
            else None,
        },
        "seconds_at_limits": _seconds(job, came_to.asked, sums),
        "prices_as_of": prices.as_of or None,
    }


def _read(
    store: Store, job: Job, source: Source, identity: Identity, questions: Questions
) -> tuple[int, Ingested]:
    with store.write() as connection:
        tenure = series.take(connection, identity)
        this = runs.create(connection, series_id=tenure.series_id, meaning="", job={}, row_limit=source.limit)
    with LineReader(
        source.path, stream=source.stream, max_line=source.max_line, limit=source.limit
    ) as reader:
        got = ingest(
            store,
            tenure,
            this,
            reader,
            questions,
            dedupe=job.dedupe,
            stopping=lambda: False,
            told=lambda _: None,
        )
    return this.id, got


def _refuse(store: Store, run_id: int, got: Ingested, *, skip_invalid: bool) -> None:
    if not got.rows:
        raise BadInput("The input has no row at all.")
    with store.read() as connection:
        cut = rows.ends_early(connection, run_id) if got.invalid else None
        first = list(islice(rows.faults(connection, run_id), LISTED_FAULTS))
    if cut:
        raise BadInput(f"The input cannot be read to its end (line {cut}): give the whole file.", first)
    if got.invalid and not skip_invalid:
        raise BadInput(
            f"{got.invalid:,} of {got.rows:,} lines cannot be asked. Mend them, or plan without them: "
            "--skip-invalid.",
            first,
        )


def _count(
    store: Store, run_id: int, job: Job, questions: Questions, prices: Prices, before: _Before
) -> _Counted:
    counted = _Counted()
    with store.read() as connection:
        for one in rows.good_questions(connection, run_id):
            if before.has(one.hash, one.occurrence):
                counted.reused += 1
            elif job.dedupe and one.is_repeat:
                counted.repeated += 1
            else:
                counted.asked += 1
                counted.sums.add(questions.ask(one.record), prices)
    before.close()
    return counted


def _seconds(job: Job, calls: int, sums: _Sums) -> float | None:
    """How long the calls take at the limits that the job names; None where it names none."""
    limits = job.limits
    least: list[float] = []
    if limits.requests_per_minute:
        least.append(calls / limits.requests_per_minute * 60)
    if limits.tokens_per_minute and sums.output_tokens is not None:
        least.append((sums.input_tokens + sums.output_tokens) / limits.tokens_per_minute * 60)
    return round(max(least), 1) if least else None


def _most(question: Question, demand: Demand, prices: Prices, tier: str | None, *, batch: bool) -> int | None:
    if demand.unbounded is not None:
        return None
    return prices.worst_case(
        question.model,
        input_tokens=demand.input_tokens,
        max_output=demand.max_output,
        choices=demand.choices,
        tier=tier or "default",
        batch=batch,
    )


def _plus(total: int | None, more: int | None) -> int | None:
    return None if total is None or more is None else total + more
