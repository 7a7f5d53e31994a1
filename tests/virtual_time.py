"""An event loop whose time jumps to the next timer as soon as nothing else is left to do.

Threads stay real: while `outside` is above zero somebody waits for one, and time stands still.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

Result = TypeVar("Result")

LONGEST_REAL_WAIT = 10.0


class VirtualLoop(asyncio.SelectorEventLoop):
    """`now` is seconds since the loop began."""

    def __init__(self) -> None:
        self.now = 0.0
        self.outside = 0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self.now

    async def shutdown_default_executor(self, _: float | None = None) -> None:
        """Wait for the threads, however long: the time that later versions of Python allow them is over at once here."""
        await super().shutdown_default_executor()


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or (timeout > 0 and self._loop.outside):
            ready = super().select(LONGEST_REAL_WAIT)
            if not ready:
                raise AssertionError("the loop waits for something that never comes")
            return ready
        ready = super().select(0)
        if not ready:
            self._loop.now += timeout
        return ready


def run_virtually(work: Callable[[], Awaitable[Result]]) -> Result:
    """Run a coroutine function to its end in virtual time."""
    return anyio.run(work, backend_options={"loop_factory": VirtualLoop})


def virtual_now() -> float:
    """The time of the virtual loop that runs now."""
    return asyncio.get_running_loop().time()
