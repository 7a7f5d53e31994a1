"""Ctrl-C once, SIGTERM or a hang-up: stop in order. Ctrl-C twice: out within a second, exit 130."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from runner.stop import Stop

_NAMES = {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGHUP": "hang-up"}


@contextmanager
def signals() -> Iterator[Stop]:
    """While the block runs, signals ask to stop through the Stop that it is given."""
    stop = Stop()
    interrupts = 0

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal interrupts
        name = signal.Signals(number).name
        interrupts += name == "SIGINT"
        if interrupts > 1:
            # What is committed is safe; what is in flight the next start finds, and counts as at risk.
            os._exit(130)
        stop.request(_NAMES.get(name, name))

    caught = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, on_signal) for number in caught}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
