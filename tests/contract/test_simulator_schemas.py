"""Structured outputs satisfy the schema that they were asked for, whatever the seed."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.simulator import patterns
from runner.simulator.chance import Chance
from runner.simulator.schema_instances import Instances

TEXT = "The parcel came late; the bill was wrong, too. 日本語 and more words follow here."
NODE = {
    "type": "object",
    "properties": {
        "day": {"type": "string", "format": "date"},
        "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
        "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
    },
    "required": ["day", "children", "next"],
    "additionalProperties": False,
}
SCHEMAS: list[Any] = [
    {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
    {"type": ["null", "string"], "minLength": 150, "maxLength": 155},
    {"type": "number", "multipleOf": 0.01, "minimum": 3.005, "maximum": 3.02},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "integer", "multipleOf": 2.5, "minimum": 7},
    {"type": "integer", "exclusiveMinimum": 5, "exclusiveMaximum": 7},
    {"type": "integer", "maximum": -3},
    {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True, "minItems": 3},
    {"type": "array", "items": {"type": "string"}, "uniqueItems": True, "minItems": 3, "maxItems": 3},
    {"type": "array", "prefixItems": [{"const": 1}, {"type": "boolean"}], "items": False, "minItems": 2},
    {"type": "array", "contains": {"const": 5}, "items": {"type": "integer"}, "minItems": 2},
    {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 3},
    {"type": "object", "required": ["x", "y"], "properties": {"x": {"type": "null"}}},
    {"properties": {"a": {"const": [1, {"b": None}]}}, "required": ["a"], "maxProperties": 1},
    {
        "allOf": [{"required": ["a"]}, {"properties": {"a": {"type": "number", "minimum": 4}}}],
        "type": "object",
    },
    {
        "allOf": [
            {"anyOf": [{"type": "integer"}, {"type": "string"}]},
            {"anyOf": [{"type": "integer", "minimum": 3}, {"type": "integer", "minimum": 10}]},
        ]
    },
    {
        "oneOf": [
            {
                "type": "object",
                "properties": {"kind": {"const": "a"}, "n": {"type": "integer"}},
                "required": ["kind", "n"],
            },
            {"type": "object", "properties": {"kind": {"const": "b"}}, "required": ["kind"]},
        ]
    },
    {"type": "string", "pattern": r"^[A-Z]{2}-\d{4,6}(x|y)?$"},
    {"type": "string", "pattern": r"^\+?[1-9]\d{1,14}$", "minLength": 8},
    {"type": "string", "pattern": r"^(?:foo|ba[rz])+[^a-z\s]{3}$"},
    {"type": "string", "pattern": "^#[0-9a-fA-F]{6}$"},
    True,
    {},
]
FORMATS = (
    "date", "date-time", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uri-reference",
    "uuid",
)  # fmt: skip


@pytest.mark.parametrize("schema", [*SCHEMAS, *({"type": "string", "format": name} for name in FORMATS)])
def test_what_is_made_satisfies_the_schema(schema: Any) -> None:
    validator = jsonschema_rs.validator_for(schema, validate_formats=True)
    for seed in range(20):
        value = Instances(schema, TEXT, Chance(seed, b"body"), variant=seed % 3).make()
        assert validator.is_valid(value), value


def _scalars() -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.builds(
            lambda a, b: {"type": "integer", "minimum": a, "maximum": a + b},
            st.integers(-50, 50),
            st.integers(0, 9),
        ),
        st.builds(
            lambda a, b: {"type": "string", "minLength": a, "maxLength": a + b},
            st.integers(0, 40),
            st.integers(0, 9),
        ),
        st.builds(
            lambda words: {"enum": words}, st.lists(st.text(max_size=9), min_size=1, max_size=4, unique=True)
        ),
        st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": "number"}, {"const": {"a": [1]}}]),
    )


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.builds(
            lambda properties: {
                "type": "object",
                "properties": properties,
                "required": list(properties)[::2],
                "additionalProperties": False,
            },
            st.dictionaries(st.text(max_size=5), inner, max_size=4),
        ),
        st.builds(lambda item, n: {"type": "array", "items": item, "minItems": n}, inner, st.integers(0, 3)),
        st.builds(lambda branches: {"anyOf": branches}, st.lists(inner, min_size=1, max_size=3)),
    )


@settings(max_examples=150, deadline=None)
@given(
    schema=st.recursive(_scalars(), _nested, max_leaves=8), seed=st.integers(0, 99), text=st.text(max_size=60)
)
def test_any_schema_of_strict_mode_is_satisfied(schema: Any, seed: int, text: str) -> None:
    value = Instances(schema, text, Chance(seed, b"body")).make()
    assert jsonschema_rs.is_valid(schema, json.loads(json.dumps(value))), value
    assert value == Instances(schema, text, Chance(seed, b"body")).make()


def test_a_label_is_chosen_by_what_the_text_speaks_of() -> None:
    labels = {"enum": ["bug_report", "billing", "delivery"]}
    for text, label in (
        ("My delivery never came", "delivery"),
        ("A bug in your app", "bug_report"),
        ("Wrong bill!", "billing"),
    ):
        for seed in range(5):
            assert Instances(labels, text, Chance(seed, b"")).make() == label
    free = {Instances(labels, "???", Chance(seed, b"")).make() for seed in range(40)}
    assert free == set(labels["enum"])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["[a-f]", r"\d", "(?:x|yz)", "q", r"\.", "[^0-9]", r"\w", "(ab?)"]),
                  st.sampled_from(["", "*", "+", "?", "{2}", "{1,3}", "{2,}"])),
        min_size=1, max_size=6,
    ),
    st.integers(0, 99),
)  # fmt: skip
def test_patterns_are_matched(parts: list[tuple[str, str]], seed: int) -> None:
    pattern = "^" + "".join(atom + times for atom, times in parts) + "$"
    chance = Chance(seed, b"")
    text = patterns.matching(pattern, chance.pick)
    assert text is not None
    assert re.search(pattern, text)
    assert patterns.matching("(?=a)b", lambda _count, _name: 0) is None
