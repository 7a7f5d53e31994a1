"""The lines of an output, drawn from stored bodies, and the files that they make."""

from __future__ import annotations

import base64
import json
import os
import struct
from pathlib import Path
from typing import Any

import orjson
import pytest
from scene import IDENTITY, Scene, chat_body, request_line, request_lines

from runner.endpoints import ENDPOINTS
from runner.errors import OutputUnwritable, StoreUnusable
from runner.export import Outputs, export
from runner.files import AtomicFile
from runner.job import Job
from runner.job.value import freeze
from runner.model import RowTotals, TaskState, Usage
from runner.store import series
from runner.store.database import Store

TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
FORCED = {"type": "function", "function": {"name": "look_up"}}
SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string"}, "weight": {"type": "number"}},
    "required": ["label"],
    "additionalProperties": False,
}


def job_of(**fields: Any) -> Job:
    request = fields.pop("request", {"messages": [{"role": "user", "content": "{{ text }}"}]})
    whole = {"endpoint": "chat", "model": "m", "path": Path("/jobs/small.yaml"), **fields}
    return Job(name="small", input="/in/rows.jsonl", output=None, request=freeze(request), **whole)


def row(number: int = 1, **more: Any) -> bytes:
    return json.dumps({"id": number, "text": f"question {number}", **more}).encode()


def draw(scene: Scene, folder: Path, *, job: Job | None = None) -> tuple[list[bytes], RowTotals]:
    """Export the scene's run to `out.jsonl`: its lines, and what they came to."""
    outputs = Outputs(scene.store, scene.tenure, folder / "out.jsonl")
    totals = export(scene.store, scene.run, job or scene.job, outputs)
    text = (folder / "out.jsonl").read_bytes()
    assert text.endswith(b"\n")
    return text.split(b"\n")[:-1], totals


def drawn(store: Store, folder: Path, body: bytes, *, line: bytes = b"", **fields: Any) -> dict[str, Any]:
    """The output line of one row that was answered with this body."""
    job = job_of(**fields)
    scene = Scene(store, [line or row()], job=job)
    assert job.endpoint is not None
    answer = ENDPOINTS[job.endpoint].read(body, forced_tool=scene.calls()[0].forced_tool)
    scene.answer(body, reason=answer.finish_reason, usage=answer.usage)
    [text], _ = draw(scene, folder)
    found: dict[str, Any] = orjson.loads(text)
    return found


def calls_body(*calls: tuple[str, str], reason: str = "tool_calls") -> bytes:
    made = [{"id": "t", "type": "function", "function": {"name": n, "arguments": a}} for n, a in calls]
    return chat_body(None, reason=reason, tool_calls=made)


def test_a_text_with_all_that_is_known_of_it(store: Store, tmp_path: Path) -> None:
    assert drawn(store, tmp_path, chat_body("jā")) == {
        "id": 1,
        "text": "question 1",
        "result": {
            "output": "jā",
            "finish_reason": "stop",
            "model": "m",
            "usage": {
                "input": 10,
                "cached_input": 0,
                "cache_write": 0,
                "output": 5,
                "reasoning": 0,
                "total": 15,
            },
            "cost_usd": "0.00000000002",
            "request_id": "req_1",
            "attempts": 1,
        },
    }


def test_what_is_unknown_is_null_and_not_zero(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [row()], job=job_of())
    scene.answer(chat_body(), usage=None, cost=None, model=None)
    [line], totals = draw(scene, tmp_path)
    result = orjson.loads(line)["result"]
    assert (result["usage"], result["cost_usd"], result["model"]) == (None, None, None)
    assert (totals.paid.unpriced, totals.paid.priced, totals.paid.cost) == (1, 0, 0)
    assert list(totals.by_model) == ["unknown"]


