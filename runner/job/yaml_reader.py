"""YAML as a tree that remembers its lines: version 1.2's core schema, and none of YAML's dangers.

Tags, merge keys and several documents are refused; size, depth and what aliases expand to are bounded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from runner.template import field_path

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_NODES = 50_000

Scalar: TypeAlias = str | int | float | bool | None

_CONSTANTS = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_TRUE, _FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
_INTEGER = re.compile(r"[-+]?[0-9]+\Z")
_OCTAL, _HEXADECIMAL = re.compile(r"0o[0-7]+\Z"), re.compile(r"0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a job file. `field` is empty where the file itself is meant."""

    line: int
    field: str
    message: str


class NotYaml(ValueError):
    """A file that cannot be read as YAML; `fault` says where it ends."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Node:
    """A value of the file. `line` counts from 1 and is the line of its key, if it has one. `text` is a scalar's
    own text; `content_line` the line where the content of a literal block begins."""

    value: Scalar | list[Node] | dict[str, Node]
    line: int
    text: str | None = None
    content_line: int | None = None

    def plain(self) -> Any:
        """The value without its lines."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, list) else self.value


def compose(text: str) -> tuple[Node, list[Fault]]:
    """The tree of a YAML file, and what is wrong in it beside its fields' own meaning. Raises NotYaml."""
    composer = _Composer(YAML(typ="safe", pure=True).parse(text))
    try:
        return composer.document(), composer.faults
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise NotYaml(Fault(line, "", "holds a control character that YAML does not allow")) from None
    except MarkedYAMLError as error:
        raise NotYaml(_syntax_fault(error, text)) from None
    except (YAMLError, ValueError) as error:
        if isinstance(error, NotYaml):
            raise
        raise NotYaml(Fault(1, "", "is not YAML")) from None


def _syntax_fault(error: MarkedYAMLError, text: str) -> Fault:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    what = str(error.problem or error.context or "is not YAML")
    hint = ""
    if any("{{" in one for one in text.split("\n")[max(0, line - 2) : line]):
        hint = '; a template that begins with {{ must be in quotes: "{{ ... }}"'
    elif "\\t" in what:
        hint = "; indent with spaces, not with tabs"
    return Fault(line, "", f"is not YAML: {what}{hint}")


class _Composer:
    """Builds the tree from the parser's events, and counts what it builds."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._anchors: dict[str, tuple[Node, int] | None] = {}
        self._count = 0
        self.faults: list[Fault] = []

    def document(self) -> Node:
        root: Node | None = None
        for event in self._events:
            line = event.start_mark.line + 1
            if isinstance(event, DocumentStartEvent):
                if root is not None:
                    raise NotYaml(Fault(line, "", "a second document begins here; a job is one document"))
                root = self._node(next(self._events), "", 0)
        return root or Node(None, 1)

    def _node(self, event: Any, path: str, depth: int, key_line: int | None = None) -> Node:
        own_line = event.start_mark.line + 1
        line = key_line or own_line
        if isinstance(event, AliasEvent):
            return self._aliased(event.anchor, line, path)
        self._grow(1, line)
        if depth > MAX_DEPTH:
            raise NotYaml(Fault(line, "", f"is nested deeper than {MAX_DEPTH} levels"))
        before = self._count
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if event.tag is not None:
            self.faults.append(Fault(line, path, "a job file takes no YAML tags (!...); quotes make text"))
        if isinstance(event, ScalarEvent):
            value: Any = self._scalar(event, path, line)
            node = Node(value, line, event.value, own_line + 1 if event.style == "|" else None)
        elif isinstance(event, MappingStartEvent):
            node = Node(self._mapping(path, depth), line)
        else:
            assert isinstance(event, SequenceStartEvent)
            node = Node(self._sequence(path, depth), line)
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, self._count - before + 1)
        return node

    def _mapping(self, path: str, depth: int) -> dict[str, Node]:
        found: dict[str, Node] = {}
        while not isinstance(event := next(self._events), MappingEndEvent):
            line = event.start_mark.line + 1
            if not isinstance(event, ScalarEvent):
                self._node(event, path, depth + 1)
                self._node(next(self._events), path, depth + 1)
                self.faults.append(
                    Fault(line, path, 'a name must be text; a template must be in quotes: "{{ ... }}"')
                )
                continue
            key = event.value
            own_path = field_path(path, key) if path else key
            node = self._node(next(self._events), own_path, depth + 1, line)
            if event.tag is not None:
                self.faults.append(Fault(line, own_path, "a job file takes no YAML tags (!...)"))
            if key == "<<" and event.implicit[0]:
                self.faults.append(Fault(line, own_path, "YAML 1.2 has no merge keys; write the fields out"))
            elif key in found:
                self.faults.append(
                    Fault(line, own_path, f"is here a second time, after line {found[key].line}")
                )
            else:
                found[key] = node
        return found

    def _sequence(self, path: str, depth: int) -> list[Node]:
        found: list[Node] = []
        while not isinstance(event := next(self._events), SequenceEndEvent):
            found.append(self._node(event, field_path(path, len(found)), depth + 1))
        return found

    def _aliased(self, anchor: str, line: int, path: str) -> Node:
        known = self._anchors.get(anchor)
        if known is None:
            why = "refers to itself" if anchor in self._anchors else "refers to no anchor above it"
            raise NotYaml(Fault(line, path, f"the alias *{anchor} {why}"))
        node, size = known
        self._grow(size, line)
        return Node(node.value, line, node.text, node.content_line)

    def _grow(self, size: int, line: int) -> None:
        self._count += size
        if self._count > MAX_NODES:
            raise NotYaml(Fault(line, "", f"holds more than {MAX_NODES:,} values, aliases counted in full"))

    def _scalar(self, event: Any, path: str, line: int) -> Scalar:
        text: str = event.value
        if not event.implicit[0]:
            return text
        if text in _CONSTANTS:
            return None
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        if _OCTAL.match(text) or _HEXADECIMAL.match(text):
            return int(text, 0)
        if _INTEGER.match(text) and len(text) <= 4_000:
            return int(text)
        if _FLOAT.match(text) and math.isfinite(float(text)):
            return float(text)
        if _FLOAT.match(text) or _NOT_FINITE.match(text):
            self.faults.append(Fault(line, path, "is a number that JSON cannot hold; in quotes it is text"))
        return text
