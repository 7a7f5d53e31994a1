"""One value that satisfies a JSON Schema, as far as structured outputs use it."""

from __future__ import annotations

from typing import Any

DEEPEST = 6


def sample(schema: dict[str, Any], text: str) -> Any:
    """A value for the schema, its free strings `text`. Local references are followed, lists kept short."""
    return _Sampler(schema, text).value(schema, 0)


class _Sampler:
    def __init__(self, root: dict[str, Any], text: str) -> None:
        self._root = root
        self._text = text

    def value(self, schema: Any, depth: int) -> Any:
        if not isinstance(schema, dict):
            return self._text
        if "$ref" in schema:
            return self.value(self._resolve(schema["$ref"]), depth + 1)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            options = schema["enum"]
            return options[sum(self._text.encode()) % len(options)]
        for word in ("anyOf", "oneOf", "allOf"):
            if schema.get(word):
                # The last alternative is by custom the null that ends a recursion.
                return self.value(schema[word][-1 if depth > DEEPEST else 0], depth + 1)
        return self._typed(schema, depth)

    def _typed(self, schema: dict[str, Any], depth: int) -> Any:
        kind = schema.get("type", "object" if "properties" in schema else "string")
        if isinstance(kind, list):
            kind = next((one for one in kind if one != "null"), "null")
        if kind == "object":
            properties = schema.get("properties") or {}
            return {name: self.value(inner, depth + 1) for name, inner in properties.items()}
        if kind == "array":
            least = schema.get("minItems", 0 if depth > DEEPEST else 1)
            return [self.value(schema.get("items"), depth + 1) for _ in range(least)]
        if kind in {"integer", "number"}:
            return schema.get("minimum", schema.get("maximum", 1))
        if kind == "boolean":
            return sum(self._text.encode()) % 2 == 0
        if kind == "null":
            return None
        return self._text.ljust(schema.get("minLength", 0))[: schema.get("maxLength")]

    def _resolve(self, reference: str) -> Any:
        found: Any = self._root
        for step in reference.removeprefix("#").strip("/").split("/"):
            if step:
                found = found[step.replace("~1", "/").replace("~0", "~")]
        return found