def test_an_object_where_a_schema_was_asked_for(store: Store, tmp_path: Path) -> None:
    body = chat_body('{"label": "a", "weight": 1.50}')
    found = drawn(store, tmp_path, body, schema=freeze(SCHEMA), schema_name="ticket")
    assert found["result"]["output"] == {"label": "a", "weight": 1.5}
    assert b'"weight": 1.50}' in (tmp_path / "out.jsonl").read_bytes()


def test_an_object_that_was_written_over_several_lines_stands_on_one(store: Store, tmp_path: Path) -> None:
    body = chat_body('{\r\n  "label": "a\\nb",\n  "weight": 1.50\n}')
    found = drawn(store, tmp_path, body, schema=freeze(SCHEMA), schema_name="ticket")
    assert found["result"]["output"] == {"label": "a\nb", "weight": 1.5}


def test_an_accepted_cut_of_an_object_is_its_text(store: Store, tmp_path: Path) -> None:
    body = chat_body('{"label": "a', reason="length")
    found = drawn(store, tmp_path, body, schema=freeze(SCHEMA), schema_name="ticket", on_length="accept")
    assert found["result"]["output"] == '{"label": "a'
    assert found["result"]["finish_reason"] == "length"


def test_the_arguments_where_one_tool_was_forced(store: Store, tmp_path: Path) -> None:
    request = {
        "messages": [{"role": "user", "content": "{{ text }}"}],
        "tools": [TOOL],
        "tool_choice": FORCED,
    }
    body = calls_body(("look_up", '{"q": 1.50}'), reason="stop")
    assert drawn(store, tmp_path, body, request=request)["result"]["output"] == {"q": 1.5}


def test_a_list_of_calls_where_the_tools_were_free(store: Store, tmp_path: Path) -> None:
    request = {"messages": [{"role": "user", "content": "{{ text }}"}], "tools": [TOOL]}
    body = calls_body(("look_up", '{"q": 1}'), ("note", ""))
    assert drawn(store, tmp_path, body, request=request)["result"]["output"] == [
        {"name": "look_up", "arguments": {"q": 1}},
        {"name": "note", "arguments": {}},
    ]


def choices(*texts: str) -> bytes:
    found = json.loads(chat_body())
    made = [
        {"index": n, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for n, text in enumerate(texts)
    ]
    # A server may list them in any order.
    return json.dumps({**found, "choices": made[::-1]}).encode()


def test_a_list_of_texts_for_several_choices(store: Store, tmp_path: Path) -> None:
    request = {"messages": [{"role": "user", "content": "{{ text }}"}], "n": 2}
    found = drawn(store, tmp_path, choices("one", "two"), request=request)
    assert found["result"]["output"] == ["one", "two"]


def test_a_list_of_objects_for_several_choices_with_a_schema(store: Store, tmp_path: Path) -> None:
    request = {"messages": [{"role": "user", "content": "{{ text }}"}], "n": 2}
    body = choices('{"label": "a"}', '{\n"label": "b"}')
    found = drawn(store, tmp_path, body, request=request, schema=freeze(SCHEMA), schema_name="ticket")
    assert found["result"]["output"] == [{"label": "a"}, {"label": "b"}]


def test_a_response_with_its_reasoning_left_out(store: Store, tmp_path: Path) -> None:
    usage = {
        "input_tokens": 9,
        "output_tokens": 7,
        "total_tokens": 16,
        "output_tokens_details": {"reasoning_tokens": 3},
    }
    items = [
        {"type": "reasoning", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "well"}]},
    ]
    body = json.dumps(
        {"object": "response", "status": "completed", "model": "m", "output": items, "usage": usage}
    ).encode()
    found = drawn(store, tmp_path, body, endpoint="responses", request={"input": "{{ text }}"})
    assert found["result"]["output"] == "well"
    assert found["result"]["usage"]["reasoning"] == 3


def vector_body(vector: str) -> bytes:
    item = f'{{"object":"embedding","index":0,"embedding":{vector}}}'
    usage = '{"prompt_tokens":3,"total_tokens":3}'
    return f'{{"object":"list","data":[{item}],"model":"m","usage":{usage}}}'.encode()


