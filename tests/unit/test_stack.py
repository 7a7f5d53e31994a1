"""Room on the stack: no call stands at the end of a chunk, where each of its own calls would cost one."""

import threading
from collections.abc import Callable

import pytest

from runner.stack import roomy

resource = pytest.importorskip("resource")
if not hasattr(resource, "RUSAGE_THREAD"):
    pytest.skip("Linux alone counts the faults of a thread", allow_module_level=True)

CALLS = 100
DEPTH = 150
"""Frames of `descend` fill more than one chunk of the usual size."""


def leaf(value: int) -> int:
    return inner(value)


def inner(value: int) -> int:
    return value


def descend(depth: int, faults: list[int]) -> None:
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for number in range(CALLS):
        leaf(number)
    faults.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)
    if depth:
        descend(depth - 1, faults)


def in_a_thread(work: Callable[[list[int]], None]) -> list[int]:
    """The page faults of each depth, on a stack that nobody has used before."""
    faults: list[int] = []
    thread = threading.Thread(target=work, args=(faults,))
    thread.start()
    thread.join()
    assert len(faults) == DEPTH + 1
    return faults


def test_calls_from_within_take_no_memory_anew_each_time() -> None:
    @roomy
    def work(faults: list[int]) -> None:
        descend(DEPTH, faults)

    assert max(in_a_thread(work)) < CALLS / 2


def test_a_roomy_function_does_what_it_did() -> None:
    @roomy
    def add(one: int, *more: int, scale: int = 1) -> int:
        """Its own words."""
        return scale * (one + sum(more))

    assert add(1, 2, 3, scale=2) == 12
    assert add.__doc__ == "Its own words."
