"""No history of the submission protocol submits a shard twice or loses it, and each planted bug is caught.

RUNNER_HISTORIES asks for more of them; RUNNER_SEED sets the number of the first.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from submission_model import WORLDS, Bounds, play, play_all

from runner.remote import Answer, Deleted, FileSeen, Listed, Page, Refused, Unclear, Why
from runner.submission import Do, Protocol, Stage, Step, Submission, audit

HISTORIES = int(os.environ.get("RUNNER_HISTORIES", "200000"))
SEED = int(os.environ.get("RUNNER_SEED", "0"))
PARTS = 2
ENOUGH = 20_000
"""In how many histories a planted bug must show."""

LATE_LISTS, LATE_CREATES, SLEEPY = (WORLDS[name] for name in ("late lists", "late creates", "sleepy senders"))


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("bounds", WORLDS.values(), ids=WORLDS)
def test_no_shard_is_submitted_twice_or_lost(
    bounds: Bounds, part: int, record_property: Callable[[str, object], None]
) -> None:
    share = HISTORIES // PARTS // 4
    first = SEED + part * share
    ends = play_all(range(first, first + share), Protocol(), bounds)

    assert ends.faults == {}, f"histories of these numbers go wrong: {ends.first}"
    record_property("ends", ", ".join(f"{count} {stage!s}" for stage, count in ends.counts.items()))
    ended = (Stage.SUBMITTED, Stage.HELD, Stage.REFUSED)
    assert sum(ends.counts[stage] for stage in ended) == share
    assert ends.counts["again"] > share / 20, "the world is too kind to say anything"


def test_a_server_that_lists_whose_its_batches_are_is_never_a_reason_to_ask() -> None:
    ends = play_all(range(ENOUGH // 4), Protocol(), Bounds(plain_server=True))

    assert ends.counts[Stage.SUBMITTED] == ENOUGH // 4


def test_a_history_is_its_number() -> None:
    assert [play(number) for number in range(50)] == [play(number) for number in range(50)]


@pytest.mark.parametrize("quarantine", [0.0, 60.0, 300.0])
def test_a_quarantine_that_is_too_short_submits_twice_and_the_audit_tells(quarantine: float) -> None:
    ends = play_all(range(ENOUGH // 4), Protocol(quarantine), Bounds(lag=900.0))

    assert ends.faults["submitted twice"] > 0
    assert ends.counts["unaudited"] == 0
    assert set(ends.faults) == {"submitted twice"}


# --- planted bugs -------------------------------------------------------------------------------------


class CountsFromSending(Protocol):
    """Q counts from t_send, whoever finds the record: right as long as t_send is when the bytes leave."""

    def send(self, sub: Submission, now: float) -> Step:
        return Step(Do.CREATE, sub)

    def unknown(self, sub: Submission, now: float) -> Submission:
        return super().unknown(sub, now)._replace(since=sub.t_send)


class LooksAtOnceAfterTheFence(Protocol):
    """The last list follows the deletion at once: what came just before it is not listed yet."""

    def after_delete(self, sub: Submission, answer: Answer, now: float) -> Submission:
        kept = super().after_delete(sub, answer, now)
        gone = kept.stage is Stage.FENCED
        return kept._replace(since=now - self.quarantine, due=now) if gone else kept


class FirstDraft(CountsFromSending, LooksAtOnceAfterTheFence):
    """The protocol as it was first written down: right within its bounds, and nothing to spare."""


class KeepsTSendEarly(Protocol):
    """t_send is kept one transaction early: with the file's id, before the flag."""

    def after(self, sub: Submission, answer: Answer, now: float) -> Submission:
        kept = super().after(sub, answer, now)
        is_new = kept.stage is Stage.UPLOADED and sub.stage is not Stage.SENDING
        return kept._replace(t_send=now) if is_new else kept

    def uploaded(self, sub: Submission, now: float) -> Step:
        return Step(Do.KEEP, sub._replace(stage=Stage.SENDING))


class SendingOneTransactionEarly(KeepsTSendEarly, FirstDraft):
    """The same where Q counts from it."""


class SendingAfterTheSend(Protocol):
    """The flag and t_send are kept once the create has been answered or given up."""

    def uploaded(self, sub: Submission, now: float) -> Step:
        return Step(Do.CREATE, sub)

    def after(self, sub: Submission, answer: Answer, now: float) -> Submission:
        if sub.stage is Stage.UPLOADED:
            return self.after_create(sub._replace(t_send=now), answer, now)
        return super().after(sub, answer, now)


