"""A line as Python values, and values as a line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from math import isfinite
from typing import NoReturn

import msgspec
import orjson

from runner.record.fault import RecordFault

_VALUE = msgspec.json.Decoder()
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_CONSTANT = re.compile(rb'"(?:[^"\\]|\\.)*"|(-?Infinity|NaN)', re.DOTALL)


def parse(line: bytes) -> dict[str, object]:
    """Read one line as a record: a JSON object.

    Integers of any size are exact; numbers beyond a float's range, or of more digits than Python reads as an
    int, come as Decimal. Of a repeated key the last one counts. Raises RecordFault: invalid_utf8,
    control_character, invalid_json, too_deep, not_an_object.
    """
    try:
        value = _VALUE.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = _parse_slowly(line)
    if not isinstance(value, dict):
        name = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
        found = name.get(type(value), "a number")
        raise RecordFault("not_an_object", f"the line is {found}, not a JSON object {{...}}")
    return value


def dumps(value: object) -> bytes:
    """JSON text of a value, compact, in UTF-8; the same value gives the same bytes.

    Beyond what `parse` gives, tuples are lists. Raises RecordFault (not_a_number, too_deep) for values that
    JSON has no words for, TypeError for other types.
    """
    try:
        text = orjson.dumps(value)
    except TypeError:
        try:
            return _exact(value).encode()
        except RecursionError:
            raise _too_deep() from None
    if b"null" in text and _has_non_finite(value):
        raise _not_a_number()
    return text


def key_text(value: object) -> str:
    """The key of a row as text: a string as it is, an integer as decimal.

    Raises RecordFault bad_key for anything else: a key must be the same text however the file is rewritten.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise RecordFault("bad_key", "the key must be a text or an integer")
    if not value:
        raise RecordFault("bad_key", "the key is empty")
    if not is_unicode(value):
        raise RecordFault("bad_key", "the key holds half a character (a lone surrogate)")
    return value


def _parse_slowly(line: bytes) -> object:
    """Read what the fast decoder refused, or say exactly why it cannot be read."""
    if control := _CONTROL.search(line):
        raise _control_character(line[control.start()], control.start())
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise RecordFault(
            "invalid_utf8",
            f"byte {error.start} is not UTF-8; if the file is Latin-1 or Windows-1252, convert it to UTF-8",
            error.start,
        ) from None
    try:
        return json.loads(text, parse_int=_integer, parse_float=_number, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise _not_json(line, text, error) from None
    except RecursionError:
        raise _too_deep() from None
    except RecordFault:
        at = next((m.start(1) for m in _CONSTANT.finditer(line) if m[1]), None)
        raise _not_a_number(at) from None


def _not_json(line: bytes, text: str, error: json.JSONDecodeError) -> RecordFault:
    offset = len(text[: error.pos].encode())
    if error.msg.startswith("Invalid control character"):
        return _control_character(line[offset], offset)
    if error.msg.startswith("Extra data"):
        why = f"a second value begins at byte {offset}; each line holds one record"
        if b"\r" in line:
            why += ", and lines end with LF, not with CR alone"
    elif error.msg.startswith("Unterminated string") or not text[error.pos :].strip():
        why = "the line ends in the middle of its record: a file cut short, or a record broken over lines?"
    elif text.startswith("\ufeff"):
        why = "the line begins with a byte order mark"
    else:
        why = f"not JSON at byte {offset}: {error.msg[:1].lower()}{error.msg[1:].rstrip(': ')}"
    return RecordFault("invalid_json", why, offset)


def _control_character(byte: int, offset: int) -> RecordFault:
    name = "NUL byte" if byte == 0 else f"control character 0x{byte:02x}"
    return RecordFault(
        "control_character", f"raw {name} at byte {offset}; JSON writes it as \\u{byte:04x}", offset
    )


def _too_deep() -> RecordFault:
    return RecordFault("too_deep", "lists or objects are nested too deep to be read")


def _not_a_number(offset: int | None = None) -> RecordFault:
    where = "" if offset is None else f" (byte {offset})"
    return RecordFault("not_a_number", f"NaN and Infinity are not JSON{where}; write null", offset)


def _refuse_constant(_name: str) -> NoReturn:
    raise _not_a_number()


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) <= 4300 else Decimal(digits)


def _number(digits: str) -> float | Decimal:
    value = float(digits)
    return value if isfinite(value) else Decimal(digits)


def _has_non_finite(value: object) -> bool:
    if isinstance(value, float):
        return not isfinite(value)
    if isinstance(value, Mapping):
        return any(map(_has_non_finite, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_has_non_finite, value))


def _exact(value: object) -> str:
    """JSON text of what orjson refuses: lone surrogates, large integers, Decimals, depth."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=not is_unicode(value))
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a JSON object's keys are texts")
        return "{" + ",".join([_exact(key) + ":" + _exact(part) for key, part in value.items()]) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join([_exact(part) for part in value]) + "]"
    if isinstance(value, Decimal) and value.is_finite():
        return str(value)
    if isinstance(value, (float, Decimal)) and not isfinite(value):
        raise _not_a_number()
    return json.dumps(value)


def is_unicode(text: str) -> bool:
    """Whether a text has a UTF-8 form: it holds no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
