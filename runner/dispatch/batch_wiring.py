"""What the life of a batch does its work by, handed in by whoever puts a dispatch together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from runner.admission import Full
from runner.dispatch.submitting import Stepped
from runner.remote import Failure, Refused, RemoteBatch, Unclear
from runner.store.batches import Kept
from runner.submission import Submission


class TakenIn(NamedTuple):
    """What came of the files of a batch. `settled` counts the lines that they tell of, at any time, and `left` the
    others; `waits` says that a file could not be had this time, `output_gone` that the answers never will."""

    settled: int = 0
    left: int = 0
    waits: bool = False
    output_gone: bool = False


@dataclass(frozen=True, slots=True)
class Wiring:
    """What a life does its work by. `beside` tells how many tokens others of ours have enqueued, `tell` the user
    what there is to know: the batch, a word, and a sentence where the word does not say it all."""

    step: Callable[[int, Submission, str], Awaitable[Stepped]]
    look: Callable[[str], Awaitable[RemoteBatch | Refused | Unclear]]
    cancel: Callable[[str], Awaitable[RemoteBatch | Refused | Unclear]]
    keep: Callable[[int, Submission], Awaitable[object]]
    see: Callable[[int, RemoteBatch], Awaitable[object]]
    take_in: Callable[[Kept, RemoteBatch], Awaitable[TakenIn]]
    settle_left: Callable[[Kept, str], Awaitable[object]]
    fail_lines: Callable[[Kept, tuple[Failure, ...]], Awaitable[object]]
    dissolve: Callable[[Kept], Awaitable[object]]
    end: Callable[[Kept, str], Awaitable[object]]
    beside: Callable[[Kept], int]
    learn: Callable[[Kept, Full], Awaitable[object]]
    tell: Callable[[Kept, str, str], None]
