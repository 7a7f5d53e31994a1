"""Texts that match a regular expression, for the `pattern` of a JSON Schema; best effort."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from dataclasses import dataclass

_DIGITS = string.digits
_WORD = string.ascii_letters + string.digits + "_"
_SPACE = " "
_PRINTABLE = string.ascii_letters + string.digits + " !#$%&()*+,-./:;<=>?@[]^_{|}~'\"\\`"
_CLASSES = {
    "d": _DIGITS,
    "w": _WORD,
    "s": _SPACE,
    "D": "".join(sign for sign in _PRINTABLE if sign not in _DIGITS),
    "W": "".join(sign for sign in _PRINTABLE if sign not in _WORD),
    "S": "".join(sign for sign in _PRINTABLE if sign not in _SPACE),
}
_PLAIN_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}
_MANY = 1_000_000

Pick = Callable[[int, str], int]


def matching(pattern: str, pick: Pick, *, shortest: int = 0, longest: int | None = None) -> str | None:
    """A text that matches the pattern and is of a fitting length (code points), or None if none is found.

    `pick(count, name)` makes the choices. Look-arounds and back-references are not understood; what comes out
    is checked against the pattern.
    """
    try:
        _compiled(pattern)
        tree = _Reader(pattern).read()
    except (re.error, _NotUnderstood):
        return None
    for stretch in (*range(4), *(n for n in (8, 16, 32, 64, 128) if n <= shortest), shortest):
        for variant in range(8):
            text = _Writer(pick, stretch=stretch, variant=variant).write(tree)
            if fits(pattern, text, shortest=shortest, longest=longest):
                return text
    return None


def fits(pattern: str, text: str, *, shortest: int = 0, longest: int | None = None) -> bool:
    """Whether a text matches the pattern and is of a fitting length; False where the pattern is not understood."""
    if len(text) < shortest or (longest is not None and len(text) > longest):
        return False
    try:
        return _compiled(pattern).search(text) is not None
    except re.error:
        return False


def _compiled(pattern: str) -> re.Pattern[str]:
    """The pattern in Python's dialect, which spells named groups in its own way."""
    return re.compile(re.sub(r"\(\?<(?![=!])", "(?P<", pattern))


class _NotUnderstood(ValueError):
    """The pattern uses something that is not understood here."""


@dataclass(frozen=True, slots=True)
class _Signs:
    """One character of these."""

    signs: str


@dataclass(frozen=True, slots=True)
class _Repeat:
    """Something so many times."""

    what: _Node
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class _Choice:
    """One of several sequences."""

    ways: tuple[tuple[_Node, ...], ...]


_Node = _Signs | _Repeat | _Choice


class _Writer:
    def __init__(self, pick: Pick, *, stretch: int, variant: int) -> None:
        self._pick = pick
        self._stretch = stretch
        self._variant = variant
        self._steps = 0

    def write(self, node: _Node) -> str:
        if isinstance(node, _Signs):
            return node.signs[self._choose(len(node.signs))]
        if isinstance(node, _Repeat):
            times = min(node.most, node.least + self._stretch)
            return "".join(self.write(node.what) for _ in range(times))
        way = node.ways[self._choose(len(node.ways))]
        return "".join(self.write(part) for part in way)

    def _choose(self, count: int) -> int:
        if count == 1:
            return 0
        self._steps += 1
        return self._pick(count, f"pattern {self._variant} {self._steps}")


class _Reader:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def read(self) -> _Node:
        tree = self._choice()
        if self._at != len(self._pattern):
            raise _NotUnderstood(self._pattern)
        return tree

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _next(self) -> str:
        sign = self._peek()
        if not sign:
            raise _NotUnderstood(self._pattern)
        self._at += 1
        return sign

    def _skip(self, text: str) -> bool:
        if self._pattern.startswith(text, self._at):
            self._at += len(text)
            return True
        return False

    def _choice(self) -> _Node:
        ways = [self._sequence()]
        while self._skip("|"):
            ways.append(self._sequence())
        return _Choice(tuple(ways))

    def _sequence(self) -> tuple[_Node, ...]:
        parts: list[_Node] = []
        while self._peek() not in ("", "|", ")"):
            if self._peek() in "^$":
                self._at += 1
                continue
            part = self._atom()
            if part is not None:
                parts.append(self._quantified(part))
        return tuple(parts)

    def _quantified(self, part: _Node) -> _Node:
        if self._skip("*"):
            found = _Repeat(part, 0, _MANY)
        elif self._skip("+"):
            found = _Repeat(part, 1, _MANY)
        elif self._skip("?"):
            found = _Repeat(part, 0, 1)
        elif braces := re.compile(r"\{(\d+)(,?)(\d*)\}").match(self._pattern, self._at):
            self._at = braces.end()
            least = int(braces[1])
            found = _Repeat(part, least, int(braces[3]) if braces[3] else _MANY if braces[2] else least)
        else:
            return part
        self._skip("?")
        return found

    def _atom(self) -> _Node | None:
        sign = self._next()
        if sign == "(":
            return self._group()
        if sign == "[":
            return self._set()
        if sign == ".":
            return _Signs(_WORD)
        if sign == "\\":
            sign = self._next()
            return None if sign in "bBAzZ" else _Signs(self._escaped(sign))
        return _Signs(sign)

    def _group(self) -> _Node:
        if self._skip("?"):
            if self._skip(":"):
                pass
            elif named := re.compile(r"P?<(\w+)>").match(self._pattern, self._at):
                self._at = named.end()
            else:
                raise _NotUnderstood(self._pattern)
        inner = self._choice()
        if not self._skip(")"):
            raise _NotUnderstood(self._pattern)
        return inner

    def _set(self) -> _Node:
        negated = self._skip("^")
        signs = ""
        while not (self._peek() == "]" and signs):
            sign = self._next()
            if sign == "\\":
                sign = self._escaped(self._next())
            if len(sign) == 1 and self._peek() == "-" and self._pattern[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                end = self._next()
                end = self._escaped(self._next()) if end == "\\" else end
                sign = "".join(map(chr, range(ord(sign), min(ord(end), ord(sign) + 255) + 1)))
            signs += sign
        self._at += 1
        if negated:
            signs = "".join(sign for sign in _PRINTABLE if sign not in signs)
        if not signs:
            raise _NotUnderstood(self._pattern)
        return _Signs(signs)

    def _escaped(self, sign: str) -> str:
        if sign in _CLASSES:
            return _CLASSES[sign]
        if sign in "pP":
            name = re.compile(r"\{\^?(\w+)\}").match(self._pattern, self._at)
            if name is None or sign == "P":
                raise _NotUnderstood(self._pattern)
            self._at = name.end()
            return _DIGITS if name[1].startswith("N") else string.ascii_letters
        if sign in "xu":
            width = 2 if sign == "x" else 4
            digits = self._pattern[self._at : self._at + width]
            if not re.fullmatch(f"[0-9a-fA-F]{{{width}}}", digits):
                raise _NotUnderstood(self._pattern)
            self._at += width
            return chr(int(digits, 16))
        if sign in _PLAIN_ESCAPES:
            return _PLAIN_ESCAPES[sign]
        if sign.isdigit():
            raise _NotUnderstood(self._pattern)
        return sign
