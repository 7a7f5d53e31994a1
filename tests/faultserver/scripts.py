"""Scripts: which request meets which fate. A script is a callable from an arrival to a behaviour.

    ok                        every request is answered
    mixed                     one first arrival of a body in ten fails, each kind of failure equally often
    first:<kind>              the first arrival of every body fails in this way (the names in FIRST_FAULTS)
    at:<operation>:<kind>     the first request of an operation, such as batches.create, fails in this way
    always:<status>           every request gets this status
    outage:<start>:<seconds>  from that call on, 503 without JSON for so long
    refuse-rate:<rpm>         429 for what exceeds the limit, enforced in slices of one second
    money:<code>:<after>      after so many calls, 429 with this code (insufficient_quota and its like)
    auth:<after>              after so many calls, 401
    model-gone:<model>        404 for this model
    poison:<marker>           500 for bodies that hold the marker, every time
    context:<marker>          400 context_length_exceeded for bodies that hold the marker

Several joined by `+` are asked in turn; the first that does not say ok decides.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from . import behaviour as does
from .behaviour import OK, Behaviour
from .ledger import Arrival
from .operations import OPERATIONS

Script = Callable[[Arrival], Behaviour]

FIRST_FAULTS: Mapping[str, Callable[[], Behaviour]] = {
    "429": does.rate_limited,
    "429-date": does.rate_limited_until,
    "500": does.server_error,
    "503-html": does.html,
    "overloaded": does.overloaded,
    "reset": does.reset,
    "lost": does.lost,
    "truncated": lambda: does.cut(-20),
    "200-html": lambda: does.html(200),
    "200-error": does.error_in_200,
}


def named_script(name: str, seed: int = 0) -> Script:
    """The script of that name, as listed above; ValueError where there is none."""
    scripts = [_single(part, seed) for part in name.split("+")]
    return scripts[0] if len(scripts) == 1 else in_turn(*scripts)


def _single(text: str, seed: int) -> Script:
    name, _, rest = text.partition(":")
    makers: dict[str, Callable[[], Script]] = {
        "ok": lambda: lambda arrival: OK,
        "mixed": lambda: mixed(seed),
        "first": lambda: first(FIRST_FAULTS[rest]),
        "at": lambda: at(rest.partition(":")[0], FIRST_FAULTS[rest.partition(":")[2]]),
        "always": lambda: always(int(rest)),
        "outage": lambda: outage(int(rest.partition(":")[0]), float(rest.partition(":")[2])),
        "refuse-rate": lambda: refuse_rate(float(rest)),
        "money": lambda: after(int(rest.partition(":")[2]), no_money(rest.partition(":")[0])),
        "auth": lambda: after(int(rest), no_key()),
        "model-gone": lambda: model_gone(rest),
        "poison": lambda: holding(rest, does.server_error()),
        "context": lambda: holding(rest, too_long()),
    }
    if name not in makers or (name in {"poison", "context", "model-gone"} and not rest):
        raise ValueError(f"no script {text!r}; there are {', '.join(sorted(makers))}")
    try:
        return makers[name]()
    except (KeyError, ValueError) as unfit:
        raise ValueError(f"script {text!r}: {unfit} does not fit {name!r}") from unfit


def in_turn(*scripts: Script) -> Script:
    """Ask each script, and do what the first says that does not say ok. Each sees every arrival."""

    def script(arrival: Arrival) -> Behaviour:
        said = [one(arrival) for one in scripts]
        return next((one for one in said if one.name != OK.name), said[0])

    return script


def mixed(seed: int) -> Script:
    """Of each hundred bodies that come for the first time, ten fail, each in another way."""
    random_ = random.Random(seed)
    deck: list[Callable[[], Behaviour] | None] = []

    def script(arrival: Arrival) -> Behaviour:
        if not arrival.paid or arrival.nth > 1:
            return OK
        if not deck:
            deck.extend([*FIRST_FAULTS.values(), *[None] * (9 * len(FIRST_FAULTS))])
            random_.shuffle(deck)
        fault = deck.pop()
        return OK if fault is None else fault()

    return script


def first(fault: Callable[[], Behaviour]) -> Script:
    """The first arrival of every body fails, later ones succeed."""
    return lambda arrival: fault() if arrival.paid and arrival.nth == 1 else OK


def at(operation: str, fault: Callable[[], Behaviour]) -> Script:
    """The first request of this operation of the Batch API fails, later ones succeed."""
    if operation not in OPERATIONS:
        raise ValueError(f"operation {operation!r}")
    met = False

    def script(arrival: Arrival) -> Behaviour:
        nonlocal met
        if met or arrival.operation is None or arrival.operation.name != operation:
            return OK
        met = True
        return fault()

    return script


def always(status: int) -> Script:
    """Every request gets this status: in JSON where the API itself would say it, in HTML for a gateway's."""
    codes: dict[int, tuple[str | None, str]] = {
        400: ("invalid_value", "invalid_request_error"),
        401: ("invalid_api_key", "invalid_request_error"),
        403: ("unsupported_country_region_territory", "request_forbidden"),
        404: ("model_not_found", "invalid_request_error"),
        429: ("rate_limit_exceeded", "requests"),
        500: ("server_error", "server_error"),
        503: ("server_is_overloaded", "service_unavailable_error"),
    }
    if not 100 < status < 600:
        raise ValueError(f"status {status}")
    if status == 200:
        return lambda arrival: OK
    if status == 204:
        fate = does.no_content(executed=False)
    elif status == 429:
        fate = does.rate_limited()
    elif status < 500 or status in codes:
        code, kind = codes.get(status, (None, "invalid_request_error"))
        fate = does.error(status, code, kind=kind)
    else:
        fate = does.html(status)
    return lambda arrival: fate


