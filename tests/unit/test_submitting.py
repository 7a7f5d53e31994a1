"""The driver of submissions: through the model's histories with a real store, and its single steps.

RUNNER_HISTORIES and RUNNER_SEED are those of test_submission.py; of so many, three in two hundred are driven.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from driven_submission import (
    ENDPOINT,
    DrivenHistory,
    Keep,
    MakeDriver,
    ShardStore,
    Wire,
    drive_all,
    submitting,
)
from submission_model import WORLDS, Bounds

from runner.dispatch.submitting import BytesGone, Stepped, Submitting
from runner.errors import AccessRefused, MoneyRefused, RunnerError, StoreUnusable
from runner.remote import (
    Answer,
    Created,
    Deleted,
    FileSeen,
    FilesSeen,
    Listed,
    Page,
    Refused,
    Unclear,
    Why,
)
from runner.store.database import Store
from runner.submission import Do, Protocol, Stage, Submission

DRIVEN = int(os.environ.get("RUNNER_HISTORIES", "200000")) * 3 // 200
SEED = int(os.environ.get("RUNNER_SEED", "0"))
ENOUGH = 400
"""In how many histories a planted bug must show."""


@pytest.mark.parametrize("bounds", WORLDS.values(), ids=WORLDS)
def test_no_history_submits_a_shard_twice_or_loses_it(store: Store, tmp_path: Path, bounds: Bounds) -> None:
    share = DRIVEN // 4

    ends = drive_all(range(SEED, SEED + share), ShardStore(store, tmp_path, share), bounds)

    assert ends.faults == {}, f"histories of these numbers go wrong: {ends.first}"
    assert sum(ends.counts[stage] for stage in (Stage.SUBMITTED, Stage.HELD, Stage.REFUSED)) == share
    assert ends.counts["again"] > share / 20, "the world is too kind to say anything"


def test_a_crash_at_any_two_awaits_costs_no_batch(store: Store, tmp_path: Path) -> None:
    """Enumerated, at a server without faults: one process dies at its k-th await, the next at the l-th of all."""
    shards = ShardStore(store, tmp_path, 2000)

    def crashed(*places: int) -> int:
        """In how many of these places a process died."""
        bounds = Bounds(lag=0.0, late=0.0, jump=0.0, takeover=0.0, plain_server=True, crash=9.0)
        history = DrivenHistory(shards, submitting, Protocol(), Random(1), bounds)
        awaits = died = 0

        def fault(odds: float) -> bool:
            nonlocal awaits, died
            awaits += odds == bounds.crash
            strikes = odds == bounds.crash and awaits in places
            died += strikes
            return strikes

        history.server.fault = fault  # type: ignore[method-assign]
        end = history.run()
        assert (end.stage, end.alive, end.fault) == (Stage.SUBMITTED, 1, None), places
        return died

    k = 1
    while crashed(k):
        after = k + 1
        while crashed(k, after) == 2:
            after += 1
        k += 1
    assert k > 15


# --- planted bugs -------------------------------------------------------------------------------------


class CreatesBeforeSendingIsKept(Submitting):
    """The create goes out first; the flag, t_send and what came of it are kept together."""

    async def step(self, batch_id: int, sub: Submission, endpoint: str) -> Stepped:
        following = self._protocol.next_step(sub, self._clock())
        sending = following.submission
        if following.do is not Do.KEEP or sending.stage is not Stage.SENDING:
            return await super().step(batch_id, sub, endpoint)
        assert sending.file_id is not None
        answer = await self._api.create(sending.file_id, endpoint, sending.metadata)
        led_to = self._protocol.after(sending, answer, self._clock())
        await self._keep(batch_id, led_to)
        return Stepped(led_to)


class TakesNothingForLeftByAnother(Submitting):
    """A record of a create under way is gone on with, whoever left it."""

    async def step(self, batch_id: int, sub: Submission, endpoint: str) -> Stepped:
        self._known.add(batch_id)
        return await super().step(batch_id, sub, endpoint)


class AsksAgain(Wire):
    """What an SDK does: a create without an answer goes out again."""

    async def create(self, file_id: str, endpoint: str, metadata: Mapping[str, str]) -> Any:
        answer = await super().create(file_id, endpoint, metadata)
        if isinstance(answer, Unclear):
            answer = await super().create(file_id, endpoint, metadata)
        return answer


def driver_of(kind: type[Submitting]) -> MakeDriver:
    def make(wire: Wire, keep: Keep, protocol: Protocol) -> Submitting:
        return kind(protocol, wire, keep, bytes_of=wire.bytes_of, clock=wire.clock)

    return make


def keeping_late(wire: Wire, keep: Keep, protocol: Protocol) -> Submitting:
    """A record is on disk when the next one is handed in: nobody waits for the commit."""
    handed_in: list[Submission] = []

    async def keep_late(batch_id: int, record: Submission) -> None:
        handed_in.append(record)
        if len(handed_in) > 1:
            await keep(batch_id, handed_in.pop(0))
        if record.stage is Stage.SUBMITTED:
            await keep(batch_id, handed_in.pop())

    return submitting(wire, keep_late, protocol)


def asking_again(wire: Wire, keep: Keep, protocol: Protocol) -> Submitting:
    return submitting(AsksAgain(wire.history), keep, protocol)


@pytest.mark.parametrize(
    "make",
    [
        driver_of(CreatesBeforeSendingIsKept),
        driver_of(TakesNothingForLeftByAnother),
        keeping_late,
        asking_again,
    ],
    ids=["creates before sending is kept", "takes nothing for left by another", "keeps late", "asks again"],
)
def test_a_planted_bug_is_caught(store: Store, tmp_path: Path, make: MakeDriver) -> None:
    shards = ShardStore(store, tmp_path, ENOUGH)

    ends = drive_all(range(SEED, SEED + ENOUGH), shards, Bounds(), make=make, until_fault="submitted twice")

    assert "submitted twice" in ends.first


# --- single steps -------------------------------------------------------------------------------------

NOW = 1e9
SHARD = Submission("r1_00001", "5a" * 32, attempt=1)
UPLOADED = SHARD._replace(stage=Stage.UPLOADED, file_id="f1", files=("f1",), first_file_at=NOW)
UNKNOWN = UPLOADED._replace(stage=Stage.UNKNOWN, since=NOW, due=NOW)


class Scripted:
    """A server that gives these answers, one after another, and a store; `told` is what either heard, in order."""

    def __init__(self, *answers: Answer | BaseException, path: Path | None = None) -> None:
        self.answers = list(answers)
        self.told: list[tuple[Any, ...]] = []
        self.path = path
        self.now = NOW
        self.keep_fails = False
        self.driver = Submitting(Protocol(), self, self.keep, bytes_of=self.bytes_of, clock=lambda: self.now)

    def step(self, sub: Submission) -> Stepped:
        return asyncio.run(self.driver.step(7, sub, ENDPOINT))

    async def keep(self, batch_id: int, sub: Submission) -> None:
        if self.keep_fails:
            raise StoreUnusable("the disk is gone")
        self.told.append(("keep", batch_id, sub.stage))

    async def bytes_of(self, sub: Submission) -> Path | None:
        return self.path

    def hears(self, *words: Any) -> Any:
        self.told.append(words)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def upload(self, path: Path, name: str) -> Any:
        return self.hears("upload", path, name)

    async def find_files(self, name: str, size: int) -> Any:
        return self.hears("find", name, size)

    async def create(self, file_id: str, endpoint: str, metadata: Mapping[str, str]) -> Any:
        return self.hears("create", file_id, endpoint, dict(metadata))

    async def list_page(self, after: str | None) -> Any:
        return self.hears("list", after)

    async def delete_file(self, file_id: str) -> Any:
        return self.hears("delete", file_id)


def test_the_plain_way_keeps_each_record_before_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "shard.jsonl"
    path.write_bytes(b"{}\n")
    server = Scripted(FileSeen("f1", NOW), Created("b1"), path=path)
    stepped = Stepped(Submission("r1_00001", "5a" * 32, run="calm-otter"))
    name = "runner_r1_00001_1_5a5a5a5a5a5a5a5a.jsonl"

    while stepped.submission.stage is not Stage.SUBMITTED:
        assert stepped.until is None
        stepped = server.step(stepped.submission)

    metadata = {
        "tool": "runner",
        "run": "calm-otter",
        "shard": "r1_00001",
        "attempt": "1",
        "sha256": "5a" * 32,
    }
    assert server.told == [
        ("keep", 7, Stage.UPLOADING),
        ("upload", path, name),
        ("keep", 7, Stage.UPLOADED),
        ("keep", 7, Stage.SENDING),
        ("create", "f1", ENDPOINT, metadata),
        ("keep", 7, Stage.SUBMITTED),
    ]
    assert server.step(stepped.submission) == stepped
    assert len(server.told) == 6


def test_a_list_is_read_page_by_page_and_kept_once_it_is_whole() -> None:
    other = Listed("x1", NOW, failed=False, file_id="f9", shard="r1_00002", attempt=1)
    server = Scripted(Page((other,), has_more=True), Page((), has_more=False))

    first = server.step(UNKNOWN)
    second = server.step(first.submission)

    assert server.told == [("list", None), ("list", "x1"), ("keep", 7, Stage.UNKNOWN)]
    assert first.until is None
    assert second.until == NOW + 200.0
    assert server.step(second.submission) == second


def test_an_upload_of_unknown_fate_is_looked_for_with_its_size(tmp_path: Path) -> None:
    path = tmp_path / "shard.jsonl"
    path.write_bytes(b"{}\n")
    server = Scripted(FilesSeen((FileSeen("f1", NOW, "5a" * 32),)), path=path)

    found = server.step(SHARD._replace(stage=Stage.SEEKING)).submission

    assert server.told == [("find", SHARD.filename, 3), ("keep", 7, Stage.UPLOADED)]
    assert (found.stage, found.file_id) == (Stage.UPLOADED, "f1")


@pytest.mark.parametrize("stage", [Stage.UPLOADING, Stage.SEEKING])
def test_a_shard_whose_bytes_are_gone_is_given_up_before_anything_is_asked(stage: Stage) -> None:
    server = Scripted()
    uploading = server.step(SHARD._replace(stage=Stage.PLANNED)).submission
    server.told.clear()

    with pytest.raises(BytesGone):
        server.step(uploading._replace(stage=stage))

    assert server.told == []


@pytest.mark.parametrize("stage", [Stage.UPLOADING, Stage.SEEKING])
def test_a_file_that_cannot_be_read_is_named_and_nothing_is_lost(stage: Stage, tmp_path: Path) -> None:
    gone = FileNotFoundError(2, "No such file or directory")
    server = Scripted(gone, path=tmp_path / "shard.jsonl")
    uploading = server.step(SHARD).submission

    with pytest.raises(StoreUnusable, match=r"shard\.jsonl, cannot be read: No such file or directory\. "):
        server.step(uploading._replace(stage=stage))

    assert server.step(uploading).submission.stage is Stage.SEEKING


def test_a_full_queue_is_told_to_who_drives(tmp_path: Path) -> None:
    full = Refused(Why.QUEUE_FULL, "Enqueued token limit reached", wait=90.0)
    server = Scripted(full, Unclear(), path=tmp_path)

    sending = server.step(UPLOADED).submission
    stepped = server.step(sending)

    assert (stepped.refused, stepped.until) == (full, NOW + 90.0)
    assert stepped.submission.stage is Stage.UPLOADED
    assert server.step(stepped.submission) == Stepped(stepped.submission, NOW + 90.0)


def test_a_full_queue_where_nothing_was_to_be_queued_is_a_wait_and_no_more() -> None:
    """Whoever drives would take it for a create that surely did nothing."""
    server = Scripted(Refused(Why.QUEUE_FULL, "Enqueued token limit reached"))

    stepped = server.step(UNKNOWN)

    assert (stepped.submission.stage, stepped.refused, stepped.until) == (Stage.UNKNOWN, None, NOW + 1.0)


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        (Stage.UPLOADED, "to create the batch of runner_r1_00001_1_5a5a5a5a5a5a5a5a.jsonl (file f1)"),
        (Stage.UNKNOWN, "to list the batches"),
        (Stage.FENCING, "to delete the file f1"),
    ],
)
@pytest.mark.parametrize(
    ("why", "error", "advice"),
    [(Why.NO_ACCESS, AccessRefused, "OPENAI_API_KEY"), (Why.NO_MONEY, MoneyRefused, "Top up")],
)
def test_a_refusal_of_the_account_is_kept_and_ends_the_run(
    stage: Stage, says: str, why: Why, error: type[RunnerError], advice: str
) -> None:
    server = Scripted(Refused(why, "api.example answered with HTTP 401: not with this key."))
    sub = UNKNOWN._replace(stage=stage)
    if stage is Stage.UPLOADED:
        sub = server.step(sub).submission

    with pytest.raises(error) as caught:
        server.step(sub)

    text = str(caught.value)
    assert says in text
    assert "HTTP 401: not with this key. " in text
    assert advice in text
    assert "same command again" in text
    assert ("No batch of it was created" in text) == (stage is Stage.UPLOADED)
    assert server.told[-1] == ("keep", 7, stage)


@pytest.mark.parametrize(
    ("stage", "then"), [(Stage.UPLOADING, Stage.SEEKING), (Stage.SENDING, Stage.UNKNOWN)]
)
def test_what_another_process_left_is_of_unknown_fate(stage: Stage, then: Stage) -> None:
    server = Scripted()

    stepped = server.step(UPLOADED._replace(stage=stage, t_send=NOW))

    assert stepped.submission.stage is then
    assert server.told == [("keep", 7, then)]


def test_a_create_that_was_cut_off_is_not_sent_again_by_the_same_process() -> None:
    server = Scripted(asyncio.CancelledError(), Created("b2"))
    sending = server.step(UPLOADED).submission
    with pytest.raises(asyncio.CancelledError):
        server.step(sending)

    assert server.step(sending).submission.stage is Stage.UNKNOWN
    assert [words[0] for words in server.told] == ["keep", "create", "keep"]


def test_a_create_whose_answer_cannot_be_kept_is_not_sent_again_either() -> None:
    server = Scripted(Created("b1"), Created("b2"))
    sending = server.step(UPLOADED).submission
    server.keep_fails = True
    with pytest.raises(StoreUnusable):
        server.step(sending)
    server.keep_fails = False

    assert server.step(sending).submission.stage is Stage.UNKNOWN
    assert [words[0] for words in server.told] == ["keep", "create", "keep"]


def test_a_deleted_file_leads_to_the_last_list() -> None:
    server = Scripted(Deleted())

    stepped = server.step(UNKNOWN._replace(stage=Stage.FENCING))

    assert (stepped.submission.stage, stepped.until) == (Stage.FENCED, NOW + 300.0)
    assert server.told == [("delete", "f1"), ("keep", 7, Stage.FENCED)]
