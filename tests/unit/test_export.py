"""Export: every form of output, drawn from saved bodies, and the input's own bytes given back as they were."""

import base64
import json
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scene import IDENTITY, PRICES, Scene, answer_of, chat_body, request_line, request_lines, settlement

from runner.errors import OutputUnwritable, StoreUnusable
from runner.export import Outputs, export
from runner.files import AtomicFile
from runner.job import Job, requests_job
from runner.model import TaskState, Usage
from runner.store import series
from runner.store.database import Store
from runner.store.identity import Identity
from runner.sums import RowTotals

MESSAGES = {"messages": [{"role": "user", "content": "{{ t }}"}]}


def job(**fields: Any) -> Job:
    given: dict[str, Any] = {
        "name": "j",
        "path": Path("/j.yaml"),
        "endpoint": "chat",
        "model": "m",
        "input": None,
        "output": None,
        "request": MESSAGES,
    }
    return Job(**given | fields)


def exported(scene: Scene, folder: Path) -> tuple[list[bytes], RowTotals]:
    outputs = Outputs(scene.store, scene.tenure, folder / "out.jsonl")
    totals = export(scene.store, scene.run, scene.job, outputs)
    lines = (folder / "out.jsonl").read_bytes().split(b"\n")
    assert lines.pop() == b""
    return lines, totals


def one_result(
    store: Store,
    folder: Path,
    body: bytes,
    *,
    reason: str = "stop",
    record: bytes = b'{"t":"x"}',
    **fields: Any,
) -> Any:
    """The result of the only row of a job that was answered so."""
    scene = Scene(store, [record], job=job(**fields))
    scene.answer(body, reason=reason)
    [line], _ = exported(scene, folder)
    return json.loads(line)["result"]


def with_choices(*messages: dict[str, Any]) -> bytes:
    body = json.loads(chat_body())
    body["choices"] = [
        {"index": n, "message": {"role": "assistant"} | message, "finish_reason": "stop"}
        for n, message in enumerate(messages)
    ]
    return json.dumps(body).encode()


def tool(name: str, arguments: str) -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


def response_body(*items: dict[str, Any]) -> bytes:
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    return json.dumps(
        {"object": "response", "status": "completed", "model": "m", "output": list(items), "usage": usage}
    ).encode()


def test_a_result_has_the_fields_of_the_contract(store: Store, tmp_path: Path) -> None:
    found = one_result(store, tmp_path, chat_body("Grüße\u2028\n"))

    assert found == {
        "output": "Grüße\u2028\n",
        "finish_reason": "stop",
        "model": "m",
        "usage": {"input": 10, "cached_input": 0, "cache_write": 0, "output": 5, "reasoning": 0, "total": 15},
        "cost_usd": "0.00000000002",
        "request_id": "req_1",
        "attempts": 1,
    }


SCHEMA = {"type": "object", "properties": {"a": {}}}
TOOLS = [{"type": "function", "function": {"name": "f"}}, {"type": "function", "function": {"name": "g"}}]
FORCED = {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}}


def test_a_structured_answer_is_the_object_with_its_own_numbers(store: Store, tmp_path: Path) -> None:
    text = '{"a": 1.10, "b": 12345678901234567890123, "c": 1e400, "a": 2, "d": "\\u00e9"}'
    scene = Scene(store, [b'{"t":1}'], job=job(schema=SCHEMA))
    scene.answer(chat_body(text))
    [line], _ = exported(scene, tmp_path)

    assert b'"output":' + text.encode() + b"," in line


def test_a_structured_answer_over_several_lines_becomes_one(store: Store, tmp_path: Path) -> None:
    found = one_result(store, tmp_path, chat_body('{\n  "a": [\r\n 1.50 ]\n}\n'), schema=SCHEMA)

    assert found["output"] == {"a": [1.5]}


