"""An adversarial world for the submission of batches, in virtual time, and what every history must come to.

A history is one shard, submitted by processes that die, stall, or go on after they were replaced, at a server
that loses requests and answers, carries creates out late, lists what it has late and in pages, and loses files.
Its number is its seed: the same number is the same history. Every history has a budget of faults; once it is
used up the world is fair, so that each must end.

The oracle is the server: which batches of the shard came to life.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

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
from runner.submission import Do, Protocol, Stage, Submission, audit

NEVER = 1e18
MOMENT = 0.05
SHARD = "r1_00001"
SHA256 = "5a" * 32
MOST_STEPS = 3000

NOT_NOW = tuple(Refused(why) for why in (Why.NOT_NOW, Why.QUEUE_FULL, Why.NO_ACCESS, Why.NO_MONEY))
FILE_GONE = Refused(Why.FILE_GONE)
CANNOT = Refused(Why.CANNOT)
FOR_GOOD = Refused(Why.FINAL, "no")
UNCLEAR = Unclear()
DELETED = Deleted()


class Bounds(NamedTuple):
    """How bad the world may be, in seconds. `late` counts from t_send: a stall before the bytes leave, and all
    that passes until the server has carried the create out. With `stall`, senders may stall for that long
    beyond it; `skew` is the local clock's distance from the server's, `jump` what it may change by meanwhile.
    """

    lag: float = 200.0
    late: float = 200.0
    jump: float = 150.0
    skew: float = 7200.0
    stall: float = 0.0
    faults: int = 7
    crash: float = 0.12
    takeover: float = 0.05
    fence_works: bool = True
    plain_server: bool = False


WORLDS = {
    "all a little": Bounds(),
    "late lists": Bounds(lag=570.0, late=10.0, jump=10.0),
    "late creates": Bounds(lag=10.0, late=570.0, jump=10.0),
    "sleepy senders": Bounds(lag=140.0, stall=20_000.0, takeover=0.15),
}
"""Within Q, each in its own way. Sleepy senders sleep for hours between t_send and the bytes, and are replaced
meanwhile: the file's fence must hold."""


class File:
    """A file at the server, from `born` to `gone`, listed from `listed` on."""

    __slots__ = ("born", "gone", "id", "listed", "name", "whole")

    def __init__(self, name: str, file_id: str, born: float, listed: float, *, whole: bool) -> None:
        self.id, self.name, self.born, self.listed, self.whole = file_id, name, born, listed, whole
        self.gone = NEVER


class Batch:
    """A create that reaches the server at `at`, and is in its lists from `listed` on."""

    __slots__ = ("at", "attempt", "file_id", "id", "listed", "shard")

    def __init__(self, number: str, sub: Submission, at: float, listed: float) -> None:
        self.id, self.at, self.listed = number, at, listed
        self.file_id, self.shard, self.attempt = sub.file_id, sub.shard, sub.attempt


