"""The lines of a batch: those that are still out, in order, and by their ids all that results may tell of."""

from __future__ import annotations

from runner.record.line_id import key_of, line_id
from runner.store import batches
from runner.store.batches import Member
from runner.store.database import Store

PAGE = 2_000


class Roster:
    """The lines of one batch, as the store has them when it is made: some 400 bytes of memory for each.

    `members` are those that are still out. Each line has a place: that of its member, or, if it was settled before,
    one behind them all, given when it is first looked for.
    """

    def __init__(self, store: Store, batch_id: int) -> None:
        self._store = store
        self._batch_id = batch_id
        self._earlier: set[int] | None = None
        self.members: list[Member] = []
        self.places: dict[str, int] = {}
        after = 0
        while True:
            with store.read() as connection:
                page = batches.members(connection, batch_id, after_call=after, limit=PAGE)
            if not page:
                return
            for hash_, occurrence, member in page:
                self.places[line_id(hash_, occurrence)] = len(self.members)
                self.members.append(member)
            after = page[-1][2].call_id

    def place_of_settled(self, line: str) -> int | None:
        """The place, new, of a line that was settled before; None for what is no line of the batch."""
        if key_of(line) is None or hash(line) not in self._all_lines():
            return None
        self.places[line] = len(self.places)
        return self.places[line]

    def _all_lines(self) -> set[int]:
        """All lines of the batch, whatever became of them, as hashes: they are looked for to be counted."""
        if self._earlier is None:
            self._earlier, after = set(), 0
            while True:
                with self._store.read() as connection:
                    page = batches.keys(connection, self._batch_id, after_call=after, limit=PAGE)
                if not page:
                    break
                self._earlier.update(hash(line_id(one.hash, one.occurrence)) for one in page)
                after = page[-1].call_id
        return self._earlier
