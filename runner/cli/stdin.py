"""Standard input that a wish to stop can interrupt: a plain read from a silent pipe waits for ever."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

from runner.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

LOOK_SECONDS = 0.2


def standard_input(stop: Callable[[], bool]) -> BinaryIO:
    """Standard input as bytes; a read raises Interrupted once `stop` says so. UsageError if it is closed."""
    if sys.stdin is None:
        raise UsageError("Standard input is closed. Name the input's file, or pipe the rows in.")
    if sys.platform == "win32":
        # select knows no pipes there.
        return sys.stdin.buffer
    return io.BufferedReader(_Interruptible(sys.stdin.fileno(), stop))


class _Interruptible(io.RawIOBase):
    def __init__(self, descriptor: int, stop: Callable[[], bool]) -> None:
        self._descriptor = descriptor
        self._stop = stop

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        # A signal does not end a read by itself (PEP 475): only between two waits can it be seen.
        while not select.select([self._descriptor], [], [], LOOK_SECONDS)[0]:
            if self._stop():
                raise Interrupted(
                    "Stopped while waiting for standard input. Nothing was sent; the same command starts again."
                )
        return os.readv(self._descriptor, [buffer])
