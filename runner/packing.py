"""Many texts in one embeddings request: which questions go together, and how the request then reads.

A question can be packed where its input is one text, or one list of tokens, and nothing but the input differs
from the others. Source of the caps: the API's reference of embeddings, 2,048 inputs and 300,000 tokens a request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from runner import record
from runner.model import Asked, Call, Demand, Split

MOST_TEXTS = 2_048
MOST_TOKENS = 300_000

SHRINK = 8
"""Each failure of a text makes the next pack it is in so many times smaller, until it goes alone."""


class Part(NamedTuple):
    """What one question brings to a packed request: `kind` is equal where questions may go together."""

    kind: bytes
    text: str | list[int]

    @property
    def weight(self) -> int:
        """Its part of the whole request, in bytes of text, or in tokens."""
        return len(self.text.encode()) if isinstance(self.text, str) else len(self.text)


def part(request: Mapping[str, Any]) -> Part | None:
    """How a request can be packed, None if it goes alone: `{"model": "m", "input": "a text"}` can."""
    text = request.get("input")
    if isinstance(text, str):
        kind = b"text"
    elif isinstance(text, (list, tuple)) and text and all(type(one) is int for one in text):
        kind, text = b"tokens", list(text)
    else:
        return None
    rest = {name: request[name] for name in sorted(request) if name != "input"}
    return Part(kind + record.dumps(rest), text)


def most_texts(attempts: int, cap: int = MOST_TEXTS) -> int:
    """How many texts may share a request with one that has failed so many times before."""
    return max(1, min(cap, MOST_TEXTS // SHRINK**attempts if attempts < 8 else 1))


def body(request: Mapping[str, Any], texts: Sequence[object], *, base64: bool) -> bytes:
    """The bytes of a request for all these texts, like the one given in all else."""
    packed = {**request, "input": texts[0] if len(texts) == 1 else list(texts)}
    if base64 and "encoding_format" not in packed:
        packed["encoding_format"] = "base64"
    return record.dumps(packed)


def halves(call: Call) -> tuple[Call, Call]:
    """A packed call as two, each with half of the texts."""
    request = orjson.loads(call.body)
    texts = request["input"]
    middle = len(call.asked) // 2
    split = Split(len(call.asked))
    first, second = (
        _some_of(call, request, call.asked[part_], texts[part_], split)
        for part_ in (slice(None, middle), slice(middle, None))
    )
    return first, second


def _some_of(
    call: Call, request: Mapping[str, Any], asked: tuple[Asked, ...], texts: list[object], split: Split
) -> Call:
    share = sum(one.weight for one in asked) / max(1, sum(one.weight for one in call.asked))
    tokens = max(1, round(call.demand.input_tokens * share))
    return Call(
        asked=asked,
        endpoint=call.endpoint,
        model=call.model,
        body=body(request, texts, base64=False),
        forced_tool=False,
        demand=Demand(tokens, 0),
        # A bound for the whole bounds each half.
        worst_case=call.worst_case,
        split_from=split,
        added_base64=call.added_base64,
    )
