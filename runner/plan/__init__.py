"""What a run would be, before a cent is spent: every line checked, every question counted and priced.

The input is read into a store of its own, in a folder that is deleted afterwards; no API is called.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from runner.errors import LISTED_FAULTS, BadInput
from runner.files import LineReader
from runner.ingest import Ingested, ingest
from runner.job import Job
from runner.model import TaskState
from runner.plan.batches import Batches
from runner.plan.before import Before, before
from runner.plan.calls import SHORT_OUTPUT, Calls
from runner.plan.sums import WAYS, Sums
from runner.pricing import Prices, usd
from runner.provider import OPENAI, Provider
from runner.question import Questions
from runner.store import rows, runs, series
from runner.store.clock import moment
from runner.store.database import Store
from runner.store.identity import Identity
from runner.takeup import Source

__all__ = ["plan"]


@dataclass(slots=True)
class _Counted:
    """The good rows of an input, by what becomes of them."""

    sums: Sums
    calls: Calls
    batches: Batches
    answered: int = 0
    in_batches: int = 0
    needing_retry: int = 0
    repeats: int = 0


def plan(
    job: Job,
    source: Source,
    identity: Identity,
    prices: Prices,
    *,
    store_path: Path,
    skip_invalid: bool,
    budget: int | None,
    now: datetime,
    provider: Provider = OPENAI,
) -> dict[str, Any]:
    """The plan of a run as a JSON-able value, as README.md lists it. BadInput with every fault if lines
    cannot be asked. `budget` is in pico-dollars, `now` aware; `provider` is whose batches these would be."""
    questions = Questions(job)
    with (
        tempfile.TemporaryDirectory(prefix="runner-plan-") as folder,
        Store.open(f"sqlite:///{folder}/plan.db") as store,
    ):
        run_id, got = _read(store, job, source, identity, questions)
        _refuse(store, run_id, got, skip_invalid=skip_invalid)
        with before(store_path, identity, job, limit=source.limit, sha256=got.fingerprint.sha256) as known:
            batches = Batches(prices, provider, queue_limit=known.queue_limit, adds_base64=questions.can_pack)
            counted = _count(store, run_id, job, questions, prices, known, batches)
    sums, calls = counted.sums, counted.calls
    return {
        "job": job.name,
        "run": None if known.run is None else known.run.name,
        "rows": {
            "in": got.rows,
            "good": got.rows - got.invalid,
            "invalid": got.invalid,
            "blank_lines": got.blank,
        },
        "tasks": {
            "to_ask": sums.questions,
            "answered_before": counted.answered,
            "in_batches": counted.in_batches,
            "repeats": counted.repeats,
            "need_retry": counted.needing_retry,
        },
        "calls": calls.count,
        "mode": job.mode,
        "batches": counted.batches.as_json(),
        "models": dict(sorted(sums.models.items())),
        "tokens": _tokens(sums),
        "cost_usd": {way: {"least": usd(sums.least[way]), "most": usd(sums.most[way])} for way in WAYS},
        "budget": _budget(budget, known.spent, calls),
        "auto": _auto(job, prices, provider, known, left=sums.questions + counted.in_batches, now=now),
        "seconds_at_limits": _seconds(job, calls.count, sums.charged),
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
        more = f" The first {LISTED_FAULTS} are shown; `runner run` writes all to a file, and asks nothing."
        raise BadInput(
            f"{got.invalid:,} of {got.rows:,} lines cannot be asked.{more if got.invalid > LISTED_FAULTS else ''} "
            "Mend them, or plan without them: --skip-invalid.",
            first,
        )


def _count(
    store: Store,
    run_id: int,
    job: Job,
    questions: Questions,
    prices: Prices,
    known: Before,
    batches: Batches,
) -> _Counted:
    in_batches = job.mode == "batch"
    # The bodies of a requests file go out as they are, and so do lines of batches: only texts of a job are packed.
    packed = job.endpoint == "embeddings" and not in_batches
    limits = job.limits
    calls = Calls(prices, packed=packed, tokens_per_minute=limits.tokens_per_minute, in_batches=in_batches)
    counted = _Counted(Sums(prices), calls, batches)
    with store.read() as connection:
        for one in rows.good_questions(connection, run_id):
            fate = known.of(one.hash, one.occurrence)
            if fate is not None and known.is_answered(fate):
                counted.answered += 1
            elif fate is not None and fate.state is TaskState.BATCHED:
                counted.in_batches += 1
            elif fate is not None and known.needs_retry(fate):
                counted.needing_retry += 1
            elif job.dedupe and one.is_repeat:
                counted.repeats += 1
            else:
                question = questions.ask(one.record)
                calls.add(question, counted.sums.add(question))
                batches.add(question, one.hash, one.occurrence)
    calls.finish()
    return counted


def _tokens(sums: Sums) -> dict[str, Any]:
    input_is = "estimated"
    if sums.questions and sums.counted == sums.questions:
        input_is = "exact" if sums.exact == sums.questions else "counted"
    return {
        "input": sums.input_tokens,
        "input_is": input_is,
        "counted_as": dict(sorted(sums.counted_as.items())),
        "output_at_most": sums.output_tokens,
        "charged": round(sums.charged),
    }


def _budget(budget: int | None, spent: int, calls: Calls) -> dict[str, Any]:
    """What a budget allows, and what it would allow if no answer could be long."""
    left = None if budget is None else max(0, budget - spent)
    shorter, dearest = calls.dearest_if_short, calls.dearest
    helps = bool(calls.bounds and shorter) and (dearest is None or 2 * (shorter or 0) <= dearest)
    return {
        "usd": usd(budget),
        "spent_usd": None if budget is None else usd(spent),
        "dearest_call_usd": usd(dearest),
        "calls_in_flight": _fit(left, dearest),
        "if_shorter": {
            "fields": sorted(calls.bounds),
            "tokens": SHORT_OUTPUT,
            "dearest_call_usd": usd(shorter),
            "calls_in_flight": _fit(left, shorter),
        }
        if helps
        else None,
    }


def _fit(left: int | None, dearest: int | None) -> int | None:
    """How many calls may be in flight at once; None where nothing is left to say."""
    return None if left is None or not dearest else left // dearest


def _auto(
    job: Job, prices: Prices, provider: Provider, known: Before, *, left: int, now: datetime
) -> dict[str, Any] | None:
    """How mode auto would go about so many rows; None in another mode."""
    if job.mode != "auto" or job.deadline is None:
        return None
    from runner.scheduling import has_flex, switch_at, takes_batches

    began = now if known.run is None else moment(known.run.created_at)
    deadline = job.deadline.at(began)
    allowed = known.calls_per_second
    # Where nothing is known of the standard way, what it takes comes off as soon as a first call has told.
    seconds = switch_at(began.timestamp(), deadline.timestamp(), left=left if allowed else 0, allowed=allowed)
    is_time = now.timestamp() < seconds
    ways = ["flex"] * (is_time and has_flex(job, prices)) + ["batch"] * (
        is_time and takes_batches(job, provider)
    )
    return {
        "ways": [*ways, "online"],
        "switch_at": f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}",
        "deadline": f"{deadline:%Y-%m-%dT%H:%M:%SZ}",
        "calls_per_second": allowed,
    }


def _seconds(job: Job, calls: int, charged: float) -> float | None:
    """How long the calls take at the limits that the job names; None where it names none."""
    limits = job.limits
    least: list[float] = []
    if limits.requests_per_minute:
        least.append(calls / limits.requests_per_minute * 60)
    if limits.tokens_per_minute:
        least.append(charged / limits.tokens_per_minute * 60)
    return round(max(least), 1) if least else None
