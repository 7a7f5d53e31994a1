"""Structured output: where a schema goes, and what an answer that breaks it is told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.structured import BadSchema, Checker, schema_name, with_schema

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "label": {"enum": ["bug", "question"]},
        "score": {"type": ["integer", "null"], "minimum": 3},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^x"}},
        "text": {"type": "string"},
    },
    "required": ["label"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "text",
    [
        '{"label":"bug"}',
        ' {"label": "question", "score": null, "tags": ["x"]}\n',
        '{"label":"bug","text":"\\ud800"}',
    ],
)
def test_an_answer_that_fits_has_no_fault(text: str) -> None:
    assert Checker(SCHEMA).fault(text) is None


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"label":"secret"}', "$.label is none of the values"),
        ('{"label":"bug","secret":1}', "$ has a property that the schema does not allow"),
        ('{"score":3}', '$ lacks the property "label"'),
        ('{"label":"bug","score":"secret"}', "$.score is not of type"),
        ('{"label":"bug","score":1}', '$.score does not meet the schema\'s "minimum"'),
        ('{"label":"bug","tags":["x","secret"]}', '$.tags[1] does not meet the schema\'s "pattern"'),
        ('{"\\udfff":"secret","label":"bug"}', "$ has a property"),
        ('"secret"', "$ is not of type object"),
    ],
)
def test_a_mismatch_names_its_place(text: str, where: str) -> None:
    found = Checker(SCHEMA).fault(text)
    assert found is not None
    assert found[0] == "schema_mismatch"
    assert found[1].startswith(where)
    assert "secret" not in found[1]


def test_names_that_the_schema_does_not_know_are_not_repeated() -> None:
    found = Checker({"type": "object", "additionalProperties": {"type": "integer"}}).fault('{"secret":"x"}')
    assert found == ("schema_mismatch", "$.* is not of type integer")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        (" \n", "it is empty"),
        ('{"label":"bug"', "ends early"),
        ('{"label":"bug"} secret', "more after its end"),
        ("secret", "expecting value at character 0"),
        ('{"label":NaN}', "NaN or Infinity"),
        ("[" * 100_000, "nested too deep"),
        ("9" * 5_000, "a number is too long"),
        ('"sec\nret"', "invalid control character at character 4"),
        ('```json\n{"label":"bug"}\n```', "expecting value at character 0"),
    ],
)
def test_what_is_not_json_is_said(text: str, why: str) -> None:
    found = Checker(SCHEMA).fault(text)
    assert found is not None
    assert found[0] == "invalid_json"
    assert why in found[1]
    assert "secret" not in found[1]


@given(st.text() | st.dictionaries(st.text(), st.text() | st.integers()).map(json.dumps))
def test_a_fault_is_short_and_never_an_exception(text: str) -> None:
    found = CHECKER.fault(text)
    assert found is None or (found[0] in ("invalid_json", "schema_mismatch") and len(found[1]) <= 200)


CHECKER = Checker(SCHEMA)


def test_long_names_are_cut() -> None:
    found = Checker({"required": ["n" * 500]}).fault("{}")
    assert found is not None
    assert len(found[1]) == 200


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"type": "strin"}, "$.type"),
        ({"properties": {"a": {"type": "x"}}}, "$.properties.a.type"),
        ({"properties": 3}, "$.properties"),
        ({"pattern": "("}, "$.pattern"),
        ({"$ref": "#/none"}, "$"),
        ({"$schema": "http://127.0.0.1:1/mine"}, "$"),
        ([], "$"),
        (True, "$"),
    ],
)
def test_what_is_no_schema_is_refused(schema: Any, path: str) -> None:
    with pytest.raises(BadSchema) as caught:
        Checker(schema)
    assert caught.value.path == path
    assert caught.value.reason
    assert len(caught.value.reason) <= 200


def test_a_schema_refers_to_nothing_outside_itself(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"type": "integer"}')
    for reference in (other.as_uri(), "http://127.0.0.1:1/x", "other.json"):
        with pytest.raises(BadSchema):
            Checker({"$ref": reference})


def test_references_within_a_schema_work() -> None:
    checker = Checker({"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}}})
    assert checker.fault('{"a":1}') is None
    assert checker.fault('{"a":"x"}') == ("schema_mismatch", "$.a is not of type integer")


def test_chat_wants_it_in_response_format() -> None:
    body = {"messages": [], "temperature": 0}
    assert with_schema("chat", body, SCHEMA, "ticket") == {
        "messages": [],
        "temperature": 0,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "ticket", "strict": True, "schema": SCHEMA},
        },
    }
    assert body == {"messages": [], "temperature": 0}


def test_responses_wants_it_in_text_format() -> None:
    body = {"input": "x", "text": {"verbosity": "low"}}
    found = with_schema("responses", body, SCHEMA, "ticket")
    form = {"type": "json_schema", "name": "ticket", "strict": True, "schema": SCHEMA}
    assert found == {"input": "x", "text": {"verbosity": "low", "format": form}}
    assert body == {"input": "x", "text": {"verbosity": "low"}}
    assert with_schema("responses", {"input": "x"}, SCHEMA, "ticket")["text"] == {"format": form}


@pytest.mark.parametrize(
    ("endpoint", "body", "path"),
    [
        ("chat", {"response_format": {"type": "json_object"}}, "request.response_format"),
        ("responses", {"text": {"format": {"type": "text"}}}, "request.text.format"),
        ("responses", {"text": "{{ x }}"}, "request.text"),
        ("embeddings", {"input": "x"}, "schema"),
    ],
)
def test_a_request_takes_one_form_of_answer(endpoint: str, body: dict[str, Any], path: str) -> None:
    with pytest.raises(BadSchema) as caught:
        with_schema(endpoint, body, SCHEMA, "ticket")
    assert caught.value.path == path


@given(st.text())
def test_schema_names_are_what_the_api_takes(name: str) -> None:
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", schema_name(name))


def test_good_schema_names_stay() -> None:
    assert schema_name("my-ticket_2") == "my-ticket_2"
    assert schema_name("my ticket.v2") == "my_ticket_v2"
    assert schema_name("") == "answer"
