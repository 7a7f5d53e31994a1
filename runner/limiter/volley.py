"""Calls that were in flight together when one of them was refused: they cut once, by how many were refused."""

from __future__ import annotations

from dataclasses import dataclass

CUT = 0.97
FEW = 5
GENTLE, HARD = 0.8, 0.5
"""The least that a cut leaves where too few calls started to tell how much the server lets pass: if at most half
of them were refused, and else."""

SLOWEST = 0.2
SLOWEST_SHARE = 0.01


@dataclass(slots=True)
class Volley:
    """`last` is the ticket of the last of them, `size` how many started in the last slice, and `fill` how much of
    the slice's worth that was; `share` of what is told and `silent`, calls a second, are what was allowed then."""

    last: int = 0
    size: float = 1.0
    fill: float = 1.0
    share: float = 1.0
    silent: float | None = None
    in_vain: bool = False
    """Nothing was answered since the volley before."""

    tolerated: float = 0.0
    """The part of them that may be refused without a cut: they may just have straddled two slices."""

    refused: int = 0
    answered_since: bool = False

    @property
    def is_mostly_refused(self) -> bool:
        """Whether the server refused more than it let pass, as far as is known."""
        return 2 * self.refused > self.size

    @property
    def is_tolerated(self) -> bool:
        """Whether so few were refused that nothing follows from it."""
        return self.refused <= self.tolerated * self.size

    def share_left(self) -> float:
        """The share of what is told that may start from now on."""
        if self.is_tolerated:
            return self.share
        kept = self._kept() if self.size < FEW else self._kept() * self.fill
        return max(SLOWEST_SHARE, self.share * kept)

    def silent_left(self) -> float | None:
        """Calls a second that a silent server is asked from now on."""
        if self.silent is None:
            return None
        passed = (self.silent if self.size < FEW else self.size) * self._kept()
        return max(SLOWEST, min(self.silent, passed))

    def _kept(self) -> float:
        kept = CUT * max(0.0, 1.0 - self.refused / self.size)
        if self.size >= FEW:
            return kept
        return max(kept, HARD if self.is_mostly_refused else GENTLE)
