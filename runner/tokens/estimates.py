"""What a call will likely come to, learned from the usage of the answers before it. No I/O, no clock.

What a body says of itself (`Demand`) is the first guess. Each answer tells how far that was from the truth, by
endpoint and model: the first few count by their median, those after them by a slow mean in which one answer
moves little, so that an absurd usage, whenever it comes, wrecks nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from runner.model import Demand, Usage
from runner.tokens.text import upper_bound

FIRST_OUTPUT = 256.0
"""Output tokens of a choice that nothing bounds, before the first answer."""

FIRST_ANSWERS = 5
"""So many count by their median, which two absurd ones among them cannot move far."""

LEAST_GAIN, MOST_GAIN = 0.02, 0.125
"""What one later answer weighs, by its size beside the others'."""

LEAST_RATIO, MOST_RATIO = 1 / 16, 32.0
"""Input tokens a token guessed: beyond that a usage is no truth (images and files count many for few bytes)."""

MOST_OUTPUT = 1e6

MOST_KEPT = 1_000
"""Pairs of endpoint and model that are learned apart; those after them keep the first guess."""


class Estimate(NamedTuple):
    """What a call will likely come to, in tokens: `input` as usage counts it, cached tokens included, and
    `output` of all its choices, reasoning included."""

    input: float
    output: float


class Estimates:
    """What calls will likely come to, by endpoint and model, from the answers that came so far."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], tuple[_Ratio, _Ratio]] = {}

    def of(self, endpoint: str, model: str, demand: Demand, body_bytes: int) -> Estimate:
        """What a call will likely come to, for progress, plans and servers that charge what they use.

        Its output is the mean of the answers so far, never more than the request allows; before the first
        answer, what the request allows.
        """
        kept = self._kept.get((endpoint, model))
        longest = demand.max_output
        if kept is None:
            one = FIRST_OUTPUT if longest is None else float(longest)
            return Estimate(_bounded(float(demand.input_tokens), demand, body_bytes), one * demand.choices)
        given, made = kept
        one = made.value
        if longest is not None and longest < one:
            one = float(longest)
        return Estimate(_bounded(given.value * demand.input_tokens, demand, body_bytes), one * demand.choices)

    def input_of(self, endpoint: str, model: str) -> float:
        """How many input tokens each token of a `Demand` will likely come to."""
        kept = self._kept.get((endpoint, model))
        return 1.0 if kept is None else kept[0].value

    def charge(self, endpoint: str, model: str, demand: Demand, body_bytes: int) -> float:
        """The tokens that a call will count for at the API's limit a minute: reserve these before it is sent.

        The API counts the larger of the longest output that the request allows and its own guess of the input,
        not their sum, and not the output that comes ("max_tokens and the estimated number of tokens based on
        the character count", OpenAI's rate limit guide). Where the request allows any length, the output that
        is likely takes its place: some servers count what was made.
        """
        kept = self._kept.get((endpoint, model))
        longest: float | None = demand.max_output
        if kept is None:
            given = _bounded(float(demand.input_tokens), demand, body_bytes)
            if longest is None:
                longest = FIRST_OUTPUT * demand.choices
        else:
            given = _bounded(kept[0].value * demand.input_tokens, demand, body_bytes)
            if longest is None:
                longest = kept[1].value * demand.choices
        return max(given, longest)

    def learn(self, endpoint: str, model: str, demand: Demand, usage: Usage | None) -> None:
        """Take in what a call came to. Usage that is unknown, or says nothing of the input, teaches nothing
        of it."""
        if usage is None:
            return
        kept = self._kept.get((endpoint, model))
        if kept is None:
            if len(self._kept) >= MOST_KEPT:
                return
            kept = (
                _Ratio(1.0, least=LEAST_RATIO, most=MOST_RATIO, spread=2.0, slack=0.0),
                # Outputs differ far more than inputs do from their guess, and may be none at all.
                _Ratio(FIRST_OUTPUT, least=0.0, most=MOST_OUTPUT, spread=8.0, slack=64.0),
            )
            self._kept[endpoint, model] = kept
        if usage.input > 0:
            kept[0].learn(max(1.0, demand.input_tokens), usage.input)
        kept[1].learn(demand.choices, usage.output)


class _Ratio:
    """How much is found for each unit that was known beforehand. `value` is what to expect, always within
    `least` and `most`; `spread` and `slack` say how far from it one later finding may count."""

    __slots__ = ("_first", "_given", "_least", "_most", "_prior", "_slack", "_spread", "value")

    def __init__(self, prior: float, *, least: float, most: float, spread: float, slack: float) -> None:
        self.value = self._prior = prior
        self._least, self._most = least, most
        self._spread, self._slack = spread, slack
        self._first: list[float] | None = []
        self._given = 0.0

    def learn(self, given: float, found: float) -> None:
        """For so much that was known, so much was found; `given` is above 0."""
        ratio = found / given
        if not self._least <= ratio <= self._most:
            ratio = self._least if ratio < self._least else self._most
        if self._first is None:
            self._follow(given, ratio)
            return
        self._first.append(ratio)
        self._given += given
        self.value = _median(self._first, self._prior)
        if len(self._first) == FIRST_ANSWERS:
            self._first = None

    def _follow(self, given: float, ratio: float) -> None:
        value = self.value
        least, most = value / self._spread, value * self._spread + self._slack
        if not least <= ratio <= most:
            ratio = least if ratio < least else most
        # What came before fades, so that a later stretch of another kind is followed; and one large call among
        # small ones has no more than its share.
        before = (1 - LEAST_GAIN) * self._given
        weight = before * MOST_GAIN / (1 - MOST_GAIN)
        if given < weight:
            weight = given
        self._given = before + weight
        self.value = value + weight / self._given * (ratio - value)


def _median(found: list[float], prior: float) -> float:
    """The middle one. Of an even number, the prior is one more: two that disagree do not decide alone."""
    ordered = sorted(found if len(found) % 2 else [*found, prior])
    return ordered[len(ordered) // 2]


def _bounded(given: float, demand: Demand, body_bytes: int) -> float:
    """No body comes to more tokens than it can hold, unless it points to what is not in it."""
    if demand.unbounded is None and given > (most := upper_bound(body_bytes)):
        return float(most)
    return given
