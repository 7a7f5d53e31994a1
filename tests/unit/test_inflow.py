"""The bytes of answers that are in memory: bounded, whatever comes, and nobody waits for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runner.api.inflow import Inflow


def inflow_of(most: int) -> Inflow:
    return Inflow(most, later=lambda look: look())


class Wire:
    """A connection whose server has an answer of so many bytes to send."""

    def __init__(self, inflow: Inflow, left: int = 100) -> None:
        self.inflow = inflow
        self.left = self.whole = left
        self.reads = True

    def pause_reading(self) -> None:
        assert self.reads
        self.reads = False

    def resume_reading(self) -> None:
        assert not self.reads
        self.reads = True

    def send(self, size: int) -> bool:
        """Send some of it, if it is read; True when all has come."""
        if self.reads and self.left:
            size = min(size, self.left)
            self.left -= size
            self.inflow.came(self, size)
            return not self.left
        return False

    def end(self) -> None:
        self.inflow.went(self, self.whole - self.left)


def test_what_there_is_room_for_is_read() -> None:
    inflow = inflow_of(100)
    first, second = Wire(inflow), Wire(inflow)
    first.send(60)
    second.send(40)
    assert (first.reads, second.reads, inflow.coming) == (True, True, 100)
    assert inflow.is_full


def test_beyond_that_the_answer_that_is_ahead_goes_on_and_the_others_after_it() -> None:
    inflow = inflow_of(100)
    first, second, third = (Wire(inflow) for _ in range(3))
    for wire in (first, second, third):
        wire.send(50)
    assert [wire.reads for wire in (first, second, third)] == [True, True, True]
    second.send(10)
    assert [wire.reads for wire in (first, second, third)] == [True, False, True]
    first.send(10)
    assert [wire.reads for wire in (first, second, third)] == [False, False, True]
    assert third.send(50)
    third.end()
    # What is left of the other two is still too much for both to read on.
    assert [wire.reads for wire in (first, second)] == [False, True]
    assert second.send(50)
    second.end()
    assert first.reads


def test_while_answers_wait_to_be_stored_nobody_reads_beyond_and_then_everybody() -> None:
    inflow = inflow_of(100)
    first, second = Wire(inflow), Wire(inflow)
    inflow.wait(80)
    first.send(30)
    second.send(30)
    assert (first.reads, second.reads) == (False, False)
    inflow.wait(60)
    assert (first.reads, second.reads) == (False, False)
    inflow.wait(30)
    assert (first.reads, second.reads) == (True, True)
    assert not inflow_of(100).is_full


def test_a_connection_that_is_lost_holds_nobody_up() -> None:
    inflow = inflow_of(100)
    ahead, held = Wire(inflow), Wire(inflow)
    ahead.send(99)
    held.send(30)
    ahead.send(1)
    assert (ahead.reads, held.reads) == (False, True)
    held.end()
    assert ahead.reads
    ahead.end()
    assert inflow.coming == 0


def test_where_the_one_ahead_gets_no_further_one_more_reads_on_each_second() -> None:
    inflow = inflow_of(100)
    stuck, *others = (Wire(inflow) for _ in range(4))
    stuck.send(40)
    for wire in others:
        wire.send(40)
    stuck.send(1)
    reading = [wire.reads for wire in (stuck, *others)]
    inflow.nudge()
    assert [wire.reads for wire in (stuck, *others)] == reading
    for more in (1, 2):
        inflow.nudge()
        assert sum(wire.reads for wire in (stuck, *others)) == sum(reading) + more
    inflow.wait(10)
    inflow.nudge()
    assert sum(wire.reads for wire in (stuck, *others)) == sum(reading) + 2


@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=12),
    turns=st.lists(st.tuples(st.integers(0, 11), st.integers(1, 20), st.booleans()), max_size=300),
    most=st.integers(1, 400),
)
def test_it_is_a_bound_and_every_answer_comes_to_its_end(
    sizes: list[int], turns: list[tuple[int, int, bool]], most: int
) -> None:
    inflow = inflow_of(most)
    wires = [Wire(inflow, size) for size in sizes]
    stored: list[int] = []
    waiting: list[int] = []
    # Each may have read a part before it is told to stop, and one goes on.
    bound = most + 20 * len(sizes) + max(sizes)

    def turn(place: int, size: int, *, store: bool) -> None:
        wire = wires[place % len(wires)]
        if wire.send(size):
            waiting.append(wire.whole)
            inflow.wait(sum(waiting))
            wire.end()
        if store and waiting:
            stored.append(waiting.pop(0))
            inflow.wait(sum(waiting))
        assert inflow.coming == sum(one.whole - one.left for one in wires if one.left)
        assert inflow.coming + inflow.waiting <= bound

    for place, size, store in turns:
        turn(place, size, store=store)
    for _ in range(sum(sizes) + len(sizes)):
        for place in range(len(wires)):
            turn(place, 20, store=True)
    assert sorted(stored) == sorted(sizes)
    assert all(wire.reads for wire in wires)
    assert (inflow.coming, inflow.waiting) == (0, 0)
