"""JSON Schemas taken apart and put together: references, merging, branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

Schema = dict[str, Any]

_LARGER = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"})
_SMALLER = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"})
_SCHEMAS = frozenset({"items", "additionalProperties", "contains"})


def resolve(root: object, reference: object) -> Schema:
    """The part of the document that a `$ref` names; an empty schema where there is none."""
    part: Any = root
    if not isinstance(reference, str) or not reference.startswith("#"):
        return {}
    for step in reference[1:].split("/")[1:]:
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(part, list) and name.isdigit() and int(name) < len(part):
            part = part[int(name)]
        elif isinstance(part, dict) and name in part:
            part = part[name]
        else:
            return {}
    return part if isinstance(part, dict) else {}


def merged(one: Schema, other: object) -> Schema:
    """A schema that asks for what both ask for."""
    if not isinstance(other, dict):
        return one
    found = dict(one)
    for word, value in other.items():
        if word in ("anyOf", "oneOf") and word in found:
            found["allOf"] = [*found.get("allOf", ()), {word: value}]
        else:
            found[word] = _both(word, found[word], value) if word in found else value
    return found


def branch_order(root: object, branches: Sequence[object], *, deep: bool) -> list[object]:
    """The branches worth choosing from: not null, where there are others; where deep, one that ends."""
    usable = [branch for branch in branches if branch is not False] or list(branches)
    if deep:
        return [min(usable, key=lambda branch: _height(root, branch))]
    return [branch for branch in usable if _kind(root, branch) != "null"] or usable


def is_of_type(value: object, kind: object) -> bool:
    """Whether a JSON value is of a type, or of one of a list of types; any is where nothing is said."""
    if kind is None:
        return True
    if isinstance(kind, list):
        return any(is_of_type(value, word) for word in kind)
    if kind == "null":
        return value is None
    if isinstance(value, bool) or kind == "boolean":
        return isinstance(value, bool) and kind == "boolean"
    if kind == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if kind == "number":
        return isinstance(value, int | float)
    types: dict[object, type] = {"string": str, "object": dict, "array": list}
    return kind in types and isinstance(value, types[kind])


def _both(word: str, one: Any, other: Any) -> Any:
    if word in _LARGER:
        return max(one, other)
    if word in _SMALLER:
        return min(one, other)
    if word == "required":
        return [*one, *(name for name in other if name not in one)]
    if word == "enum":
        return [value for value in one if value in other]
    if word == "type":
        return _both_types(one, other)
    if word in ("properties", "$defs", "patternProperties"):
        return merged_all(one, other)
    if word == "allOf":
        return [*one, *other]
    if word in _SCHEMAS:
        if one is False or other is False:
            return False
        return merged(one, other) if isinstance(one, dict) else other
    return other


def merged_all(one: Schema, other: Schema) -> Schema:
    """Named schemas of both, those of the same name merged."""
    found = dict(one)
    for name, part in other.items():
        if isinstance(mine := found.get(name), dict):
            found[name] = merged(mine, part)
        else:
            found[name] = part
    return found


def _both_types(one: Any, other: Any) -> Any:
    mine = one if isinstance(one, list) else [one]
    theirs = other if isinstance(other, list) else [other]
    shared = [kind for kind in mine if kind in theirs]
    if not shared and {*mine, *theirs} >= {"number", "integer"}:
        return "integer"
    return shared[0] if len(shared) == 1 else shared or other


def _kind(root: object, branch: object) -> object:
    if not isinstance(branch, dict):
        return None
    if "$ref" in branch:
        branch = resolve(root, branch["$ref"])
    if "const" in branch and branch["const"] is None:
        return "null"
    return branch.get("type")


def _height(root: object, branch: object) -> int:
    kind = _kind(root, branch)
    if isinstance(branch, dict) and "$ref" in branch and kind in ("object", "array", None):
        return 4
    return {"null": 0, "object": 3, "array": 2}.get(str(kind), 1)
