"""Tool calls: whether a request forces one, and how they show in the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson

_CALLABLE = ("function", "custom")


def forced_tool(request: Mapping[str, object]) -> bool:
    """Whether a request, of chat or responses, leaves the model nothing but to call one certain tool."""
    choice, legacy = request.get("tool_choice"), request.get("function_call")
    if choice is None and legacy is None:
        return False
    if isinstance(choice, (dict, Mapping)):
        if choice.get("type") == "allowed_tools":
            # Chat nests the list one level deeper than responses does.
            allowed = choice.get("allowed_tools")
            within = allowed if isinstance(allowed, (dict, Mapping)) else choice
            return within.get("mode") == "required" and _is_one_tool(within.get("tools"))
        return choice.get("type") in _CALLABLE
    if choice == "required":
        return _is_one_tool(request.get("tools"))
    return isinstance(legacy, (dict, Mapping)) and bool(legacy.get("name"))


def drawn(calls: Sequence[tuple[object, object]], *, forced: bool) -> object:
    """The output that tool calls, as (name, arguments), make: the arguments alone where one tool was forced
    and called once, else a list of {name, arguments}."""
    if forced and len(calls) == 1:
        return _arguments(calls[0][1])
    return [{"name": name, "arguments": _arguments(arguments)} for name, arguments in calls]


def _arguments(text: object) -> object:
    """Arguments as values. A text that is no JSON object, as of a custom tool or when cut, stays as it is."""
    if text is None or text == "":
        return {}
    if not isinstance(text, str):
        return text
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return found if isinstance(found, dict) else text


def _is_one_tool(tools: object) -> bool:
    if not isinstance(tools, Sequence) or len(tools) != 1:
        return False
    only = tools[0]
    return isinstance(only, (dict, Mapping)) and only.get("type") in _CALLABLE
