"""What is looked at before a run's first call: whether a budget can hold, and which models are new to it."""

from __future__ import annotations

from itertools import islice

from runner.errors import BadConfiguration
from runner.job import Job
from runner.pricing import Prices
from runner.question import Questions, worst_case
from runner.store import rows, totals
from runner.store.database import Store
from runner.store.runs import Run

MODELS_LOOKED_AT = 1_000
"""Rows of a requests file whose models are looked up before the first call."""


def refuse_boundless(store: Store, run: Run, job: Job, prices: Prices, *, origin: str) -> None:
    """BadConfiguration for a budget that could not hold: the price of a model is unknown, or nothing bounds what a
    request may cost."""
    questions = Questions(job)
    with store.read() as connection:
        for line, text in rows.open_records(connection, run.id):
            question = questions.ask(text)
            demand = question.endpoint.demand(question.request, len(question.body))
            if demand.unbounded is not None:
                raise BadConfiguration(
                    f"Line {line}: a budget cannot bound this request, because it uses {demand.unbounded}. "
                    "Nothing was sent. Run without --budget, or leave such rows out."
                )
            if worst_case(question, demand, prices, batch=job.mode == "batch") is None:
                in_batches = " in batches" if job.mode == "batch" else ""
                raise BadConfiguration(
                    f"Line {line}: a budget needs a price for {question.model}{in_batches}, and none is known at "
                    f"{origin}. Nothing was sent. Give the prices with --prices FILE, or run without a budget."
                )
            if job.endpoint is not None:
                return


def new_models(store: Store, run: Run, job: Job) -> frozenset[str]:
    """The models that a run is about to ask for the first time, none where it has asked before."""
    with store.read() as connection:
        if totals.has_called(connection, run.id):
            return frozenset()
        questions, open_rows = Questions(job), rows.open_records(connection, run.id)
        return frozenset(questions.ask(text).model for _, text in islice(open_rows, MODELS_LOOKED_AT))
