"""The input file of a batch: bytes to lines, or the faults that a batch fails with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson

from .courses import Failure
from .embeddings import is_token_ids
from .ledger import MARKER

MAX_LINES = 50_000
MAX_INPUTS = 50_000
LONGEST_ID = 64
MOST_SHOWN = 50

REQUIRED = ("custom_id", "method", "url", "body")


class RawBody(msgspec.Struct):
    """The body of a line as the bytes that stand in the file."""

    body: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch. `body` is the bytes as they stand in the file."""

    custom_id: str
    body: bytes

    @property
    def sha(self) -> str:
        """The SHA-256 of the body in hex, as the ledger counts it."""
        return hashlib.sha256(self.body).hexdigest()

    @property
    def marker(self) -> str | None:
        """The first `row=<id>` in the body."""
        found = MARKER.search(self.body)
        return found[1].decode() if found else None


class Unfit(Exception):
    """A line that fails its batch."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class Reader:
    """Reads one input file; `failures` is what it found wrong, `model` the first line's."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._seen: set[str] = set()
        self._inputs = 0
        self.model: str | None = None
        self.lines: list[Line] = []
        self.failures: list[Failure] = []

    def read(self, content: bytes) -> None:
        """Read a whole file. Split at `\\n` alone; only the last line may be empty."""
        rows = content.split(b"\n")
        if not rows[-1]:
            rows.pop()
        if not rows:
            self.failures.append(Failure(code="empty_file", message="The input file has no requests."))
        if len(rows) > MAX_LINES:
            message = f"The input file has {len(rows)} requests; at most {MAX_LINES} are allowed."
            self.failures.append(Failure(code="too_many_tasks", message=message))
            return
        for number, row in enumerate(rows, 1):
            try:
                self.lines.append(self._line(row))
            except Unfit as unfit:
                self.failures.append(
                    Failure(code=unfit.code, message=str(unfit), param=unfit.param, line=number)
                )
        if self._inputs > MAX_INPUTS:
            message = f"The input file has {self._inputs} embedding inputs; at most {MAX_INPUTS} are allowed."
            self.failures.append(Failure(code="too_many_tasks", message=message))
        del self.failures[MOST_SHOWN:]

    def _line(self, row: bytes) -> Line:
        try:
            request = orjson.loads(row)
        except orjson.JSONDecodeError as unfit:
            raise Unfit("invalid_json_line", "This line is not parseable as valid JSON.") from unfit
        if not isinstance(request, dict):
            raise Unfit("invalid_json_line", "This line is not a JSON object.")
        for name in REQUIRED:
            if name not in request:
                raise Unfit("missing_required_parameter", f"Missing required parameter: '{name}'.", name)
        self._check_id(request["custom_id"])
        if request["method"] != "POST":
            raise Unfit("invalid_method", f"Method {request['method']!r} is not supported.", "method")
        if request["url"] != self._endpoint:
            message = "The URL provided for this request does not match the batch endpoint."
            raise Unfit("invalid_url", message, "url")
        self._check_body(request["body"])
        return Line(request["custom_id"], bytes(msgspec.json.decode(row, type=RawBody).body))

    def _check_id(self, ident: object) -> None:
        if not isinstance(ident, str) or not ident or len(ident) > LONGEST_ID:
            raise Unfit("invalid_value", f"'custom_id' has 1 to {LONGEST_ID} characters.", "custom_id")
        if ident in self._seen:
            message = f"The custom_id '{ident}' appears more than once in the input file."
            raise Unfit("duplicate_custom_id", message, "custom_id")
        self._seen.add(ident)

    def _check_body(self, body: Any) -> None:
        if not isinstance(body, dict) or not isinstance(body.get("model"), str):
            raise Unfit("invalid_request", "The body has no model.", "body.model")
        if body.get("stream"):
            raise Unfit("streaming_unsupported", "Streaming is not supported in batches.", "body.stream")
        if self.model is None:
            self.model = body["model"]
        if body["model"] != self.model:
            message = f"The model '{body['model']}' is not that of the first line, '{self.model}'."
            raise Unfit("mismatched_model", message, "body.model")
        if self._endpoint == "/v1/embeddings":
            given = body.get("input")
            packed = isinstance(given, list) and not is_token_ids(given)
            self._inputs += len(given or ()) if packed else 1
