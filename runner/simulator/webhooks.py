"""Webhooks: a batch that has ended is told to whoever wants to hear, signed as Standard Webhooks has it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Callable

import aiohttp
import orjson

from runner.simulator.chance import Chance
from runner.simulator.ledger import Ledger
from runner.simulator.settings import Settings

PAUSES = (0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
"""Seconds between one try of a delivery and the next; the provider goes on for three days."""

ANSWER_SECONDS = 5.0
"""How long the other side may take to answer; the provider says "a few seconds"."""

_AGENT = "runner-simulator"


class Webhooks:
    """Delivers `batch.*` events to the settings' address, if there is one. `wall` is the time of day."""

    def __init__(self, settings: Settings, ledger: Ledger, *, wall: Callable[[], float]) -> None:
        self._settings = settings
        self._ledger = ledger
        self._wall = wall
        self._under_way: set[asyncio.Task[None]] = set()

    def tell(self, batch_id: str, state: str) -> None:
        """A batch has ended in this state."""
        if self._settings.webhook is None:
            return
        chance = Chance(self._settings.seed, batch_id.encode())
        event = {
            "id": f"evt_{chance.hex('event', 32)}",
            "object": "event",
            "created_at": int(self._wall()),
            "type": f"batch.{state}",
            "data": {"id": batch_id},
        }
        delivery = self._deliver(
            self._settings.webhook, f"wh_{chance.hex('webhook', 32)}", orjson.dumps(event)
        )
        task = asyncio.get_running_loop().create_task(delivery)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def stop(self) -> None:
        """Gives up what has not been delivered yet."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _deliver(self, url: str, webhook_id: str, body: bytes) -> None:
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for pause in (*PAUSES, None):
                self._ledger.count("webhooks_sent")
                if await self._post(session, url, webhook_id, body):
                    self._ledger.count("webhooks_taken")
                    return
                if pause is not None:
                    await asyncio.sleep(pause)
        self._ledger.count("webhooks_given_up")

    async def _post(self, session: aiohttp.ClientSession, url: str, webhook_id: str, body: bytes) -> bool:
        # Each try has a time of its own: an old one is refused.
        headers = {
            "content-type": "application/json",
            "user-agent": _AGENT,
            **signed(self._settings.webhook_secret, webhook_id, int(self._wall()), body),
        }
        try:
            async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                return 200 <= answer.status < 300
        except (aiohttp.ClientError, OSError):
            return False


def signed(secret: str, webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that sign a body. A secret `whsec_...` is base64 of its bytes, any other is taken as it is."""
    key = b64decode(secret.removeprefix("whsec_")) if secret.startswith("whsec_") else secret.encode()
    content = f"{webhook_id}.{timestamp}.".encode() + body
    signature = b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }
