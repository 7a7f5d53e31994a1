"""The body of a refusal: its code, type and message in the many forms that servers write, safe to show."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

_LONGEST = 500
_LONGEST_READ = 4000
_LARGEST_BODY = 2**20
_DEPTH = 4

_SECRETS = re.compile(
    r"(?P<kept>(?:api[ _-]?key(?: provided)?['\"]?\s*[:=]\s*['\"]?|bearer\s+|basic\s+))[^\s'\",}]+"
    r"|\bsk-[\w\-*.]{3,}"
    r"|\b(?:pk|gsk|xai|hf|ak|sess|r8|nvapi|AIza)[-_]?(?=[\w\-*]*[\d*])[\w\-*]{12,}"
    r"|\beyJ[\w-]{8,}(?:\.[\w-]*)*"
    r"|(?<![\w-])(?=[\w-]*\d)[\w-]{40,}",
    re.IGNORECASE | re.ASCII,
)
# Servers built on pydantic repeat what they were sent, and that is the prompt.
_ECHOES = re.compile(r"(?:[,{]\s*['\"]input['\"]\s*:|\binput_value=|\blast read:).*", re.DOTALL)
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_TITLE = re.compile(r"<title[^>]*>([^<]*)", re.IGNORECASE)


class ErrorBody(NamedTuple):
    """What an error body says; each is empty where it does not say."""

    code: str = ""
    type: str = ""
    message: str = ""


def error_of(body: bytes) -> ErrorBody:
    """Code, type and message of an error body of any form. Never raises; the message is as it came.

    Known: {"error": {...}}, {"error": "text"}, {"message", "type", "code"} (vLLM), {"detail": ...}
    (FastAPI), {"errors": [...]}, and lists of these.
    """
    return _error(_json(body), _DEPTH)


def described(body: bytes) -> str:
    """What an error body says, in a few words that are safe to show: see `shown`."""
    message = error_of(body).message
    if message:
        return shown(message)
    text = body[:_LONGEST_READ].decode("utf-8", "replace").strip()
    if text[:200].lstrip().lower().startswith(("<!doctype", "<html", "<head", "<?xml")):
        title = _TITLE.search(text)
        return shown(f"HTML page: {' '.join(title[1].split())}" if title else "HTML page")
    if not text or isinstance(_json(body), (dict, list)):
        return ""
    if text.count("\ufffd") > len(text) // 20:
        return f"{len(body)} bytes that are not text"
    first = text.partition("\n")[0].rstrip("\r")
    return shown(first[:100] + ("…" if len(first) > 100 else ""))


def shown(text: str) -> str:
    """A text that is safe to show: at most 500 characters, no control characters, keys or echoes of input."""
    text = _ECHOES.sub("…", text[:_LONGEST_READ])
    text = _SECRETS.sub(lambda found: f"{found['kept'] or ''}***", text)
    text = _UNPRINTABLE.sub(_escaped, text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _escaped(found: re.Match[str]) -> str:
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(found[0]) or (
        f"\\x{ord(found[0]):02x}" if ord(found[0]) < 0x100 else f"\\u{ord(found[0]):04x}"
    )


def _json(body: bytes) -> object:
    if len(body) > _LARGEST_BODY or body.lstrip()[:1] not in (b"{", b"["):
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _error(found: object, depth: int) -> ErrorBody:
    if depth == 0 or not found:
        return ErrorBody()
    if isinstance(found, str):
        return ErrorBody(message=found)
    if isinstance(found, list):
        return _of_list(found, depth)
    if not isinstance(found, Mapping):
        return ErrorBody()
    for name in ("error", "errors", "detail"):
        inner = found.get(name)
        if inner and not isinstance(inner, (bool, int, float)):
            within = _error(inner, depth - 1)
            return ErrorBody(
                within.code or _word(found, "code", "statusCode", "status_code"),
                within.type or _word(found, "error_type"),
                within.message or _word(found, "message"),
            )
    return ErrorBody(
        _word(found, "code", "statusCode", "status_code"),
        _word(found, "type", "status", "error_type", "__type"),
        _word(found, "message", "Message", "msg", "title"),
    )


def _of_list(found: list[object], depth: int) -> ErrorBody:
    """The first error of a list; of FastAPI's faults all, as places and messages without the values."""
    faults = [one for one in found if isinstance(one, Mapping) and "msg" in one and "loc" in one]
    if not faults:
        return _error(found[0], depth - 1)
    texts = []
    for fault in faults[:5]:
        loc = fault["loc"]
        place = ".".join(str(part) for part in loc) if isinstance(loc, list) else str(loc)
        texts.append(f"{place}: {fault['msg']}")
    return ErrorBody(type=_word(faults[0], "type"), message="; ".join(texts))


def _word(found: Mapping[str, object], *names: str) -> str:
    for name in names:
        value = found.get(name)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    return ""
