"""Whether the client's own CPU is what keeps a run from being faster. Pure arithmetic."""

from __future__ import annotations

from collections import deque

BUSY = 0.9
BEATS = 4


class Load:
    """How much of one core a process has used over its last few beats.

    `beat` takes CPU seconds and wall seconds, both counted from any fixed point.
    """

    def __init__(self) -> None:
        self._readings: deque[tuple[float, float]] = deque(maxlen=BEATS)

    def beat(self, cpu: float, wall: float) -> float:
        """Take a reading; the part of a core that was used since the oldest that is kept, 0 with the first."""
        self._readings.append((cpu, wall))
        cpu_before, wall_before = self._readings[0]
        passed = wall - wall_before
        return (cpu - cpu_before) / passed if passed > 0 else 0.0
