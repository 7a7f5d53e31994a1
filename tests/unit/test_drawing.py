"""Bodies as they are written into a line: one line of UTF-8, whatever a server has sent, and nothing else changed."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest
from scene import Scene, chat_body, request_line

from runner.endpoints import ENDPOINTS
from runner.export import Outputs, export
from runner.export.drawing import one_line
from runner.store.database import Store

PRETTY = json.dumps(json.loads(chat_body("a\nb")), indent=2).encode()


def drawn(store: Store, folder: Path, body: bytes) -> bytes:
    """The output line, in the Batch API's format, of a row that was answered with this body."""
    ENDPOINTS["chat"].read(body)
    scene = Scene(store, [request_line("r")])
    scene.answer(body)
    totals = export(store, scene.run, scene.job, Outputs(store, scene.tenure, folder / "out.jsonl"))
    assert totals.ok == 1
    [line, end] = (folder / "out.jsonl").read_bytes().split(b"\n")
    assert end == b""
    assert b"\r" not in line
    return line


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
def test_a_body_of_several_lines_becomes_one(store: Store, tmp_path: Path, body: bytes, kept: bytes) -> None:
    line = drawn(store, tmp_path, body)
    assert kept in line
    assert json.loads(line)["response"]["body"] == json.loads(body)


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + chat_body("é"),
        chat_body("é").decode().encode("utf-16"),
        chat_body("é").decode().encode("utf-16-le"),
        b" \n" + chat_body("é"),
    ],
    ids=["mark", "utf-16", "utf-16 without a mark", "white space"],
)
def test_a_body_in_another_form_is_given_as_plain_json(store: Store, tmp_path: Path, body: bytes) -> None:
    assert orjson.loads(drawn(store, tmp_path, body))["response"]["body"] == json.loads(body)


def test_half_a_character_in_the_bytes_of_a_body_becomes_a_mark_for_it(store: Store, tmp_path: Path) -> None:
    line = drawn(store, tmp_path, chat_body("ab").replace(b"ab", b"a\xed\xa0\x80b"))
    answer = orjson.loads(line)["response"]["body"]
    assert answer["choices"][0]["message"]["content"] == "a\ufffdb"


def test_a_body_that_says_infinity_does_not_stop_the_export(store: Store, tmp_path: Path) -> None:
    # Servers write the logarithm of a probability of zero like this.
    body = PRETTY.replace(b'"index": 0', b'"index": 0, "logprob": -Infinity')
    assert b"-Infinity" in drawn(store, tmp_path, body)


def test_a_text_on_one_line_is_left_alone() -> None:
    text = '{"a" : 1.0,\t"a":"\u2028\\n"}'.encode()
    assert one_line(text) is text
