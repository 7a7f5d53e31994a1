"""Faults that the simulator can meet calls with, and the text that asks for them.

`NAME=RATE` pairs with commas between them; a rate is a share of all calls, from 0 to 1:

    429=0.05,500=0.02,lost=0.01@first,400=0.1@always

Each call is judged by itself: by the seed, its body, and how often that body has come. `@first` meets only
the first coming of a body, so that asking again helps; `@always` chooses bodies, and meets each coming of
them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from runner.simulator.chance import Chance

ERROR, ANSWER, WIRE = "error", "answer", "wire"


@dataclass(frozen=True, slots=True)
class Fault:
    """One way for a call to go wrong.

    `form` says where it lives: an ERROR is a status with the API's error body, an ANSWER an odd body under a
    200, the WIRE everything that is not a proper HTTP answer of this API. `executed` calls have cost money.
    """

    name: str
    form: str
    executed: bool
    meaning: str


def _table(*rows: Fault) -> Mapping[str, Fault]:
    return MappingProxyType({row.name: row for row in rows})


FAULTS = _table(
    Fault("400", ERROR, False, "invalid request"),
    Fault("401", ERROR, False, "invalid API key"),
    Fault("403", ERROR, False, "country not supported"),
    Fault("404", ERROR, False, "model not found"),
    Fault("408", ERROR, False, "request timeout"),
    Fault("409", ERROR, False, "conflict"),
    Fault("413", ERROR, False, "request too large"),
    Fault("422", ERROR, False, "unprocessable"),
    Fault("429", ERROR, False, "rate limit, with retry-after and retry-after-ms"),
    Fault("429-date", ERROR, False, "rate limit, with Retry-After as an HTTP date"),
    Fault("slow_down", ERROR, False, "429: the rate rose too fast"),
    Fault("resource_unavailable", ERROR, False, "429: no capacity for flex"),
    Fault("money", ERROR, False, "429 insufficient_quota"),
    Fault("insufficient_quota", ERROR, False, "429: the same by its own name"),
    Fault("credit_balance_exhausted", ERROR, False, "429: no credit left"),
    Fault("organization_spend_limit_exceeded", ERROR, False, "429: the organization's spending limit"),
    Fault("project_spend_limit_exceeded", ERROR, False, "429: the project's spending limit"),
    Fault("organization_usage_limit_exceeded", ERROR, False, "429: the organization's usage limit"),
    Fault("billing_hard_limit_reached", ERROR, False, "429: the billing hard limit"),
    Fault("500", ERROR, False, "server error"),
    Fault("503", ERROR, False, "service unavailable"),
    Fault("overloaded", ERROR, False, "503 server_is_overloaded"),
    Fault("504", ERROR, True, "gateway timeout, after the call was executed"),
    Fault("529", ERROR, False, "overloaded, as other providers say it"),
    Fault("no-choices", ANSWER, True, "200 whose list of choices is empty"),
    Fault("null-choices", ANSWER, True, "200 whose choices are null"),
    Fault("no-usage", ANSWER, True, "200 without usage"),
    Fault("bad-usage", ANSWER, True, "200 with negative usage"),
    Fault("length", ANSWER, True, "answer cut at the token limit"),
    Fault("content_filter", ANSWER, True, "answer stopped by the content filter"),
    Fault("refusal", ANSWER, True, "the model refuses"),
    Fault("incomplete", ANSWER, True, "all tokens spent, and no text"),
    Fault("failed-200", ANSWER, True, "200 whose body says that it failed"),
    Fault("error-200", ANSWER, False, "200 with an error body"),
    Fault("502-html", WIRE, False, "bad gateway, with a page of HTML"),
    Fault("503-html", WIRE, False, "service unavailable, with a page of HTML"),
    Fault("524-html", WIRE, True, "a proxy's timeout, with a page of HTML, after the call was executed"),
    Fault("html", WIRE, False, "200 with a page of HTML"),
    Fault("empty", WIRE, True, "200 with an empty body"),
    Fault("204", WIRE, True, "204, no body"),
    Fault("wrong-type", WIRE, True, "the right answer, labelled text/html"),
    Fault("gzip-garbage", WIRE, True, "body that is said to be gzip and is not"),
    Fault("redirect", WIRE, False, "302 to a place that leads to itself"),
    Fault("reset", WIRE, False, "connection reset before the call was executed"),
    Fault("lost", WIRE, True, "connection reset after the call was executed"),
    Fault("truncated", WIRE, True, "the connection ends before Content-Length is reached"),
    Fault("chunk-cut", WIRE, True, "the connection ends within a chunked body"),
    Fault("slow", WIRE, True, "the answer comes 30 seconds late"),
    Fault("hang", WIRE, True, "executed, and never answered"),
)

_SCOPES = ("always", "first", "each")


class BadFaults(ValueError):
    """The text of `--faults` cannot be read; the message says where and lists the known names."""


class Script:
    """Which call meets which fault; the same for the same seed."""

    def __init__(self, text: str | None, *, seed: int) -> None:
        self._seed = seed
        self._rows = _parse(text or "")

    def choose(self, digest: bytes, coming: int) -> Fault | None:
        """The fault for the `coming`-th time (from 1) that the body of this digest passes the limits."""
        if not self._rows:
            return None
        chance = Chance(self._seed, digest)
        for scope in _SCOPES:
            rows = self._rows.get(scope)
            if rows is None or (scope == "first" and coming != 1):
                continue
            left = chance.unit(f"fault {scope} {coming if scope == 'each' else ''}")
            for fault, rate in rows:
                if left < rate:
                    return fault
                left -= rate
        return None


def _parse(text: str) -> dict[str, list[tuple[Fault, float]]]:
    rows: dict[str, list[tuple[Fault, float]]] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, rest = part.partition("=")
        number, at, scope = rest.partition("@")
        name, scope = name.strip(), scope.strip() if at else "each"
        if name not in FAULTS:
            near = difflib.get_close_matches(name, FAULTS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise _bad(part, f"there is no fault named {name!r}.{hint}")
        if not equals:
            raise _bad(part, f"it gives no rate; write {name}=0.05, say, for one call in twenty.")
        try:
            rate = float(number)
        except ValueError:
            raise _bad(part, f"{number.strip()!r} is not a number.") from None
        if not 0 <= rate <= 1:
            raise _bad(part, "a rate goes from 0 to 1.")
        if scope not in _SCOPES:
            raise _bad(part, f"after @ comes first or always, not {scope!r}.")
        rows.setdefault(scope, []).append((FAULTS[name], rate))
    for scope, listed in rows.items():
        if sum(rate for _, rate in listed) > 1 + 1e-9:
            raise _bad(text, f"the rates of {_scope_name(scope)} add up to more than 1.")
    return rows


def _scope_name(scope: str) -> str:
    return "all calls" if scope == "each" else f"@{scope}"


def _bad(part: str, reason: str) -> BadFaults:
    return BadFaults(
        f"--faults: cannot read {part!r}: {reason} The form is NAME=RATE[@first|@always], with commas "
        f"between; the names are {', '.join(FAULTS)}."
    )
