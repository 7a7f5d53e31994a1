"""Embeddings: what a request asks for, and the vectors of an answer."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import orjson

from runner import vectors as packed
from runner.endpoints.answer import BadAnswer, check_object, load, text_or_none, usage_of
from runner.endpoints.request import model_fault
from runner.model import Answer, Demand
from runner.tokens import of_text

_NUMBER_SIGNS = b"0123456789+-.eE, \t\r\n"
_LINE_ENDS = b"\r\n"


class _Item(msgspec.Struct):
    embedding: msgspec.Raw
    index: Any = None


class _Envelope(msgspec.Struct):
    object: Any = None
    error: Any = None
    model: Any = None
    service_tier: Any = None
    usage: Any = None


class _Body(_Envelope, kw_only=True):
    data: list[_Item]


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_BODY = msgspec.json.Decoder(_Body)
_NUMBERS = msgspec.json.Decoder(list[float])


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
    if isinstance(given, str):
        tokens = of_text(given)
    elif isinstance(given, Sequence):
        tokens = sum(
            of_text(one) if isinstance(one, str) else len(one) if isinstance(one, Sequence) else 1
            for one in given
        )
    else:
        tokens = 0
    return Demand(input_tokens=min(max(tokens, 1), max(body_bytes, 1)), max_output=0)


def read(body: bytes, *, forced_tool: bool = False, index: int = 0) -> Answer:  # noqa: ARG001
    """What the body of a 200, raw or kept (`runner.vectors`), says about the input number `index`. Raises
    BadAnswer where it has no vector.

    The output is the JSON text of the vector (an orjson.Fragment): the server's own, so that no number is
    written anew, or for base64 the shortest decimals that give the 32-bit floats back.
    """
    if packed.is_kept(body):
        found: _Envelope = _envelope_of(body)
        if not 0 <= index < packed.shape(body)[0]:
            raise _missing(index)
        output: object = orjson.Fragment(packed.decimals(packed.row(body, index)))
    else:
        found = whole = _decoded(body)
        items = _by_index(whole.data)
        if not 0 <= index < len(items):
            raise _missing(index)
        output = _vector(bytes(items[index].embedding))
    return _answer(found, output)


def read_alike(kept: bytes) -> Answer:
    """What a kept body says of all its inputs alike: the output is None, for each has its own. Raises BadAnswer."""
    return _answer(_envelope_of(kept), None)


def _answer(found: _Envelope, output: object) -> Answer:
    return Answer(
        output,
        "stop",
        text_or_none(found.model),
        text_or_none(found.service_tier),
        usage_of(_without_output(found.usage)),
    )


def count(body: bytes) -> int:
    """How many vectors the body of a 200 holds. Raises BadAnswer as `read` does."""
    return packed.shape(body)[0] if packed.is_kept(body) else len(_decoded(body).data)


def vectors(body: bytes) -> list[object]:
    """All vectors of the body of a 200, in the order of the inputs, each as `read` gives it."""
    if packed.is_kept(body):
        return [
            orjson.Fragment(packed.decimals(packed.row(body, item))) for item in range(packed.shape(body)[0])
        ]
    return [_vector(text) for text in texts(body)]


def texts(body: bytes) -> list[bytes]:
    """The vectors of the raw body of a 200 in the order of the inputs, each as it stands there.

    Raises BadAnswer where they cannot be told apart; whether each is a vector is not looked at.
    """
    return [bytes(item.embedding) for item in _by_index(_decoded(body).data)]


def places(body: bytes) -> list[tuple[int, int]]:
    """Where in the raw body of a 200 the text of each vector stands, in the order of the inputs: its start and
    its length. Raises BadAnswer as `texts` does."""
    items = _decoded(body).data
    found: dict[int, tuple[int, int]] = {}
    at = 0
    for item in items:
        # The same text may stand somewhere before: it is as good.
        start = body.index(bytes(item.embedding), at)
        found[id(item)] = (start, len(bytes(item.embedding)))
        at = sum(found[id(item)])
    return [found[id(item)] for item in _by_index(items)]


def shown(body: bytes) -> object:
    """What a row shows of its answer: the vector, or for an input of several texts the list of them, each as
    `read` gives it, None in the place of one that cannot be read."""
    if packed.is_kept(body):
        kept = vectors(body)
        return kept[0] if len(kept) == 1 else kept
    raw = texts(body)
    if len(raw) == 1:
        return _vector(raw[0])
    found: list[object] = []
    for text in raw:
        try:
            found.append(_vector(text))
        except BadAnswer:
            found.append(None)
    return found


def single(body: bytes) -> bytes:
    """The one vector of a body, raw or kept, as little-endian 32-bit floats; numbers that were written as
    decimals are rounded to the nearest. Raises BadAnswer where there is none, several, or one too large."""
    if packed.is_kept(body):
        found = packed.layout(body)
        if found.rows == 1:
            return body[found.start : found.end]
    several = count(body)
    if several != 1:
        raise BadAnswer("several_vectors", f"the answer holds {several} vectors, not one")
    [raw] = texts(body)
    if raw.startswith(b'"'):
        return _floats(raw)
    try:
        values = _NUMBERS.decode(_checked(raw))
        return struct.pack(f"<{len(values)}f", *values)
    except (msgspec.MsgspecError, OverflowError):
        raise BadAnswer("bad_vector", "a number of the vector is too large for 32 bits") from None


def _missing(index: int) -> BadAnswer:
    return BadAnswer("missing_vector", f"the body has no vector for the input number {index}")


def _envelope_of(kept: bytes) -> _Envelope:
    found = _ENVELOPE.decode(packed.trailer(kept).body)
    check_object({"object": found.object, "error": found.error}, "list")
    return found


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
    return orjson.Fragment(packed.decimals(_floats(raw)) if raw.startswith(b'"') else _checked(raw))


def _checked(raw: bytes) -> bytes:
    # The decoder has seen to it that this is JSON: without numbers nothing but the brackets may be left.
    if raw.translate(None, _NUMBER_SIGNS) != b"[]" or not raw[1:-1].strip():
        raise BadAnswer("bad_vector", "an embedding of the body is not a list of numbers")
    if b"\n" in raw or b"\r" in raw:
        raw = raw.translate(None, _LINE_ENDS)
    return raw


def _floats(raw: bytes) -> bytes:
    """The 32-bit floats that a text of base64 stands for."""
    try:
        found = base64.b64decode(orjson.loads(raw), validate=True)
    except (orjson.JSONDecodeError, binascii.Error, ValueError):
        raise BadAnswer("bad_vector", "an embedding of the body is not valid base64") from None
    if not found or len(found) % 4:
        raise BadAnswer("bad_vector", "an embedding of the body is not made of 32-bit floats")
    if not packed.is_finite(found):
        raise BadAnswer("bad_vector", "an embedding of the body holds a value that is no number")
    return found


def _without_output(usage: object) -> object:
    if type(usage) is not dict or usage.get("completion_tokens") or usage.get("output_tokens"):
        return usage
    given = usage.get("prompt_tokens", usage.get("total_tokens"))
    return {**usage, "prompt_tokens": given, "completion_tokens": 0}


def unusable(body: bytes) -> list[int]:
    """The places of those inputs whose vector in the raw body of a 200 is none. Raises BadAnswer as `texts` does."""
    found = []
    for place, text in enumerate(texts(body)):
        try:
            _ = _floats(text) if text.startswith(b'"') else _checked(text)
        except BadAnswer:
            found.append(place)
    return found
