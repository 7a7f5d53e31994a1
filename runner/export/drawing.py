"""How a row with what became of it looks as a line of output."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

import msgspec
import orjson

from runner import record
from runner.endpoints import ENDPOINTS, embeddings, forced_tool
from runner.job import Job
from runner.model import TaskState, Usage
from runner.pricing import usd
from runner.question import Questions
from runner.store.rows import Settled
from runner.store.runs import line_of

FINISH_ADVICE = {
    "length": "the answer was cut at its token limit: allow more output tokens, or set on_length: accept",
    "content_filter": "the answer was filtered: change the row, or set on_content_filter: accept",
    "refusal": "the model refused to answer: change the row, or set on_refusal: accept",
}
_ANSWERED = TaskState.ANSWERED.value
_TOOL_FIELDS = ("tools", "tool_choice", "function_call")


class Drawing(Protocol):
    """How a row with what became of it is drawn as one line of output, without the line's end."""

    def ok(self, row: Settled, *, reused: bool) -> bytes: ...

    def failed(self, row: Settled, error: Mapping[str, Any]) -> bytes: ...


def error_of(row: Settled, accepted: frozenset[str] | None) -> dict[str, Any] | None:
    """Why a row has no result, or None if it has one. `accepted` are the finish reasons that count as success,
    None where every one does."""
    if row.row_fault is not None:
        faults = orjson.loads(row.row_fault)
        message = "; ".join(fault["message"] for fault in faults)
        return {
            "code": faults[0]["code"],
            "message": f"line {line_of(row.id)}: {message}",
            "status": None,
            "attempts": 0,
        }
    if row.state == _ANSWERED:
        if row.fault is not None:
            return {**orjson.loads(row.fault), "status": row.status, "attempts": row.attempts}
        if accepted is None or row.finish_reason in accepted:
            return None
        reason = row.finish_reason or "unknown"
        advice = FINISH_ADVICE.get(reason, f"the answer ended with {reason!r}, which is no success")
        return {"code": reason, "message": advice, "status": row.status, "attempts": row.attempts}
    if row.error is not None and row.state in (TaskState.FAILED, TaskState.HELD):
        found: dict[str, Any] = orjson.loads(row.error)
        return found
    return {"code": "skipped", "message": "not answered yet", "status": None, "attempts": row.attempts or 0}


class JobDrawing:
    """The kept input fields with their original bytes, then the result."""

    def __init__(self, job: Job) -> None:
        assert job.endpoint is not None
        self._endpoint = ENDPOINTS[job.endpoint]
        self._keep = None if job.keep is None else frozenset(job.keep)
        self._field = orjson.dumps(job.output_field)
        self._has_schema = job.schema is not None
        tools = {name: job.request[name] for name in _TOOL_FIELDS if name in job.request}
        self._forced_tool = forced_tool(tools)
        # Only where a template makes the tools can they differ from row to row.
        self._questions = Questions(job) if b"{{" in record.dumps(tools) else None

    def ok(self, row: Settled, *, reused: bool) -> bytes:
        result: dict[str, Any] = {
            "output": self._output(row),
            "finish_reason": row.finish_reason,
            "model": row.model,
            "usage": _usage(row),
            "cost_usd": usd(row.cost),
            "request_id": row.request_id,
            "attempts": row.attempts,
        }
        if reused:
            result["reused"] = True
        return record.keep_fields(row.record, self._keep, self._field + b":" + record.dumps(result))

    def _output(self, row: Settled) -> object:
        assert row.body is not None
        if self._endpoint.name == "embeddings":
            return embeddings.shown(row.body)
        forced = self._forced_tool
        if self._questions is not None:
            forced = self._questions.ask(row.record).forced_tool
        answer = self._endpoint.read(row.body, forced_tool=forced)
        if self._has_schema and answer.finish_reason == "stop":
            return (
                [_json(one) for one in answer.output]
                if isinstance(answer.output, list)
                else _json(answer.output)
            )
        return answer.output

    def failed(self, row: Settled, error: Mapping[str, Any]) -> bytes:
        extra = self._field + b":null," + b'"error":' + record.dumps(error)
        if row.row_fault is not None and not is_record(row.record):
            return b"{" + extra + b"}"
        return record.keep_fields(row.record, self._keep, extra)


