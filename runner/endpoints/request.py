"""What the endpoints' requests have in common: a model, no stream, counts."""

from __future__ import annotations

from collections.abc import Mapping

from runner import record
from runner.tokens import estimate


def model_fault(body: Mapping[str, object]) -> list[tuple[str, str]]:
    model = body.get("model")
    if model is None:
        return [("missing_model", "the request names no model")]
    if not isinstance(model, str) or not model:
        return [("invalid_model", "model is not a text")]
    return []


def stream_fault(body: Mapping[str, object]) -> list[tuple[str, str]]:
    if body.get("stream") in (None, False):
        return []
    return [
        ("stream_unsupported", "the request asks for a stream, which cannot be stored whole: remove stream")
    ]


def largest(*limits: object) -> int | None:
    """The largest of the limits that are whole numbers, None if none is."""
    # A loop, for each question asks this: a generator takes three times as long.
    most: int | None = None
    for limit in limits:
        if type(limit) is int and limit >= 0 and (most is None or limit > most):
            most = limit
    return most


def choices_of(n: object) -> int:
    return n if type(n) is int and n > 1 else 1


def of_value(value: object) -> int:
    """The likely tokens of a JSON value that is part of a prompt: tools, a schema."""
    return estimate(len(record.dumps(value)))