def test_several_structured_answers_are_a_list_of_objects(store: Store, tmp_path: Path) -> None:
    body = with_choices({"content": '{"a": 1}'}, {"content": '{"a": 2}'})
    assert one_result(store, tmp_path, body, schema=SCHEMA, request=MESSAGES | {"n": 2})["output"] == [
        {"a": 1},
        {"a": 2},
    ]


def test_a_cut_structured_answer_that_is_accepted_is_its_text(store: Store, tmp_path: Path) -> None:
    found = one_result(
        store, tmp_path, chat_body('{"a', reason="length"), reason="length", schema=SCHEMA, on_length="accept"
    )
    assert (found["output"], found["finish_reason"]) == ('{"a', "length")


def test_a_text_that_looks_like_json_stays_a_text_without_a_schema(store: Store, tmp_path: Path) -> None:
    assert one_result(store, tmp_path, chat_body('{"a": 1}'))["output"] == '{"a": 1}'


def test_one_forced_tool_gives_its_arguments(store: Store, tmp_path: Path) -> None:
    body = with_choices({"content": None, "tool_calls": [tool("f", '{"x": 1}')]})
    assert one_result(store, tmp_path, body, request=MESSAGES | FORCED)["output"] == {"x": 1}


def test_free_tool_calls_are_a_list(store: Store, tmp_path: Path) -> None:
    body = with_choices({"content": None, "tool_calls": [tool("f", '{"x": 1}'), tool("g", "")]})
    found = one_result(store, tmp_path, body, reason="tool_calls", request=MESSAGES | {"tools": TOOLS})
    assert found["output"] == [{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}]


def test_a_tool_that_a_template_forces_is_forced(store: Store, tmp_path: Path) -> None:
    record = json.dumps({"t": "hi", "choice": FORCED["tool_choice"]}).encode()
    body = with_choices({"content": None, "tool_calls": [tool("f", '{"x": 1}')]})
    request = MESSAGES | {"tools": TOOLS, "tool_choice": "{{ choice }}"}
    assert one_result(store, tmp_path, body, record=record, request=request)["output"] == {"x": 1}


def test_several_choices_are_a_list_in_their_own_order(store: Store, tmp_path: Path) -> None:
    body = json.loads(with_choices({"content": "one"}, {"content": "two"}, {"content": "three"}))
    body["choices"].reverse()
    found = one_result(store, tmp_path, json.dumps(body).encode(), request=MESSAGES | {"n": 3})
    assert found["output"] == ["one", "two", "three"]


def test_a_response_gives_its_text_or_its_calls(store: Store, tmp_path: Path) -> None:
    text = {
        "type": "message",
        "content": [{"type": "output_text", "text": "a"}, {"type": "output_text", "text": "b"}],
    }
    reasoning = {"type": "reasoning", "summary": []}
    fields: dict[str, Any] = {"endpoint": "responses", "request": {"input": "{{ t }}"}}
    assert one_result(store, tmp_path, response_body(reasoning, text), **fields)["output"] == "ab"


def test_a_forced_tool_of_a_response(store: Store, tmp_path: Path) -> None:
    body = response_body({"type": "function_call", "name": "f", "arguments": '{"x": 2}'})
    request = {"input": "{{ t }}", "tools": [{"type": "function", "name": "f"}], "tool_choice": "required"}
    assert one_result(store, tmp_path, body, endpoint="responses", request=request)["output"] == {"x": 2}


def embedding_body(embedding: object) -> bytes:
    return json.dumps(
        {
            "object": "list",
            "data": [{"index": 0, "embedding": embedding}],
            "model": "m",
            "usage": {"prompt_tokens": 3, "total_tokens": 3},
        }
    ).encode()


def test_a_vector_keeps_the_servers_own_digits(store: Store, tmp_path: Path) -> None:
    body = embedding_body([0.1]).replace(b"[0.1]", b"[0.10, -1.50e-05,\n 3]")
    scene = Scene(store, [b'{"t":"x"}'], job=job(endpoint="embeddings", request={"input": "{{ t }}"}))
    scene.answer(body)
    [line], _ = exported(scene, tmp_path)

    assert b'"output":[0.10, -1.50e-05, 3]' in line or b'"output":[0.10, -1.50e-05,3]' in line