class RequestsDrawing:
    """The Batch API's own output format; the bodies as they came."""

    def ok(self, row: Settled, *, reused: bool) -> bytes:
        assert row.body is not None
        head = self._head(row)
        return b'%b,"response":{"status_code":%d,"request_id":%b,"body":%b},"error":null}' % (
            head,
            row.status or 200,
            orjson.dumps(row.request_id or ""),
            one_line(_in_utf8(row.body)),
        )

    def failed(self, row: Settled, error: Mapping[str, Any]) -> bytes:
        response: dict[str, Any] | None = None
        if error["status"] is not None:
            body = {
                "error": {"message": error["message"], "type": None, "param": None, "code": error["code"]}
            }
            response = {"status_code": error["status"], "request_id": row.request_id or "", "body": body}
        told = {"code": error["code"], "message": error["message"]}
        return b'%b,"response":%b,"error":%b}' % (self._head(row), record.dumps(response), record.dumps(told))

    def _head(self, row: Settled) -> bytes:
        # The id says nothing but which line of which record it is, so that it never changes.
        mark = hashlib.blake2b(b"%d\n%b" % (line_of(row.id), row.record), digest_size=12).hexdigest()
        name = custom_id(row.record, whole=row.row_fault is None)
        return b'{"id":"batch_req_%b","custom_id":%b' % (mark.encode(), name)


class _Named(msgspec.Struct):
    custom_id: msgspec.Raw


_NO_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")
_NAMED = msgspec.json.Decoder(_Named)


def custom_id(line: bytes, *, whole: bool) -> bytes:
    """The custom_id of a request as it was written, null where it has none. `whole` says that ingest has found
    nothing wrong with the line."""
    found = b"null"
    if whole:
        try:
            return one_line(bytes(_NAMED.decode(line).custom_id))
        except (msgspec.DecodeError, ValueError):
            pass  # the decoder refuses a little that JSON allows
    if whole or is_record(line):
        for key, value in record.members(line):
            if record.key_name(key) == "custom_id":
                found = one_line(value)
    return found


def drawing_of(job: Job) -> Drawing:
    """How this job's output looks."""
    return RequestsDrawing() if job.endpoint is None else JobDrawing(job)


def _json(output: object) -> object:
    """A text that was found to be JSON as the value that it stands for, its tokens as they were."""
    return orjson.Fragment(one_line(output.encode())) if isinstance(output, str) else output


def one_line(text: bytes) -> bytes:
    """JSON text without line breaks, its tokens as they were."""
    if b"\n" not in text and b"\r" not in text:
        return text
    try:
        return msgspec.json.format(text, indent=-1)
    except (msgspec.DecodeError, RecursionError):
        # It refuses a little that servers write. A raw line break in JSON is white space, wherever it stands.
        return text.translate(_NO_LINE_ENDS)


def _in_utf8(body: bytes) -> bytes:
    """The JSON text of a body in UTF-8 without a mark: there are servers that write something else."""
    if body.startswith(b"{") and b"\0" not in body[:2]:
        if body.isascii():
            return body
        with suppress(UnicodeDecodeError):
            body.decode()
            return body
    text = body.decode(json.detect_encoding(body), "surrogatepass")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def usage_of(row: Settled) -> Usage | None:
    if row.input_tokens is None:
        return None
    return Usage(
        row.input_tokens,
        row.cached_input_tokens or 0,
        row.cache_write_tokens or 0,
        row.output_tokens or 0,
        row.reasoning_tokens or 0,
        row.total_tokens or 0,
    )


def _usage(row: Settled) -> dict[str, int | None] | None:
    if row.input_tokens is None:
        return None
    return {
        "input": row.input_tokens,
        "cached_input": row.cached_input_tokens,
        "cache_write": row.cache_write_tokens,
        "output": row.output_tokens,
        "reasoning": row.reasoning_tokens,
        "total": row.total_tokens,
    }


def is_record(line: bytes) -> bool:
    """Whether a line can be read as a record at all."""
    try:
        record.parse(line)
    except record.RecordFault:
        return False
    return True
