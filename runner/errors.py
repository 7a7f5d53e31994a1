"""Everything that stops a command, and the exit code that says so.

    RunnerError
    ├── UsageError             2   the command line asks for something that cannot be
    ├── Paused                 4   stopped before the end; the same command goes on
    │   ├── Interrupted            Ctrl-C, SIGTERM, or `runner cancel`
    │   ├── BudgetReached          the next call could overshoot the budget
    │   └── MoneyRefused           the account has no money, or has met its spending limit
    ├── SeriesLocked           5   another process is running this series
    ├── BadInput              65   lines that cannot be asked; nothing was paid
    ├── OutputUnwritable      73   the output cannot be written, or is not ours to replace
    ├── StoreUnusable         74   the store cannot be opened, read or written
    │   └── Fenced                 another process took the series over
    ├── NotFinished           75   what could be done now is done; batches are out, or rows wait
    ├── AccessRefused         77   no key, or the key or a permission was refused
    └── BadConfiguration      78   job file, price file, version
        ├── BadJob                 every fault of a job file at once
        └── BatchRefused           the server takes no such batch

The text of an error is what its user reads: what happened, where, and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class RunnerError(Exception):
    """The command stopped. Its message says why, where, and what to do next."""

    exit_code = 70


class UsageError(RunnerError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class Paused(RunnerError):
    """The run stopped before its end. What is answered is kept; the same command goes on."""

    exit_code = 4


class Interrupted(Paused):
    """The run was asked to stop."""


class BudgetReached(Paused):
    """The next call could cost more than is left of the budget."""


class MoneyRefused(Paused):
    """The provider answers that the account has no money left, or has met its spending limit."""


class SeriesLocked(RunnerError):
    """Another process is running this series."""

    exit_code = 5


LISTED_FAULTS = 20
"""How many faults of an input a screen shows; the errors file has them all."""


@dataclass(frozen=True, slots=True)
class LineFault:
    """One thing wrong with one line of the input."""

    line: int
    code: str
    message: str
    key: str | None = None


class BadInput(RunnerError):
    """The input has lines that cannot be asked. Nothing was sent and nothing was paid."""

    exit_code = 65

    def __init__(self, message: str, faults: Sequence[LineFault] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class OutputUnwritable(RunnerError):
    """The output cannot be written, or the file there was not written by this series."""

    exit_code = 73


class StoreUnusable(RunnerError):
    """The store cannot be opened, read or written."""

    exit_code = 74


class Fenced(StoreUnusable):
    """Another process has taken this series over since; this one writes nothing more."""


class NotFinished(RunnerError):
    """All that can be done now is done, and this start does not wait for the rest: run it again later."""

    exit_code = 75


class AccessRefused(RunnerError):
    """The provider refuses the key or a permission, or there is no key."""

    exit_code = 77


class BadConfiguration(RunnerError):
    """A job file, a price file or a version that cannot be used."""

    exit_code = 78


class BadJob(BadConfiguration):
    """The job file has faults; each line of the message names one, with file, line and field."""


class BatchRefused(BadConfiguration):
    """The server takes no such batch, or has no Batch API at all. Nothing of the batch was executed."""