def test_a_packed_vector_gives_the_same_floats_back(store: Store, tmp_path: Path) -> None:
    floats = struct.unpack("<4f", struct.pack("<4f", 0.1, -2.5, 1e-8, 3.0))
    packed = base64.b64encode(struct.pack("<4f", *floats)).decode()
    found = one_result(
        store,
        tmp_path,
        embedding_body(packed),
        endpoint="embeddings",
        request={"input": "{{ t }}", "encoding_format": "base64"},
    )
    assert struct.pack("<4f", *found["output"]) == struct.pack("<4f", *floats)


ODD = (
    '{ "id":1.0e+2 , "big":123456789012345678901234567890,"esc":"\\u00e9\\/","t":"a","t":"b",'
    '"sep":"\u2028\u2029\u0085","half":"\\ud800","e":{}, "list":[1 , 2]}'
).encode()


def test_all_fields_keep_their_bytes(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [ODD], job=job())
    scene.answer(chat_body())
    [line], _ = exported(scene, tmp_path)

    assert line.startswith(ODD[:-1] + b',"result":{')


def test_kept_fields_keep_their_bytes_and_their_order(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [ODD], job=job(keep=("list", "esc", "t", "missing")))
    scene.answer(chat_body())
    [line], _ = exported(scene, tmp_path)

    assert line.startswith(b'{"esc":"\\u00e9\\/","t":"a","t":"b","list":[1 , 2],"result":{')


def test_no_field_need_be_kept(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [ODD], job=job(keep=(), output_field="answer"))
    scene.answer(chat_body())
    [line], _ = exported(scene, tmp_path)

    assert list(json.loads(line)) == ["answer"]


def test_a_failed_row_has_its_error_beside_its_fields(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [b'{"t":1}', b'{"t":2}'], job=job())
    scene.fail({"code": "server_error", "message": "boom", "status": 500, "attempts": 6})
    scene.answer(chat_body())
    lines, totals = exported(scene, tmp_path)

    assert json.loads(lines[0]) == {
        "t": 1,
        "result": None,
        "error": {"code": "server_error", "message": "boom", "status": 500, "attempts": 6},
    }
    assert (tmp_path / "out.jsonl.errors.jsonl").read_bytes() == lines[0] + b"\n"
    assert (totals.ok, totals.failed, totals.invalid, totals.skipped) == (1, 1, 0, 0)
    assert totals.error_codes == {"server_error": 1}


@pytest.mark.parametrize("reason", ["length", "content_filter", "refusal", "odd_reason"])
def test_an_answer_that_is_no_success_is_a_failed_row_whose_body_stays(
    store: Store, tmp_path: Path, reason: str
) -> None:
    scene = Scene(store, [b'{"t":1}'], job=job())
    scene.answer(chat_body("half"), reason=reason)
    [line], totals = exported(scene, tmp_path)

    found = json.loads(line)
    assert (found["result"], found["error"]["code"], found["error"]["status"]) == (None, reason, 200)
    assert totals.finish_reasons == {reason: 1}
    assert totals.paid.rows == 1
    assert scene.query("SELECT body FROM answer") == [(chat_body("half"),)]


@pytest.mark.parametrize("reason", ["length", "content_filter", "refusal"])
def test_what_the_job_accepts_is_a_result(store: Store, tmp_path: Path, reason: str) -> None:
    found = one_result(store, tmp_path, chat_body("half"), reason=reason, **{f"on_{reason}": "accept"})
    assert (found["output"], found["finish_reason"]) == ("half", reason)


