"""A wish to stop, which a signal makes and the steps look at between two pieces of work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context


class Stop:
    """Whether this process was asked to stop, and who is to be told when it is."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._tell: Callable[[str], None] | None = None

    def __call__(self) -> bool:
        return self.reason is not None

    def request(self, reason: str) -> None:
        """Ask to stop; may be called from a signal handler."""
        first = self.reason is None
        self.reason = self.reason or reason
        if first and self._tell is not None:
            self._tell(reason)

    @contextmanager
    def listening(self, told: Callable[[str], None]) -> Iterator[None]:
        """While the event loop that runs now is at work, `told` is called in it when a stop is asked for."""
        loop = asyncio.get_running_loop()
        # A signal comes between two steps of the loop as well, where nothing knows which loop is running.
        context = copy_context()

        def tell(reason: str) -> None:
            loop.call_soon_threadsafe(told, reason, context=context)

        self._tell = tell
        if self.reason is not None:
            told(self.reason)
        try:
            yield
        finally:
            self._tell = None
