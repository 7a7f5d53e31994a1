"""Is it the row, or the server? Whether a failure counts against its row, and closes the gate for all.

A row that fails while others are answered has itself to blame. When everything fails, nobody has. Between the
two, a failure weighs as much as it surprises. In figures:

1. The gate closes
   - for a call that never left: at once, and that never counts;
   - for a streak, failures with no answer in between: at 5 of them from at least 3 rows (3 from 3 as long as
     there has been no answer at all);
   - for a failure of a gateway or a whole server (`outage`), of a single row: at its second with no answer
     in between, or at its first as long as there has been no answer at all;
   - in a brown-out: when 10 of the last 20 first tries failed.
   Until the next answer it is closed: every failure says so, and none counts. Strikes of the streak that led
   to it are taken back. A row is pardoned like this by five closings at most; after that it counts as struck.
2. A row is *struck* once it has failed and others were answered after that, or meanwhile. Struck rows never
   close the gate: a poison row counts its attempts to the end, also when nothing but poison is left.
3. A failure is a whole strike where up to one in five of the last 20 first tries failed. Where the share f is
   larger it weighs ln(f) / ln(0.1), but at least 0.2: a third of a strike where half fail. So six strikes by
   mere chance are as rare in a brown-out as on a day when one call in ten fails: about one in a million.
4. What cannot be told apart is a server that fails just when the last rows are asked, and last rows that are
   poison. The gate closes, but not for ever: it opens again, and failures count, once the rows left, if all
   have failed before, have been asked in vain 40 times and 10 for each of them (15 and 4 if not `outage`). At
   a probe a minute that is under an hour for one row, and most of a day for a hundred. If others remain, or
   nobody knows, a row's own failures count after 120 (45). Only a whole server that has failed from the very
   start is waited for without end.

The prober should be a row that has never failed, as long as there is one: a poison row proves nothing.

Limits: where only struck rows are left, or one or two that were in flight while others were answered, a
failing server looks like poison, and they fail after their attempts. Where half of all rows are poison, the
gate closes again and again, and the run is slow. Memory is a few words for each row that has failed and is
neither answered nor given up.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

_STREAK = 5
_STREAK_ROWS = 3
_WINDOW = 20
_BROWN = 10
_USUAL = 0.1
_UNREMARKABLE = 0.2
_LIGHTEST = 0.2
_PATIENCE = 40
_PATIENCE_FOR_EACH = 10
_PATIENCE_WITH_ONE = 120
_PARDONS = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a failure comes to.

    `counted`: one more attempt of its row is used up. `close`: the gate is to close, or to stay closed, for
    all. `release`: it is to open, though nothing was answered, for waiting longer would prove nothing.
    """

    counted: bool
    close: bool
    release: bool = False


@dataclass(slots=True)
class _Row:
    """A row that has failed and is not answered yet. `seen` is the number of answers at its last failure that
    was not taken back, -1 if there is none; `recent` are its strikes of the present streak."""

    failures: int = 0
    strikes: float = 0.0
    told: int = 0
    seen: int = -1
    struck: bool = False
    recent: float = 0.0
    pardons: int = 0
    pardoned_by: int = 0

    @property
    def is_first_try(self) -> bool:
        return self.seen < 0 and not self.struck


