"""Packed bodies: gzip and deflate, unpacked within a bound, and only if they are whole."""

from __future__ import annotations

import zlib


class BrokenBodyError(Exception):
    """An answer that did not come whole: which fault of a Reply it is, and what happened."""

    def __init__(self, fault: str, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault
        self.detail = detail


def inflated(raw: bytes, encoding: str, limit: int) -> bytes:
    """A body as it was before its Content-Encoding; at most `limit` bytes come into being.

    Raises BrokenBodyError: `cut` for data that is damaged or ends early (zlib alone takes a cut stream for
    a whole one), `too_large` beyond the limit, `protocol` for an encoding that was not asked for.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity") or not raw:
        return raw
    if encoding in ("gzip", "x-gzip"):
        window = zlib.MAX_WBITS | 16
    elif encoding == "deflate":
        # Some servers send the bare stream; a zlib header names method 8 in its low half byte.
        window = zlib.MAX_WBITS if raw[0] & 0x0F == 8 else -zlib.MAX_WBITS
    else:
        raise BrokenBodyError("protocol", "its body is packed in a way that was not asked for")
    parts: list[bytes] = []
    room = limit
    while raw:
        unpacker = zlib.decompressobj(wbits=window)
        try:
            part = unpacker.decompress(raw, room + 1)
        except zlib.error:
            raise BrokenBodyError("cut", "its packed body is damaged") from None
        room -= len(part)
        if room < 0:
            raise BrokenBodyError("too_large", f"the answer is larger than {limit} bytes unpacked")
        if not unpacker.eof:
            raise BrokenBodyError("cut", "its packed body ends early")
        parts.append(part)
        # gzip allows several streams in a row.
        raw = unpacker.unused_data if window > zlib.MAX_WBITS else b""
    return b"".join(parts)