def test_an_answer_that_does_not_meet_its_schema_is_a_failed_row(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [b'{"t":1}'], job=job(schema=SCHEMA))
    scene.answer(chat_body("oops"), fault='{"code":"invalid_json","message":"no"}')
    [line], totals = exported(scene, tmp_path)

    assert json.loads(line)["error"] == {
        "code": "invalid_json",
        "message": "no",
        "status": 200,
        "attempts": 1,
    }
    assert totals.failed == 1


INVALID = [b"{broken", b'"a text"', b'{"t": "\xff"}', b'{"no": "t"}', b'{"t": 1, "result": 2}']


@pytest.mark.parametrize("bad", INVALID)
def test_an_invalid_line_has_its_own_output_line_in_its_place(
    store: Store, tmp_path: Path, bad: bytes
) -> None:
    scene = Scene(store, [b'{"t":1}', bad, b'{"t":3}'], job=job())
    scene.answer(chat_body())
    scene.answer(chat_body())
    lines, totals = exported(scene, tmp_path)

    found = [json.loads(line) for line in lines]
    assert [one.get("t") for one in (found[0], found[2])] == [1, 3]
    assert found[1]["result"] is None
    assert "line 2" in found[1]["error"]["message"]
    assert (found[1]["error"]["status"], found[1]["error"]["attempts"]) == (None, 0)
    assert (totals.ok, totals.invalid, totals.failed) == (2, 1, 0)
    assert (tmp_path / "out.jsonl.errors.jsonl").read_bytes() == lines[1] + b"\n"


def test_a_row_without_an_answer_yet_is_skipped_and_is_no_error(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [b'{"t":1}', b'{"t":2}'], job=job())
    scene.answer(chat_body())
    lines, totals = exported(scene, tmp_path)

    assert json.loads(lines[1])["error"]["code"] == "skipped"
    assert (totals.ok, totals.skipped) == (1, 1)
    assert not (tmp_path / "out.jsonl.errors.jsonl").exists()


def test_a_held_row_is_a_failed_row_with_its_error(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [b'{"t":1}'], job=job())
    scene.fail({"code": "timeout", "message": "silence", "status": None, "attempts": 1}, to=TaskState.HELD)
    [line], totals = exported(scene, tmp_path)
    assert json.loads(line)["error"]["code"] == "timeout"
    assert totals.failed == 1


def test_what_another_run_paid_for_says_so(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [b'{"t":1}'], job=job())
    scene.answer(chat_body())
    scene.new_run([b'{"t":1}', b'{"t":2}'])
    scene.answer(chat_body())
    lines, totals = exported(scene, tmp_path)

    assert [json.loads(line)["result"].get("reused") for line in lines] == [True, None]
    assert (totals.reused.rows, totals.paid.rows) == (1, 1)


def test_of_deduped_rows_the_first_paid(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [], job=job())
    scene.new_run([b'{"id":1,"t":"a"}', b'{"id":2,"t":"a"}'], dedupe=True)
    scene.answer(chat_body())
    lines, totals = exported(scene, tmp_path)

    assert [json.loads(line)["result"].get("reused") for line in lines] == [None, True]
    assert (totals.paid.cost, totals.reused.cost) == (20, 20)


def test_the_order_is_the_inputs_whatever_the_order_of_answers(store: Store, tmp_path: Path) -> None:
    count = 600
    scene = Scene(store, [b'{"t":%d}' % n for n in range(count)], job=job())
    calls = scene.calls()
    for call in reversed(calls[::7]):
        [number] = scene.claim(call.task_id)
        scene.settle(
            settlement(
                number,
                call.task_id,
                TaskState.ANSWERED,
                finish_reason="stop",
                answer=answer_of(chat_body(str(call.asked[0].line))),
            )
        )
    lines, totals = exported(scene, tmp_path)

    assert [json.loads(line)["t"] for line in lines] == list(range(count))
    for n, line in enumerate(lines):
        result = json.loads(line)["result"]
        assert (result["output"] == str(n + 1)) if n % 7 == 0 else result is None
    assert totals.ok + totals.skipped == count