class SendsAgain(Protocol):
    """What an SDK does: a create without an answer goes out again."""

    def after_create(self, sub: Submission, answer: Answer, now: float) -> Submission:
        if isinstance(answer, Unclear):
            return sub._replace(stage=Stage.UPLOADED)
        return super().after_create(sub, answer, now)


class TakesSendingForUploaded(Protocol):
    """After a crash, a create under way is sent again."""

    def recover(self, sub: Submission, now: float) -> Submission:
        return super().recover(sub, now) if sub.stage is not Stage.SENDING else sub._replace(t_send=now)


class IgnoresMetadata(Protocol):
    """A listed batch is ours by its file id alone."""

    def is_ours(self, listed: Listed, sub: Submission) -> bool | None:
        return listed.file_id in sub.files and not listed.failed


class AdoptsTheNewest(Protocol):
    """Any batch since the upload is ours."""

    def is_ours(self, listed: Listed, sub: Submission) -> bool | None:
        return listed.created_at >= self.horizon(sub)


class AdoptsFailedOnesOfBefore(Protocol):
    """A failed batch of an earlier attempt stands for the attempt under way."""

    def is_ours(self, listed: Listed, sub: Submission) -> bool | None:
        return super().is_ours(listed._replace(failed=False), sub)


class GuessesWhereNothingTells(Protocol):
    """A batch that names neither shard nor file is somebody else's."""

    def is_ours(self, listed: Listed, sub: Submission) -> bool | None:
        return bool(super().is_ours(listed, sub))


class ReadsOnePage(Protocol):
    """The first page of a list stands for all."""

    def after_list(self, sub: Submission, answer: Answer, now: float) -> Submission:
        if isinstance(answer, Page):
            answer = answer._replace(has_more=False)
        return super().after_list(sub, answer, now)


class PagesBackByTheLocalClock(Protocol):
    """Pages are read back to t_send - 10 min, which is another clock than the list's."""

    def horizon(self, sub: Submission) -> float:
        return sub.t_send - 600.0


class AdoptsFilesByName(Protocol):
    """A file of the right name is taken, whatever it holds."""

    def is_our_file(self, file: FileSeen, sub: Submission) -> bool:
        return True


class CreatesWhereNoneCanList(Protocol):
    """No list is taken for an empty one."""

    def after_list(self, sub: Submission, answer: Answer, now: float) -> Submission:
        kept = super().after_list(sub, answer, now)
        return sub._replace(stage=Stage.PLANNED, look=None) if kept.stage is Stage.HELD else kept


class LeavesTheFile(Protocol):
    """Nothing fences a sender that sleeps."""

    def not_found(self, sub: Submission) -> Submission:
        return sub._replace(stage=Stage.PLANNED)


@pytest.mark.parametrize(
    ("bug", "bounds", "fault"),
    [
        (SendingOneTransactionEarly, Bounds(), "submitted twice"),
        (SendingAfterTheSend, Bounds(), "submitted twice"),
        (SendsAgain, Bounds(), "submitted twice"),
        (TakesSendingForUploaded, Bounds(), "submitted twice"),
        (IgnoresMetadata, Bounds(), "submitted twice"),
        (AdoptsTheNewest, Bounds(), "lost"),
        (AdoptsFailedOnesOfBefore, Bounds(stall=20_000.0, takeover=0.15), "submitted twice"),
        (GuessesWhereNothingTells, Bounds(), "submitted twice"),
        (ReadsOnePage, Bounds(), "submitted twice"),
        (PagesBackByTheLocalClock, Bounds(), "submitted twice"),
        (AdoptsFilesByName, Bounds(), "lost"),
        (CreatesWhereNoneCanList, Bounds(), "submitted twice"),
        (LeavesTheFile, SLEEPY, "submitted twice"),
        (LooksAtOnceAfterTheFence, SLEEPY, "submitted twice"),
    ],
)
def test_a_planted_bug_is_caught(bug: type[Protocol], bounds: Bounds, fault: str) -> None:
    ends = play_all(range(SEED, SEED + ENOUGH), bug(), bounds, until_fault=fault)

    assert fault in ends.first


