"""The histories of `submission_model`, with the product's driver and a real store in the place of the model's own.

A process is a `Submitting` on an API that is the model's server. It runs in virtual time: what it awaits are
seconds, and a crash drops it at one of its awaits, also between a commit and the news of it. What the next one
knows is what the store has.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from scene import IDENTITY, Scene, request_lines
from submission_model import MOMENT, SHA256, SHARD, Batch, Bounds, Ends, History, tally

from runner.dispatch.submitting import Submitting
from runner.errors import AccessRefused, Fenced, MoneyRefused
from runner.store import batches, series
from runner.store.batches import NewBatch, NewLine
from runner.store.database import Store
from runner.store.series import Tenure
from runner.submission import Protocol, Stage, Submission

Result = TypeVar("Result")
Keep = Callable[[int, Submission], Awaitable[None]]
MakeDriver = Callable[["Wire", Keep, Protocol], Submitting]
ENDS = (Stage.SUBMITTED, Stage.HELD, Stage.REFUSED)
ENDPOINT = "/v1/responses"


class Pause:
    """An await that takes so many seconds of virtual time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __await__(self) -> Generator[float, None, None]:
        yield self.seconds


def ridden(coroutine: Coroutine[Any, Any, Result]) -> Generator[float, None, Result]:
    """A coroutine that awaits pauses alone, as a generator of their seconds."""
    try:
        while True:
            try:
                seconds = coroutine.send(None)
            except StopIteration as done:
                result: Result = done.value
                return result
            yield seconds
    finally:
        coroutine.close()


class Wire:
    """The model's server as one process reaches it: all that it hears is what goes over the wire."""

    def __init__(self, history: DrivenHistory) -> None:
        self.history = history
        self.bytes = history.shards.bytes

    def clock(self) -> float:
        return self.history.clock()

    async def bytes_of(self, sub: Submission) -> Path:
        await Pause(MOMENT)
        return self.bytes

    async def upload(self, path: Path, name: str) -> Any:
        assert path == self.bytes
        seconds, answer = self.history.server.upload(name, self.history.now)
        await Pause(seconds)
        return answer

    async def find_files(self, name: str, size: int) -> Any:
        assert size == self.bytes.stat().st_size
        await Pause(0.2)
        return self.history.server.find_files(name, self.history.now)

    async def create(self, file_id: str, endpoint: str, metadata: Mapping[str, str]) -> Any:
        assert endpoint == ENDPOINT
        history, server = self.history, self.history.server
        if (pause := history.stall()) > MOMENT:
            await Pause(pause)
        sent = Submission(
            metadata["shard"], metadata["sha256"], attempt=int(metadata["attempt"]), file_id=file_id
        )
        latest = max(history.now, history.sending_at + server.late)
        seconds, created = server.create(sent, history.now, latest)
        await Pause(seconds)
        return server.fate(created) if isinstance(created, Batch) else created

    async def list_page(self, after: str | None) -> Any:
        await Pause(0.2)
        return self.history.server.list_page(after, self.history.now)

    async def delete_file(self, file_id: str) -> Any:
        await Pause(0.2)
        deleted = self.history.server.delete(file_id, self.history.now)
        await Pause(0.2)
        return deleted


def submitting(wire: Wire, keep: Keep, protocol: Protocol) -> Submitting:
    """The product's driver."""
    return Submitting(protocol, wire, keep, bytes_of=wire.bytes_of, clock=wire.clock)


class ShardStore:
    """A store with a run that has a task for each history: its shard."""

    def __init__(self, store: Store, folder: Path, shards: int) -> None:
        scene = Scene(store, request_lines(shards))
        scene.expand()
        self.store, self.run_id, self.series_id = store, scene.run.id, scene.tenure.series_id
        self.bytes = folder / "shard.jsonl"
        self.bytes.write_bytes(b"{}\n")
        self.tasks = [task_id for (task_id,) in scene.query("SELECT id FROM task ORDER BY id")]

    def plan(self) -> int:
        """A new batch of one line, in the store; its number."""
        shard = Submission(SHARD, SHA256)
        new = NewBatch(self.run_id, self.series_id, 1, "account", "responses", "m", 1, 3, 10, shard)
        with self.store.write() as connection:
            [batch_id] = batches.plan(connection, [(new, [NewLine(self.tasks.pop(), None)])])
        return batch_id


class DrivenHistory(History):
    """One shard's way through the world of the model, by the product's own driver and store."""

    def __init__(
        self, shards: ShardStore, make: MakeDriver, protocol: Protocol, chance: Random, bounds: Bounds
    ) -> None:
        super().__init__(protocol, chance, bounds)
        self.shards = shards
        self.make = make
        self.batch_id = shards.plan()

    def process(self) -> Iterator[float]:
        with self.shards.store.write() as connection:
            tenure = series.take(connection, IDENTITY)
            sub = batches.get(connection, self.batch_id).submission
        assert sub == self.kept

        async def keep(batch_id: int, record: Submission) -> None:
            await Pause(MOMENT)
            self.commit(tenure, batch_id, record)
            await Pause(MOMENT)

        driver = self.make(Wire(self), keep, self.protocol)
        while True:
            try:
                stepped = yield from ridden(driver.step(self.batch_id, sub, ENDPOINT))
                sub = stepped.submission
                if sub.stage in ENDS:
                    if not (yield from self.settled(sub, tenure.epoch)):
                        return
                    sub = self.kept
            except (Fenced, AccessRefused, MoneyRefused):
                return
            if stepped.until is None:
                yield self.stall()
            else:
                yield max(0.01, stepped.until - self.clock())

    def commit(self, tenure: Tenure, batch_id: int, record: Submission) -> None:
        """What the store's writer does."""
        with self.shards.store.write() as connection:
            series.fence(connection, tenure)
            batches.keep(connection, [(batch_id, record)])
        if record.stage is Stage.SENDING:
            self.sending_at = self.now
        self.kept = record

    def keep(self, sub: Submission, epoch: int) -> bool:
        self.commit(Tenure(self.shards.series_id, epoch), self.batch_id, sub)
        return True


def drive_all(
    numbers: range,
    shards: ShardStore,
    bounds: Bounds,
    *,
    make: MakeDriver = submitting,
    until_fault: str = "",
) -> Ends:
    """The histories of those numbers by the product's driver, or as many as it takes to the first that goes wrong
    in that way."""
    return tally(
        (
            (number, DrivenHistory(shards, make, Protocol(), Random(number), bounds).run())
            for number in numbers
        ),
        until_fault,
    )