class Server:
    """The provider. What a request does is fixed when it arrives; requests may arrive after their sender died."""

    def __init__(self, chance: Random, bounds: Bounds) -> None:
        draw = chance.random
        self.draw = draw
        self.faults = int(draw() * (bounds.faults + 1))
        scale = draw()
        self.lag = bounds.lag * (0.0 if scale < 0.2 else 1.0 if scale > 0.7 else scale)
        self.late = bounds.late * (1.0 if draw() < 0.5 else draw())
        kind = 1.0 if bounds.plain_server else draw()
        self.refuses = kind > 0.99 and not bounds.plain_server
        self.can_list = kind > 0.03
        self.shows_shard = not 0.03 < kind < 0.13
        self.shows_file = not 0.10 < kind < 0.20
        self.one_id_for_equal_bytes = not bounds.stall and self.shows_shard and 0.2 < kind < 0.35
        self.lists_files = kind > 0.06
        self.deletes_files = bounds.fence_works and (bool(bounds.stall) or draw() > 0.1)
        self.checks_file_at_once = draw() < 0.5
        self.page = 1 + int(draw() * 4)
        self.files: list[File] = []
        self.batches: list[Batch] = []
        twin = "equal" if self.one_id_for_equal_bytes else "f-other"
        other = Submission("r1_00002", SHA256, attempt=1, file_id=twin)
        for number in range(int(draw() * 5)):
            at = draw() * 3000.0 - 1500.0
            self.batches.append(Batch(f"x{number}", other, at, at + draw() * self.lag))

    def fault(self, odds: float) -> bool:
        """Whether the adversary strikes; its budget is finite."""
        if self.faults and self.draw() < odds:
            self.faults -= 1
            return True
        return False

    def trouble(self) -> Answer:
        """What somebody hears who was not listened to: nothing, mostly, or that it is not the time."""
        kind = self.draw()
        return UNCLEAR if kind < 0.6 else NOT_NOW[int((kind - 0.6) / 0.4 * 4)]

    def upload(self, name: str, now: float) -> tuple[float, Answer]:
        """Seconds to the answer, and the answer."""
        seconds = 1.0 + self.draw() * 30.0
        clear = True
        if self.refuses and self.page > 2:
            return seconds, FOR_GOOD
        if self.fault(0.4):
            kind = self.draw()
            if kind < 0.15:
                return seconds, NOT_NOW[int(kind / 0.15 * 4)]
            if kind < 0.5:
                return seconds, UNCLEAR
            clear = False
        at = now + seconds / 2
        same = self.one_id_for_equal_bytes
        id_ = "equal" if same else f"f{len(self.files)}"
        whole = same or clear or self.draw() > 0.3
        file = File(name, id_, at, at + self.draw() * self.lag, whole=whole)
        self.files.append(file)
        if self.fault(0.04):
            file.gone = at + self.draw() * 600.0
        return seconds, FileSeen(id_, at, SHA256) if clear else UNCLEAR

    def find_files(self, name: str, now: float) -> Answer:
        if not self.lists_files:
            return CANNOT
        if self.fault(0.2):
            return self.trouble()
        seen = [
            FileSeen(one.id, one.born, SHA256 if one.whole else "cut")
            for one in reversed(self.files)
            if one.name == name and one.listed <= now < one.gone
        ]
        return FilesSeen(tuple(seen))

    def create(self, sub: Submission, now: float, latest: float) -> tuple[float, Answer | Batch]:
        """Seconds to the answer, and the answer, or the batch whose fate at its arrival is the answer."""
        seconds = 0.1 + self.draw() * 2.0
        arrives, answered = now + seconds / 2, True
        if self.fault(0.6):
            kind = self.draw()
            if kind < 0.15:
                return seconds, NOT_NOW[int(kind / 0.15 * 4)]
            if kind < 0.35:
                return seconds, UNCLEAR
            answered = False
            if kind > 0.65:
                arrives = max(now, now + (latest - now) * (self.draw() if kind < 0.9 else 1.0))
        if self.refuses:
            return seconds, FOR_GOOD
        listed = arrives + self.lag * (self.draw() if self.draw() < 0.6 else 1.0)
        batch = Batch(f"b{len(self.batches)}", sub, arrives, listed)
        self.batches.append(batch)
        return seconds, batch if answered else UNCLEAR

    def has_input(self, batch: Batch) -> bool:
        """Whether the batch found its input file when it came. Asked only when no more can change it."""
        if batch.shard != SHARD:
            return True
        return any(one.id == batch.file_id and one.born <= batch.at < one.gone for one in self.files)

    def fate(self, batch: Batch) -> Answer:
        if self.checks_file_at_once and not self.has_input(batch):
            return FILE_GONE
        return Created(batch.id)

    def list_page(self, after: str | None, now: float) -> Answer:
        """A page of what is listed by now; an entry of the page before may come again."""
        if not self.can_list:
            return CANNOT
        if self.fault(0.12):
            return self.trouble()
        older_than, again = NEVER, False
        if after is not None:
            older_than = next(one.at for one in self.batches if one.id == after)
            again = self.draw() < 0.3
        shown = [
            one
            for one in self.batches
            if one.listed <= now
            and (one.at < older_than or (again and one.at == older_than))
            and not (self.checks_file_at_once and not self.has_input(one))
        ]
        shown.sort(key=lambda one: -one.at)
        size = self.page + again
        return Page(tuple([self.entry(one) for one in shown[:size]]), len(shown) > size)

    def entry(self, one: Batch) -> Listed:
        named = self.shows_shard
        return Listed(
            one.id,
            one.at,
            not self.has_input(one),
            one.file_id if self.shows_file else None,
            one.shard if named else None,
            one.attempt if named else None,
        )

    def delete(self, file_id: str, now: float) -> Answer:
        if not self.deletes_files:
            return CANNOT
        lost, unheard = self.fault(0.1), self.fault(0.1)
        if not lost:
            for one in self.files:
                if one.id == file_id and one.gone > now:
                    one.gone = max(now, one.born)
        if lost:
            return self.trouble()
        return UNCLEAR if unheard else DELETED


