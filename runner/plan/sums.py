"""What the questions of a plan come to: tokens and cost."""

from __future__ import annotations

from dataclasses import dataclass, field

from runner.endpoints import chat, responses
from runner.model import Demand, Usage
from runner.pricing import Prices
from runner.question import Question
from runner.tokens import Estimates, Vocabularies, Vocabulary

WAYS = {"online": (None, False), "flex": ("flex", False), "batch": (None, True)}

_COUNTABLE = {"chat": chat.demand, "responses": responses.demand}
_HIDDEN = ("tools", "functions", "response_format", "text")
"""The fields that the API writes into the prompt in a form of its own."""


@dataclass(slots=True)
class Sums:
    """What the questions come to. Costs are in pico-dollars by way, None once a question has no known price
    that way: `least` counts the input alone, `most` the longest answers.

    `charged` are the tokens that count against the API's limit a minute. `counted` are the questions whose
    input was counted by a vocabulary, `exact` those among them whose count is the API's own.
    """

    prices: Prices
    vocabularies: Vocabularies = field(default_factory=Vocabularies)
    estimates: Estimates = field(default_factory=Estimates)
    questions: int = 0
    counted: int = 0
    exact: int = 0
    input_tokens: int = 0
    output_tokens: int | None = 0
    charged: float = 0.0
    least: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(WAYS, 0))
    most: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(WAYS, 0))
    models: dict[str, int] = field(default_factory=dict)
    counted_as: dict[str, str] = field(default_factory=dict)

    def add(self, question: Question) -> Demand:
        """Take in one question that is to be asked; what it asks for."""
        demand = self._demand(question)
        self.questions += 1
        self.models[question.model] = self.models.get(question.model, 0) + 1
        self.input_tokens += demand.input_tokens
        self.charged += self.estimates.charge(
            question.endpoint.name, question.model, demand, len(question.body)
        )
        longest = (
            demand.max_output if demand.max_output is not None else self.prices.max_output(question.model)
        )
        self.output_tokens = _plus(self.output_tokens, None if longest is None else longest * demand.choices)
        for way, (tier, batch) in WAYS.items():
            usage = Usage(input=demand.input_tokens, total=demand.input_tokens)
            self.least[way] = _plus(
                self.least[way], self.prices.cost(question.model, tier, usage, batch=batch)
            )
            self.most[way] = _plus(self.most[way], self._most(question, demand, tier, batch=batch))
        return demand

    def _demand(self, question: Question) -> Demand:
        vocabulary = self.vocabularies.of(question.model)
        if vocabulary is None:
            return question.endpoint.demand(question.request, len(question.body))
        self.counted += 1
        self.counted_as[question.model] = vocabulary.name
        demand = _counted(question, vocabulary)
        hidden = any(question.request.get(name) for name in _HIDDEN)
        self.exact += vocabulary.is_known and demand.unbounded is None and not hidden
        return demand

    def _most(self, question: Question, demand: Demand, tier: str | None, *, batch: bool) -> int | None:
        if demand.unbounded is not None:
            return None
        return self.prices.worst_case(
            question.model,
            input_tokens=demand.input_tokens,
            max_output=demand.max_output,
            choices=demand.choices,
            tier=tier or "default",
            batch=batch,
        )


def _counted(question: Question, vocabulary: Vocabulary) -> Demand:
    """What a question asks for, its texts counted."""
    countable = _COUNTABLE.get(question.endpoint.name)
    if countable is not None:
        return countable(question.request, len(question.body), vocabulary.count)
    given = question.request.get("input")
    tokens = 0
    for one in given if isinstance(given, (list, tuple)) else [given]:
        # A text may come as the numbers of its tokens.
        tokens += vocabulary.count(one) if isinstance(one, str) else len(one) if isinstance(one, list) else 1
    return Demand(input_tokens=max(1, tokens), max_output=0)


def _plus(total: int | None, more: int | None) -> int | None:
    return None if total is None or more is None else total + more
