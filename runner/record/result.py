"""One line of a batch's output or error file, its body as it was written."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import msgspec

from runner.record.fault import RecordFault
from runner.record.spans import key_name, members
from runner.record.values import is_unicode, parse


class ResultLine(NamedTuple):
    """What one line says of one request.

    `custom_id` is None where there is none, or it is no text. `status` is None where the line holds no HTTP answer;
    `body` is the JSON text of the answer's body, byte for byte as in the line, and empty where there is none.
    `error` is the JSON text of the line's own error, beside the answer or in its place, and empty where that is null.
    """

    custom_id: str | None
    status: int | None
    request_id: str | None
    body: bytes
    error: bytes = b""


class _Response(msgspec.Struct):
    status_code: int
    body: msgspec.Raw
    request_id: str | None = None


class _Line(msgspec.Struct):
    custom_id: str
    response: _Response
    error: Any = None


_LINE = msgspec.json.Decoder(_Line)
_REFUSED = (msgspec.DecodeError, ValueError, RecursionError)
_NULL = b"null"


def parse_result(line: bytes) -> ResultLine:
    """Read one line of a batch's output or error file: {"custom_id", "response", "error"}.

    Whatever is left out, null or of another type is None or empty. Raises RecordFault as `parse` does: for what is
    no JSON object in UTF-8.
    """
    try:
        if not line.isascii():
            line.decode()
        found = _LINE.decode(line)
    except _REFUSED:
        return _parse_result_slowly(line)
    response = found.response
    if found.error is not None:
        return _parse_result_slowly(line)
    return ResultLine(
        found.custom_id, response.status_code, response.request_id, _unless_null(bytes(response.body))
    )


def _parse_result_slowly(line: bytes) -> ResultLine:
    record = _record(line)
    raw = _raw_members(line)
    custom_id, response = record.get("custom_id"), record.get("response")
    if not isinstance(custom_id, str) or not is_unicode(custom_id):
        custom_id = None
    error = _unless_null(raw.get("error", b""))
    if not isinstance(response, dict):
        return ResultLine(custom_id, None, None, b"", error)
    status, request_id = response.get("status_code"), response.get("request_id")
    return ResultLine(
        custom_id,
        status if isinstance(status, int) and not isinstance(status, bool) else None,
        request_id if isinstance(request_id, str) and is_unicode(request_id) else None,
        _unless_null(_raw_members(raw["response"]).get("body", b"")),
        error,
    )


def _record(line: bytes) -> dict[str, Any]:
    try:
        return parse(line)
    except RecordFault as fault:
        # NaN and Infinity are no JSON, but there are servers that write them: of a body its endpoint may judge.
        if fault.code != "not_a_number":
            raise
        try:
            return dict(json.loads(line))
        except ValueError:
            raise fault from None


def _raw_members(text: bytes) -> dict[str, bytes]:
    return {key_name(key): value for key, value in members(text)}


def _unless_null(raw: bytes) -> bytes:
    return b"" if raw == _NULL else raw
