"""POST /v1/embeddings: what it accepts, and the shape of its answers."""

from __future__ import annotations

import base64
import hashlib
import sys
from typing import Any

from runner.simulator.bill import Tokens
from runner.simulator.models import Model
from runner.simulator.question import Body, Question, count_tokens
from runner.simulator.refusal import Refusal, check_whole_number, invalid_value, missing, wrong_type
from runner.simulator.vectors import Vectors

NAME = "embeddings"
PATH = "/v1/embeddings"
MAX_INPUTS = 2_048
MAX_TOKENS_EACH = 8_192
MAX_TOKENS_TOGETHER = 300_000
_ENCODINGS = ("float", "base64")


def read(body: Body, model: Model) -> Question:
    """The question in a request body, or the API's refusal of it."""
    if not model.embeds:
        raise Refusal(403, "You are not allowed to generate embeddings from this model")
    inputs = read_inputs(body)
    if body.get("encoding_format") not in (None, *_ENCODINGS):
        raise invalid_value("encoding_format", body["encoding_format"], _ENCODINGS)
    asked = check_whole_number(body, "dimensions", maximum=model.dimensions)
    if asked is not None and model.base.endswith("ada-002"):
        raise Refusal(400, "This model does not support specifying dimensions.", param="dimensions")
    together = 0
    for number, text in enumerate(inputs):
        if len(text) == 0:
            raise Refusal(
                400,
                f"Invalid 'input[{number}]': input cannot be an empty {_word(text)}.",
                param="input",
                code="invalid_value",
            )
        tokens = _tokens(text)
        if tokens > MAX_TOKENS_EACH:
            raise Refusal(
                400,
                f"This model's maximum context length is {MAX_TOKENS_EACH} tokens, however you requested "
                f"{tokens} tokens ({tokens} in your prompt; 0 for the completion). Please reduce your "
                "prompt; or completion length.",
                param="input",
                code="context_length_exceeded",
            )
        together += tokens
    if together > MAX_TOKENS_TOGETHER:
        raise Refusal(
            400,
            f"Requested {together} tokens, max {MAX_TOKENS_TOGETHER} tokens per request",
            kind="max_tokens_per_request",
            code="max_tokens_per_request",
        )
    return Question(body, model, together, inputs=inputs, input_digests=[_digest(text) for text in inputs])


def answer(question: Question, vectors: Vectors, tokens: Tokens) -> dict[str, Any]:
    """The response body: a vector for each input, as numbers or as base64 of little-endian float32."""
    body = question.body
    dimensions = body.get("dimensions") or question.model.dimensions
    packed = body.get("encoding_format") == "base64"
    data = []
    for index, text in enumerate(question.inputs):
        vector = vectors.embed(text, dimensions)
        if packed:
            if sys.byteorder == "big":
                vector.byteswap()
            shown: object = base64.b64encode(vector.tobytes()).decode()
        else:
            shown = [round(value, 8) if value else 0.0 for value in vector]
        data.append({"object": "embedding", "index": index, "embedding": shown})
    return {"object": "list", "data": data, "model": question.model.name, "usage": usage(tokens)}


def usage(tokens: Tokens) -> dict[str, Any]:
    """The usage object of an embeddings answer."""
    return {"prompt_tokens": tokens.input, "total_tokens": tokens.input}


def read_inputs(body: Body) -> list[str | list[int]]:
    """The single inputs of a body: one text, texts, one list of token numbers, or such lists."""
    asked = body.get("input")
    if asked is None:
        raise missing("input")
    if isinstance(asked, str):
        return [asked]
    if not isinstance(asked, list):
        raise wrong_type("input", "one of a string or array", asked)
    if not asked:
        raise Refusal(
            400, "Invalid 'input': input cannot be an empty array.", param="input", code="invalid_value"
        )
    if all(_is_token(token) for token in asked):
        return [asked]
    if len(asked) > MAX_INPUTS:
        raise Refusal(
            400,
            f"Invalid 'input': array too long. Expected an array with maximum length {MAX_INPUTS}, but got "
            f"an array with length {len(asked)} instead.",
            param="input",
            code="array_above_max_length",
        )
    for number, text in enumerate(asked):
        if not isinstance(text, str) and not (isinstance(text, list) and all(map(_is_token, text))):
            raise wrong_type(f"input[{number}]", "one of a string or array of integers", text)
    return asked


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _tokens(text: str | list[int]) -> int:
    return len(text) if isinstance(text, list) else count_tokens(len(text.encode("utf-8", "replace")))


def _digest(text: str | list[int]) -> bytes:
    return hashlib.sha256((text if isinstance(text, str) else repr(text)).encode("utf-8", "replace")).digest()


def _word(text: str | list[int]) -> str:
    return "string" if isinstance(text, str) else "array"
