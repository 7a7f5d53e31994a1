"""One line of the Batch API's own format, checked, its body as it was written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from runner.record.fault import RecordFault
from runner.record.spans import key_name, members
from runner.record.values import is_unicode, key_text, parse


@dataclass(frozen=True, slots=True)
class RequestLine:
    """One line of the Batch API's own format. `custom_id` and `body` are JSON text, byte for byte as in the
    line; `key` is the custom_id as text."""

    custom_id: bytes
    key: str
    method: str
    url: str
    body: bytes
    model: str
    stream: bool


class _Envelope(msgspec.Struct):
    custom_id: msgspec.Raw
    method: Literal["POST"]
    url: str
    body: msgspec.Raw


class _Checked(msgspec.Struct):
    custom_id: str | int
    url: str
    body: msgspec.Raw


class _Body(msgspec.Struct):
    model: str
    stream: bool | None = None


class _Whole(msgspec.Struct):
    custom_id: str | int
    method: Literal["POST"]
    url: str
    body: msgspec.Raw


_WHOLE = msgspec.json.Decoder(_Whole)
_ENVELOPE = msgspec.json.Decoder(_Envelope)
_CHECKED = msgspec.json.Decoder(_Checked)
_BODY = msgspec.json.Decoder(_Body)
_VALUE = msgspec.json.Decoder()
_KEY: msgspec.json.Decoder[str | int] = msgspec.json.Decoder(str | int)
_REFUSED = (msgspec.DecodeError, ValueError, RecursionError)


def parse_request(line: bytes) -> RequestLine:
    """Read one line of the Batch API's format: {"custom_id", "method", "url", "body"}.

    The whole line is checked to be JSON and UTF-8; fields beside these four are let be. Raises RecordFault
    with every fault of the line: those of `parse`, or missing_custom_id, bad_custom_id, missing_method,
    bad_method, missing_url, bad_url, missing_body, body_not_object, missing_model.
    """
    try:
        if not line.isascii():
            line.decode()
        envelope = _ENVELOPE.decode(line)
        body = _BODY.decode(envelope.body)
        key = str(_KEY.decode(envelope.custom_id))
    except _REFUSED:
        return _parse_request_slowly(line)
    if not (key and body.model and envelope.url.startswith("/")):
        return _parse_request_slowly(line)
    return RequestLine(
        bytes(envelope.custom_id),
        key,
        envelope.method,
        envelope.url,
        bytes(envelope.body),
        body.model,
        body.stream is True,
    )


def read_request(line: bytes) -> tuple[str, str, bytes, dict[str, object]]:
    """The key, url and body of a line, and the body's values: `parse_request` and `parse` of the body in one, with the
    same faults, at half their cost."""
    try:
        if not line.isascii():
            line.decode()
        found = _WHOLE.decode(line)
        body = bytes(found.body)
        values = _VALUE.decode(body)
    except _REFUSED:
        values = None
    if type(values) is dict:
        model, key = values.get("model"), str(found.custom_id)
        if type(model) is str and model and key and found.url.startswith("/"):
            return key, found.url, body, values
    slow = parse_request(line)
    return slow.key, slow.url, slow.body, parse(slow.body)


def parse_checked_request(line: bytes) -> tuple[str, str, bytes]:
    """The key, url and body of a line that `parse_request` has accepted, at less than half its cost."""
    try:
        found = _CHECKED.decode(line)
    except _REFUSED:
        slow = parse_request(line)
        return slow.key, slow.url, slow.body
    return str(found.custom_id), found.url, bytes(found.body)


def _parse_request_slowly(line: bytes) -> RequestLine:
    record = parse(line)
    raw = {key_name(key): value for key, value in members(line)}
    custom_id, method, url, body = (record.get(name) for name in ("custom_id", "method", "url", "body"))
    faults: list[RecordFault] = []

    def fault(code: str, message: str) -> None:
        faults.append(RecordFault(code, message))

    key = ""
    if custom_id is None:
        fault("missing_custom_id", 'there is no "custom_id"')
    else:
        try:
            key = key_text(custom_id)
        except RecordFault as bad:
            fault("bad_custom_id", bad.message.replace("the key", '"custom_id"'))
    if method is None:
        fault("missing_method", 'there is no "method"; it is "POST"')
    elif method != "POST":
        fault("bad_method", '"method" must be "POST"')
    if url is None:
        fault("missing_url", 'there is no "url", such as "/v1/responses"')
    elif not isinstance(url, str) or not url.startswith("/") or not is_unicode(url):
        fault("bad_url", '"url" must be a path, such as "/v1/responses"')
    model = body.get("model") if isinstance(body, dict) else None
    if body is None:
        fault("missing_body", 'there is no "body"')
    elif not isinstance(body, dict):
        fault("body_not_object", '"body" must be a JSON object: the request itself')
    elif not isinstance(model, str) or not model or not is_unicode(model):
        fault("missing_model", 'the body has no "model": it must be a text, and not empty')
    if faults:
        raise RecordFault.of(faults)
    stream = isinstance(body, dict) and body.get("stream") is True
    return RequestLine(raw["custom_id"], key, "POST", str(url), raw["body"], str(model), stream)
