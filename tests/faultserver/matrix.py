"""The 144 cases of B1: each status of a batch with each thing that it may say of its two files."""

from __future__ import annotations

from dataclasses import dataclass

from .courses import CANCELLED, DONE, EMPTY, EXPIRED, GONE, NOWHERE, NULL, Course, Plan, no_such_file

TERMINAL = {"completed": "500", "failed": "500", "expired": EXPIRED, "cancelled": CANCELLED}
STATUSES = ("validating", "in_progress", "finalizing", "cancelling", *TERMINAL, "reticulating")
STATES = (None, NULL, EMPTY, GONE)
B1_CASES = len(STATUSES) * len(STATES) ** 2
LOOKS = 3


@dataclass(frozen=True, slots=True)
class B1:
    """One case. `output` and `error`: None is a file's id, then "null", "" and "404", the id of no file."""

    number: int
    status: str
    output: str | None
    error: str | None

    @property
    def terminal(self) -> bool:
        """Whether the batch stays as it is. The others show it for three looks, then end completed."""
        return self.status in TERMINAL

    @property
    def answers_gone(self) -> bool:
        """Whether lines were executed, and paid, whose answers are nowhere to be had."""
        return self.terminal and self.output == GONE

    @property
    def course(self) -> Course:
        """The course of a batch that meets this case.

        Terminal: with an output file every second line is executed and the rest is not; without one nothing
        is. What is not executed stands in the error file if there is one, and nowhere otherwise; only a
        completed batch that names an output file and no error file has all its lines done.
        """
        if not self.terminal:
            return Course(
                name=self.name,
                plan=every_second("500"),
                output=self.output,
                error=self.error,
                shows=self.status,
                lingers=LOOKS,
            )
        has_output, has_error = self.output in {None, GONE}, self.error in {None, GONE}
        otherwise = TERMINAL[self.status] if has_error else NOWHERE
        if has_output and not has_error and self.status == "completed":
            plan = every_second(DONE)
        else:
            plan = every_second(otherwise) if has_output else all_of(otherwise)
        return Course(
            name=self.name,
            end=self.status,
            plan=plan,
            failures=(no_such_file("file-b1"),) if self.status == "failed" else (),
            flattering=True,
            output=self.output,
            error=self.error,
        )

    @property
    def name(self) -> str:
        """The case in words, such as `b1:17 completed output=id error=404`."""
        output, error = ("id" if one is None else one or "empty" for one in (self.output, self.error))
        return f"b1:{self.number} {self.status} output={output} error={error}"


def b1(number: int) -> B1:
    """The case of that number, from 0 to 143."""
    if not 0 <= number < B1_CASES:
        raise ValueError(f"case {number}")
    rest, error = divmod(number, len(STATES))
    status, output = divmod(rest, len(STATES))
    return B1(number, STATUSES[status], STATES[output], STATES[error])


def every_second(otherwise: str) -> Plan:
    """Lines 0, 2, 4 ... are executed, the rest meets another fate."""
    return lambda index, total: otherwise if index % 2 else DONE


def all_of(fate: str) -> Plan:
    """All lines meet one fate."""
    return lambda index, total: fate
