"""Structured output: a JSON Schema as the API wants it, and answers checked against it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from runner import record

if TYPE_CHECKING:
    from jsonschema_rs import ValidationError

MAX_MESSAGE = 200
_NOT_IN_NAME = re.compile(r"[^a-zA-Z0-9_-]")


class BadSchema(ValueError):
    """A JSON Schema that cannot be used, or not for this request. `path` is the place in the schema, such as
    "$.properties.label.type", or the field of the request that is in its way."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class Checker:
    """Checks answers against one JSON Schema. Raises BadSchema if it is none, or refers to another file."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        import jsonschema_rs

        if not isinstance(schema, Mapping):
            raise BadSchema("$", "a JSON Schema is an object {...}")
        tree = json.loads(record.dumps(schema))
        try:
            self._validator = jsonschema_rs.validator_for(tree, offline=True)
        except jsonschema_rs.ValidationError as error:
            raise BadSchema(_path(error.instance_path), _cut(error.message)) from None
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            raise BadSchema("$", _cut(str(error))) from None
        self._names = frozenset(_property_names(tree))

    def fault(self, text: str) -> tuple[str, str] | None:
        """What is wrong with an answer: ("invalid_json" or "schema_mismatch", message), or None.

        The message has at most 200 characters and never repeats the answer: its path names only properties
        that the schema names, and has * for others.
        """
        try:
            value = json.loads(text, parse_constant=_refuse)
        except json.JSONDecodeError as error:
            return "invalid_json", f"the answer is not JSON: {_json_reason(error, text)}"
        except (_NotJson, RecursionError, ValueError) as error:
            # ValueError: an integer of more digits than Python reads.
            return "invalid_json", f"the answer is not JSON that can be read: {_kind_of_refusal(error)}"
        mismatch = self._mismatch(value)
        return None if mismatch is None else ("schema_mismatch", mismatch)

    def _mismatch(self, value: object) -> str | None:
        try:
            if self._validator.is_valid(value):
                return None
            error = next(iter(self._validator.iter_errors(value)))
        except UnicodeEncodeError:
            # Lone surrogates have no UTF-8; any other character stands for them in a check of form.
            text = json.dumps(value, ensure_ascii=False).encode(errors="replace")
            return self._mismatch(json.loads(text))
        where = _path(error.instance_path, self._names)
        return _cut(f"{where} {self._reason(error)}")

    def _reason(self, error: ValidationError) -> str:
        kind = error.kind
        if kind.name == "type":
            return f"is not of type {' or '.join(kind.as_dict()['types'])}"
        if kind.name == "required":
            return f"lacks the property {json.dumps(kind.as_dict()['property'])}"
        if kind.name in ("additionalProperties", "unevaluatedProperties"):
            return "has a property that the schema does not allow"
        if kind.name == "enum":
            return "is none of the values that the schema lists"
        keyword = next((one for one in reversed(error.schema_path) if isinstance(one, str)), kind.name)
        return f"does not meet the schema's {json.dumps(keyword)}"


def with_schema(endpoint: str, body: dict[str, Any], schema: dict[str, Any], name: str) -> dict[str, Any]:
    """A request that asks for an answer of this JSON Schema, in strict mode; `body` itself stays as it is.

    Raises BadSchema where the request asks for a form of answer already, or the endpoint has none.
    """
    label = schema_name(name)
    if endpoint == "chat":
        if "response_format" in body:
            raise BadSchema("request.response_format", "the job's schema goes there; keep one of the two")
        wanted = {"name": label, "strict": True, "schema": schema}
        return {**body, "response_format": {"type": "json_schema", "json_schema": wanted}}
    if endpoint == "responses":
        text = body.get("text", {})
        if not isinstance(text, Mapping):
            raise BadSchema("request.text", "must be an object {...}, for the job's schema goes into it")
        if "format" in text:
            raise BadSchema("request.text.format", "the job's schema goes there; keep one of the two")
        form = {"type": "json_schema", "name": label, "strict": True, "schema": schema}
        return {**body, "text": {**text, "format": form}}
    raise BadSchema("schema", f"{endpoint} gives no structured output; take the schema out")


def schema_name(name: str) -> str:
    """A name as the API allows for a schema: at most 64 letters, digits, _ and -."""
    return _NOT_IN_NAME.sub("_", name)[:64] or "answer"


class _NotJson(Exception):
    """NaN or Infinity, which the standard decoder would read."""


def _refuse(_name: str) -> NoReturn:
    raise _NotJson


def _kind_of_refusal(error: Exception) -> str:
    if isinstance(error, _NotJson):
        return "it holds NaN or Infinity"
    return "it is nested too deep" if isinstance(error, RecursionError) else "a number is too long"


def _json_reason(error: json.JSONDecodeError, text: str) -> str:
    if not text.strip():
        return "it is empty"
    if not text[error.pos :].strip():
        return f"it ends early, at character {error.pos}"
    if error.msg.startswith("Extra data"):
        return f"there is more after its end, at character {error.pos}"
    what = error.msg.split(":")[0].removesuffix(" at")
    return f"{what[:1].lower()}{what[1:]} at character {error.pos}"


def _path(parts: Sequence[str | int], known: frozenset[str] | None = None) -> str:
    path = "$"
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if known is None or part in known else ".*"
    return path


def _property_names(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        properties = schema.get("properties")
        if isinstance(properties, dict):
            yield from properties
        for part in schema.values():
            yield from _property_names(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _property_names(part)


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"
