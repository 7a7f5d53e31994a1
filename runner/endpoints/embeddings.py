"""Embeddings: what a request asks for, and the vectors of an answer."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec
import orjson

from runner.endpoints.answer import BadAnswer, check_object, load, text_or_none, usage_of
from runner.endpoints.request import model_fault
from runner.model import Answer, Demand
from runner.tokens import of_text

_NUMBER_SIGNS = b"0123456789+-.eE, \t\r\n"
_LINE_ENDS = b"\r\n"
_SMALLEST_NORMAL = 2.0**-126


class _Item(msgspec.Struct):
    embedding: msgspec.Raw
    index: Any = None


class _Body(msgspec.Struct):
    data: list[_Item]
    object: Any = None
    error: Any = None
    model: Any = None
    service_tier: Any = None
    usage: Any = None


_BODY = msgspec.json.Decoder(_Body)


def check(body: Mapping[str, object]) -> list[tuple[str, str]]:
    """What any server would refuse this request body for, as (code, message)."""
    faults = model_fault(body)
    given = body.get("input")
    if given is None:
        # vLLM embeds a conversation where there are messages in place of input.
        if body.get("messages") is None:
            faults.append(("missing_input", "the request has no input"))
    elif not isinstance(given, (str, list, tuple)):
        faults.append(("invalid_input", "input is neither a text nor a list"))
    elif isinstance(given, (list, tuple)) and not given:
        faults.append(("invalid_input", "input is an empty list"))
    return faults


def demand(body: Mapping[str, object], body_bytes: int) -> Demand:
    """The tokens that a request asks for: input alone, for the answer is no text."""
    given = body.get("input")
    tokens = 0
    for one in [given] if isinstance(given, str) else given if isinstance(given, Sequence) else ():
        tokens += of_text(one) if isinstance(one, str) else len(one) if isinstance(one, Sequence) else 1
    return Demand(input_tokens=min(max(tokens, 1), max(body_bytes, 1)), max_output=0)


def read(body: bytes, *, forced_tool: bool = False, index: int = 0) -> Answer:  # noqa: ARG001
    """What the body of a 200 says about the input number `index`. Raises BadAnswer where it has no vector.

    The output is the vector: the server's own text of it (an orjson.Fragment), so that no number is written
    anew, or for base64 a list of floats whose shortest text gives the same 32-bit floats back.
    """
    found = _decoded(body)
    return Answer(
        _vector(bytes(_by_index(found.data)[index].embedding)),
        "stop",
        text_or_none(found.model),
        text_or_none(found.service_tier),
        usage_of(_without_output(found.usage)),
    )


def count(body: bytes) -> int:
    """How many vectors the body of a 200 holds. Raises BadAnswer as `read` does."""
    return len(_decoded(body).data)


def vectors(body: bytes) -> list[object]:
    """All vectors of the body of a 200, in the order of the inputs, each as `read` gives it."""
    return [_vector(bytes(item.embedding)) for item in _by_index(_decoded(body).data)]


def _decoded(body: bytes) -> _Body:
    try:
        found = _BODY.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _why_not(body) from None
    check_object({"object": found.object, "error": found.error}, "list")
    if not found.data:
        raise BadAnswer("no_data", "the body has no data")
    return found


def _why_not(body: bytes) -> BadAnswer:
    try:
        found = load(body)
        check_object(found, "list")
    except BadAnswer as fault:
        return fault
    if not found.get("data"):
        return BadAnswer("no_data", "the body has no data")
    return BadAnswer(
        "bad_vector", "an item of the body's data has no embedding, or one that is not all numbers"
    )


def _by_index(items: list[_Item]) -> list[_Item]:
    indexes = [item.index for item in items]
    expected = list(range(len(items)))
    if indexes == expected or all(index is None for index in indexes):
        return items
    if any(type(index) is not int for index in indexes) or sorted(indexes) != expected:
        if len(items) == 1:
            return items
        raise BadAnswer("bad_index", "the items of the body's data are not numbered from 0 without gaps")
    return sorted(items, key=lambda item: int(item.index))


def _vector(raw: bytes) -> object:
    if raw.startswith(b'"'):
        return _from_base64(raw)
    # The decoder has seen to it that this is JSON: without numbers nothing but the brackets may be left.
    if raw.translate(None, _NUMBER_SIGNS) != b"[]" or not raw[1:-1].strip():
        raise BadAnswer("bad_vector", "an embedding of the body is not a list of numbers")
    if b"\n" in raw or b"\r" in raw:
        raw = raw.translate(None, _LINE_ENDS)
    return orjson.Fragment(raw)


def _from_base64(raw: bytes) -> list[float]:
    try:
        packed = base64.b64decode(orjson.loads(raw), validate=True)
    except (orjson.JSONDecodeError, binascii.Error, ValueError):
        raise BadAnswer("bad_vector", "an embedding of the body is not valid base64") from None
    if not packed or len(packed) % 4:
        raise BadAnswer("bad_vector", "an embedding of the body is not made of 32-bit floats")
    values = struct.unpack(f"<{len(packed) // 4}f", packed)
    if not all(map(math.isfinite, values)):
        raise BadAnswer("bad_vector", "an embedding of the body holds a value that is no number")
    return [shortest(value) for value in values]


def shortest(value: float) -> float:
    """The float whose text is the shortest that a reader rounds to the same 32-bit float."""
    # Six digits are never too many but for the subnormal, whose bits run out.
    for digits in range(1 if abs(value) < _SMALLEST_NORMAL else 6, 9):
        text = f"{value:.{digits - 1}e}"
        if _is_same(float(text), value):
            return float(text)
        # Below a power of two floats lie closer: the nearest text may miss where the next one up does not.
        if abs(math.frexp(value)[0]) == 0.5:
            step = Decimal(1).scaleb(int(text.partition("e")[2]) - digits + 1)
            away = float(Decimal(text) + step.copy_sign(Decimal(value)))
            if _is_same(away, value):
                return away
    return float(f"{value:.8e}")


def _is_same(text: float, value: float) -> bool:
    try:
        return bool(struct.unpack("<f", struct.pack("<f", text))[0] == value)
    except OverflowError:
        return False


def _without_output(usage: object) -> object:
    if type(usage) is not dict or usage.get("completion_tokens") or usage.get("output_tokens"):
        return usage
    given = usage.get("prompt_tokens", usage.get("total_tokens"))
    return {**usage, "prompt_tokens": given, "completion_tokens": 0}
