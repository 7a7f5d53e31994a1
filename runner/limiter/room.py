"""How many calls the memory has room for. Pure arithmetic."""

from __future__ import annotations

BYTES_IN_FLIGHT = 64 * 2**20
"""Bytes that calls in flight may be expected to hold, requests and answers together, if all are answered at once."""

BYTES_ASKED = 2**30
"""Bytes of answers that may be on their way, most of them at the server still."""


class Room:
    """How many calls may be in flight for what they take of the memory.

    As many as may all be answered at once; and more for as long as answers are stored as fast as they come, since
    one that is not here takes nothing. Who reads them sees to it that no more are here than there may be.
    """

    def __init__(self) -> None:
        self._request = self._answer = 0.0
        self._beyond = 0

    @property
    def calls(self) -> float:
        """The most calls in flight."""
        request, answer = self._request, self._answer
        each = request + answer
        if not each:
            return float("inf")
        calls = BYTES_IN_FLIGHT / each + self._beyond
        if request:
            calls = min(calls, BYTES_IN_FLIGHT / request)
        return min(calls, BYTES_ASKED / answer) if answer else calls

    def answered(self, request: int, answer: int, *, is_full: bool) -> None:
        """A call was answered: the bytes of both, and whether as many answers are here as there may be."""
        self._request = drawn(self._request, request, 0.1)
        self._answer = drawn(self._answer, answer, 0.1)
        most = BYTES_ASKED // max(1, int(self._answer))
        self._beyond = max(0, min(self._beyond + (-1 if is_full else 1), most))


def drawn(mean: float, value: float, weight: float) -> float:
    """A running mean, drawn a little towards one more value; the first is taken as it is."""
    return mean + weight * (value - mean) if mean else value
