"""What becomes of a delivery: kept once, and a hint alone; the batch itself is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from scene import Scene, request_lines

from runner.api.account import Account
from runner.api.webhooks import Delivery
from runner.cli.listen import sentence
from runner.errors import StoreUnusable
from runner.listening import Hints, Listen, Refusals
from runner.remote import Refused, RemoteBatch, Unclear, Why
from runner.store import batches, webhooks
from runner.store.batches import NewBatch, NewLine
from runner.store.database import Store
from runner.store.identity import Identity
from runner.store.locks import SeriesLock
from runner.submission import Stage, Submission

ACCOUNT = Account("openai", "https://api.example/v1")
IDENTITY = Identity("requests", "", "/in/requests.jsonl", "openai", "https://api.example", "", "")
COMPLETED = RemoteBatch("batch_1", "completed", total=3, completed=2, failed=1)
EVENT = Delivery("wh_1", "batch.completed", "batch_1")

Answer = RemoteBatch | Refused | Unclear


def make_batch(scene: Scene, batch_id: str) -> int:
    """A batch of the scene's run that was submitted under this id; its number in the store."""
    scene.expand()
    made = Submission("shard", "0" * 64, run=scene.run.name)
    lines = [NewLine(call.task_id, 100) for call in scene.calls()]
    with scene.store.write() as connection:
        new = NewBatch(
            run_id=scene.run.id,
            series_id=scene.tenure.series_id,
            epoch=scene.tenure.epoch,
            account=IDENTITY.account,
            endpoint="chat",
            model="m",
            lines=len(lines),
            size=100,
            tokens=100,
            submission=made,
        )
        [number] = batches.plan(connection, [(new, lines)])
        batches.keep(connection, [(number, made._replace(stage=Stage.SUBMITTED, batch_id=batch_id))])
    return number


class Listener:
    """Hints over a store, what they asked the server, and what they said."""

    def __init__(
        self, store: Store, answer: Answer | Exception = COMPLETED, account: Account = ACCOUNT
    ) -> None:
        self.store = store
        self.answer = answer
        self.account = account
        self.asked: list[str] = []
        self.said: list[dict[str, Any]] = []

    def take(self, *deliveries: Delivery) -> list[str]:
        """Deliver, all at once, and wait for what follows; what was said, as lines."""

        async def deliver() -> None:
            hints = Hints(self.store, self.account, self.retrieve, self.said.append)
            try:
                await asyncio.gather(*map(hints.take, deliveries))
                await hints.settled()
            finally:
                await hints.close()

        self.said.clear()
        asyncio.run(deliver())
        return [sentence(event) for event in self.said]

    async def retrieve(self, batch_id: str) -> Answer:
        self.asked.append(batch_id)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    @property
    def hints(self) -> list[str]:
        with self.store.read() as connection:
            return webhooks.hints(connection, 0)[1]


@pytest.fixture
def scene(store: Store) -> Scene:
    return Scene(store, request_lines(3))


def test_the_batch_itself_says_how_it_is_and_the_line_what_to_do(scene: Scene) -> None:
    make_batch(scene, "batch_1")
    listener = Listener(scene.store)
    run = scene.run.name
    [line] = listener.take(EVENT)
    assert line == (
        f"Batch batch_1 of run {run} (requests): completed, 2 of 3 lines done, 1 failed. "
        f"`runner resume {run}` collects it."
    )
    assert listener.asked == ["batch_1"]
    assert listener.hints == ["batch_1"]


def test_a_repeated_delivery_is_not_acted_upon_again(scene: Scene) -> None:
    make_batch(scene, "batch_1")
    listener = Listener(scene.store)
    assert len(listener.take(EVENT, EVENT, EVENT)) == 3
    assert listener.take(EVENT) == ["Batch batch_1: batch.completed was delivered before."]
    assert listener.asked == ["batch_1"]
    assert listener.hints == ["batch_1"]


def test_a_batch_that_is_not_ours_is_not_asked_for(scene: Scene) -> None:
    listener = Listener(scene.store)
    assert listener.take(EVENT._replace(subject="batch_2")) == [
        "Batch batch_2 is of no run in this store (batch.completed)."
    ]
    assert listener.asked == []


