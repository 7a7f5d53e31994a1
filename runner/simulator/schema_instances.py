"""Values that satisfy a JSON Schema, drawn from a text where they can be, and the same every time."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from runner.simulator import patterns
from runner.simulator.chance import Chance
from runner.simulator.digest import MARK, shorten, telling
from runner.simulator.formats import FORMATS
from runner.simulator.schemas import Schema, branch_order, is_of_type, merged, resolve

_LINE = 80
"""The most characters of a text that a string repeats: patterns that allow free text mostly allow so much."""
_DEEP = 4
_TOO_DEEP = 60
_MANY_STEPS = 500
_NULLS = 4
"""What may be null is null once in so many times."""
_TELLING = 3
"""Shorter words, such as language codes, stand in any text by chance."""
_WORD = re.compile(r"[^\W_]+")
_SCALARS = ("string", "number", "integer", "boolean", "null", "object", "array")


class Instances:
    """Makes a value for a schema.

    Understood: type, enum, const, the keywords of objects, arrays, numbers and strings, format, pattern,
    anyOf, oneOf, allOf, $ref within the document. Not understood, and so perhaps not satisfied: not,
    if/then/else, dependent*, propertyNames, and a oneOf whose branches overlap.
    """

    def __init__(self, schema: object, text: str, chance: Chance, *, variant: int = 0) -> None:
        self._root = schema
        self._chance = chance
        self._variant = variant
        self._sentences = telling(text)
        self._vocabulary = {word.lower() for word in _WORD.findall(text[:20_000])}

    def make(self) -> Any:
        """The value for the whole schema."""
        return self._make(self._root, "$", 0)

    def _pick(self, count: int, name: str) -> int:
        return self._chance.pick(count, f"{self._variant} {name}")

    def _make(self, schema: object, path: str, depth: int) -> Any:
        if not isinstance(schema, dict) or depth > _TOO_DEEP:
            return None if depth > _TOO_DEEP else self._string({}, path)
        plain = self._flat(schema, path, depth)
        if "const" in plain:
            return plain["const"]
        if isinstance(plain.get("enum"), list):
            return self._of_enum(plain, path)
        kind = self._type(plain, path)
        if kind == "object":
            return self._object(plain, path, depth)
        if kind == "array":
            return self._array(plain, path, depth)
        if kind in ("number", "integer"):
            return self._number(plain, path, whole=kind == "integer")
        if kind == "boolean":
            return bool(self._pick(2, path))
        return None if kind == "null" else self._string(plain, path)

    def _flat(self, schema: Schema, path: str, depth: int) -> Schema:
        """The schema with references followed, allOf merged in, one branch taken of each anyOf and oneOf."""
        plain = dict(schema)
        for step in range(_MANY_STEPS):
            if "$ref" in plain:
                plain = merged(resolve(self._root, plain.pop("$ref")), plain)
            elif word := next((word for word in ("anyOf", "oneOf") if plain.get(word)), None):
                branches = branch_order(self._root, plain.pop(word), deep=depth >= _DEEP)
                plain = merged(plain, branches[self._pick(len(branches), f"{path} {word} {step}")])
            elif parts := plain.pop("allOf", None):
                plain = merged({**plain, "allOf": parts[1:]} if parts[1:] else plain, parts[0])
            else:
                break
        return plain

    def _type(self, schema: Schema, path: str) -> str:
        kind = schema.get("type")
        if isinstance(kind, list):
            if "null" in kind and self._pick(_NULLS, f"{path} null") == 0:
                return "null"
            kind = next((word for word in kind if word != "null"), "null")
        if kind in _SCALARS:
            return str(kind)
        if schema.keys() & {"properties", "required", "additionalProperties", "minProperties"}:
            return "object"
        if schema.keys() & {"items", "prefixItems", "minItems"}:
            return "array"
        if schema.keys() & {"minimum", "maximum", "multipleOf", "exclusiveMinimum", "exclusiveMaximum"}:
            return "number"
        return "string"

    def _of_enum(self, schema: Schema, path: str) -> Any:
        """The word of the list that the text speaks of most; where it speaks of none, any."""
        fitting = [word for word in schema["enum"] if is_of_type(word, schema.get("type"))] or schema["enum"]
        fitting = [word for word in fitting if word is not None] or fitting
        scores = [self._nearness(word) for word in fitting]
        best = max(scores)
        if best > 0:
            return fitting[scores.index(best)]
        return fitting[self._pick(len(fitting), path)]

    def _nearness(self, word: object) -> int:
        if not isinstance(word, str):
            return 0
        score = 0
        for part in _WORD.findall(word.lower()):
            if len(part) < _TELLING:
                continue
            if part in self._vocabulary:
                score += 3
            elif len(part) >= 4:
                stem = part[: max(4, len(part) - 3)]
                score += any(other.startswith(stem) for other in self._vocabulary)
        return score

    def _object(self, schema: Schema, path: str, depth: int) -> dict[str, Any]:
        properties: Mapping[str, object] = schema.get("properties") or {}
        required = list(schema.get("required") or ())
        extra = schema.get("additionalProperties", True)
        most = schema.get("maxProperties", math.inf)
        optional = [] if depth >= _DEEP else [name for name in properties if name not in required]
        optional = [name for name in optional if properties[name] is not False]
        room = max(0, most - len(required))
        wanted = {*required, *(optional if room == math.inf else optional[: int(room)])}
        names = [name for name in properties if name in wanted]
        names += [name for name in required if name not in properties]
        least = schema.get("minProperties", 0)
        if not properties and isinstance(extra, dict) and depth < _DEEP and most > 0:
            least = max(least, 1)
        spare = (name for name in (*properties, *(f"simulated_{n}" for n in range(1, least + 1))))
        while len(names) < least and (name := next(spare, None)) is not None:
            if name not in names:
                names.append(name)
        fallback = extra if isinstance(extra, dict) else {}
        return {
            name: self._make(properties.get(name, fallback), f"{path}.{name}", depth + 1) for name in names
        }

    def _array(self, schema: Schema, path: str, depth: int) -> list[Any]:
        first = schema.get("prefixItems") or []
        rest = schema.get("items", True)
        least = schema.get("minItems", 0)
        most = schema.get("maxItems", math.inf)
        if rest is False:
            most = min(most, len(first))
        wanted = least if depth >= _DEEP else max(least, len(first), 1) + self._pick(2, f"{path} length")
        wanted = int(max(least, min(wanted, most)))
        contained = schema.get("contains")
        found: list[Any] = []
        for number in range(wanted):
            part = first[number] if number < len(first) else rest
            if contained is not None and number < schema.get("minContains", 1):
                part = merged(part if isinstance(part, dict) else {}, contained)
            item = self._make(part, f"{path}[{number}]", depth + 1)
            if schema.get("uniqueItems") and any(_same(item, other) for other in found):
                fresh = self._another(part, found, f"{path}[{number}]", depth)
                if fresh is None:
                    break
                item = fresh[0]
            found.append(item)
        return found

    def _another(self, part: object, found: list[Any], path: str, depth: int) -> tuple[Any] | None:
        """A value for the schema that is not in the list yet, in a tuple, or None if none turns up."""
        plain = self._flat(part, path, depth) if isinstance(part, dict) else {}
        listed = plain.get("enum")
        candidates = (
            iter(listed)
            if isinstance(listed, list)
            else (self._make(part, f"{path} try {n}", depth + 1) for n in range(200))
        )
        for item in candidates:
            if not any(_same(item, other) for other in found):
                return (item,)
        return None

    def _number(self, schema: Schema, path: str, *, whole: bool) -> int | float:
        step = Fraction(str(schema["multipleOf"])) if schema.get("multipleOf") else None
        if whole:
            # The whole multiples of a/b are the multiples of a.
            step = Fraction(1 if step is None else step.numerator)
        low, open_low = _bound(schema, "minimum", "exclusiveMinimum", pick=max)
        high, open_high = _bound(schema, "maximum", "exclusiveMaximum", pick=min)
        if low is None and high is None:
            low, high = Fraction(0), Fraction(100)
        span = (step or Fraction(1)) * 100
        low = high - span if low is None and high is not None else low
        assert low is not None
        high = low + span if high is None else high
        if step is None:
            # Hundredths of the range; its ends only where they belong to it.
            least, most = (1 if open_low else 0), (99 if open_high else 100)
            value = low + (high - low) * (least + self._pick(most - least + 1, path)) / 100
            return int(value) if value.denominator == 1 else float(value)
        first = math.floor(low / step) + 1 if open_low else math.ceil(low / step)
        last = math.ceil(high / step) - 1 if open_high else math.floor(high / step)
        value = step * (first + self._pick(max(1, min(last - first + 1, 10_000)), path))
        return int(value) if value.denominator == 1 else float(value)

    def _string(self, schema: Schema, path: str) -> str:
        shortest, longest = int(schema.get("minLength", 0)), schema.get("maxLength")
        if isinstance(pattern := schema.get("pattern"), str):
            text = self._digest(path, words=12)
            if patterns.fits(pattern, text, shortest=shortest, longest=longest):
                return text
            found = patterns.matching(
                pattern,
                lambda count, name: self._pick(count, f"{path} {name}"),
                shortest=shortest,
                longest=longest,
            )
            if found is not None:
                return found
        if (form := FORMATS.get(str(schema.get("format")))) is not None:
            return form(self._chance.number(f"{self._variant} {path}"))
        text = self._digest(path, words=4 + self._pick(5, f"{path} words"))
        if len(text) < shortest:
            text = (text + " " + "simulated " * (shortest // 10 + 1))[:shortest].rstrip().ljust(shortest, ".")
        return text if longest is None else text[: int(longest)]

    def _digest(self, path: str, *, words: int) -> str:
        """A sentence of the text, marked and shortened."""
        if not self._sentences:
            return MARK
        sentence = self._sentences[self._pick(len(self._sentences), path)]
        return f"{MARK} {shorten(sentence, words=words, signs=_LINE)}"


def _bound(schema: Schema, closed: str, opened: str, *, pick: Any) -> tuple[Fraction | None, bool]:
    """The tighter of a closed and an open bound, and whether it is the open one."""
    limits = [
        (Fraction(str(schema[word])), word == opened)
        for word in (closed, opened)
        if isinstance(schema.get(word), int | float) and not isinstance(schema[word], bool)
    ]
    if not limits:
        return None, False
    tightest = pick(limit for limit, _ in limits)
    is_open = any(open_ for limit, open_ in limits if limit == tightest) or schema.get(opened) is True
    return tightest, is_open


def _same(one: Any, other: Any) -> bool:
    """Equality as JSON Schema has it: 1 is 1.0, but true is not 1."""
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    return bool(one == other)
