"""What rows come to: how many, their tokens, their cost."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from runner.model import Usage


@dataclass(slots=True)
class Sums:
    """Rows, tokens and cost of one kind of rows. `cost` is in pico-dollars and sums what is known; `priced`
    and `unpriced` count the rows that have a known cost and those that have none."""

    rows: int = 0
    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    total: int = 0
    cost: int = 0
    priced: int = 0
    unpriced: int = 0

    def add(self, usage: Usage | None, cost: int | None) -> None:
        self.rows += 1
        if usage is not None:
            self.input += usage.input
            self.cached_input += usage.cached_input
            self.cache_write += usage.cache_write
            self.output += usage.output
            self.reasoning += usage.reasoning
            self.total += usage.total
        if cost is None:
            self.unpriced += 1
        else:
            self.priced += 1
            self.cost += cost

    def add_sums(self, other: Sums) -> None:
        """Add rows that were added up already."""
        for one in fields(Sums):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


ONLINE, BATCH, FLEX = "online", "batch", "flex"


def mode_of(tier: str | None, job_mode: str) -> str:
    """The way in which a job of this mode has asked for an answer of this tier: batch, flex or online.

    Flex is a way of ours in mode auto; elsewhere it is a request's own wish, asked online as any other."""
    if tier == BATCH or (tier == FLEX and job_mode == "auto"):
        return tier
    return ONLINE


@dataclass(slots=True)
class RowTotals:
    """What the rows of an output come to. `paid` are the answers this run paid for, `reused` those that an
    earlier run, or another row of this one, had paid for already. `by_mode` parts `paid` by how it was asked, and
    `saved` says what the standard price would have cost more, in pico-dollars, where both prices are known."""

    ok: int = 0
    failed: int = 0
    invalid: int = 0
    skipped: int = 0
    paid: Sums = field(default_factory=Sums)
    reused: Sums = field(default_factory=Sums)
    by_model: dict[str, Sums] = field(default_factory=dict)
    by_mode: dict[str, Sums] = field(default_factory=dict)
    saved: dict[str, int] = field(default_factory=dict)
    finish_reasons: dict[str, int] = field(default_factory=dict)
    error_codes: dict[str, int] = field(default_factory=dict)
