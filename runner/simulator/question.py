"""What a model call asks, once it has been read and found in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.simulator.models import Model
from runner.simulator.refusal import Refusal, missing, wrong_type

Body = dict[str, Any]


@dataclass(slots=True)
class Question:
    """A model call in order: what answers are made from, and what it counts for.

    `text` is what the user says, without the instructions; `beginning` the first bytes of the whole prompt,
    by which the prompt cache is judged. `max_output` is in tokens, None where the body names no bound.
    """

    body: Body
    model: Model
    input_tokens: int
    text: str = ""
    beginning: bytes = b""
    max_output: int | None = None
    inputs: Sequence[str | list[int]] = ()
    input_digests: list[bytes] = field(default_factory=list)

    @property
    def charge(self) -> int:
        """Tokens that it counts for against the limit per minute."""
        return max(self.input_tokens, self.max_output or 0)

    @property
    def tier(self) -> str:
        """The service tier that answers: the asked one, or the default."""
        asked = self.body.get("service_tier")
        return str(asked) if asked in ("flex", "priority") else "priority" if asked == "fast" else "default"


class Prompt:
    """The text of a prompt as it is gathered: all of it for counting, the user's part for answering."""

    __slots__ = ("_all", "_user", "attachments")

    def __init__(self) -> None:
        self._all: list[str] = []
        self._user: list[str] = []
        self.attachments = 0

    def add(self, content: object, *, user: bool) -> None:
        """Adds a string, or a list of content parts; parts that are not text count as attachments."""
        if isinstance(content, str):
            self._all.append(content)
            if user:
                self._user.append(content)
        elif isinstance(content, list):
            for part in content:
                text = part.get("text") if isinstance(part, dict) else part
                if isinstance(text, str):
                    self.add(text, user=user)
                else:
                    self.attachments += 1

    @property
    def text(self) -> str:
        """What the user says; where nobody is marked as the user, everything."""
        return "\n".join(self._user or self._all)

    def data(self) -> bytes:
        """The whole prompt as bytes."""
        return "\n".join(self._all).encode("utf-8", "replace")


def count_tokens(size: int) -> int:
    """Tokens of a text of so many bytes, by the rule of thumb of four bytes a token; at least 1."""
    return max(1, (size + 3) // 4)


def refuse_stream(body: Body) -> None:
    """Streams are not simulated."""
    if body.get("stream"):
        raise Refusal(
            400,
            "Unsupported value: 'stream' does not support true with the simulator.",
            param="stream",
            code="unsupported_value",
        )


def check_format(spec: Mapping[str, Any] | None, *, param: str) -> None:
    """The JSON Schema of a structured output: named, an object, and within strict mode if it says strict."""
    if spec is None:
        raise missing(param)
    for name in ("name", "schema"):
        if spec.get(name) is None:
            raise missing(f"{param}.{name}")
    schema, strict = spec["schema"], spec.get("strict")
    if not isinstance(schema, dict):
        raise wrong_type(f"{param}.schema", "an object", schema)
    title = "text.format" if param == "text.format" else "response_format"
    if strict and schema.get("type") != "object":
        reason = f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{schema.get('type')}\"'."
        raise _bad_schema(title, spec["name"], reason, param)
    if strict and (fault := _strict_fault(schema, ())):
        raise _bad_schema(title, spec["name"], fault, param)


def _bad_schema(title: str, name: str, reason: str, param: str) -> Refusal:
    return Refusal(
        400, f"Invalid schema for {title} '{name}': {reason}", param=param, code="invalid_json_schema"
    )


def _strict_fault(schema: object, path: tuple[str, ...]) -> str | None:
    """What strict mode has against a schema: each object closed, and all its properties required."""
    if not isinstance(schema, dict):
        return None
    properties = schema.get("properties")
    if schema.get("type") == "object" or isinstance(properties, dict):
        if schema.get("additionalProperties") is not False:
            return f"In context={path!r}, 'additionalProperties' is required to be supplied and to be false."
        lacking = [name for name in properties or {} if name not in schema.get("required", ())]
        if lacking:
            return (
                f"In context={path!r}, 'required' is required to be supplied and to be an array including "
                f"every key in properties. Missing '{lacking[0]}'."
            )
    for word in ("properties", "$defs", "definitions"):
        if isinstance(group := schema.get(word), dict):
            for name, part in group.items():
                if fault := _strict_fault(part, (*path, word, str(name))):
                    return fault
    if fault := _strict_fault(schema.get("items"), (*path, "items")):
        return fault
    for number, part in enumerate(schema.get("anyOf", ())):
        if fault := _strict_fault(part, (*path, "anyOf", str(number))):
            return fault
    return None
