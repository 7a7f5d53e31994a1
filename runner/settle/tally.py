"""What a start has done so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from runner.model import Finding, Kind, Usage

_ANSWERED = Kind.ANSWERED


@dataclass(slots=True)
class Tally:
    """What this start has done so far: rows settled, tokens, cost in pico-dollars."""

    answered: int = 0
    failed: int = 0
    held: int = 0
    attempts: int = 0
    retries: int = 0
    rate_limited: int = 0
    ambiguous: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    unpriced: int = 0
    codes: dict[str, int] = field(default_factory=dict)

    def count(self, finding: Finding) -> None:
        """A call has ended so."""
        if finding.kind is _ANSWERED:
            self.attempts += 1
            return
        self.attempts += finding.kind not in (Kind.NOT_SENT, Kind.NOT_RUN)
        self.rate_limited += finding.kind is Kind.RATE_LIMITED
        self.ambiguous += finding.kind is Kind.AMBIGUOUS
        code = finding.code or finding.kind.value
        self.codes[code] = self.codes.get(code, 0) + 1

    def add(self, usage: Usage | None, cost: int | None) -> None:
        """An answer came to so much, None where it is unknown."""
        if usage is not None:
            self.input_tokens += usage.input
            self.output_tokens += usage.output
        if cost is None:
            self.unpriced += 1
        else:
            self.cost += cost