def test_a_vector_with_the_digits_that_came(store: Store, tmp_path: Path) -> None:
    body = vector_body("[0.10,\n -2e-05, 3]")
    found = drawn(store, tmp_path, body, endpoint="embeddings", request={"input": "{{ text }}"})
    assert found["result"]["output"] == [0.1, -2e-05, 3]
    assert b"[0.10, -2e-05, 3]" in (tmp_path / "out.jsonl").read_bytes()


def test_a_vector_in_base64_is_numbers_in_a_jobs_output(store: Store, tmp_path: Path) -> None:
    packed = base64.b64encode(struct.pack("<3f", 0.1, -2.5, 0.0)).decode()
    body = vector_body(f'"{packed}"')
    found = drawn(store, tmp_path, body, endpoint="embeddings", request={"input": "{{ text }}"})
    assert found["result"]["output"] == [0.1, -2.5, 0.0]


ODD = (
    '{"id": 1, "text": "t", "n": 1.10, "big": 123456789012345678901234567890, "e": 1E+02,'
    ' "esc": "\\u00e9\\/\\ud800", "line": "a\u2028b", "twice": 1, "twice": 2, "z": -0.0}'
).encode()


def test_kept_fields_have_their_original_bytes(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [ODD], job=job_of())
    scene.answer(chat_body())
    [line], _ = draw(scene, tmp_path)
    assert line.startswith(ODD[:-1] + b',"result":{')


def test_only_the_fields_named_are_kept_and_in_their_order(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [ODD], job=job_of(keep=("twice", "n", "esc")))
    scene.answer(chat_body())
    [line], _ = draw(scene, tmp_path)
    assert line.startswith(rb'{"n":1.10,"esc":"\u00e9\/\ud800","twice":1,"twice":2,"result":{')


def test_nothing_kept_but_the_result_under_its_own_name(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [row()], job=job_of(keep=(), output_field='an "odd" name'))
    scene.answer(chat_body())
    [line], _ = draw(scene, tmp_path)
    assert list(orjson.loads(line)) == ['an "odd" name']


def test_a_failed_row_says_why_and_stands_in_both_files(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [row(1), row(2)], job=job_of(keep=("id",)))
    error = {"code": "context_length_exceeded", "message": "too long", "status": 400, "attempts": 1}
    scene.fail(error)
    scene.answer(chat_body())
    lines, totals = draw(scene, tmp_path)
    assert orjson.loads(lines[0]) == {"id": 1, "result": None, "error": error}
    assert orjson.loads(lines[1])["id"] == 2
    assert (tmp_path / "out.jsonl.errors.jsonl").read_bytes() == lines[0] + b"\n"
    assert (totals.ok, totals.failed, totals.error_codes) == (1, 1, {"context_length_exceeded": 1})


@pytest.mark.parametrize("reason", ["length", "content_filter", "refusal", "never_heard_of"])
def test_an_answer_that_is_no_success_fails_unless_accepted(
    store: Store, tmp_path: Path, reason: str
) -> None:
    scene = Scene(store, [row()], job=job_of())
    scene.answer(chat_body("half", reason=reason), reason=reason)
    [line], totals = draw(scene, tmp_path)
    found = orjson.loads(line)
    assert found["result"] is None
    assert (found["error"]["code"], found["error"]["status"]) == (reason, 200)
    # It was paid all the same, and the summary counts it.
    assert totals.finish_reasons == {reason: 1}
    assert totals.paid.cost == 20
    if reason != "never_heard_of":
        [line], totals = draw(scene, tmp_path, job=job_of(**{f"on_{reason}": "accept"}))
        assert orjson.loads(line)["result"]["output"] == "half"
        assert totals.ok == 1


def test_an_answer_with_a_fault_is_a_failed_row(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [row()], job=job_of(schema=freeze(SCHEMA), schema_name="s"))
    scene.answer(chat_body("{}"), fault='{"code": "schema_mismatch", "message": "$ lacks a property"}')
    [line], _ = draw(scene, tmp_path)
    assert orjson.loads(line)["error"] == {
        "code": "schema_mismatch",
        "message": "$ lacks a property",
        "status": 200,
        "attempts": 1,
    }


