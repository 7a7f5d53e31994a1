"""What to ask next: ready tasks of the store, made into calls, a few hundred at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from runner.model import Call
from runner.pricing import Prices
from runner.question import Questions, worst_case
from runner.store import tasks
from runner.store.clock import now
from runner.store.database import Store
from runner.store.tasks import Ready

STOCK = 256
STOCK_BYTES = 16 * 2**20


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
    ) -> None:
        """`more` makes further rows into tasks, False when every row has its task; `has_failed` says whether
        a task has failed before in this start."""
        self._store = store
        self._run_id = run_id
        self._questions = questions
        self._prices = prices
        self._more = more
        self._has_failed = has_failed
        self._stock: deque[Ready] = deque()
        self._refused: deque[Call] = deque()
        self._handed_out: set[int] = set()

    def next(self, *, to_probe: bool = False) -> Call | Nothing:
        """The next call to make, or how long there is nothing to do.

        `to_probe` asks for a task that has not failed before, where there is one: a row that is itself at
        fault could not find out whether the server is well again.
        """
        if self._refused:
            return self._refused.popleft()
        if not self._stock:
            self._restock()
        if to_probe:
            self._bring_fresh_forward()
        if self._stock:
            ready = self._stock.popleft()
            self._handed_out.add(ready.task_id)
            return self._call(ready)
        with self._store.read() as connection:
            due = tasks.next_due(connection, self._run_id)
        return Nothing(None if due is None else max(0.001, (due - now()) / 1_000_000))

    def settled(self, task_id: int) -> None:
        """The store knows what became of this task: where it is ready again, it may be read again."""
        self._handed_out.discard(task_id)

    def again(self, call: Call) -> None:
        """A call that was refused for speed, and is ready again: it goes before those that came after it.

        It stays handed out all the while, or a reading in between would hand it out twice.
        """
        self._refused.append(call)

    def _bring_fresh_forward(self) -> None:
        if all(self._has_failed(one.task_id) for one in self._stock) and self._more():
            held = {one.task_id for one in self._stock}
            self._stock.extend(one for one in self._read() if one.task_id not in held)
        for place, one in enumerate(self._stock):
            if not self._has_failed(one.task_id):
                del self._stock[place]
                self._stock.appendleft(one)
                return

    def _restock(self) -> None:
        while True:
            self._stock.extend(self._read())
            if self._stock or not self._more():
                return

    def _read(self) -> list[Ready]:
        with self._store.read() as connection:
            found = tasks.ready(
                connection,
                run_id=self._run_id,
                limit=STOCK + len(self._handed_out) + len(self._stock),
                max_bytes=STOCK_BYTES,
            )
        return [one for one in found if one.task_id not in self._handed_out]

    def _call(self, ready: Ready) -> Call:
        question = self._questions.ask(ready.record)
        demand = question.endpoint.demand(question.request, len(question.body))
        return Call(
            task_id=ready.task_id,
            line=ready.line,
            key=ready.key,
            attempts=ready.attempts,
            endpoint=question.endpoint.name,
            model=question.model,
            body=question.body,
            forced_tool=question.forced_tool,
            demand=demand,
            worst_case=worst_case(question, demand, self._prices),
        )
