"""How the answers to a batch's lines come out in its two files, sound or with a fault."""

from __future__ import annotations

import orjson

from runner.simulator import failures
from runner.simulator.batch_lines import answered, unanswered
from runner.simulator.calls import Result
from runner.simulator.digest import MARK

COUNTED = ("line-0", "line-missing", "line-lost")
"""Lines that have no answer to show, and are counted as completed."""
_MARK = MARK.encode()
_RAW_BREAKS = "\u2028\u2029\u0085".encode()
_ALONE = ("line-missing", "line-lost", "line-0", "line-error", "line-429", "line-500", "line-500-output")


def draw(line_id: str | None, custom_id: str, result: Result) -> list[tuple[bool, bytes]]:
    """The lines that a result comes to, each with whether it goes to the output file (or to the error file)."""
    name = result.fault.name if result.fault is not None else ""
    if name in _ALONE:
        return _without_answer(name, line_id, custom_id, result.request_id)
    sound = _answered(line_id, custom_id, result, result.body)
    if name == "line-doubled":
        return [(True, sound), (True, sound)]
    if name == "line-conflict":
        other = result.body.replace(_MARK, _MARK + b" Otherwise:")
        return [(True, sound), (True, _answered(line_id, custom_id, result, other))]
    if name == "line-both":
        return [(True, sound), (False, _refused("500", line_id, custom_id, result.request_id))]
    if name == "line-stranger":
        return [(True, sound), (True, _answered(line_id, f"{custom_id}-of-nobody", result, result.body))]
    if name == "line-null-id":
        return [(True, _answered(line_id, None, result, result.body))]
    if name == "line-number-id":
        return [(True, _answered(line_id, 17, result, result.body))]
    if name == "line-no-id":
        return [(True, _answered(None, custom_id, result, result.body))]
    if name == "line-u2028":
        body = result.body.replace(_MARK, _MARK + _RAW_BREAKS)
        return [(True, _answered(line_id, custom_id, result, body))]
    if name == "line-utf8":
        return [(True, sound.replace(b'"body":{', b'"body":{"\xff":0,', 1))]
    if name == "line-cut":
        return [(True, sound[: len(sound) // 2] + b"\n")]
    return [(result.status == 200, sound)]


def _answered(line_id: str | None, custom_id: object, result: Result, body: bytes) -> bytes:
    return answered(line_id, custom_id, status=result.status, request_id=result.request_id, body=body)


def _without_answer(
    name: str, line_id: str | None, custom_id: str, request_id: str
) -> list[tuple[bool, bytes]]:
    if name in ("line-missing", "line-lost"):
        return []
    if name == "line-0":
        return [(False, answered(line_id, custom_id, status=0, request_id="", body=b'""'))]
    if name == "line-error":
        message = "The request could not be processed."
        return [(False, unanswered(line_id, custom_id, "server_error", message))]
    word = "429" if name == "line-429" else "500"
    return [(name == "line-500-output", _refused(word, line_id, custom_id, request_id))]


def _refused(word: str, line_id: str | None, custom_id: str, request_id: str) -> bytes:
    refusal = failures.refusal(word, "the model", wall=0)
    body = orjson.dumps(refusal.body)
    return answered(line_id, custom_id, status=refusal.status, request_id=request_id, body=body)
