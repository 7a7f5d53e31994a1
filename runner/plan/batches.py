"""The batches that questions would make, filled line by line as a run would fill them."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

from runner.admission import Queue
from runner.dispatch.shard import unfit, with_base64
from runner.pricing import Prices, usd
from runner.provider import Provider
from runner.question import Question, worst_case
from runner.record.batch_line import batch_line
from runner.record.line_id import line_id
from runner.shards import Bound, Bounds, Filling, inputs_of, never_fits
from runner.tokens import Estimates

Group = tuple[str, str]
"""What all lines of a batch have in common: endpoint and model."""


class Batches:
    """Counts batches as a run would plan them, each as full as the provider and its queue allow.

    `queue_limit` tells how many tokens of a model the account's queue was last known to take. `adds_base64` where
    a run asks for vectors in that form by itself.
    """

    def __init__(
        self,
        prices: Prices,
        provider: Provider,
        *,
        queue_limit: Callable[[str], int | None],
        adds_base64: bool,
    ) -> None:
        self._prices = prices
        self._provider = provider
        self._queue_limit = queue_limit
        self._adds_base64 = adds_base64
        self._estimates = Estimates()
        self._open: dict[Group, Filling] = {}
        self._limits: dict[str, int | None] = {}
        self._tokens: dict[str, int] = {}
        self._unfit: dict[str, dict[str, Any]] = {}
        self._worst: int | None = 0
        self._size = 0
        self._count = 0

    def add(self, question: Question, hash_: bytes, occurrence: int) -> None:
        """Take in one question that is to be asked."""
        url = self._provider.endpoints.get(question.endpoint.name)
        body = with_base64(question) if self._adds_base64 else question.body
        size = len(batch_line(line_id(hash_, occurrence), url or "", body))
        inputs = inputs_of(question.request) if question.endpoint.name == "embeddings" else 0
        group = (question.endpoint.name, question.model)
        bounds = self._bounds(question.model)
        refused = unfit(question, url is None) or never_fits(bounds, size, inputs)
        if refused is not None:
            code, message = refused
            self._unfit.setdefault(code, {"code": code, "rows": 0, "message": message})["rows"] += 1
            return
        demand = question.endpoint.demand(question.request, len(question.body))
        likely = self._estimates.of(*group, demand, len(question.body))
        tokens = ceil(likely.input)
        worst = worst_case(question, demand, self._prices, batch=True)
        self._worst = None if worst is None or self._worst is None else self._worst + worst
        self._size += size
        self._tokens[question.model] = self._tokens.get(question.model, 0) + tokens
        self._fill(group, bounds, size, inputs=inputs, tokens=tokens)

    def _fill(self, group: Group, bounds: Bounds, size: int, *, inputs: int, tokens: int) -> None:
        filling = self._open.get(group)
        if filling is not None and filling.take(size, inputs=inputs, tokens=tokens, cost=None) is None:
            return
        filling = self._open[group] = Filling(bounds)
        self._count += 1
        if filling.take(size, inputs=inputs, tokens=tokens, cost=None) is Bound.TOKENS:
            # Larger, by our estimate, than the whole queue: a run offers it alone.
            del self._open[group]

    def _bounds(self, model: str) -> Bounds:
        if model not in self._limits:
            self._limits[model] = self._queue_limit(model)
        provider = self._provider
        return Bounds(
            requests=provider.most_requests,
            bytes=provider.most_bytes,
            inputs=provider.most_inputs,
            tokens=Queue(first_wait=0.0, limit=self._limits[model]).room(0),
        )

    def as_json(self) -> dict[str, Any]:
        """What they come to, as README.md lists it."""
        return {
            "count": self._count,
            "bytes": self._size,
            "tokens": dict(sorted(self._tokens.items())),
            "queue_takes": {model: self._limits[model] for model in sorted(self._tokens)},
            "most_usd": usd(self._worst),
            "expire": self._provider.expires,
            "unfit": sorted(self._unfit.values(), key=lambda one: (-one["rows"], one["code"])),
        }
