"""All batches of one simulator: how they are made, found, listed and cancelled."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any

from runner.simulator.admission import Queue, Window
from runner.simulator.batch import ENDED, Batch
from runner.simulator.batch_life import Life
from runner.simulator.calls import Calls
from runner.simulator.chance import Chance
from runner.simulator.faults import LISTED, POLL, Fault
from runner.simulator.files import Files, page
from runner.simulator.profiles import Profile
from runner.simulator.refusal import Refusal, invalid_value, missing, wrong_type
from runner.simulator.webhooks import Webhooks

_DAY = 86_400
_HOUR = 3_600


class Batches:
    """All batches of one simulator. `clock` runs with the event loop's time, `wall` is the time of day."""

    def __init__(
        self,
        calls: Calls,
        files: Files,
        *,
        profile: Profile,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._calls = calls
        self._files = files
        self._profile = profile
        self._clock = clock
        self._wall = wall
        self._queue = Queue(calls.settings.enqueued_tokens)
        self._webhooks = Webhooks(calls.settings, calls.ledger, wall=wall)
        self._life = Life(calls, files, self._queue, self._webhooks, profile=profile, clock=clock, wall=wall)
        self._hour = Window(calls.settings.batches_per_hour, _HOUR, clock)
        self._batches: dict[str, Batch] = {}
        self._comings: Counter[bytes] = Counter()
        self._made = 0

    def digest(self, body: object) -> bytes:
        """What stands for a creation in the script of faults: its input file's bytes, or its name for it."""
        file_id = str(body.get("input_file_id")) if isinstance(body, dict) else ""
        stored = self._files.find(file_id)
        return stored.digest if stored is not None else hashlib.sha256(file_id.encode()).digest()

    async def create(self, body: object) -> dict[str, Any]:
        """Takes a batch in; its file is looked at later, as the API does."""
        asked = _checked(body, self._profile)
        if not self._hour.admit():
            raise too_many_batches(self._calls.settings.batches_per_hour)
        self._made += 1
        name = Chance(self._calls.settings.seed, str(self._made).encode()).hex("batch", 32)
        batch = self._new(f"batch_{name}", asked)
        if self._profile.fails_fast and self._queue.limit is not None:
            await self._queue_or_refuse(batch)
        self._batches[batch.id] = batch
        stored = self._files.find(asked["input_file_id"])
        self._calls.ledger.enter_batch(batch.shown, stored.digest.hex() if stored is not None else None)
        batch.task = asyncio.get_running_loop().create_task(self._life.live(batch))
        return batch.view(self._clock())

    def poll(self, batch_id: str) -> tuple[Batch, Fault | None]:
        """The batch of this id, and the fault that one more poll of it meets."""
        batch = self._find(batch_id)
        batch.polls += 1
        fault = self._calls.meet(batch.digest + str(batch.number).encode(), batch.polls, POLL)
        if fault is not None and fault.name == "poll-outage":
            if batch.outage_until is None:
                batch.outage_until = self._clock() + fault.figure
            fault = None
        return batch, fault

    def listed(self, query: dict[str, str], *, overlap: bool = False) -> dict[str, Any]:
        """A page of batches, the newest first; one that overlaps begins with the last of the page before."""
        clock = self._clock()
        shown = [batch.view(clock) for batch in reversed(self._batches.values()) if clock >= batch.visible_at]
        return page(shown, query, default=20, most=100, overlap=overlap)

    def cancel(self, batch_id: str) -> dict[str, Any]:
        """Cancels a batch that is under way; what has been answered stays."""
        batch = self._find(batch_id)
        if batch.status in ENDED - {"cancelled"}:
            raise Refusal(409, f"Cannot cancel a batch with status '{batch.status}'.")
        if batch.status not in ("cancelling", "cancelled"):
            batch.cancel(self._wall())
        return batch.view(self._clock())

    def force(self, batch_id: str, fields: object) -> dict[str, Any]:
        """Shows these fields of a batch as they are given, from now on; none to show the truth again."""
        batch = self._find(batch_id)
        if not isinstance(fields, dict):
            raise wrong_type("fields", "an object", fields)
        batch.forced = fields
        return batch.view(self._clock())

    def queue_full(self, model: str | None = None) -> Refusal:
        """The immediate refusal of a batch for which the queue has no room."""
        return Refusal(400, self._queue.message(model or "this model"), code="token_limit_exceeded")

    async def stop(self) -> None:
        """Ends all batches where they stand, and forgets them."""
        tasks = [batch.task for batch in self._batches.values() if batch.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._webhooks.stop()
        self._batches.clear()
        self._comings.clear()
        self._queue.clear()
        self._life.clear()
        self._hour = Window(self._calls.settings.batches_per_hour, _HOUR, self._clock)

    def _find(self, batch_id: str) -> Batch:
        batch = self._batches.get(batch_id)
        if batch is None:
            raise no_batch(batch_id)
        return batch

    def _new(self, batch_id: str, asked: dict[str, Any]) -> Batch:
        now, clock = int(self._wall()), self._clock()
        digest = self.digest(asked)
        self._comings[digest] += 1
        number = self._comings[digest]
        lag = self._calls.meet(digest + b" batch", number, LISTED)
        shown = {
            "id": batch_id,
            "object": "batch",
            "endpoint": self._profile.endpoint(asked["endpoint"]),
            "input_file_id": asked["input_file_id"],
            "completion_window": "24h",
            "status": "validating",
            "output_file_id": self._profile.no_file,
            "error_file_id": self._profile.no_file,
            "created_at": now,
            "expires_at": now + _DAY,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": asked.get("metadata"),
        }
        if not self._profile.counts_early:
            shown["request_counts"] = {"total": 0, "completed": None, "failed": None}
        return Batch(
            shown,
            lifetime=(asked.get("output_expires_after") or {}).get("seconds"),
            digest=digest,
            number=number,
            visible_at=clock if lag is None else clock + lag.figure,
        )

    async def _queue_or_refuse(self, batch: Batch) -> None:
        lines = await self._life.read(batch.shown["input_file_id"], batch.shown["endpoint"])
        if lines.errors or self._queue.admit(batch.id, str(lines.model), lines.tokens):
            return
        raise self.queue_full(lines.model)


def no_batch(batch_id: str) -> Refusal:
    """There is no such batch."""
    return Refusal(404, f"No batch found with id '{batch_id}'.")


def too_many_batches(most: int) -> Refusal:
    """The account has made too many batches within the hour."""
    return Refusal(
        429,
        f"Rate limit reached: at most {most} batches may be created per hour. Please try again later.",
        kind="requests",
        code="rate_limit_exceeded",
    )


def _checked(body: object, profile: Profile) -> dict[str, Any]:
    """The body of a creation, or the API's refusal of it."""
    if not isinstance(body, dict):
        raise Refusal(400, "We could not parse the JSON body of your request.")
    for param in ("input_file_id", "endpoint", "completion_window"):
        if body.get(param) is None:
            raise missing(param)
    if not profile.endpoint(body["endpoint"]):
        raise invalid_value("endpoint", body["endpoint"], profile.endpoints)
    if body["completion_window"] != "24h":
        raise invalid_value("completion_window", body["completion_window"], ("24h",))
    metadata = body.get("metadata")
    if metadata is None:
        return body
    if not isinstance(metadata, dict):
        raise wrong_type("metadata", "an object", metadata)
    if len(metadata) > 16:
        message = f"Invalid 'metadata': too many properties. Expected at most 16, but got {len(metadata)}."
        raise Refusal(400, message, param="metadata", code="object_above_max_properties")
    for name, value in metadata.items():
        if not isinstance(value, str):
            raise wrong_type(f"metadata.{name}", "a string", value)
        if len(name) > 64 or len(value) > 512:
            message = f"Invalid 'metadata.{name}': a key has at most 64 characters, a value 512."
            raise Refusal(400, message, param=f"metadata.{name}", code="string_above_max_length")
    return body