@dataclass(slots=True)
class Process:
    """One process of the product: what it waits for, and how long."""

    steps: Iterator[float]
    wakes: float


class History:
    """One shard's way through the world. `fenced` says whether the store refuses a process that was replaced."""

    def __init__(self, protocol: Protocol, chance: Random, bounds: Bounds, *, fenced: bool = True) -> None:
        self.protocol = protocol
        self.bounds = bounds
        self.fenced = fenced
        self.draw = chance.random
        self.server = Server(chance, bounds)
        self.now = 0.0
        self.epoch = 0
        self.kept = Submission(SHARD, SHA256)
        self.sending_at = 0.0
        self.skew = bounds.skew * (2.0 * self.draw() - 1.0)
        self.jumps_at = self.draw() * 1500.0 if self.draw() < 0.4 else NEVER
        self.jump = bounds.jump * (2.0 * self.draw() - 1.0 if self.draw() < 0.5 else 1.0)
        self.takeovers = 1 if self.draw() < bounds.takeover * 4 else 0
        self.steps_taken = 0
        self.done = False

    def clock(self) -> float:
        return self.now + self.skew + (self.jump if self.now >= self.jumps_at else 0.0)

    def stall(self) -> float:
        """Seconds between two steps: next to none, or a sender that sleeps."""
        if not self.server.fault(0.15 if self.kept.stage is Stage.SENDING else 0.02):
            return MOMENT
        return self.draw() * (self.bounds.stall or self.server.late / 2)

    def keep(self, sub: Submission, epoch: int) -> bool:
        """The store's transaction; False for a process that was replaced."""
        if epoch != self.epoch and self.fenced:
            return False
        if sub.stage is Stage.SENDING:
            self.sending_at = self.now
        self.kept = sub
        return True

    def process(self) -> Iterator[float]:
        """A process from its start; it yields the seconds until it goes on."""
        self.epoch += 1
        epoch, protocol = self.epoch, self.protocol
        sub = protocol.recover(self.kept, self.clock())
        if not self.keep(sub, epoch):
            return
        while True:
            step = protocol.next_step(sub, self.clock())
            do, sub = step.do, step.submission
            if do is Do.WAIT:
                yield max(0.01, step.until - self.clock())
                continue
            if do is Do.END:
                if not (yield from self.settled(sub, epoch)):
                    return
                sub = self.kept
                continue
            if do is not Do.KEEP:
                answer = yield from self.ask(do, sub)
                sub = protocol.after(sub, answer, self.clock())
            if sub.look is None and not self.keep(sub, epoch):
                return
            yield self.stall()

    def ask(self, do: Do, sub: Submission) -> Generator[float, None, Answer]:
        """One remote operation: yields while it is on its way, and returns its answer."""
        server = self.server
        if do is Do.UPLOAD:
            seconds, uploaded = server.upload(sub.filename, self.now)
            yield seconds
            return uploaded
        if do is Do.CREATE:
            if (pause := self.stall()) > MOMENT:
                yield pause
            latest = max(self.now, self.sending_at + server.late)
            seconds, created = server.create(sub, self.now, latest)
            yield seconds
            return server.fate(created) if isinstance(created, Batch) else created
        yield 0.2
        if do is Do.LIST:
            assert sub.look is not None
            return server.list_page(sub.look.after, self.now)
        if do is Do.FIND_FILE:
            return server.find_files(sub.filename, self.now)
        assert sub.file_id is not None
        deleted = server.delete(sub.file_id, self.now)
        yield 0.2
        return deleted

    def settled(self, sub: Submission, epoch: int) -> Generator[float, None, bool]:
        """What collecting finds; True where the batch came to nothing for want of its file and is submitted again."""
        batch = next((one for one in self.server.batches if one.id == sub.batch_id), None)
        yield 400.0
        if batch is not None and not self.server.has_input(batch):
            return self.keep(self.protocol.again(sub), epoch)
        self.done = True
        return False

    def run(self) -> End:
        """Let the processes run until the last is done, killing and replacing them on the way."""
        running = [Process(self.process(), 0.0)]
        crash, takeover, server = self.bounds.crash, self.bounds.takeover, self.server
        while running or not self.done:
            if not running:  # cron starts the next one
                running.append(Process(self.process(), self.now + self.draw() * self.draw() * 1500.0))
            one = running[0] if len(running) == 1 else min(running, key=lambda process: process.wakes)
            self.now = one.wakes
            pause = next(one.steps, None)
            self.steps_taken += 1
            if self.steps_taken > MOST_STEPS:
                break
            if pause is None:
                running.remove(one)
                continue
            one.wakes = self.now + pause
            if self.done:
                continue
            if server.fault(crash):
                running.remove(one)
            elif self.takeovers and self.draw() < takeover * 2:
                self.takeovers -= 1
                running.append(Process(self.process(), self.now + self.draw() * self.draw() * 60.0))
        return self.judge()

    def judge(self) -> End:
        server, kept = self.server, self.kept
        alive = [one for one in server.batches if one.shard == SHARD and server.has_input(one)]
        whole = {one.id for one in server.files if one.whole}
        return End(
            kept.stage,
            len(alive),
            any(one.id == kept.batch_id and one.file_id in whole for one in alive),
            len(audit([kept], [server.entry(one) for one in server.batches])) if len(alive) > 1 else 0,
            kept.attempt,
            self.now,
            self.steps_taken,
            server.can_list and (server.shows_shard or server.shows_file),
            server.refuses,
        )


