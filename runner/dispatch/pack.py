"""A packed call in the making: texts are taken until one more would be too much."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from runner import packing, record
from runner.model import Asked, Call, Demand
from runner.packing import Part
from runner.pricing import Prices
from runner.question import Question, worst_case
from runner.store.tasks import Ready
from runner.tokens import Estimates, upper_bound


@dataclass(frozen=True, slots=True)
class Most:
    """What one packed call may come to: tokens, and pico-dollars at worst, None where nothing bounds these."""

    tokens: float = packing.MOST_TOKENS
    cost: int | None = None


class Pack:
    """A packed call that begins with one question. Those that follow are like it in all but their text."""

    def __init__(
        self,
        first: Question,
        part: Part,
        ready: Ready,
        *,
        most: Most,
        most_guessed: int,
        prices: Prices,
        estimates: Estimates,
    ) -> None:
        """`most_guessed` bounds the tokens as the texts themselves tell them, before anything is learned."""
        self._first = first
        self._most = most
        self._most_guessed = most_guessed
        self._prices = prices
        self._ratio = estimates.input_of(first.endpoint.name, first.model)
        self._around = len(first.body) - len(record.dumps(part.text))
        self._texts: list[object] = []
        self._size = self._guessed = 0
        self._affordable = inf if most.cost is None else 0.0
        self.asked: list[Asked] = []
        self._add(part.text, ready, len(first.body), self._tokens(part.text, len(first.body)))

    def take(self, text: str | list[int], ready: Ready) -> bool:
        """Add one text, unless it would be too much."""
        size = self._around + len(record.dumps(text))
        tokens = self._tokens(text, size)
        if self._is_too_much(self._size + size, self._guessed + tokens):
            return False
        self._add(text, ready, size, tokens)
        return True

    def call(self, *, base64: bool) -> Call:
        """The call as it is now."""
        return Call(
            asked=tuple(self.asked),
            endpoint=self._first.endpoint.name,
            model=self._first.model,
            body=packing.body(self._first.request, self._texts, base64=base64),
            forced_tool=False,
            demand=Demand(self._guessed, 0),
            worst_case=self._worst(self._size),
            added_base64=base64 and "encoding_format" not in self._first.request,
        )

    def _tokens(self, text: str | list[int], size: int) -> int:
        return self._first.endpoint.demand({"input": text}, size).input_tokens

    def _add(self, text: str | list[int], ready: Ready, size: int, tokens: int) -> None:
        self._size += size
        self._guessed += tokens
        self._texts.append(text)
        self.asked.append(Asked(ready.task_id, ready.line, ready.key, ready.attempts, packing.weight(text)))

    def _is_too_much(self, size: int, guessed: int) -> bool:
        if guessed > self._most_guessed or min(self._ratio * guessed, upper_bound(size)) > self._most.tokens:
            return True
        return size > self._affordable and not self._can_afford(size)

    def _can_afford(self, size: int) -> bool:
        """Whether texts of so many bytes cost no more than they may. What twice as many may cost is looked up as well,
        so that prices need not be for each text."""
        assert self._most.cost is not None
        for some in (2 * size, size):
            worst = self._worst(some)
            if worst is None or worst <= self._most.cost:
                self._affordable = some
                return True
        return False

    def _worst(self, size: int) -> int | None:
        return worst_case(self._first, Demand(self._guessed, 0), self._prices, size=size)