class Outage:
    """Tells poison rows from failing servers, by the order of answers and failures alone."""

    def __init__(self) -> None:
        self._answers = 0
        self._rows: dict[int, _Row] = {}
        self._first_tries: deque[bool] = deque(maxlen=_WINDOW)
        self._tries_since_closing = _WINDOW
        self._streak: dict[int, int] = {}
        """The rows that have failed since the last answer, and how often."""
        self._asked_again = 0
        self._feeding: dict[int, int] = {}
        """Those of them that were not struck before."""
        self._fed = 0
        self._closings = 0
        self._closed = False
        self._given_up = False

    @property
    def answers(self) -> int:
        """How often the server has answered so far. Keep it when a call is sent, as its `since`."""
        return self._answers

    def strikes(self, task_id: int) -> int:
        """The failures that count against a row, without those that were taken back."""
        row = self._rows.get(task_id)
        return 0 if row is None else _whole(row.strikes)

    def failures(self, task_id: int) -> int:
        """How often a row has failed since it was last answered, whether that counts or not."""
        row = self._rows.get(task_id)
        return 0 if row is None else row.failures

    def success(self, task_id: int) -> None:
        """The server did its work for this row: it answered, or refused the row for good."""
        row = self._rows.pop(task_id, None) if self._rows else None
        self._answers += 1
        if row is None or row.is_first_try:
            self._first_tries.append(False)
            self._tries_since_closing += 1
        if self._streak:
            for failed in self._streak:
                if failed in self._rows:
                    self._rows[failed].recent = 0.0
            self._streak.clear()
            self._asked_again = 0
            self._feeding.clear()
            self._fed = 0
        self._closed = False
        self._given_up = False

    def forget(self, task_id: int) -> None:
        """The row is given up, or held: nothing more will come of it."""
        self._rows.pop(task_id, None)

    def failure(
        self,
        task_id: int,
        *,
        outage: bool,
        sent: bool = True,
        since: int | None = None,
        remaining: int | None = None,
    ) -> Verdict:
        """A row's call failed, for no fault that is certainly the row's.

        `outage` as in Finding; `sent` is False for a call that never left. `since` is what `answers` was when
        the call was sent: it tells a slow row's failure, with others answered meanwhile, from a server's.
        `remaining` is how many rows the run has left, this one among them, if the caller knows.
        """
        if not sent:
            return Verdict(counted=False, close=True)
        row = self._rows.get(task_id)
        if row is None:
            row = self._rows[task_id] = _Row()
        row.failures += 1
        was_struck = row.struck or (row.seen >= 0 and self._answers > row.seen)
        meanwhile = since is not None and self._answers > since
        first_try = row.is_first_try
        self._note(task_id, first_try=first_try, feeds=not was_struck and row.pardons < _PARDONS)
        if not (self._closed or self._given_up) and (
            self._is_streak()
            or (first_try and self._is_brown_out())
            or (outage and not was_struck and not meanwhile and self._is_down_for(task_id))
        ):
            self._close()
        elif self._closed and self._is_hopeless(outage, remaining):
            self._closed, self._given_up = False, True
        if self._closed and self._is_pardoned(task_id, row, outage=outage):
            return Verdict(counted=False, close=True)
        return self._count(row, struck=was_struck or meanwhile)

    def _note(self, task_id: int, *, first_try: bool, feeds: bool) -> None:
        if first_try and not self._closed:
            self._first_tries.append(True)
            self._tries_since_closing += 1
        self._asked_again += self._rows[task_id].failures > 1
        self._streak[task_id] = self._streak.get(task_id, 0) + 1
        # A row that began to feed the streak goes on: that it was struck meanwhile is of the same streak.
        if feeds or task_id in self._feeding:
            self._feeding[task_id] = self._feeding.get(task_id, 0) + 1
            self._fed += 1

    def _is_streak(self) -> bool:
        return len(self._feeding) >= _STREAK_ROWS and self._fed >= (
            _STREAK if self._answers else _STREAK_ROWS
        )

    def _is_brown_out(self) -> bool:
        return self._tries_since_closing >= _BROWN and sum(self._first_tries) >= _BROWN

    def _is_down_for(self, task_id: int) -> bool:
        return self._answers == 0 or self._feeding.get(task_id, 0) > 1

    def _close(self) -> None:
        self._closed = True
        self._closings += 1
        self._tries_since_closing = 0
        for task_id in self._feeding:
            row = self._rows.get(task_id)
            if row is not None:
                row.strikes -= row.recent
                row.recent = 0.0
                row.seen = -1
                row.struck = False

    def _is_hopeless(self, outage: bool, remaining: int | None) -> bool:
        if remaining is None or remaining > len(self._rows) or (outage and self._answers == 0):
            return False
        return self._asked_again > (_PATIENCE + _PATIENCE_FOR_EACH * remaining) * _share(outage)

    def _is_pardoned(self, task_id: int, row: _Row, *, outage: bool) -> bool:
        if outage and self._answers == 0:
            return True
        if row.pardoned_by != self._closings:
            row.pardoned_by = self._closings
            row.pardons += 1
        return row.pardons <= _PARDONS and self._streak[task_id] <= _PATIENCE_WITH_ONE * _share(outage)

    def _count(self, row: _Row, *, struck: bool) -> Verdict:
        weight = self._weight()
        row.strikes += weight
        row.recent += weight
        row.seen = self._answers
        row.struck = struck
        # Strikes that were told and then taken back are made good here: the next ones are not told again.
        counted = _whole(row.strikes) > row.told
        row.told += counted
        return Verdict(counted, close=self._closed, release=self._given_up)

    def _weight(self) -> float:
        share = sum(self._first_tries) / _WINDOW
        if share <= _UNREMARKABLE:
            return 1.0
        return max(_LIGHTEST, math.log(share) / math.log(_USUAL))


def _share(outage: bool) -> float:
    """How much of the patience there is: less with what a single request can bring about."""
    return 1.0 if outage else 0.375


def _whole(strikes: float) -> int:
    return int(strikes + 1e-9)
