"""Templates: data is never code, types stay, and what is absent is said."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from runner import record
from runner.template import RowFault, TemplateFault, compile_request, field_path
from runner.template.sandbox import Sandbox

ROW: dict[str, Any] = {
    "subject": "Printer",
    "body": "It burns",
    "n": 1.5,
    "count": 10,
    "yes": True,
    "nothing": None,
    "tags": ["a", "b"],
    "holes": ["a", None],
    "items": {"keys": 1, "deep": {"value": 2}, "empty": None},
    "keys": ["k"],
    "values": "v",
    "get": "g",
    "Ticket ID": 7,
}


def rendered(text: str, row: dict[str, Any] | None = None) -> Any:
    return compile_request({"input": text}).render(ROW if row is None else row)["input"]


def fault(text: str, row: dict[str, Any] | None = None) -> RowFault:
    with pytest.raises(RowFault) as caught:
        rendered(text, row)
    return caught.value


def compile_faults(request: dict[str, Any]) -> list[tuple[str, int, str]]:
    with pytest.raises(TemplateFault) as caught:
        compile_request(request)
    return [(one.field, one.line, one.message) for one in caught.value.faults]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
codelike = st.lists(
    st.sampled_from(
        ["{{", "}}", "{%", "%}", "{#", "#}", "subject", " ", "\r\n", "{{ row }}", "{% raw %}", "\x00"]
    )
    | st.text(),
    max_size=6,
).map("".join)


@given(codelike)
def test_data_is_never_parsed_as_a_template(value: str) -> None:
    template = compile_request(
        {"whole": "{{ subject }}", "part": "<{{ subject }}>", "twice": "{{ subject ~ subject }}"}
    )
    assert template.render({"subject": value}) == {
        "whole": value,
        "part": f"<{value}>",
        "twice": value + value,
    }


@given(json_values.filter(lambda value: value is not None))
def test_one_expression_keeps_its_json_type(value: object) -> None:
    for text in ("{{ x }}", "{{x}}", '{{ row["x"] }}', "{{- row.x -}}"):
        found = rendered(text, {"x": value})
        assert found == value
        assert type(found) is type(value)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_a_request_without_templates_is_passed_on(request: dict[str, Any]) -> None:
    assume(not any(mark in record.dumps(request).decode() for mark in ("{{", "{%", "{#")))
    assert compile_request(request).render({}) == request


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n={{ n }} {{ count }}", "n=1.5 10"),
        ("{{ yes }} {{ not yes }}", "true false"),
        ("{{ tags }}!", '["a","b"]!'),
        ("{{ items }}!", '{"keys":1,"deep":{"value":2},"empty":null}!'),
        ("{{ subject ~ yes ~ n }}", "Printertrue1.5"),
        ("{{ [yes, n] | join('/') }}", "true/1.5"),
        ("{{ [{'v': 1}, {'v': 2}] | join('+', attribute='v') }}", "1+2"),
        ("{{ yes | string }}", "true"),
        ("{{ tags | tojson }}", '["a","b"]'),
        ("{{ '<&>' | tojson }}", '"<&>"'),
        ("{{ {'a': 1} | tojson(indent=1) }}", '{\n "a": 1\n}'),
        ("{{ yes | upper }}", "TRUE"),
        ("{{ tags | map('upper') }} ", '["A","B"] '),
        ("{{ subject | e }}", "Printer"),
        ("{% for tag in tags %}{{ loop.index }}{{ tag }}{% endfor %}", "1a2b"),
        ("{% for k, v in items | items %}{{ k }}{% endfor %}", "keysdeepempty"),
        ("{% set x = subject %}{{ x }}", "Printer"),
        ("{{ subject[:5] }}", "Print"),
        ("{{ subject.upper() }}", "PRINTER"),
        ("{{ 'x' if not yes }}", ""),
        ("{# a comment #}x", "x"),
        ("{% raw %}{{ x }}{% endraw %}", "{{ x }}"),
        ("}} and }", "}} and }"),
    ],
)
def test_how_values_stand_in_text(text: str, expected: str) -> None:
    assert rendered(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ tags | map('upper') }}", ["A", "B"]),
        ("{{ [n, yes] }}", [1.5, True]),
        ("{{ {'a': tags} }}", {"a": ["a", "b"]}),
        ("{{ count + 1 }}", 11),
        ("{{ tags | length }}", 2),
        ("{{ holes }}", ["a", None]),
        ("{{ row['Ticket ID'] }}", 7),
        ("{{ nothing | default(none) }}", None),
        (" {{ n }}", " 1.5"),
        ("{{ n }}{{ n }}", "1.51.5"),
        ("{{ n }}\n", "1.5\n"),
        ("{{ 'text' }}", "text"),
    ],
)
def test_only_a_string_that_is_one_expression_keeps_a_type(text: str, expected: object) -> None:
    found = rendered(text)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("name", ["items", "keys", "values", "get"])
def test_a_field_may_have_the_name_of_a_method(name: str) -> None:
    assert rendered(f"{{{{ {name} }}}}") == ROW[name]
    assert rendered(f"{{{{ row.{name} }}}}") == ROW[name]
    assert rendered(f"{{{{ row | attr('{name}') }}}}") == ROW[name]
    bare = {"x": {"y": 1}}
    assert fault(f"{{{{ row.{name} }}}}", bare).code == "missing_field"
    assert fault(f"{{{{ x.{name}() }}}}", bare).code == "missing_field"


def test_row_is_always_the_record() -> None:
    assert rendered("{{ row.row }}", {"row": 5}) == 5
    assert rendered("{{ row }}", {"row": 5}) == {"row": 5}


@pytest.mark.parametrize("name", ["range", "dict", "lipsum", "cycler", "joiner", "namespace", "loop"])
def test_there_are_no_globals(name: str) -> None:
    assert fault(f"{{{{ {name} }}}}").code == "missing_field"
    assert rendered(f"{{{{ {name} }}}}", {name: "data"}) == "data"
    assert not Sandbox().globals


def test_newlines_stay() -> None:
    text = "a\r\nb\rc\n\n{{ subject }}\r\n{% if yes %}\nx\n{% endif %}\n\n"
    assert rendered(text) == "a\r\nb\rc\n\nPrinter\r\n\nx\n\n\n"
    assert rendered("{{ 'a\r\n' }}{{ x }}", {"x": "\r\n"}) == "a\r\n\r\n"


@pytest.mark.parametrize(
    "text",
    [
        "{{ gone }}",
        "a {{ gone }}",
        "{{ row.gone }}",
        "{{ row['gone'] }}",
        "{{ gone.deep }}",
        "{{ [gone] }}",
        "{{ gone ~ 'x' }}",
        "{{ gone | upper }}",
        "{% if gone %}x{% endif %}",
        "{% for x in gone %}x{% endfor %}",
        "{{ gone | items | list }}",
        "{{ gone | tojson }}",
        "{{ gone == 1 }}",
        "{{ gone + 1 }}",
        "{{ gone | join }}",
    ],
)
def test_a_missing_field_is_a_fault(text: str) -> None:
    found = fault(text)
    assert (found.code, found.field) == ("missing_field", "request.input")
    assert "'gone' is missing" in str(found)
    assert "default" in str(found)


@pytest.mark.parametrize(
    "text",
    [
        "{{ nothing }}",
        "a {{ nothing }}",
        "{{ row.nothing }}",
        "{{ nothing.deep }}",
        "{{ nothing | upper }}",
        "{% if nothing %}x{% endif %}",
        "{{ nothing ~ 'x' }}",
    ],
)
def test_a_null_is_a_fault(text: str) -> None:
    found = fault(text)
    assert found.code == "null_field"
    assert str(found).startswith("request.input: the field 'nothing' is null")


@pytest.mark.parametrize(
    "text",
    [
        "{{ holes[1] }}",
        "{{ items.empty }}",
        "{{ holes | last }}",
        "{{ holes | map('upper') | list }}",
        "{% for x in holes %}{{ x }}{% endfor %}",
        "{{ holes | join }}",
    ],
)
def test_a_null_within_a_value_is_a_fault_where_it_is_used(text: str) -> None:
    assert fault(text).code == "null_field"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ gone | default('d') }}", "d"),
        ("{{ nothing | default('d') }}", "d"),
        ("{{ nothing | d(3) }}", 3),
        ("{{ gone.deep.er | default('d') }}", "d"),
        ("{{ items.empty.deep | default('d') }}", "d"),
        ("{{ row['gone'] | default('') }}", ""),
        ("{{ gone | default(nothing | default('e')) }}", "e"),
        ("{{ '' | default('d', true) }}", "d"),
        ("{{ subject | default('d') }}", "Printer"),
        ("{{ gone is defined }} {{ nothing is defined }} {{ subject is defined }}", "false false true"),
        ("{{ nothing is none }} {{ gone is none }}", "true false"),
        ("{% for x in holes %}{{ x | default('-') }}{% endfor %}", "a-"),
    ],
)
def test_default_allows_what_is_absent(text: str, expected: object) -> None:
    assert rendered(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "{{ subject.__class__ }}",
        "{{ subject | attr('__class__') }}",
        "{{ tags.append(1) }}",
        "{{ tags.__init__ }}",
        "{{ '{0.__class__}'.format(subject) }}",
        "{{ subject.upper }}",
        "{{ self }}",
        "{{ count // 0 }}",
        "{{ subject + count }}",
        "{{ subject() }}",
        "{{ 'a' * 1000000000000 }}",
        "{{ [0] * (10 ** 12) }}",
        "{{ 9 ** (9 ** 9) }}",
    ],
)
def test_what_the_sandbox_refuses_is_the_rows_fault(text: str) -> None:
    assert fault(text).code == "template_error"
    assert ROW["tags"] == ["a", "b"]


@pytest.mark.parametrize(
    "text",
    [
        "{{ row[subject] }}",
        "{{ items[subject] }}",
        "{{ subject.format(**row) }}",
        "{{ subject | round }}",
        "{{ row[subject].x }}",
        "{{ [] | sum(attribute=subject) + subject }}",
        "{{ subject | attr(subject) }}",
        "{{ count[subject] }}",
    ],
)
def test_no_fault_repeats_the_rows_values(text: str) -> None:
    found = fault(text, {"subject": "{secret}", "count": 3, "items": {}})
    assert "secret" not in str(found)
    assert found.__cause__ is None
    assert found.__suppress_context__


def test_lone_surrogates_do_not_crash() -> None:
    row = {"x": "a\ud800b", "y": ["\udfff"]}
    assert rendered("{{ x }}", row) == "a\ud800b"
    assert record.dumps(rendered("<{{ x }}>{{ y }}", row)) == b'"<a\\ud800b>[\\"\\\\udfff\\"]"'


def test_every_compile_fault_is_told_with_its_place() -> None:
    found = compile_faults(
        {
            "input": "{{ subject",
            "messages": [{"content": "fine"}, {"content": "a\nb\n{{ x | uper }}"}],
            "odd key": "{{ x is defind }}",
            "m": "{% include 'x' %}",
            "r": "{{ tags | random }}",
            "{{ k }}": 1,
        }
    )
    by_field = {field: (line, message) for field, line, message in found}
    assert by_field["request.input"][1].startswith("not a template: unexpected end")
    assert by_field["request.messages[1].content"] == (3, "there is no filter 'uper'; did you mean 'upper'?")
    assert by_field['request["odd key"]'] == (1, "there is no test 'defind'; did you mean 'defined'?")
    assert "cannot load" in by_field["request.m"][1]
    assert "same request" in by_field["request.r"][1]
    assert "cannot be a template" in by_field['request["{{ k }}"]'][1]
    assert len(found) == 6


def test_the_fields_that_templates_read_are_known() -> None:
    template = compile_request(
        {"a": "{{ x.y }} {{ row.z }} {{ row['Ticket ID'] }}", "b": ["{% set s = q %}{{ s }}"], "c": "x"}
    )
    assert template.fields == {"x", "z", "Ticket ID", "q"}


def test_rows_do_not_see_each_other() -> None:
    template = compile_request({"a": "{% set seen = x %}{{ seen }}", "b": {"c": ["{{ x }}", 1]}, "k": 2})
    first, second = template.render({"x": 1}), template.render({"x": 2})
    assert first == {"a": "1", "b": {"c": [1, 1]}, "k": 2}
    assert second == {"a": "2", "b": {"c": [2, 1]}, "k": 2}
    assert list(second) == ["a", "b", "k"]
    assert fault("{{ seen }}").code == "missing_field"


def test_the_top_of_a_constant_request_is_not_shared() -> None:
    template = compile_request({"input": "x"})
    template.render({})["model"] = "m"
    assert template.render({}) == {"input": "x"}


def test_field_paths() -> None:
    assert field_path("request", "input") == "request.input"
    assert field_path("request.a", 3) == "request.a[3]"
    assert field_path("request", 'x"y') == "request[" + json.dumps('x"y') + "]"


FIELD_NAMES = ("t", "self", "row", "_value", "loop", "missing", "context", "l_0_t")


@pytest.mark.parametrize("name", FIELD_NAMES)
@pytest.mark.parametrize("value", ["text", "", "{{ t }}", 5, 2.5, True, None, [1], {"a": "b"}])
def test_a_template_that_is_a_fields_name_gives_what_any_expression_of_it_does(
    name: str, value: object
) -> None:
    def rendered(text: str) -> object:
        try:
            return compile_request({"input": text}).render({name: value})
        except RowFault as fault:
            return fault.code, fault.field, fault.message

    assert rendered("{{ " + name + " }}") == rendered("{{ " + name + " if true else 0 }}")


def test_a_part_can_be_rendered_alone_where_no_other_has_a_template() -> None:
    template = compile_request({"input": "{{ a }}-{{ row.b }}", "dimensions": 8})
    only = template.only("input")
    assert only is not None
    assert only({"a": "x", "b": "y"}) == template.render({"a": "x", "b": "y"})["input"] == "x-y"
    assert template.only("dimensions") is None
    with pytest.raises(RowFault) as raised:
        only({"a": "x"})
    assert (raised.value.code, raised.value.field) == ("missing_field", "request.input")


@pytest.mark.parametrize("request_", [{"input": "a"}, {"input": "{{ a }}", "user": "{{ a }}"}, {}])
def test_no_part_is_rendered_alone_where_others_differ_or_none_does(request_: dict[str, Any]) -> None:
    assert compile_request(request_).only("input") is None
