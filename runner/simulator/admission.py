"""How many batches and uploads the account may make, and how many tokens may wait in batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Window:
    """At most so many events within a sliding span of seconds."""

    def __init__(self, most: int, span: float, clock: Callable[[], float]) -> None:
        self._most = most
        self._span = span
        self._clock = clock
        self._times: deque[float] = deque()

    def admit(self) -> bool:
        """Whether one more may happen now; if so, it is counted."""
        now = self._clock()
        while self._times and self._times[0] <= now - self._span:
            self._times.popleft()
        if len(self._times) >= self._most:
            return False
        self._times.append(now)
        return True


class Queue:
    """The input tokens that live batches hold, by model, and the limit on them; None is no limit."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._held: dict[str, dict[str, int]] = {}

    def admit(self, batch_id: str, model: str, tokens: int) -> bool:
        """Whether the batch fits in beside the others; if so, it holds its tokens until it is released."""
        if self.limit is None:
            return True
        held = self._held.setdefault(model, {})
        others = sum(count for name, count in held.items() if name != batch_id)
        if others + tokens > self.limit:
            return False
        held[batch_id] = tokens
        return True

    def release(self, batch_id: str) -> None:
        """The batch has ended."""
        for held in self._held.values():
            held.pop(batch_id, None)

    def clear(self) -> None:
        """All batches are forgotten."""
        self._held.clear()

    def message(self, model: str | None) -> str:
        """Why a batch does not fit in, as the API says it."""
        return (
            f"Enqueued token limit reached for {model} in organization org-sim. Limit: {self.limit or 0} "
            "enqueued tokens. Please try again once some in_progress batches have been completed."
        )