def test_an_invalid_row_keeps_its_fields_where_it_has_any(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [b'{"id": 1, "note": 1.0}', b"{not json", b"[1]", row(4)], job=job_of(key="id"))
    scene.answer(chat_body())
    lines, totals = draw(scene, tmp_path)
    assert lines[0].startswith(b'{"id": 1, "note": 1.0,"result":null,"error":{"code":"missing_field"')
    assert [list(orjson.loads(line)) for line in lines[1:3]] == [["result", "error"]] * 2
    assert orjson.loads(lines[1])["error"]["message"].startswith("line 2: ")
    assert (totals.ok, totals.invalid, totals.failed, totals.skipped) == (1, 3, 0, 0)
    assert (tmp_path / "out.jsonl.errors.jsonl").read_bytes() == b"\n".join(lines[:3]) + b"\n"


def test_what_is_not_answered_yet_is_skipped_and_no_error(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [row(1), row(2), row(3)], job=job_of())
    scene.answer(chat_body())
    lines, totals = draw(scene, tmp_path)
    assert [orjson.loads(line).get("error", {}).get("code") for line in lines] == [None, "skipped", "skipped"]
    assert (totals.ok, totals.skipped, totals.error_codes) == (1, 2, {})
    assert not (tmp_path / "out.jsonl.errors.jsonl").exists()


def test_a_held_row_is_a_failed_one(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [row()], job=job_of())
    scene.fail({"code": "timeout", "message": "m", "status": None, "attempts": 1}, to=TaskState.HELD)
    [line], totals = draw(scene, tmp_path)
    assert orjson.loads(line)["error"]["code"] == "timeout"
    assert totals.failed == 1


def test_an_answer_of_an_earlier_run_is_marked_and_summed_apart(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [row(1)], job=job_of())
    scene.answer(chat_body(), cost=7)
    scene.new_run([row(2), row(1)])
    scene.answer(chat_body(), cost=5)
    lines, totals = draw(scene, tmp_path)
    assert [orjson.loads(line)["result"].get("reused") for line in lines] == [None, True]
    assert (totals.paid.rows, totals.paid.cost, totals.reused.rows, totals.reused.cost) == (1, 5, 1, 7)
    assert totals.by_model["m"].cost == 12


def test_one_answer_for_equal_questions_is_paid_by_the_first_row(store: Store, tmp_path: Path) -> None:
    same = [b'{"id": 1, "text": "t"}', b'{"id": 2, "text": "t"}']
    scene = Scene(store, [row(9)], job=job_of(dedupe=True))
    scene.new_run(same, dedupe=True)
    scene.answer(chat_body(), cost=5)
    lines, totals = draw(scene, tmp_path)
    assert [orjson.loads(line)["result"].get("reused") for line in lines] == [None, True]
    assert (totals.paid.cost, totals.reused.cost, totals.skipped) == (5, 5, 0)


# The Batch API's own format


def test_a_batch_line_passes_the_body_on_as_it_came(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [request_line("ä1")])
    body = chat_body("yes").replace(b'"total_tokens": 15', b'"total_tokens": 15, "odd": 1.50e+00, "odd": 2')
    scene.answer(body)
    [line], _ = draw(scene, tmp_path)
    found = orjson.loads(line)
    assert list(found) == ["id", "custom_id", "response", "error"]
    assert (found["custom_id"], found["error"]) == ("ä1", None)
    assert list(found["response"]) == ["status_code", "request_id", "body"]
    assert (found["response"]["status_code"], found["response"]["request_id"]) == (200, "req_1")
    assert b'"body":' + body + b"}" in line


