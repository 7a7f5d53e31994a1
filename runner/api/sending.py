"""One call on its way over a connection: it is told when its answer is over, and tells the caller what came."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TypeAlias

from runner.api.connection import Connection, Ending
from runner.model import Reply

Landed: TypeAlias = Callable[[Reply | BaseException], None]
"""Hears what came of a call, once: its Reply, or the fault of ours that kept it from one."""


class Sending:
    """A call that was started and has not come back. `since` is when it began, by the monotonic clock.

    `reply` makes the Reply of a call that is over; `drop` forgets its deadline. `connection` is None as long as
    there is no connection to send it over, which `dialing` makes.
    """

    __slots__ = ("_drop", "_landed", "_reply", "connection", "dialing", "since")

    def __init__(
        self,
        landed: Landed,
        since: float,
        *,
        reply: Callable[[Sending, Ending | None], Reply],
        drop: Callable[[Sending], None],
    ) -> None:
        self._landed: Landed | None = landed
        self._reply = reply
        self._drop = drop
        self.since = since
        self.connection: Connection | None = None
        self.dialing: asyncio.Task[None] | None = None

    def end(self, ending: Ending | None) -> None:
        """The answer is over: whole where `ending` is None, else as it says. Only the first end counts."""
        if self._landed is None:
            return
        outcome: Reply | BaseException
        try:
            outcome = self._reply(self, ending)
        except BaseException as error:  # noqa: BLE001 - below it is the event loop, which would tell nobody
            outcome = error
        self.land(outcome)

    def land(self, outcome: Reply | BaseException) -> None:
        """Tell the caller, unless it gave up."""
        landed, self._landed = self._landed, None
        if landed is not None:
            self._drop(self)
            landed(outcome)

    def cancel(self) -> None:
        """Give the call up: nothing more is told of it, and its connection is closed."""
        if self._landed is None:
            return
        self._landed = None
        self._drop(self)
        if self.dialing is not None:
            self.dialing.cancel()
        if self.connection is not None:
            self.connection.abort()


def by_task(call: Coroutine[object, object, Reply], landed: Landed) -> asyncio.Task[Reply]:
    """Run a call as a task of its own, which may be cancelled: nothing is told then."""

    def ended(task: asyncio.Task[Reply]) -> None:
        if not task.cancelled():
            landed(task.exception() or task.result())

    task = asyncio.get_running_loop().create_task(call)
    task.add_done_callback(ended)
    return task