def test_without_the_epochs_fence_a_replaced_process_submits_too() -> None:
    numbers = range(SEED, SEED + ENOUGH)

    ends = play_all(numbers, Protocol(), Bounds(), fenced=False, until_fault="submitted twice")

    assert "submitted twice" in ends.first


@pytest.mark.parametrize("bounds", [Bounds(), LATE_LISTS, LATE_CREATES])
def test_the_quarantine_alone_is_enough_and_no_longer_than_it_must_be(bounds: Bounds) -> None:
    """The fence and the look after it are a second net: without them Q holds by itself, but only just."""
    numbers = range(SEED, SEED + ENOUGH // 4)
    worse = bounds._replace(lag=1.4 * bounds.lag, late=1.4 * bounds.late, jump=1.4 * bounds.jump)

    assert play_all(numbers, LeavesTheFile(), bounds).faults == {}
    assert play_all(numbers, LeavesTheFile(), worse, until_fault="submitted twice").faults


# --- why Q does not count from t_send -----------------------------------------------------------------

ASLEEP = Bounds(lag=550.0, late=20.0, jump=0.0, stall=20_000.0, takeover=0.0, fence_works=False)
"""One process at a time, which sleeps between t_send and the bytes, sends, and dies before the answer."""


def test_counting_from_t_send_is_right_while_the_bytes_leave_in_time() -> None:
    assert play_all(range(SEED, SEED + ENOUGH // 2), FirstDraft(), Bounds()).faults == {}


def test_counting_from_t_send_is_wrong_where_a_sender_sleeps_before_the_bytes_leave() -> None:
    drafted = play_all(range(SEED, SEED + ENOUGH), CountsFromSending(), ASLEEP, until_fault="submitted twice")

    assert "submitted twice" in drafted.first
    assert play_all(range(SEED, SEED + ENOUGH // 2), Protocol(), ASLEEP).faults == {}


def test_where_q_does_not_count_from_t_send_an_early_one_does_no_harm() -> None:
    assert play_all(range(SEED, SEED + ENOUGH // 4), KeepsTSendEarly(), Bounds()).faults == {}


# --- single steps that the histories seldom or never come by -----------------------------------------

SENDING = Submission("r1_00001", "5a" * 32, Stage.SENDING, attempt=1, file_id="f1", files=("f1",), t_send=1e9)


def test_a_clock_that_was_set_back_by_years_begins_the_count_again() -> None:
    protocol = Protocol()

    step = protocol.next_step(protocol.recover(SENDING, 1e9), 0.0)

    assert (step.do, step.submission.since) == (Do.KEEP, 0.0)
    assert protocol.next_step(step.submission, 0.0).do is Do.LIST


@pytest.mark.parametrize("late", [11.0, 86_400.0, -1.0])
def test_a_sender_whose_t_send_is_old_keeps_a_new_one_before_it_sends(late: float) -> None:
    step = Protocol().next_step(SENDING, 1e9 + late)

    assert (step.do, step.submission) == (Do.KEEP, SENDING._replace(t_send=1e9 + late))
    assert Protocol().next_step(step.submission, 1e9 + late).do is Do.CREATE


@pytest.mark.parametrize("quarantine", [0.0, 2.0, 600.0, 100_000.0])
def test_any_quarantine_is_kept_and_lists_at_a_bearable_pace(quarantine: float) -> None:
    protocol, now, lists = Protocol(quarantine), 1e9, 0
    sub = protocol.recover(SENDING, now)

    while sub.stage is not Stage.PLANNED:
        step = protocol.next_step(sub, now)
        sub = step.submission
        if step.do is Do.WAIT:
            now = step.until
        elif step.do is Do.LIST:
            lists += 1
            sub = protocol.after(sub, Page((), has_more=False), now)
        else:
            assert step.do is Do.DELETE_FILE
            assert now - 1e9 >= quarantine
            sub = protocol.after(sub, Deleted(), now)

    assert 1.5 * quarantine <= now - 1e9 <= 1.6 * quarantine + 10
    assert lists <= 6 + quarantine / 2000


def test_of_several_batches_the_oldest_is_adopted_and_the_others_are_named() -> None:
    protocol = Protocol()
    sub = protocol.next_step(protocol.recover(SENDING, 1e9), 1e9).submission
    young, failed, old = (
        Listed(name, at, name == "failed", "f1", "r1_00001", 1)
        for name, at in (("young", 30.0), ("failed", 20.0), ("old", 10.0))
    )

    sub = protocol.after(sub, Page((young, failed), has_more=True), 1e9)
    assert (sub.stage, protocol.next_step(sub, 1e9).do) == (Stage.UNKNOWN, Do.LIST)
    sub = protocol.after(sub, Page((failed, old), has_more=False), 1e9)

    assert (sub.stage, sub.batch_id, sub.extras) == (Stage.SUBMITTED, "old", ("young",))
    assert audit([sub], [young, failed, old]) == [young]


LATER = [Why.NOT_NOW, Why.QUEUE_FULL]


@pytest.mark.parametrize("stage", [Stage.UPLOADING, Stage.SENDING])
@pytest.mark.parametrize("why", [*LATER, Why.NO_ACCESS, Why.NO_MONEY])
def test_what_is_refused_for_now_was_not_executed_and_is_asked_again(stage: Stage, why: Why) -> None:
    sub = SENDING._replace(stage=stage, tries=2)

    after = Protocol().after(sub, Refused(why, wait=90.0), 1e9)

    assert after.stage is (Stage.UPLOADING if stage is Stage.UPLOADING else Stage.UPLOADED)
    assert after.due == (1e9 + 90.0 if why in LATER else 1e9)
    assert after.tries == (3 if why in LATER else 2)


@pytest.mark.parametrize("stage", [Stage.SEEKING, Stage.UNKNOWN, Stage.FENCING, Stage.FENCED])
@pytest.mark.parametrize("why", [*LATER, Why.NO_ACCESS, Why.NO_MONEY])
def test_what_is_refused_for_now_tells_nothing_of_an_unknown_fate(stage: Stage, why: Why) -> None:
    protocol = Protocol()
    sub = protocol.next_step(SENDING._replace(stage=stage, since=1e9, due=1e9), 1e9).submission

    after = protocol.after(sub, Refused(why, wait=90.0), 1e9)

    assert (after.stage, after.look, after.clean_lists) == (stage, None, 0)
    assert after.due == (1e9 + 90.0 if why in LATER else 1e9)


def test_a_key_that_was_refused_for_days_costs_no_wait_once_it_is_right() -> None:
    protocol, sub = Protocol(), SENDING
    for hour in range(72):
        now = 1e9 + 3600.0 * hour
        sub = protocol.after(sub._replace(stage=Stage.SENDING), Refused(Why.NO_ACCESS), now)

    assert protocol.next_step(sub, 1e9 + 3600.0 * 71).do is Do.KEEP


UNKNOWN = SENDING._replace(stage=Stage.UNKNOWN, since=1e9, due=1e9)


@pytest.mark.parametrize("why", [Why.CANNOT, Why.FINAL])
def test_where_no_list_will_ever_be_had_nothing_is_created_on_a_guess(why: Why) -> None:
    protocol = Protocol()

    held = protocol.after(protocol.next_step(UNKNOWN, 1e9).submission, Refused(why), 1e9)

    assert (held.stage, held.look) == (Stage.HELD, None)
    assert held.words == (
        "whether the batch of file f1 was created is not known, and this server cannot list batches"
    )
    assert protocol.next_step(held, 2e9).do is Do.END
    assert protocol.recover(held, 2e9) == held


def test_a_page_that_is_refused_for_its_cursor_is_no_reason_to_ask_until_it_always_is() -> None:
    protocol, sub, now = Protocol(), UNKNOWN, 1e9
    page = Page((Listed("x1", 1e9, failed=False, file_id="f9", shard="other", attempt=1),), has_more=True)
    broken = 0

    while sub.stage is Stage.UNKNOWN:
        step = protocol.next_step(sub, now)
        now, sub = max(now, step.until), step.submission
        if step.do is Do.LIST and sub.look is not None:
            first = sub.look.after is None
            broken += not first
            sub = protocol.after(sub, page if first else Refused(Why.FINAL), now)

    assert (sub.stage, broken) == (Stage.HELD, 6)
    assert now < 1e9 + 60


def test_a_server_that_refuses_to_list_files_gets_a_twin() -> None:
    seeking = SENDING._replace(stage=Stage.SEEKING, file_id=None)

    assert Protocol().after(seeking, Refused(Why.FINAL), 1e9).stage is Stage.UPLOADING