def test_a_batch_lines_custom_id_is_as_it_was_written(store: Store, tmp_path: Path) -> None:
    line = request_line("x").replace(b'"x"', rb'"a\u00e9\/"')
    scene = Scene(store, [line])
    scene.answer(chat_body())
    [text], _ = draw(scene, tmp_path)
    assert rb'"custom_id":"a\u00e9\/"' in text


PRETTY = json.dumps(json.loads(chat_body("a\nb")), indent=2).encode()


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (PRETTY, b'"message":{"role":"assistant","content":"a\\nb"}'),
        (PRETTY.replace(b"\n", b"\r\n"), b'"content":"a\\nb"'),
        (PRETTY.replace(b"15", b"15.00e0"), b"15.00e0"),
        (PRETTY.replace(b'"a\\nb"', b'"\\ud800\\u2028 \xe2\x80\xa8"'), b'\\ud800\\u2028 \xe2\x80\xa8"'),
        (PRETTY.replace(b'"index": 0', b'"index": 0, "deep": ' + b"[" * 900 + b"]" * 900), b"[" * 900),
    ],
    ids=["lf", "crlf", "number", "half a character", "deep"],
)
def test_a_body_of_several_lines_becomes_one_line(
    store: Store, tmp_path: Path, body: bytes, kept: bytes
) -> None:
    ENDPOINTS["chat"].read(body)
    scene = Scene(store, [request_line("r")])
    scene.answer(body)
    [line], _ = draw(scene, tmp_path)
    assert kept in line
    assert b"\r" not in line
    assert json.loads(line)["response"]["body"] == json.loads(body)


@pytest.mark.parametrize("body", [b"\xef\xbb\xbf" + chat_body("a"), chat_body("a").decode().encode("utf-16")])
def test_a_body_with_a_byte_order_mark_is_json_without_it(store: Store, tmp_path: Path, body: bytes) -> None:
    ENDPOINTS["chat"].read(body)
    scene = Scene(store, [request_line("r")])
    scene.answer(body)
    [line], _ = draw(scene, tmp_path)
    assert orjson.loads(line)["response"]["body"] == json.loads(body)


def test_a_body_that_says_infinity_does_not_stop_the_export(store: Store, tmp_path: Path) -> None:
    # Servers write the log of a probability of zero like this.
    body = PRETTY.replace(b'"index": 0', b'"index": 0, "logprob": -Infinity')
    ENDPOINTS["chat"].read(body)
    scene = Scene(store, [request_line("r")])
    scene.answer(body)
    [line], totals = draw(scene, tmp_path)
    assert b"-Infinity" in line
    assert totals.ok == 1


@pytest.mark.parametrize("reason", ["length", "content_filter", "refusal", "function_call", "repetition"])
def test_a_200_is_passed_on_whatever_its_finish_reason(store: Store, tmp_path: Path, reason: str) -> None:
    scene = Scene(store, [request_line("r")])
    scene.answer(chat_body("x", reason=reason), reason=reason)
    [line], totals = draw(scene, tmp_path)
    assert orjson.loads(line)["error"] is None
    assert (totals.ok, totals.finish_reasons) == (1, {reason: 1})


def test_vectors_stay_in_the_encoding_that_was_asked_for(store: Store, tmp_path: Path) -> None:
    request = {"model": "m", "input": "t", "encoding_format": "base64"}
    asked = {"custom_id": "r", "method": "POST", "url": "/v1/embeddings", "body": request}
    scene = Scene(store, [json.dumps(asked).encode()])
    scene.answer(vector_body('"zczMPQ=="'))
    [line], _ = draw(scene, tmp_path)
    assert orjson.loads(line)["response"]["body"]["data"][0]["embedding"] == "zczMPQ=="


def test_a_failed_batch_line_has_the_status_that_it_met(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, request_lines(2))
    scene.fail({"code": "invalid_value", "message": "no such", "status": 400, "attempts": 1})
    scene.fail({"code": "timeout", "message": "none came", "status": None, "attempts": 6})
    first, second = map(orjson.loads, draw(scene, tmp_path)[0])
    assert first["response"]["status_code"] == 400
    assert first["response"]["body"]["error"]["code"] == "invalid_value"
    assert first["error"] == {"code": "invalid_value", "message": "no such"}
    assert (second["response"], second["error"]["code"]) == (None, "timeout")


