"""The vectors of a packed answer: kept as one matrix of 32-bit floats, drawn with the shortest decimals.

A kept body is a file in NumPy's .npy format (version 1.0, `<f4`, C order, shape (n, dims)) with one vector for
each input, in the order of the inputs, and behind it a JSON trailer: `body`, what else the answer said, and
`weights`, by which its usage is shared out. No JSON begins with the byte 0x93: that tells a kept body from a raw
one.
"""

from __future__ import annotations

import math
import re
import struct
import sys
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any, NamedTuple

import msgspec
import orjson

MAGIC = b"\x93NUMPY"
HEADER_BYTES = 128
"""How long every header is that `npy_header` makes."""

TRAILER_OF_ONE = b'{"body":{},"weights":[1]}'
"""The end of a kept body of one vector, of which nothing else is known."""

NAN = struct.pack("<I", 0x7FC00000)

_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?s:..)\{'descr': '<f4', 'fortran_order': False, 'shape': \((\d+), (\d+)\), \} *\n"
)
_LARGE = re.compile(rb"[\x7f\xff]")
_SMALLEST_NORMAL = 2.0**-126


class _Item(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    embedding: bytes
    index: int | None = None
    object: str | None = None


class _Packed(msgspec.Struct):
    data: list[_Item]


_ABSENT = msgspec.Raw()


class _Known(_Packed, forbid_unknown_fields=True):
    """A body that says nothing but what servers say: it is read in one pass."""

    id: msgspec.Raw = _ABSENT
    object: msgspec.Raw = _ABSENT
    created: msgspec.Raw = _ABSENT
    model: msgspec.Raw = _ABSENT
    provider: msgspec.Raw = _ABSENT
    service_tier: msgspec.Raw = _ABSENT
    usage: msgspec.Raw = _ABSENT


class _Trailer(msgspec.Struct):
    body: msgspec.Raw
    weights: list[int]


_KNOWN = msgspec.json.Decoder(_Known)
_PACKED = msgspec.json.Decoder(_Packed)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TRAILER = msgspec.json.Decoder(_Trailer)


class Layout(NamedTuple):
    """Where the vectors of a kept body lie: `rows` of `dims` floats, from the byte `start` on."""

    rows: int
    dims: int
    start: int

    @property
    def row_bytes(self) -> int:
        return self.dims * 4

    @property
    def end(self) -> int:
        return self.start + self.rows * self.row_bytes

    def offset(self, item: int) -> int:
        """Where a vector begins. ValueError if there is none of this number."""
        if not 0 <= item < self.rows:
            raise ValueError(f"there is no vector {item} among the {self.rows} of a packed answer")
        return self.start + item * self.row_bytes


class Trailer(NamedTuple):
    """What stands behind the vectors: the answer without its `data`, as JSON, and each input's weight."""

    body: bytes
    weights: list[int]


def keep(body: bytes, count: int, weights: Sequence[int]) -> bytes | None:
    """The kept form of the body of a 200 that holds `count` vectors in base64.

    `weights` has one number for each input, such as the bytes of its text. None where the body is not exactly
    so (another number of vectors, other fields in an item, several lengths, a value that is no number): it is
    stored as it came then.
    """
    if len(weights) != count:
        raise ValueError(f"{len(weights)} weights for {count} vectors")
    try:
        data, others = _read(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    items = _in_order(data)
    if items is None or len(items) != count or not count:
        return None
    found = [one.embedding for one in items]
    size = len(found[0])
    if not size or size % 4 or set(map(len, found)) != {size}:
        return None
    trailer = orjson.dumps(
        {
            "body": {name: orjson.Fragment(bytes(raw)) for name, raw in others.items()},
            "weights": list(weights),
        }
    )
    kept = b"".join([npy_header(count, size // 4), *found, trailer])
    return kept if is_finite(kept, HEADER_BYTES, HEADER_BYTES + count * size) else None


def _read(body: bytes) -> tuple[list[_Item], dict[str, msgspec.Raw]]:
    """The items of a body, and its other members as they stand there. Raises what the decoders do."""
    try:
        known = _KNOWN.decode(body)
    except msgspec.ValidationError:
        data = _PACKED.decode(body).data
        others = _MEMBERS.decode(body)
        del others["data"]
        return data, others
    members = msgspec.structs.asdict(known)
    data = members.pop("data")
    return data, {name: raw for name, raw in members.items() if raw is not _ABSENT}


def _in_order(items: list[_Item]) -> list[_Item] | None:
    indexes = [one.index for one in items]
    expected = list(range(len(items)))
    if indexes == expected or all(one is None for one in indexes):
        return items
    numbered = [(one.index, one) for one in items if one.index is not None]
    numbered.sort(key=lambda pair: pair[0])
    return [one for _, one in numbered] if [index for index, _ in numbered] == expected else None


def is_kept(body: bytes) -> bool:
    """Whether a stored body has the kept form."""
    return body.startswith(MAGIC)


def npy_header(rows: int, dims: int) -> bytes:
    """The first 128 bytes of a .npy file of `rows` by `dims` 32-bit floats."""
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }" % (rows, dims)
    room = HEADER_BYTES - len(MAGIC) - 4
    return b"%b\x01\x00%b%b\n" % (MAGIC, struct.pack("<H", room), text.ljust(room - 1))


def layout(start: bytes) -> Layout:
    """The layout that the first 128 bytes of a kept body tell. ValueError if they are none."""
    return _layout(start[:HEADER_BYTES])


@lru_cache(maxsize=8)
def _layout(header: bytes) -> Layout:
    found = _HEADER.match(header)
    if found is None:
        raise ValueError("a packed answer does not begin as it was written")
    return Layout(int(found[1]), int(found[2]), found.end())


def shape(kept: bytes) -> tuple[int, int]:
    """How many vectors a kept body holds, and of how many dimensions."""
    found = layout(kept)
    return found.rows, found.dims


def row(kept: bytes, item: int) -> memoryview:
    """The vector of one input: `dims` little-endian 32-bit floats. ValueError if there is none."""
    found = layout(kept)
    at = found.offset(item)
    part = memoryview(kept)[at : at + found.row_bytes]
    if len(part) != found.row_bytes:
        raise ValueError("a packed answer is cut short")
    return part


def trailer(kept: bytes) -> Trailer:
    """What a kept body holds beside its vectors. ValueError if that cannot be read."""
    return read_trailer(kept[layout(kept).end :])


def read_trailer(text: bytes) -> Trailer:
    """What the last bytes of a kept body, from the end of the vectors on, say. ValueError if nothing."""
    found = _TRAILER.decode(text)
    return Trailer(bytes(found.body), found.weights)


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """A total shared out by weights: whole parts whose sum is the total.

    By largest remainder; of equal remainders the first input's goes first. Where every weight is zero, all are
    alike.
    """
    if not total or not weights:
        return [0] * len(weights)
    whole = sum(weights)
    if not whole:
        weights, whole = [1] * len(weights), len(weights)
    parts = [divmod(total * weight, whole) for weight in weights]
    found = [part for part, _ in parts]
    by_remainder = sorted(range(len(parts)), key=lambda index: -parts[index][1])
    for index in by_remainder[: total - sum(found)]:
        found[index] += 1
    return found


def is_finite(data: bytes, start: int = 0, end: int | None = None) -> bool:
    """Whether little-endian 32-bit floats are all numbers: none infinite, none NaN."""
    # All bits of the exponent are set in no number. Seven of them stand in the last byte of four, where
    # they are set for numbers from 1e38 on alone; the eighth is the highest bit of the byte before.
    last = data[start + 3 : end : 4]
    if 0x7F not in last and 0xFF not in last:
        return True
    before = data[start + 2 : end : 4]
    return not any(before[found.start()] >= 0x80 for found in _LARGE.finditer(last))


def decimals(f32: memoryview | bytes) -> bytes:
    """Little-endian 32-bit floats, all finite, as a JSON list of the shortest decimals that give them back.

    The same bytes with NumPy and, much slower, without.
    """
    encode = _fast_encoder()
    return _decimals_slowly(f32) if encode is None else encode(f32)


@cache
def _fast_encoder() -> Callable[[memoryview | bytes], bytes] | None:
    """The encoder by NumPy, where it is installed; the look for what is not there costs as much as a vector."""
    if sys.byteorder != "little":
        return None
    try:
        import numpy as np
    except ImportError:
        return None

    def encode(f32: memoryview | bytes) -> bytes:
        values = np.frombuffer(f32, "<f4")
        text = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
        # Very small and very large numbers are written in another notation than those of 64 bits.
        if values.size and np.abs(values).min() < 1e-5:
            text = _written_anew(text, b"0.00000")
        return _written_anew(text, b"e") if b"e" in text else text

    return encode


def _written_anew(text: bytes, mark: bytes) -> bytes:
    """A list of numbers with those that hold `mark` written as 64-bit floats are."""
    parts: list[bytes] = []
    done, found = 0, text.find(mark)
    while found >= 0:
        start = max(text.rfind(b",", done, found), 0) + 1
        end = text.find(b",", found)
        end = len(text) - 1 if end < 0 else end
        parts += text[done:start], orjson.dumps(float(text[start:end]))
        done, found = end, text.find(mark, end)
    return b"".join([*parts, text[done:]])


def _decimals_slowly(f32: memoryview | bytes) -> bytes:
    count = len(f32) // 4
    form = f"<{count}f"
    values = struct.unpack(form, f32)
    found: list[Any] = [None if _is_plain(value) else shortest(value) for value in values]
    open_ = [n for n, one in enumerate(found) if one is None]
    for digits in (6, 7, 8, 9):
        given = [values[n] for n in open_]
        texts = list(map(float, (f"%.{digits - 1}e " * len(given) % tuple(given)).split()))
        same = _singles(texts)
        for n, text, single, value in zip(open_, texts, same, given, strict=True):
            if single == value:
                found[n] = text
        open_ = [n for n in open_ if found[n] is None]
    return orjson.dumps(found)


def _is_plain(value: float) -> bool:
    """Whether the shortest text of a 32-bit float can be found by rounding it, and has no exponent near the ends."""
    return 2.0**-120 < abs(value) < 2.0**120 and abs(math.frexp(value)[0]) != 0.5


def _singles(values: list[float]) -> tuple[float, ...]:
    form = f"<{len(values)}f"
    return struct.unpack(form, struct.pack(form, *values))


def shortest(value: float) -> float:
    """The float whose text is the shortest that a reader rounds to the same 32-bit float."""
    # Six digits are never too many but for the subnormal, whose bits run out.
    for digits in range(1 if abs(value) < _SMALLEST_NORMAL else 6, 9):
        text = f"{value:.{digits - 1}e}"
        if _is_same(float(text), value):
            return float(text)
        # Below a power of two floats lie closer: the nearest text may miss where the next one up does not.
        if abs(math.frexp(value)[0]) == 0.5:
            step = Decimal(1).scaleb(int(text.partition("e")[2]) - digits + 1)
            away = float(Decimal(text) + step.copy_sign(Decimal(value)))
            if _is_same(away, value):
                return away
    return float(f"{value:.8e}")


def _is_same(text: float, value: float) -> bool:
    try:
        return bool(struct.unpack("<f", struct.pack("<f", text))[0] == value)
    except OverflowError:
        return False