def test_a_damaged_answer_is_told_and_nothing_is_written(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [b'{"t":1}', b'{"t":2}'], job=job())
    scene.answer(chat_body("one"))
    scene.answer(chat_body("two"))
    exported(scene, tmp_path)
    before = (tmp_path / "out.jsonl").read_bytes()
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE answer SET body = ? WHERE id = 2", (chat_body("t0o"),))

    with pytest.raises(StoreUnusable, match=r"line 2 of run .* is damaged") as raised:
        exported(scene, tmp_path)
    assert raised.value.exit_code == 74
    assert (tmp_path / "out.jsonl").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def test_an_export_is_the_same_each_time(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [*request_lines(5), b"bad"])
    for _ in range(3):
        scene.answer(chat_body())
    first, _ = exported(scene, tmp_path)
    again, _ = exported(scene, tmp_path)
    assert first == again


# The Batch API's own format


def requests_output(
    store: Store, folder: Path, body: bytes, line: bytes | None = None, **answer: Any
) -> bytes:
    scene = Scene(store, [line or request_line("k1")])
    scene.answer(body, **answer)
    [found], _ = exported(scene, folder)
    return found


def test_a_body_is_passed_on_as_it_came(store: Store, tmp_path: Path) -> None:
    body = b'{"n":1.10,"n":2,"x":"\\u00e9\xe2\x80\xa8","choices":[{"message":{"content":"a"}}]}'
    line = requests_output(store, tmp_path, body)

    assert line.endswith(b'"body":' + body + b'},"error":null}')
    assert json.loads(line)["custom_id"] == "k1"
    assert json.loads(line)["response"]["status_code"] == 200
    assert json.loads(line)["response"]["request_id"] == "req_1"


def test_a_pretty_printed_body_becomes_one_line_with_its_tokens_as_they_were(
    store: Store, tmp_path: Path
) -> None:
    body = (
        json.dumps(json.loads(chat_body("two\nlines")), indent=2)
        .replace('"index": 0', '"index": 0.0e1')
        .encode()
    )
    line = requests_output(store, tmp_path, body + b"\r\n")

    assert b"\n" not in line
    assert b"\r" not in line
    assert b"0.0e1" in line
    assert json.loads(line)["response"]["body"] == json.loads(body)


@pytest.mark.parametrize(
    "reason", ["length", "content_filter", "refusal", "tool_calls", "model_length", "abort"]
)
def test_a_200_is_passed_on_whatever_its_finish_reason(store: Store, tmp_path: Path, reason: str) -> None:
    line = requests_output(store, tmp_path, chat_body(reason=reason), reason=reason)
    assert json.loads(line)["error"] is None


@pytest.mark.parametrize("custom_id", ['"k"', '"\\u00e9\\/"', "17", '"\u2028"'])
def test_a_custom_id_is_given_back_as_it_was_written(store: Store, tmp_path: Path, custom_id: str) -> None:
    line = request_line("K").replace(b'"K"', custom_id.encode())
    assert b'"custom_id":' + custom_id.encode() + b"," in requests_output(store, tmp_path, chat_body(), line)


def test_failed_rows_in_the_batch_format(store: Store, tmp_path: Path) -> None:
    scene = Scene(
        store,
        [
            request_line("a", "1"),
            request_line("b", "2"),
            b'{"custom_id": "c"}',
            b"[]",
            request_line("d", "3"),
        ],
    )
    scene.fail({"code": "bad", "message": "no", "status": 400, "attempts": 1})
    scene.fail({"code": "timeout", "message": "silence", "status": None, "attempts": 6})
    lines, totals = exported(scene, tmp_path)

    found = [json.loads(line) for line in lines]
    assert [one["custom_id"] for one in found] == ["a", "b", "c", None, "d"]
    assert found[0]["response"]["status_code"] == 400
    assert found[0]["response"]["body"]["error"] == {
        "message": "no",
        "type": None,
        "param": None,
        "code": "bad",
    }
    assert [one["response"] for one in found[1:]] == [None] * 4
    assert [one["error"]["code"] for one in found[:2]] == ["bad", "timeout"]
    assert (totals.failed, totals.invalid, totals.skipped) == (2, 2, 1)
    assert all(set(one) == {"id", "custom_id", "response", "error"} for one in found)