def test_an_invalid_batch_line_bears_its_custom_id_where_it_has_one(store: Store, tmp_path: Path) -> None:
    bad_url = request_line("b").replace(b"/v1/chat/completions", b"/v1/unheard_of")
    scene = Scene(store, [bad_url, b'{"custom_id": "c"', b'{"method": "POST"}', request_line("d")])
    scene.answer(chat_body())
    found = [orjson.loads(line) for line in draw(scene, tmp_path)[0]]
    assert [one["custom_id"] for one in found] == ["b", None, None, "d"]
    assert [one["response"] is None for one in found] == [True, True, True, False]
    assert len({one["id"] for one in found}) == 4


def test_ids_do_not_change_from_export_to_export(store: Store, tmp_path: Path) -> None:
    lines = [request_line("a"), request_line("b"), b"{", request_line("c")]
    scene = Scene(store, lines)
    partial = [orjson.loads(line)["id"] for line in draw(scene, tmp_path)[0]]
    scene.answer(chat_body())
    scene.fail({"code": "c", "message": "m", "status": 400, "attempts": 1})
    later = [orjson.loads(line)["id"] for line in draw(scene, tmp_path)[0]]
    assert partial == later
    assert len(set(later)) == 4


# Files


def test_a_damaged_answer_stops_the_export_and_changes_no_file(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, request_lines(2))
    scene.answer(chat_body())
    scene.fail({"code": "c", "message": "m", "status": 400, "attempts": 1})
    outputs = Outputs(store, scene.tenure, tmp_path / "out.jsonl")
    export(store, scene.run, scene.job, outputs)
    outputs.write_summary({"rows": 2})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 3
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE answer SET body = replace(body, 'yes', 'no!')")
    with pytest.raises(StoreUnusable, match=f"line 1 of run {scene.run.name} is damaged.*doctor"):
        export(store, scene.run, scene.job, outputs)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_stored_error_that_cannot_be_read_is_damage_too(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, request_lines(1))
    scene.fail({"code": "c", "message": "m", "status": 400, "attempts": 1})
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE task SET error = '{\"code'")
    with pytest.raises(StoreUnusable, match="damaged"):
        draw(scene, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_errors_that_are_out_of_date_are_removed(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, request_lines(1))
    task = scene.fail({"code": "c", "message": "m", "status": 400, "attempts": 1})
    errors = tmp_path / "out.jsonl.errors.jsonl"
    draw(scene, tmp_path)
    assert errors.exists()
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE task SET state = 'ready', due_at = 0 WHERE id = ?", (task,))
    scene.answer(chat_body())
    draw(scene, tmp_path)
    assert not errors.exists()


def test_the_summary_of_before_goes_with_its_output(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, request_lines(1))
    outputs = Outputs(store, scene.tenure, tmp_path / "out.jsonl")
    export(store, scene.run, scene.job, outputs)
    outputs.write_summary({"rows": 1})
    assert outputs.is_whole(with_errors=False)
    assert not outputs.is_whole(with_errors=True)
    export(store, scene.run, scene.job, outputs)
    assert not outputs.summary.exists()
    assert not outputs.is_whole(with_errors=False)


def test_a_run_without_rows_to_tell_makes_an_empty_output(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [b""])
    outputs = Outputs(store, scene.tenure, tmp_path / "out.jsonl")
    totals = export(store, scene.run, scene.job, outputs)
    assert (tmp_path / "out.jsonl").read_bytes() == b""
    assert totals == RowTotals()


# Whose a file is


def outputs_of(scene: Scene, folder: Path) -> Outputs:
    return Outputs(scene.store, scene.tenure, folder / "out.jsonl")


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.errors.jsonl", "out.jsonl.summary.json"])
def test_a_file_of_somebody_elses_is_not_replaced(store: Store, tmp_path: Path, name: str) -> None:
    scene = Scene(store, request_lines(1))
    (tmp_path / name).write_bytes(b"mine\n")
    with pytest.raises(OutputUnwritable, match=f"{name} exists.*--overwrite"):
        outputs_of(scene, tmp_path).check(overwrite=False)
    outputs_of(scene, tmp_path).check(overwrite=True)
    assert (tmp_path / name).read_bytes() == b"mine\n"


def test_our_own_output_is_replaced_even_when_copied_back_but_not_when_changed(
    store: Store, tmp_path: Path
) -> None:
    scene = Scene(store, request_lines(2))
    draw(scene, tmp_path)
    output = tmp_path / "out.jsonl"
    outputs_of(scene, tmp_path).check(overwrite=False)
    output.write_bytes(output.read_bytes())
    outputs_of(scene, tmp_path).check(overwrite=False)
    text = output.read_bytes()
    output.write_bytes(text.replace(b"skipped", b"SKIPPED"))
    with pytest.raises(OutputUnwritable):
        outputs_of(scene, tmp_path).check(overwrite=False)


def test_another_series_output_is_not_ours(store: Store, tmp_path: Path) -> None:
    draw(Scene(store, request_lines(1)), tmp_path)
    other = IDENTITY.__class__("other", *(getattr(IDENTITY, n) for n in IDENTITY.__slots__[1:]))
    with store.write() as connection:
        tenure = series.take(connection, other)
    with pytest.raises(OutputUnwritable):
        Outputs(store, tenure, tmp_path / "out.jsonl").check(overwrite=False)


class Died(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@pytest.mark.parametrize("renamed", [False, True])
def test_after_a_death_around_the_rename_both_files_are_ours(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: bool
) -> None:
    scene = Scene(store, request_lines(1))
    draw(scene, tmp_path)
    before = (tmp_path / "out.jsonl").read_bytes()
    scene.answer(chat_body())
    commit = AtomicFile._commit

    def die(self: AtomicFile) -> None:
        if renamed:
            commit(self)
        raise Died

    monkeypatch.setattr(AtomicFile, "_commit", die)
    with pytest.raises(Died):
        draw(scene, tmp_path)
    monkeypatch.undo()
    assert ((tmp_path / "out.jsonl").read_bytes() != before) is renamed
    outputs_of(scene, tmp_path).check(overwrite=False)
    [line], _ = draw(scene, tmp_path)
    assert orjson.loads(line)["error"] is None
    # The one of before, put back, is no longer ours.
    (tmp_path / "out.jsonl").write_bytes(before)
    with pytest.raises(OutputUnwritable):
        outputs_of(scene, tmp_path).check(overwrite=False)


def test_an_output_that_was_taken_away_is_written_again(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, request_lines(1))
    lines, _ = draw(scene, tmp_path)
    (tmp_path / "out.jsonl").unlink()
    outputs_of(scene, tmp_path).check(overwrite=False)
    assert draw(scene, tmp_path)[0] == lines


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_told_before_anything_is_paid(
    store: Store, tmp_path: Path
) -> None:
    scene = Scene(store, request_lines(1))
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputUnwritable, match=r"out\.jsonl"):
            outputs_of(scene, tmp_path).check(overwrite=False)
    finally:
        tmp_path.chmod(0o700)


def test_shares_of_tokens_and_costs_are_summed_exactly(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, request_lines(3))
    for n in range(3):
        usage = Usage(input=10 + n, cached_input=n, cache_write=1, output=4, reasoning=2, total=14 + n)
        scene.answer(chat_body(), usage=usage, cost=10**15 + n)
    _, totals = draw(scene, tmp_path)
    paid = totals.paid
    assert (paid.input, paid.cached_input, paid.cache_write, paid.output) == (33, 3, 3, 12)
    assert (paid.reasoning, paid.total, paid.cost, paid.priced) == (6, 45, 3 * 10**15 + 3, 3)
