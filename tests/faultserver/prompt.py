"""What a chat or a responses request asks for, and the text that answers it."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import orjson

from .own import Refused
from .sample import sample

ROW = re.compile(r"row=[\w-]+", re.ASCII)


def tokens(text: str) -> int:
    """Four characters a token, rounded up."""
    return (len(text) + 3) // 4


def text_of(content: object) -> str:
    """The text in a message's content, a string or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "\n".join(part for part in parts if isinstance(part, str))
    return ""


def read_tokens(messages: list[Any]) -> int:
    """Tokens of the messages, three more for each."""
    return sum(3 + tokens(text_of(one.get("content"))) for one in messages if isinstance(one, dict))


def last_user_text(messages: list[Any]) -> str:
    """What the user said last."""
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            return text_of(message.get("content"))
    return ""


def reply_to(text: str, schema: object, limit: object) -> tuple[str, bool]:
    """The answer to a prompt, and whether the limit in tokens cut it.

    It names the first eight hex digits of the prompt's SHA-256 and repeats its `row=<id>`; where a schema is
    asked for, it is JSON whose free strings say so.
    """
    content = "answer to " + hashlib.sha256(text.encode()).hexdigest()[:8]
    row = ROW.search(text)
    if row:
        content += " " + row[0]
    if isinstance(schema, dict):
        content = orjson.dumps(sample(schema, content)).decode()
    if isinstance(limit, int) and tokens(content) > limit:
        return content[: 4 * limit], True
    return content, False


def forced_function(request: dict[str, Any]) -> dict[str, Any] | None:
    """The function that the request insists on, in chat's form or in that of responses, or None."""
    choice = request.get("tool_choice")
    if not isinstance(choice, dict) or choice.get("type") != "function":
        return None
    name = (choice.get("function") or choice).get("name")
    for tool in request.get("tools") or []:
        function: dict[str, Any] = tool.get("function") or tool
        if function.get("name") == name:
            return function
    raise Refused(400, f"Tool choice {name!r} not found in 'tools'.", param="tool_choice")


def tier(request: dict[str, Any]) -> str:
    """The service tier that the answer reports: the one asked for, `default` where none was."""
    asked = request.get("service_tier")
    if asked == "fast":
        return "priority"
    return asked if asked in {"flex", "priority"} else "default"
