"""The fields of one mapping of a job file: read by name, each fault noted and passed over."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from difflib import get_close_matches
from types import MappingProxyType
from typing import TypeVar

from runner.job.amounts import parse_duration, parse_money, shown
from runner.job.yaml_reader import Fault, Node

T = TypeVar("T")

_WHOLE = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]{1,2})?\Z")
_MONEY_SCALE = Decimal("1e-12")
MAX_BUDGET = Decimal(10**9)

_ELSEWHERE = MappingProxyType(
    {
        "base_url": "a job file holds no base URL: set OPENAI_BASE_URL or give --base-url",
        "api_key": "a job file holds no key: set OPENAI_API_KEY, and take this one out of the file",
        "organization": "set OPENAI_ORG_ID in the environment instead",
        "project": "set OPENAI_PROJECT_ID in the environment instead",
        "api_version": "set OPENAI_API_VERSION in the environment instead",
        "headers": "set OPENAI_CUSTOM_HEADERS in the environment instead",
        "provider": "give --provider on the command line instead",
        "store": "give --store on the command line instead, or the API's own store under request",
        "limit": "give --limit on the command line instead",
        "prices": "give --prices on the command line instead",
        "stream": "answers are never streamed; leave it out",
        "background": "batch mode is for answers that may take long; leave it out",
    }
)
_OF_REQUEST = frozenset(
    {
        "messages",
        "instructions",
        "temperature",
        "top_p",
        "max_tokens",
        "max_completion_tokens",
        "tools",
        "text",
    }
    | {"max_output_tokens", "reasoning", "reasoning_effort", "response_format", "tool_choice", "dimensions"}
    | {"encoding_format", "service_tier", "seed", "n", "stop"}
)


class Fields:
    """The fields of a mapping, such as the whole file or its `retry`. A field that is absent or null has its
    default; one that is wrong too, and a fault is added to `faults`."""

    def __init__(self, node: Node, path: str, known: Sequence[str], faults: list[Fault]) -> None:
        self._nodes: dict[str, Node] = {}
        self._path = path
        self._line = node.line
        self.faults = faults
        if not isinstance(node.value, dict):
            if node.value is not None:
                self._add(node, "", f"must be fields and values, {{name: value}}, not {kind(node)}")
            return
        for name, one in node.value.items():
            if name not in known:
                self.faults.append(Fault(one.line, self._of(readable(name)), self._unknown(name, known)))
            elif one.value is not None:
                self._nodes[name] = one

    def node(self, name: str, *, required: bool = False) -> Node | None:
        """A field as it stands in the file."""
        found = self._nodes.get(name)
        if found is None and required:
            self.faults.append(Fault(self._line, self._of(name), "is missing"))
        return found

    def add(self, name: str, message: str) -> None:
        """Note that a field that is there is wrong."""
        self._add(self._nodes[name], name, message)

    def section(self, name: str, known: Sequence[str]) -> Fields:
        """A field that has fields itself."""
        node = self._nodes.get(name) or Node(None, self._line)
        return Fields(node, self._of(name), known, self.faults)

    def text(self, name: str, *, required: bool = False) -> str | None:
        """A text that is not empty."""
        node = self.node(name, required=required)
        if node is None:
            return None
        if not isinstance(node.value, str):
            hint = "; in quotes it is text" if node.text is not None else ""
            self.add(name, f"must be text, not {kind(node)}{hint}")
            return None
        if not node.value.strip() or node.value != node.value.strip():
            self.add(name, "must be text, neither empty nor with spaces around it")
            return None
        return node.value

    def texts(self, name: str) -> tuple[str, ...] | None:
        """A list of different texts."""
        node = self._nodes.get(name)
        if node is None:
            return None
        if not isinstance(node.value, list):
            self.add(name, f"must be a list, [a, b], not {kind(node)}")
            return None
        found: list[str] = []
        for at, one in enumerate(node.value):
            if not isinstance(one.value, str) or not one.value:
                hint = "; in quotes it is text" if one.text else ""
                self._add(one, f"{name}[{at}]", f"must be text, not {kind(one)}{hint}")
            elif one.value in found:
                self._add(one, f"{name}[{at}]", f"{shown(one.value)} is in the list already")
            else:
                found.append(one.value)
        return tuple(found)

    def choice(self, name: str, options: Sequence[str], default: str | None) -> str | None:
        """One of some words; required where there is no default."""
        node = self.node(name, required=default is None)
        if node is None:
            return default
        if isinstance(node.value, str) and node.value in options:
            return node.value
        near = get_close_matches(str(node.text), options, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        self.add(name, f"must be one of {', '.join(options)}, not {kind(node)}{hint}")
        return default

    def boolean(self, name: str, default: bool) -> bool:
        """true or false."""
        node = self._nodes.get(name)
        if node is None or isinstance(node.value, bool):
            return default if node is None else node.value is True
        self.add(name, f"must be true or false, not {kind(node)}")
        return default

    def whole(self, name: str, low: int, high: int) -> int | None:
        """A whole number within a range, read from its decimal text."""
        text = self._scalar_text(name)
        if text is None:
            return None
        value = Decimal(text) if _WHOLE.match(text) and len(text) <= 40 else None
        if value is None or value != value.to_integral_value():
            hint = "; write it without separators" if re.search(r"[0-9][_,' ][0-9]", text) else ""
            self.add(name, f"must be a whole number from {low:,} to {high:,}, not {shown(text)}{hint}")
            return None
        if not low <= value <= high:
            self.add(name, f"must be from {low:,} to {high:,}, not {shown(text)}")
            return None
        return int(value)

    def duration(self, name: str, default: float, *, low: str, high: str) -> float:
        """Seconds, within a range that is given as durations."""
        text = self._scalar_text(name)
        seconds = default if text is None else self.parsed(name, text, parse_duration)
        if seconds is None:
            return default
        if text is not None and not parse_duration(low) <= seconds <= parse_duration(high):
            self.add(name, f"must be from {low} to {high}, not {shown(text)}")
            return default
        assert math.isfinite(seconds)
        return seconds

    def money(self, name: str) -> Decimal | None:
        """US dollars, exactly as written."""
        text = self._scalar_text(name)
        amount = None if text is None else self.parsed(name, text, parse_money)
        if amount is None:
            return None
        if amount > MAX_BUDGET or amount != amount.quantize(_MONEY_SCALE):
            self.add(name, f"must be at most {MAX_BUDGET:,} US dollars, with at most 12 decimals")
            return None
        return amount

    def parsed(self, name: str, text: str, parse: Callable[[str], T]) -> T | None:
        """What `parse` makes of a field's text; its ValueError becomes the field's fault."""
        try:
            return parse(text)
        except ValueError as error:
            self.add(name, str(error))
            return None

    def _scalar_text(self, name: str) -> str | None:
        node = self._nodes.get(name)
        if node is None:
            return None
        if node.text is None or isinstance(node.value, bool):
            self.add(name, f"must be a number or a text, not {kind(node)}")
            return None
        return node.text.strip()

    def _unknown(self, name: str, known: Sequence[str]) -> str:
        elsewhere = _ELSEWHERE.get(name.lower().removeprefix("openai_"))
        if elsewhere and not self._path:
            return elsewhere
        near = get_close_matches(name.lower(), known, n=2)
        if near:
            return f"is no field that runner knows; did you mean {' or '.join(near)}?"
        if not self._path and name in _OF_REQUEST:
            return "belongs under request"
        return f"is no field that runner knows; known here: {', '.join(known)}"

    def _add(self, node: Node, name: str, message: str) -> None:
        self.faults.append(Fault(node.line, self._of(name), message))

    def _of(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path and name else self._path or name


def kind(node: Node) -> str:
    """What a value is, for messages."""
    if isinstance(node.value, dict):
        return "fields and values"
    if isinstance(node.value, list):
        return "a list"
    if node.value is None:
        return "nothing"
    if isinstance(node.value, bool):
        return "true" if node.value else "false"
    return shown(str(node.text)) if isinstance(node.value, str) else f"the number {node.text}"


def readable(name: str) -> str:
    """A field's name as messages repeat it."""
    return name if name.isprintable() and 0 < len(name) <= 60 else shown(name)
