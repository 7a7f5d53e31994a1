"""What is wrong with one line."""

from __future__ import annotations

from collections.abc import Iterable


class RecordFault(ValueError):
    """A line that cannot be read as a record.

    `code` is for programs and `message` for people; neither ever repeats the line's text. `offset` counts
    bytes from the start of the line, where it is known. `faults` has every fault of the line: one, mostly.
    """

    def __init__(self, code: str, message: str, offset: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.offset = offset
        self.faults: tuple[RecordFault, ...] = (self,)

    @classmethod
    def of(cls, faults: Iterable[RecordFault]) -> RecordFault:
        """All the faults of one line as one; its code is that of the first."""
        every = tuple(faults)
        joined = cls(every[0].code, "; ".join(fault.message for fault in every), every[0].offset)
        joined.faults = every
        return joined
