"""The rates of one model: what one token of each kind costs, at each tier, and in a long context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

Block = dict[str, int]
"""Rates of one block of a price file by name, in pico-dollars per token."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Pico-dollars for one token of each kind; `output` is None where it is unknown."""

    input: int
    cached_input: int
    cache_write: int
    output: int | None

    @classmethod
    def of(cls, block: Block) -> Rates:
        plain, get = block["input"], block.get
        return cls(plain, get("cached_input", plain), get("cache_write", plain), get("output"))


@dataclass(frozen=True, slots=True)
class Schedule:
    """The prices of one model at one tier; those in `long` count above `above` tokens of input."""

    short: Rates
    above: int
    long: Rates


@dataclass(frozen=True, slots=True)
class Entry:
    """All that a price file says of one model."""

    tiers: Mapping[str, Schedule]
    max_output: int | None
    context: int | None
    shutdown_date: date | None


def schedule(short: Block, above: int, long: Block | None) -> Schedule:
    rates = Rates.of(short)
    return Schedule(rates, above, rates if long is None else Rates.of(inherit(long, short)))


def inherit(block: Block, around: Block) -> Block:
    """The block, with what it leaves out taken from around it, raised as far as its input is raised."""
    new, old = block["input"], around["input"]
    if new <= old or old == 0:
        return around | block
    return {name: -(-rate * new // old) for name, rate in around.items()} | block


def grow(block: Block, short: Block, long: Block) -> Block:
    """The block in a long context, each rate grown as the standard rate of its kind grows there."""
    return {
        name: -(-rate * long[name] // short[name]) if short.get(name) else max(rate, long.get(name, 0))
        for name, rate in block.items()
    }