@pytest.mark.parametrize(
    ("kind", "subject", "line"),
    [
        ("response.completed", "resp_1", "Nothing to do for response.completed (resp_1)."),
        ("batch.completed", None, "Nothing to do for batch.completed."),
        ("batchelor.party", "x", "Nothing to do for batchelor.party (x)."),
    ],
)
def test_other_events_are_said_and_forgotten(scene: Scene, kind: str, subject: str | None, line: str) -> None:
    listener = Listener(scene.store)
    assert listener.take(Delivery("wh_1", kind, subject)) == [line]
    assert (listener.asked, listener.hints) == ([], [])


@pytest.mark.parametrize(
    "account",
    [
        Account("openai", "https://elsewhere.example/v1"),
        Account("azure", "https://api.example/v1"),
        Account("openai", "https://api.example/v1", project="proj_2"),
    ],
)
def test_a_batch_of_another_account_is_not_asked_for_with_this_ones_key(
    scene: Scene, account: Account
) -> None:
    make_batch(scene, "batch_1")
    listener = Listener(scene.store, account=account)
    [line] = listener.take(EVENT)
    assert "another account (openai at https://api.example)" in line
    assert (listener.asked, listener.hints) == ([], ["batch_1"])


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (RemoteBatch("batch_1", "in_progress"), "in_progress. Nothing: it is not at its end."),
        (
            RemoteBatch("batch_1", "expired", total=3, completed=None),
            "expired, 0 of 3 lines done. `runner resume",
        ),
        (Refused(Why.FILE_GONE, "no such batch"), "could not be looked at (no such batch). `runner resume"),
        (Unclear("connection reset"), "could not be looked at (connection reset). `runner resume"),
        (Unclear(), "could not be looked at (no answer). `runner resume"),
        (TimeoutError(), "the server said nothing for 60 seconds. `runner resume"),
    ],
)
def test_what_the_server_says_is_said_whatever_the_event_claims(
    scene: Scene, answer: Answer | Exception, says: str
) -> None:
    make_batch(scene, "batch_1")
    [line] = Listener(scene.store, answer).take(EVENT)
    assert says in line


def test_a_process_that_waits_is_told_beside_its_lock(scene: Scene) -> None:
    make_batch(scene, "batch_1")
    listener = Listener(scene.store)
    with SeriesLock(scene.store.path, IDENTITY.digest):
        [line] = listener.take(EVENT)
    assert line.endswith("Nothing: the process that waits for it has been told.")
    assert listener.hints == ["batch_1"]


def test_a_batch_that_was_collected_before_needs_nothing(scene: Scene) -> None:
    make_batch(scene, "batch_1")
    with scene.store.write() as connection:
        connection.exec_driver_sql("UPDATE batch SET ended_at = 1, result = 'collected'")
    [line] = Listener(scene.store).take(EVENT)
    assert line.endswith("Nothing: it has ended here already (collected).")


def test_what_cannot_be_kept_is_not_acknowledged(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: object) -> list[bool]:
        raise StoreUnusable("The disk is full.")

    monkeypatch.setattr(webhooks, "note", cannot)
    listener = Listener(scene.store)
    with pytest.raises(StoreUnusable):
        listener.take(EVENT)
    assert listener.asked == []


def test_a_look_that_hangs_does_not_keep_it_from_ending(scene: Scene) -> None:
    make_batch(scene, "batch_1")
    asked: list[str] = []

    async def close() -> None:
        begun = asyncio.Event()

        async def hangs(batch_id: str) -> Answer:
            asked.append(batch_id)
            begun.set()
            await asyncio.Event().wait()
            return COMPLETED

        hints = Hints(scene.store, ACCOUNT, hangs, print)
        await hints.take(EVENT)
        await begun.wait()
        async with asyncio.timeout(5):
            await hints.close()

    asyncio.run(close())
    assert asked == ["batch_1"]


def test_refusals_are_said_ever_more_rarely(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[dict[str, Any]] = []
    refused: Callable[[int, str], None] = Refusals(said.append)
    for _ in range(1_000):
        refused(400, "it has no webhook-id header")
    assert [event["times"] for event in said] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert sentence(said[0]) == "Refused a delivery with 400: it has no webhook-id header."
    assert sentence(said[-1]).endswith("(512 refused so far).")


def test_the_secret_is_not_shown() -> None:
    assert "whsec_hidden" not in repr(Listen(ACCOUNT, "sqlite:///x.db", "127.0.0.1", 0, "whsec_hidden"))