class End(NamedTuple):
    """What a history came to. `right` says that the batch kept is alive and has the shard's whole bytes, `tells`
    that the server lists batches and whose they are, `refuses` that it creates none."""

    stage: Stage
    alive: int
    right: bool
    audited: int
    attempts: int
    seconds: float
    steps: int
    tells: bool
    refuses: bool

    @property
    def fault(self) -> str | None:
        """What is wrong with it, in a word, or None."""
        if self.steps > MOST_STEPS:
            return "endless"
        if self.alive > 1:
            return "submitted twice"
        if self.stage is Stage.SUBMITTED:
            return None if self.right else "lost"
        if self.stage is Stage.HELD:
            return "asked without need" if self.tells else None
        return None if self.refuses and not self.alive else "given up"


def play(
    number: int, protocol: Protocol | None = None, bounds: Bounds | None = None, *, fenced: bool = True
) -> End:
    """The history of that number."""
    return History(protocol or Protocol(), Random(number), bounds or Bounds(), fenced=fenced).run()


class Ends(NamedTuple):
    """What many histories came to: how many of each fault, by number the first of each, and other counts."""

    faults: Counter[str]
    first: dict[str, int]
    counts: Counter[str]


def play_all(
    numbers: range, protocol: Protocol, bounds: Bounds, *, fenced: bool = True, until_fault: str = ""
) -> Ends:
    """The histories of those numbers, or as many as it takes to the first that goes wrong in that way."""
    ends = ((number, History(protocol, Random(number), bounds, fenced=fenced).run()) for number in numbers)
    return tally(ends, until_fault)


def tally(numbered: Iterable[tuple[int, End]], until_fault: str = "") -> Ends:
    """What histories came to; reads on to the first that goes wrong in that way."""
    ends = Ends(Counter(), {}, Counter())
    for number, end in numbered:
        ends.counts[end.stage] += 1
        ends.counts["steps"] += end.steps
        ends.counts["again"] += end.attempts > 1
        fault = end.fault
        if fault is not None:
            ends.faults[fault] += 1
            ends.first.setdefault(fault, number)
            ends.counts["unaudited"] += end.alive > 1 and end.tells and not end.audited
            if fault == until_fault:
                break
    return ends
