"""The calls that questions make: how many, and what the dearest of them could cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from runner import record
from runner.model import Demand
from runner.pricing import Prices
from runner.question import Question, worst_case

MOST_TEXTS = 2_048
MOST_TOKENS = 300_000
"""What one call for embeddings may carry: texts, and their tokens summed."""

SHORT_OUTPUT = 1_000
"""The longest output, in tokens, whose effect on a budget is told where a request allows more."""

BOUNDS = {"chat": "max_completion_tokens", "responses": "max_output_tokens"}
"""The field that bounds the output, by endpoint."""

_MOST_OPEN = 1_000


@dataclass(slots=True)
class _Pack:
    """Texts that go out together. `worst` is the sum of their worst cases, in pico-dollars, None if unknown."""

    texts: int = 0
    tokens: int = 0
    worst: int | None = 0


class Calls:
    """Counts calls as a run would make them: texts to embed are packed where `packed`, the rest go alone, or as
    lines of batches.

    `dearest` is the worst case of the dearest, in pico-dollars, None where one of them has no bound or no
    price; `dearest_if_short` the same if none allowed more than SHORT_OUTPUT tokens of output; `bounds` are
    the fields that would say so.
    """

    def __init__(
        self, prices: Prices, *, packed: bool, tokens_per_minute: int | None, in_batches: bool = False
    ) -> None:
        self._prices = prices
        self._packed = packed
        self._in_batches = in_batches
        # A call that is larger than the limit itself is never let through.
        self._most_tokens = min(MOST_TOKENS, tokens_per_minute or MOST_TOKENS)
        self._open: dict[bytes, _Pack] = {}
        self.count = 0
        self.dearest: int | None = 0
        self.dearest_if_short: int | None = 0
        self.bounds: set[str] = set()

    def add(self, question: Question, demand: Demand) -> None:
        """Take in one question that is to be asked."""
        worst = self._worst_case(question, demand)
        if self._packed and (kind := _kind(question.request)) is not None:
            # A run packs by its estimates: counts would cost it too much.
            tokens = question.endpoint.demand(question.request, len(question.body)).input_tokens
            self._pack(kind, tokens, worst)
            return
        bound = BOUNDS.get(question.endpoint.name)
        if bound is None or (demand.max_output is not None and demand.max_output <= SHORT_OUTPUT):
            self._went_out(worst, worst)
            return
        self.bounds.add(bound)
        short = msgspec.structs.replace(demand, max_output=SHORT_OUTPUT)
        self._went_out(worst, self._worst_case(question, short))

    def _worst_case(self, question: Question, demand: Demand) -> int | None:
        return worst_case(question, demand, self._prices, batch=self._in_batches)

    def finish(self) -> None:
        """No question is left: what is packed goes out."""
        for pack in self._open.values():
            self._went_out(pack.worst, pack.worst)
        self._open.clear()

    def _pack(self, kind: bytes, tokens: int, worst: int | None) -> None:
        pack = self._open.get(kind)
        if pack is not None and (pack.texts == MOST_TEXTS or pack.tokens + tokens > self._most_tokens):
            self._went_out(pack.worst, pack.worst)
            pack = None
        if pack is None:
            if len(self._open) >= _MOST_OPEN:
                self.finish()
            pack = self._open[kind] = _Pack()
        pack.texts += 1
        pack.tokens += tokens
        pack.worst = None if pack.worst is None or worst is None else pack.worst + worst

    def _went_out(self, worst: int | None, if_short: int | None) -> None:
        self.count += 1
        self.dearest = _larger(self.dearest, worst)
        self.dearest_if_short = _larger(self.dearest_if_short, if_short)


def _kind(request: Mapping[str, object]) -> bytes | None:
    """What must be equal for questions to go out together; None where one goes alone."""
    given = request.get("input")
    if isinstance(given, str):
        form = b"text"
    elif isinstance(given, (list, tuple)) and given and all(type(one) is int for one in given):
        form = b"tokens"
    else:
        return None
    return form + record.dumps({name: request[name] for name in sorted(request) if name != "input"})


def _larger(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else max(one, other)
