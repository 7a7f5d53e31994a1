"""/v1/embeddings in perfect health."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from typing import Any

import orjson

from .own import Own, Refused, missing, spent
from .prompt import tokens

MAX_INPUTS = 2_048
MAX_INPUT_TOKENS = 8_192
MAX_PACK_TOKENS = 300_000

DRAWN = 64


def embeddings(request: dict[str, Any]) -> Own:
    """Vectors of length one, in the order of the inputs; equal inputs have equal vectors."""
    pieces = inputs_of(request.get("input"))
    counts = [len(piece) if isinstance(piece, list) else tokens(piece) for piece in pieces]
    read = sum(counts)
    if max(counts) > MAX_INPUT_TOKENS:
        message = f"This model's maximum context length is {MAX_INPUT_TOKENS} tokens."
        raise Refused(400, message, param="input", code="context_length_exceeded")
    if read > MAX_PACK_TOKENS:
        message = f"Requested {read} tokens, max {MAX_PACK_TOKENS} tokens per request."
        raise Refused(400, message, param="input", code="max_tokens_per_request")
    size = request.get("dimensions") or (3_072 if request["model"].endswith("-large") else 1_536)
    packed = request.get("encoding_format") == "base64"
    data = []
    for index, piece in enumerate(pieces):
        raw = vector(piece, size)
        shown = base64.b64encode(raw).decode() if packed else struct.unpack(f"<{size}f", raw)
        data.append({"object": "embedding", "index": index, "embedding": shown})
    usage = {"prompt_tokens": read, "total_tokens": read}
    body = {"object": "list", "data": data, "model": request["model"], "usage": usage}
    return Own(200, orjson.dumps(body), charged=True, usage=spent(read, 0))


def inputs_of(given: object) -> list[Any]:
    """The single inputs, texts or lists of token ids, that one request holds."""
    pieces = [given] if isinstance(given, str) or is_token_ids(given) else given
    if not isinstance(pieces, list) or not pieces:
        raise missing("input")
    if len(pieces) > MAX_INPUTS:
        raise Refused(400, f"'input' has more than {MAX_INPUTS} elements.", param="input")
    for index, piece in enumerate(pieces):
        if not piece or not (isinstance(piece, str) or is_token_ids(piece)):
            raise Refused(400, f"'input[{index}]' is not valid.", param="input", code="invalid_value")
    return pieces


def is_token_ids(given: object) -> bool:
    """Whether this is a list of token ids."""
    return isinstance(given, list) and bool(given) and all(type(one) is int for one in given)


def vector(piece: object, size: int) -> bytes:
    """A vector of length one as little-endian float32, drawn from the input's hash."""
    # Drawing each value would make packed calls slow, so that a few are drawn and repeated to the full size.
    values = [byte - 127.5 for byte in hashlib.shake_128(orjson.dumps(piece)).digest(DRAWN)]
    full, rest = divmod(size, DRAWN)
    squares = full * sum(value * value for value in values) + sum(value * value for value in values[:rest])
    scale = 1 / math.sqrt(squares)
    block = struct.pack(f"<{DRAWN}f", *(value * scale for value in values))
    return (block * (full + 1))[: 4 * size]
