"""How the control plane is asked: once or a few times, in a bounded time, and what an answer is read as."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from runner.api.account import Account
from runner.api.batch_reading import Operation, said_no
from runner.api.client import without_keys
from runner.model import Reply
from runner.remote import Refused, Unclear

if TYPE_CHECKING:
    import httpx2

LOOKS = (100.0, 2.0)
"""How many requests about what is there already go out in so many seconds, at most."""
LONGEST_PAUSE = 8.0

_T = TypeVar("_T")


class Inquiry:
    """Asks on behalf of an account. `patience` is the time for one request in seconds, `attempts` how often what
    is safe to repeat is asked. Made on a running loop."""

    def __init__(
        self,
        account: Account,
        *,
        patience: float,
        attempts: int,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], datetime],
    ) -> None:
        from aiolimiter import AsyncLimiter

        self.patience = patience
        self.sleep = sleep
        self._account = account
        self._origin = account.address.origin
        self._attempts = attempts
        self._now = now
        self._looks = AsyncLimiter(*LOOKS)

    @property
    def timeout(self) -> httpx2.Timeout:
        """What the HTTP client is to wait for at most, at each step of a request."""
        import openai

        return openai.Timeout(self.patience, connect=min(10.0, self.patience))

    async def pace(self) -> None:
        """Wait for one's turn to look at what is there."""
        await self._looks.acquire()

    async def once(self, ask: Callable[[], Awaitable[Any]], seconds: float | None = None) -> Reply:
        """Ask exactly once."""
        from runner.api.exchange import exchange

        return await exchange(ask, seconds=self.patience if seconds is None else seconds)

    async def until_clear(
        self,
        ask: Callable[[], Awaitable[Any]],
        asked: str,
        read: Callable[[bytes], _T | None],
        *,
        operation: Operation = "object",
    ) -> _T | Refused | Unclear:
        """Ask what is safe to repeat, a few times, with short pauses, until its answer is clear."""
        from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt, wait_random_exponential

        async def look() -> _T | Refused | Unclear:
            await self.pace()
            return self.read(await self.once(ask), asked, read, operation=operation)

        patient = AsyncRetrying(
            retry=retry_if_result(lambda got: isinstance(got, Unclear)),
            stop=stop_after_attempt(self._attempts),
            wait=wait_random_exponential(multiplier=0.5, max=LONGEST_PAUSE),
            sleep=self.sleep,
            retry_error_callback=lambda state: state.outcome and state.outcome.result(),
        )
        got: _T | Refused | Unclear = await patient(look)
        return got

    def read(
        self, reply: Reply, asked: str, read: Callable[[bytes], _T | None], *, operation: Operation = "object"
    ) -> _T | Refused | Unclear:
        """What a reply says, in our words. `asked` is what was asked, for messages ("the create of a batch")."""
        if reply.status is None or not 200 <= reply.status < 300:
            said = said_no(reply, operation, now=self._now(), asked=asked, origin=self._origin)
            message = without_keys(said.message, self._account)
            if isinstance(said, Unclear):
                return Unclear(message)
            return said._replace(message=message, code=without_keys(said.code, self._account))
        found = read(reply.body)
        if found is None:
            return Unclear(f"{self._origin} answered {asked} with something that is no answer of a Batch API")
        return found