def test_ids_differ_by_line_and_never_change(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, request_lines(4))
    scene.answer(chat_body())
    before = [json.loads(line)["id"] for line in exported(scene, tmp_path)[0]]
    scene.answer(chat_body())
    after = [json.loads(line)["id"] for line in exported(scene, tmp_path)[0]]

    assert before == after
    assert len(set(before)) == 4
    assert all(one.startswith("batch_req_") for one in before)


def test_a_vector_keeps_the_format_that_was_asked_for(store: Store, tmp_path: Path) -> None:
    packed = base64.b64encode(struct.pack("<2f", 0.1, 2.0)).decode()
    line = (
        request_line("k")
        .replace(b"/v1/chat/completions", b"/v1/embeddings")
        .replace(b'"messages"', b'"encoding_format": "base64", "input": "x", "messages"')
    )
    found = json.loads(requests_output(store, tmp_path, embedding_body(packed), line))
    assert found["response"]["body"]["data"][0]["embedding"] == packed


# Whose files they are


def test_our_own_file_is_replaced_and_anybody_elses_is_not(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, request_lines(1))
    outputs = Outputs(store, scene.tenure, tmp_path / "out.jsonl")
    outputs.check(overwrite=False)
    exported(scene, tmp_path)
    outputs.check(overwrite=False)
    (tmp_path / "out.jsonl").write_bytes(b"mine!\n")

    with pytest.raises(OutputUnwritable, match="--overwrite"):
        outputs.check(overwrite=False)
    outputs.check(overwrite=True)
    assert (tmp_path / "out.jsonl").read_bytes() == b"mine!\n"


@pytest.mark.parametrize("suffix", ["", ".errors.jsonl", ".summary.json"])
def test_each_of_the_three_files_is_looked_at(store: Store, tmp_path: Path, suffix: str) -> None:
    scene = Scene(store, request_lines(1))
    (tmp_path / f"out.jsonl{suffix}").write_text("somebody's")
    with pytest.raises(OutputUnwritable, match="this series did not write it"):
        Outputs(store, scene.tenure, tmp_path / "out.jsonl").check(overwrite=False)


def test_another_series_does_not_replace_our_file(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, request_lines(1))
    exported(scene, tmp_path)
    with store.write() as connection:
        other = series.take(connection, Identity("other", "", "", "", "", "", ""))
    with pytest.raises(OutputUnwritable):
        Outputs(store, other, tmp_path / "out.jsonl").check(overwrite=False)


def test_a_touched_or_copied_file_with_our_bytes_is_still_ours(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, request_lines(1))
    exported(scene, tmp_path)
    path = tmp_path / "out.jsonl"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    os.utime(path, (1, 1))
    Outputs(store, scene.tenure, path).check(overwrite=False)


def test_a_death_between_note_and_name_disowns_neither_file(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, request_lines(1))
    exported(scene, tmp_path)
    outputs = Outputs(store, scene.tenure, tmp_path / "out.jsonl")
    with AtomicFile(tmp_path / "out.jsonl") as file:
        file.write(b'{"new": 1}\n')
        outputs.note(file)
        file.discard()
    outputs.check(overwrite=False)
    (tmp_path / "out.jsonl").write_bytes(b'{"new": 1}\n')
    outputs.check(overwrite=False)


