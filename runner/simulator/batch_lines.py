"""The lines of a batch's input file: what the API demands of them before it starts, and how they come out."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from runner.simulator import embeddings
from runner.simulator.ledger import body_digest
from runner.simulator.models import Catalogue
from runner.simulator.profiles import Profile
from runner.simulator.refusal import Refusal

MAX_EMBEDDING_INPUTS = 50_000
MAX_ERRORS = 100
_REQUIRED = ("custom_id", "method", "url", "body")
_PROMPTS = {"/v1/chat/completions": "messages", "/v1/responses": "input", "/v1/embeddings": "input"}


@dataclass(slots=True)
class Lines:
    """What is known of a batch's lines while they are checked one after another.

    `tokens` sums what `count_tokens` says of the bodies, and `digests` gathers their digests, if it is a set.
    """

    endpoint: str
    catalogue: Catalogue
    profile: Profile
    count_tokens: Callable[[dict[str, Any]], int] | None = None
    digests: set[bytes] | None = None
    tokens: int = 0
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    errors: list[dict[str, Any]] = field(default_factory=list)
    model: str | None = None
    inputs: int = 0
    last: int = 0
    _ids: set[str] = field(default_factory=set)
    _number: int = 0

    def check(self, line: bytes, offset: int) -> None:
        """Checks the next line, which begins at this byte of the file; blank ones are passed over."""
        self._number += 1
        self.last = self._number
        if not line.strip():
            return
        self.offsets.append(offset)
        try:
            request = orjson.loads(line)
        except orjson.JSONDecodeError:
            request = None
        if not isinstance(request, dict):
            self._error("invalid_json_line", "This line is not parseable as valid JSON.")
            return
        for param in _REQUIRED:
            if request.get(param) is None:
                self._error("missing_required_parameter", f"Missing required parameter: '{param}'.", param)
                return
        self._check_envelope(request)
        if isinstance(request["body"], dict):
            self._check_body(request["body"])
        else:
            self._error("invalid_request", "Invalid type for 'body': expected an object.", "body")

    def finish(self) -> None:
        """Checks what only the whole file shows."""
        self._number = 0
        if not self.offsets:
            self._error(
                "empty_file", "The input file is empty. Please ensure that the batch contains requests."
            )
        most = self.profile.max_lines
        if len(self.offsets) > most:
            self._error("too_many_tasks", f"The batch has more than {most} requests: {len(self.offsets)}.")
        if self.inputs > MAX_EMBEDDING_INPUTS:
            message = f"The batch has more than {MAX_EMBEDDING_INPUTS} embedding inputs: {self.inputs}."
            self._error("too_many_tasks", message)

    def _check_envelope(self, request: dict[str, Any]) -> None:
        custom_id = request["custom_id"]
        if not isinstance(custom_id, str):
            self._error("invalid_type", "Invalid type for 'custom_id': expected a string.", "custom_id")
        elif custom_id in self._ids:
            message = (
                f"The custom_id '{custom_id}' for this request is a duplicate of another request. The "
                "custom_id parameter must be unique for each request in a batch."
            )
            self._error("duplicate_custom_id", message, "custom_id")
        else:
            self._ids.add(custom_id)
        if request["method"] != "POST":
            self._error("invalid_method", "Invalid method: the only supported method is 'POST'.", "method")
        if self.profile.endpoint(request["url"]) != self.endpoint:
            message = f"The URL provided for this request does not match the batch endpoint {self.endpoint}."
            self._error("invalid_url", message, "url")

    def _check_body(self, body: dict[str, Any]) -> None:
        model = body.get("model")
        prompt = _PROMPTS.get(self.endpoint)
        if model is None:
            self._error("invalid_request", "Missing required parameter: 'body.model'.", "body.model")
        elif not self.catalogue.knows(model):
            message = f"The provided model '{model}' is not supported by the Batch API."
            self._error("model_not_found", message, "body.model")
        elif self.model is not None and model != self.model:
            message = (
                f"The model '{model}' is not the model '{self.model}' of the first line; one batch takes one."
            )
            self._error("mismatched_model", message, "body.model")
        else:
            self.model = model
        if prompt is not None and body.get(prompt) is None:
            self._error("invalid_request", f"Missing required parameter: 'body.{prompt}'.", f"body.{prompt}")
        elif self.endpoint == embeddings.PATH:
            self._count_inputs(body)
        if body.get("stream"):
            self._error(
                "streaming_unsupported", "Streaming is not supported in the Batch API.", "body.stream"
            )
        if self.count_tokens is not None:
            self.tokens += self.count_tokens(body)
        if self.digests is not None:
            self.digests.add(body_digest(body))

    def _count_inputs(self, body: dict[str, Any]) -> None:
        try:
            self.inputs += len(embeddings.read_inputs(body))
        except Refusal:
            self.inputs += 1

    def _error(self, code: str, message: str, param: str | None = None) -> None:
        if len(self.errors) < MAX_ERRORS:
            word = self.profile.codes.get(code, code)
            self.errors.append(error(word, message, param=param, line=self._number or None))


def error(
    code: str, message: str, *, param: str | None = None, line: int | None = None
) -> dict[str, str | int | None]:
    """One entry of a batch's list of errors."""
    return {"code": code, "message": message, "param": param, "line": line}


def answered(line_id: str | None, custom_id: object, *, status: int, request_id: str, body: bytes) -> bytes:
    """A line of the output or error file: an HTTP answer, whose body goes in as it is."""
    response = {"status_code": status, "request_id": request_id, "body": orjson.Fragment(body)}
    return _line(line_id, custom_id, response, None)


def unanswered(line_id: str | None, custom_id: object, code: str, message: str) -> bytes:
    """A line of the error file for a request that has no HTTP answer."""
    return _line(line_id, custom_id, None, {"code": code, "message": message})


def _line(
    line_id: str | None, custom_id: object, response: dict[str, Any] | None, error: dict[str, str] | None
) -> bytes:
    shown: dict[str, Any] = {} if line_id is None else {"id": line_id}
    shown.update(custom_id=custom_id, response=response, error=error)
    return orjson.dumps(shown, option=orjson.OPT_APPEND_NEWLINE)
