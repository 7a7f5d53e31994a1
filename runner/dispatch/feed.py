"""What to ask next: ready tasks of the store, made into calls, a few hundred at a time.

Questions that can share a request are packed into one as they come: embeddings, where the job says what to ask.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from runner import packing
from runner.dispatch.pack import Most, Pack
from runner.model import Asked, Call, Signal
from runner.packing import Part
from runner.pricing import Prices
from runner.question import Questions, worst_case
from runner.store import tasks
from runner.store.clock import now
from runner.store.database import Store
from runner.store.tasks import Ready
from runner.tokens import Estimates

STOCK = 256
PACKED_STOCK = 2 * packing.MOST_TEXTS
STOCK_BYTES = 16 * 2**20
ENOUGH_BYTES = 4 * 2**20
"""Records of so many bytes fill a pack, as a rule: 300,000 tokens are about one and a half million bytes."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """No task is ready. `due_in` is seconds until the next is, None if none waits."""

    due_in: float | None


class Feed:
    """Hands out each ready task of one run once, the longest due first."""

    def __init__(
        self,
        store: Store,
        run_id: int,
        questions: Questions,
        prices: Prices,
        *,
        more: Callable[[], bool],
        has_failed: Callable[[int], bool],
        estimates: Estimates,
        most: Callable[[], Most],
    ) -> None:
        """`more` makes further rows into tasks, False when every row has its task; `has_failed` says whether
        a task has failed before in this start; `most` what one packed call may come to."""
        self._store = store
        self._run_id = run_id
        self._questions = questions
        self._prices = prices
        self._more = more
        self._is_complete = False
        self._has_failed = has_failed
        self._most = most
        self._estimates = estimates
        self._stock: deque[Ready] = deque()
        self._again: deque[Call] = deque()
        self._handed_out: set[int] = set()
        self._aside: set[int] = set()
        self._texts = packing.Portion(packing.MOST_TEXTS)
        self._tokens = packing.Portion(packing.MOST_TOKENS)
        self._base64 = True
        self._text_alone = questions.text_alone
        self._packs = questions.can_pack
        self._size = PACKED_STOCK if self._packs else STOCK

    def next(self, *, to_probe: bool = False) -> Call | Nothing:
        """The next call to make, or how long there is nothing to do.

        `to_probe` asks for a task that has not failed before, where there is one: a row that is itself at
        fault could not find out whether the server is well again.
        """
        if self._again:
            return self._asked_again()
        if not self._stock:
            self._restock()
        if to_probe:
            self._bring_fresh_forward()
        if self._stock:
            return self._pack() if self._packs else self._single(self._stock.popleft())
        with self._store.read() as connection:
            due = tasks.next_due(connection, self._run_id, besides=self._aside)
        return Nothing(None if due is None else max(0.001, (due - now()) / 1_000_000))

    def settled(self, call: Call, signal: Signal) -> None:
        """The store knows what became of a call: where its tasks are ready again, they may be read again.

        Refused for speed, the call goes before those that came after it; refused for what one of its texts may
        hold, its halves do. Their tasks stay handed out all the while, or a reading in between would hand them
        out twice.
        """
        if signal.missed:
            self._tokens.missed(call.demand.input_tokens)
        if signal.refused_for_speed:
            self._again.append(call)
        elif signal.aside:
            self._aside.update(one.task_id for one in call.asked)
        elif signal.split:
            # Depth first: the first text that is at fault by itself tells whether all are.
            self._again.extendleft(reversed(packing.halves(call)))
        else:
            self._base64 &= not signal.refuses_base64
            for one in call.asked:
                self._handed_out.discard(one.task_id)

    def answered(self, call: Call) -> None:
        """A call was answered: where it is the second half of one that was refused, that one was too large."""
        if not self._packs:
            return
        self._texts.answered(len(call.asked))
        self._tokens.answered(call.demand.input_tokens)
        split = call.split_from
        if split is None:
            return
        split.pending -= 1
        if split.pending == 0:
            self._texts.too_large(split.size, (split.size + 1) // 2)

    def halve(self, call: Call) -> None:
        """A packed call that was handed out is not to be made: its halves come next."""
        self._again.extendleft(reversed(packing.halves(call, refused=False)))

    def _asked_again(self) -> Call:
        call = self._again.popleft()
        while call.is_packed and call.demand.input_tokens > self._tokens.most:
            self.halve(call)
            call = self._again.popleft()
        return call

    def _bring_fresh_forward(self) -> None:
        if all(self._has_failed(one.task_id) for one in self._stock) and self._add_tasks():
            self._stock.extend(self._read())
        for place, one in enumerate(self._stock):
            if not self._has_failed(one.task_id):
                del self._stock[place]
                self._stock.appendleft(one)
                return

    def _add_tasks(self) -> bool:
        """Make further rows into tasks; False when every row has its task, which costs a transaction to find out."""
        self._is_complete = self._is_complete or not self._more()
        return not self._is_complete

    def _restock(self) -> None:
        while True:
            self._stock.extend(self._read())
            if self._stock or not self._add_tasks():
                return

    def _read(self) -> list[Ready]:
        held = {one.task_id for one in self._stock} | self._handed_out if self._stock else self._handed_out
        with self._store.read() as connection:
            return tasks.ready(
                connection, run_id=self._run_id, limit=self._size, max_bytes=STOCK_BYTES, besides=held
            )

    def _single(self, ready: Ready) -> Call:
        self._handed_out.add(ready.task_id)
        question = self._questions.ask(ready.record, checked=True)
        demand = question.endpoint.demand(question.request, len(question.body))
        return Call(
            asked=(Asked(ready.task_id, ready.line, ready.key, ready.attempts),),
            endpoint=question.endpoint.name,
            model=question.model,
            body=question.body,
            forced_tool=question.forced_tool,
            demand=demand,
            worst_case=worst_case(question, demand, self._prices),
        )

    def _pack(self) -> Call:
        """The longest due task, with as many of those behind it as may share its request."""
        first = self._stock.popleft()
        self._handed_out.add(first.task_id)
        question = self._questions.ask(first.record, checked=True)
        start = packing.part(question.request)
        if start is None:
            return self._single(first)
        most = packing.most_texts(first.attempts, self._texts.most)
        self._fill_up(most)
        pack = Pack(
            question,
            start,
            first,
            most=self._most(),
            most_guessed=self._tokens.most,
            prices=self._prices,
            estimates=self._estimates,
        )
        others: list[Ready] = []
        while self._stock and len(pack.asked) < most:
            ready = self._stock.popleft()
            text = self._text_beside(start, ready) if ready.attempts <= first.attempts else None
            if text is None:
                others.append(ready)
            elif not pack.take(text, ready):
                self._stock.appendleft(ready)
                break
        self._stock.extendleft(reversed(others))
        self._handed_out.update(one.task_id for one in pack.asked)
        return pack.call(base64=self._base64)

    def _text_beside(self, start: Part, ready: Ready) -> str | list[int] | None:
        """The text of a row that may share the request of another, None if it may not."""
        if self._text_alone is not None:
            text = self._text_alone(ready.record)
            return text if packing.joins(text, start) else None
        part = packing.part(self._questions.ask(ready.record, checked=True).request)
        return part.text if part is not None and part.kind == start.kind else None

    def _fill_up(self, count: int) -> None:
        while len(self._stock) < count - 1 and self._stock_bytes() < ENOUGH_BYTES:
            found = self._read()
            if not found and not self._add_tasks():
                return
            self._stock.extend(found)

    def _stock_bytes(self) -> int:
        return sum(len(one.record) for one in self._stock)
