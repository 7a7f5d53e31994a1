"""What the result files of a batch tell of each of its lines: which line of which file counts, found before any is
settled, so that they can be settled in the order of the store, whatever that of the files is."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from runner.dispatch.replies import is_answer
from runner.dispatch.result_file import LongLine, ResultFile, Unmatched
from runner.dispatch.roster import Roster
from runner.record import RecordFault
from runner.record.result import ResultLine, parse_result
from runner.store.batches import Member

_NOTHING, _OTHER, _ANSWER = range(3)


class Survey:
    """Finds for each line of a batch what counts of all that its files tell: the first answer, or what is said first
    where there is none.

    `before` counts the lines of the roster that were settled before. Of the other lines in the files, `duplicates`
    repeat one, `conflicts` of them with another answer, `unknown` name none of the batch, and `unreadable` ones are
    no line at all; those that are not `duplicates` alone go to `unmatched`.
    """

    def __init__(self, roster: Roster, files: Sequence[ResultFile], unmatched: Unmatched) -> None:
        self._roster = roster
        self._files = files
        self._unmatched = unmatched
        # By place: what is told of a line, in which file, where it starts there, and how long it is.
        self._told = bytearray(len(roster.members))
        self._file = bytearray(len(roster.members))
        self._start = array("q", bytes(8 * len(roster.members)))
        self._size = array("q", bytes(8 * len(roster.members)))
        self.before = self.duplicates = self.conflicts = self.unknown = self.unreadable = 0

    def lines(self) -> Iterator[None]:
        """Look at all lines of the files, one for each step."""
        places, told = self._roster.places, self._told
        for number, file in enumerate(self._files):
            for start, line in file.lines():
                yield
                result = _parsed(line)
                if result is None or isinstance(line, LongLine):
                    self.unreadable += 1
                    self._unmatched.add(line)
                    continue
                place = places.get(result.custom_id or "")
                if place is None and (place := self._place_of_settled(result.custom_id)) is None:
                    self.unknown += 1
                    self._unmatched.add(line)
                    continue
                what = _ANSWER if is_answer(result) else _OTHER
                if told[place] is not _NOTHING:
                    self._count_again(place, what, result, line)
                if told[place] < what:
                    told[place] = what
                    self._file[place] = number
                    self._start[place] = start
                    self._size[place] = len(line)

    def results(self) -> Iterator[tuple[Member, ResultLine]]:
        """What counts for each line that is out and that is told of, in the order of the batch."""
        for place, member in enumerate(self._roster.members):
            if self._told[place] is not _NOTHING:
                yield member, self._result(place)

    def _result(self, place: int) -> ResultLine:
        file = self._files[self._file[place]]
        result = _parsed(file.at(self._start[place], self._size[place]))
        if result is None:
            raise file.unreadable("it has changed meanwhile")
        return result

    def _place_of_settled(self, line_id: str | None) -> int | None:
        place = None if line_id is None else self._roster.place_of_settled(line_id)
        if place is not None:
            self.before += 1
            for column in (self._told, self._file, self._start, self._size):
                column.append(0)
        return place

    def _count_again(self, place: int, what: int, result: ResultLine, line: bytes) -> None:
        self.duplicates += 1
        if what is self._told[place] is _ANSWER and result.body != self._result(place).body:
            self.conflicts += 1
            self._unmatched.add(line)


def _parsed(line: bytes | LongLine) -> ResultLine | None:
    """A line as far as it can be read; None for one that cannot."""
    if isinstance(line, LongLine):
        return None
    try:
        return parse_result(line)
    except RecordFault:
        return None
