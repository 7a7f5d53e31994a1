"""Run something asynchronous to its end, on the faster event loop where there is one, and tell one error of many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio

from runner.errors import RunnerError

Result = TypeVar("Result")


def run(main: Callable[[], Awaitable[Result]]) -> Result:
    """What `main` returns. Of several errors at once, one of ours is raised, if there is one."""
    try:
        return anyio.run(main, backend_options=_options())
    except BaseExceptionGroup as group:
        raise ours_of(group) from group


def _options() -> dict[str, Any]:
    try:
        import uvloop
    except ImportError:
        return {}
    return {"loop_factory": uvloop.new_event_loop}


def ours_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error of several that is to be told: one of ours, if there is one."""
    for error in group.exceptions:
        found = ours_of(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, RunnerError):
            return found
    first = group.exceptions[0]
    return ours_of(first) if isinstance(first, BaseExceptionGroup) else first