def outage(start: int, seconds: float) -> Script:
    """From the call of that number on, everything is 503 with a page, for so long by the arrivals' clock."""
    until: float | None = None

    def script(arrival: Arrival) -> Behaviour:
        nonlocal until
        if arrival.n < start:
            return OK
        if until is None:
            until = arrival.time + seconds
        return does.html(503) if arrival.time < until else OK

    return script


def refuse_rate(rpm: float) -> Script:
    """A limit of so many requests a minute, enforced in slices of one second, as the real one is.

    The headers announce the limit of the minute, and how much of it a bucket of a minute would have left.
    """
    if rpm <= 0:
        raise ValueError(f"rate {rpm}")
    slice_ = -1
    used = 0
    bucket = rpm
    last = 0.0

    def script(arrival: Arrival) -> Behaviour:
        nonlocal slice_, used, bucket, last
        if not arrival.paid:
            return OK
        now = arrival.time
        if int(now) != slice_:
            slice_, used = int(now), 0
        bucket, last = min(rpm, bucket + (now - last) * rpm / 60), now
        allowed = int((slice_ + 1) * rpm / 60) - int(slice_ * rpm / 60)
        reset = f"{max(1, int((rpm - bucket) / rpm * 60_000))}ms"
        if used >= allowed:
            wait = f"{max(1, int((slice_ + 1 - now) * 1000))}ms"
            refusal = replace(does.rate_limited("1", message_wait=wait), name="429-rate")
            return refusal.with_headers(*limit_headers(rpm, 0, wait))
        used += 1
        bucket = max(0.0, bucket - 1)
        return OK.with_headers(*limit_headers(rpm, bucket, reset))

    return script


def limit_headers(rpm: float, remaining: float, reset: str) -> tuple[tuple[str, str], ...]:
    """The headers that announce a limit on requests."""
    return (
        ("x-ratelimit-limit-requests", str(int(rpm))),
        ("x-ratelimit-remaining-requests", str(int(remaining))),
        ("x-ratelimit-reset-requests", reset),
    )


def after(count: int, fate: Behaviour) -> Script:
    """That many requests are answered; all later ones meet the fate."""
    return lambda arrival: OK if arrival.n <= count else fate


def holding(marker: str, fate: Behaviour) -> Script:
    """Bodies that hold the marker, as UTF-8 bytes, meet the fate."""
    needle = marker.encode()
    return lambda arrival: fate if arrival.paid and needle in arrival.body else OK


def model_gone(model: str) -> Script:
    """404 for every request for this model."""
    message = f"The model `{model}` does not exist or you do not have access to it."
    fate = does.error(404, "model_not_found", message)

    def script(arrival: Arrival) -> Behaviour:
        request = arrival.parsed if arrival.paid else None
        return fate if isinstance(request, dict) and request.get("model") == model else OK

    return script


def no_money(code: str) -> Behaviour:
    """429 that no waiting mends: no credit, or a spending limit met."""
    message = "You exceeded your current quota, please check your plan and billing details."
    return does.error(429, code or "insufficient_quota", message, kind="insufficient_quota")


def no_key() -> Behaviour:
    """401 for a key that is not, or no longer, valid."""
    return does.error(401, "invalid_api_key", "Incorrect API key provided.")


def too_long() -> Behaviour:
    """400 for a prompt that does not fit the model."""
    message = "Your input exceeds the context window of this model. Please adjust your input and try again."
    return does.error(400, "context_length_exceeded", message)