def test_the_summary_is_gone_while_the_output_is_written_anew(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, request_lines(1))
    outputs = Outputs(store, scene.tenure, tmp_path / "out.jsonl")
    exported(scene, tmp_path)
    outputs.write_summary({"old": True})
    assert outputs.is_whole(with_errors=False)

    exported(scene, tmp_path)
    assert not outputs.summary.exists()
    assert not outputs.is_whole(with_errors=False)


def test_errors_of_before_go_when_there_are_none_left(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, request_lines(1))
    scene.fail({"code": "x", "message": "m", "status": None, "attempts": 1})
    exported(scene, tmp_path)
    assert (tmp_path / "out.jsonl.errors.jsonl").exists()
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE task SET state = 'ready', error = NULL")
    scene.answer(chat_body())
    exported(scene, tmp_path)
    assert not (tmp_path / "out.jsonl.errors.jsonl").exists()


def test_unknown_usage_and_price_are_null(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [b'{"t":1}'], job=job())
    scene.answer(chat_body(), usage=None, cost=None, model=None)
    [line], totals = exported(scene, tmp_path)

    found = json.loads(line)["result"]
    assert (found["usage"], found["cost_usd"], found["model"]) == (None, None, None)
    assert (totals.paid.unpriced, totals.paid.priced) == (1, 0)


def test_the_totals_add_up_by_model_and_reason(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, request_lines(3))
    scene.answer(chat_body(), usage=Usage(1, 2, 3, 4, 5, 6), cost=10)
    scene.answer(chat_body(), usage=Usage(10, 20, 30, 40, 50, 60), cost=100, reason="length")
    scene.answer(chat_body(), usage=None, cost=None, model="other")
    _, totals = exported(scene, tmp_path)

    assert (totals.paid.input, totals.paid.cached_input, totals.paid.cache_write) == (11, 22, 33)
    assert (totals.paid.output, totals.paid.reasoning, totals.paid.total, totals.paid.cost) == (
        44,
        55,
        66,
        110,
    )
    assert {name: sums.rows for name, sums in totals.by_model.items()} == {"m": 2, "other": 1}
    assert totals.finish_reasons == {"stop": 2, "length": 1}
    assert IDENTITY.job_name == scene.job.name


def test_what_cheaper_ways_saved_is_counted_where_both_prices_are_known(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, request_lines(7), job=replace(requests_job("/in/r.jsonl"), mode="auto"))
    scene.answer(chat_body(), usage=Usage(10, output=5, total=15), cost=20_000_000)
    scene.answer(chat_body(), usage=Usage(10, output=5, total=15), cost=10_000_000)
    scene.answer(chat_body(), usage=Usage(10, output=5, total=15), cost=12_000_000)
    scene.answer(chat_body(), usage=Usage(1, total=1), cost=500_000)
    scene.answer(chat_body(), usage=Usage(1, total=1), cost=None)
    scene.answer(chat_body(), usage=Usage(1, total=1), cost=5, model="of no known price")
    scene.answer(chat_body(), usage=None, cost=None)
    with store.write() as connection:
        for answer, tier in (
            (2, "batch"),
            (3, "flex"),
            (4, "batch"),
            (5, "batch"),
            (6, "batch"),
            (7, "flex"),
        ):
            connection.exec_driver_sql("UPDATE answer SET tier = ? WHERE id = ?", (tier, answer))
    outputs = Outputs(store, scene.tenure, tmp_path / "out.jsonl")
    totals = export(store, scene.run, scene.job, outputs, PRICES)

    assert totals.saved == {"batch": 10_500_000, "flex": 8_000_000}
    assert {mode: (sums.rows, sums.cost) for mode, sums in totals.by_mode.items()} == {
        "online": (1, 20_000_000),
        "batch": (4, 10_500_005),
        "flex": (2, 12_000_000),
    }
    assert export(store, scene.run, scene.job, outputs).saved == {}
    scene.new_run(request_lines(2))
    scene.expand()
    again = export(store, scene.run, scene.job, outputs, PRICES)
    assert (again.saved, again.by_mode, again.reused.rows) == ({}, {}, 2)
