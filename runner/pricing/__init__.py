"""What a call costs: a dated table of prices, and the arithmetic over it, exact to the pico-dollar.

A price file is JSON; every price is decimal text in USD per million tokens, with at most six decimals:

    {"as_of": "2026-11-01",                      the day the prices were read
     "sources": ["..."],                         where they were read; for people
     "models": {"gpt-6-luna": {
        "input": "0.10",                         demanded; every other field may be left out
        "cached_input": "0.01", "cache_write": "0.125", "output": "0.50",
        "long_context": {"above": 272000, "input": "0.20", "output": "0.75"},
        "batch": {"input": "0.05", "...": "..."}, "flex": {"...": "..."}, "priority": {"...": "..."},
        "max_output": 128000,                    the most tokens one answer can have; 0 for embeddings
        "context": 1050000,                      the most tokens of input and output together
        "shutdown_date": "2027-01-14",           the announced last day
        "aliases": ["..."]}}}                    other names with the same prices

A block with prices (`batch`, `flex`, `priority`, `long_context`, and a tier's own `long_context`) demands
`input` too. What is left out is unknown, and never taken for zero:

- a tier that is left out has no known price;
- a price left out of a block is that of the block around it, raised as far as `input` is raised there: the
  standard cached price stands in a batch, and doubles in a long context;
- a cached or written token without any price of its own costs what other input costs; without `output`,
  only calls that give no output have a known cost;
- a tier without its own `long_context` grows as the standard prices grow there.

A long context counts for its whole request, by that request's own input: usage of several calls is never
added up before it is priced. Money is integer pico-dollars (1e-12 USD), so that a rate times tokens is exact.
"""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from functools import lru_cache
from types import MappingProxyType

from runner.errors import BadConfiguration
from runner.model import Usage
from runner.pricing.price_file import PriceFile
from runner.pricing.rates import Entry, Schedule

PICO = 10**12
"""Pico-dollars in one US dollar."""

_SNAPSHOT = re.compile(r"(.+)-[0-9]{4}-[0-9]{2}-[0-9]{2}")

_TIER_OF_WORD: Mapping[str | None, str] = MappingProxyType(
    {
        None: "standard",
        "default": "standard",
        "auto": "standard",
        "standard": "standard",
        # Scale units are paid in advance; the list price is what their tokens are worth, and never too low.
        "scale": "standard",
        # No response says so: it is what we keep of the answers to a batch's lines, to price them again by.
        "batch": "batch",
        "flex": "flex",
        "priority": "priority",
        "fast": "priority",
    }
)

_Find = Callable[[str, str | None, bool], Schedule | None]


class Prices:
    """A dated table of prices. It answers None wherever it does not know."""

    def __init__(self, as_of: str, entries: Mapping[str, Entry]) -> None:
        self.as_of = as_of
        self._entries = entries
        # Names come from servers as well as from jobs, so what is remembered of them is bounded.
        self._schedule: _Find = lru_cache(1024)(self._find_schedule)

    @classmethod
    def parse(cls, data: bytes, origin_name: str) -> Prices:
        """Read a price file. Raises BadConfiguration that names the file and every faulty field."""
        reader = PriceFile()
        try:
            table = json.loads(data, object_pairs_hook=reader.unique)
        except json.JSONDecodeError as error:
            where = f"{origin_name}: line {error.lineno}, column {error.colno}"
            raise BadConfiguration(f"{where}: the price file is not JSON: {error.msg}") from None
        except (ValueError, RecursionError):
            raise BadConfiguration(f"{origin_name}: the price file is not JSON in UTF-8") from None
        as_of, entries = reader.table(table)
        if reader.faults:
            raise BadConfiguration("\n".join(f"{origin_name}: {fault}" for fault in reader.faults))
        return cls(as_of, entries)

    @classmethod
    def shipped(cls) -> Prices:
        """The table that ships with the product: OpenAI's models, at the date in `as_of`."""
        file = importlib.resources.files("runner").joinpath("prices.json")
        return cls.parse(file.read_bytes(), "prices.json")

    @classmethod
    def none(cls) -> Prices:
        """A table that knows no price, for servers whose prices nobody told us."""
        return cls("", {})

    def __len__(self) -> int:
        """How many names of models have a price."""
        return len(self._entries)

    def knows(self, model: str) -> bool:
        """Whether the model has a price: by its exact name, an alias, or as a dated snapshot of either.

        A fine-tuned model (`ft:...`) is known only where the file lists that very name.
        """
        return self._entry(model) is not None

    def has_tier(self, model: str, tier: str) -> bool:
        """Whether the model is known to have that tier: batch, flex, priority."""
        entry = self._entry(model)
        return entry is not None and tier in entry.tiers

    def cost(self, model: str, tier: str | None, usage: Usage, *, batch: bool = False) -> int | None:
        """What one call cost, in pico-dollars; None where a price that it needs is unknown.

        `tier` is the word in the response; a word that we do not know has no known price. Lines of a batch
        say "default" there, so `batch` overrides it.
        """
        schedule = self._schedule(model, tier, batch)
        if schedule is None:
            return None
        rates = schedule.short if usage.input <= schedule.above else schedule.long
        plain = usage.input - usage.cached_input - usage.cache_write
        if plain < 0 or (rates.output is None and usage.output):
            return None
        return (
            plain * rates.input
            + usage.cached_input * rates.cached_input
            + usage.cache_write * rates.cache_write
            + usage.output * (rates.output or 0)
        )

    def worst_case(
        self,
        model: str,
        *,
        input_tokens: int,
        max_output: int | None,
        choices: int = 1,
        tier: str | None = None,
        batch: bool = False,
    ) -> int | None:
        """The dearest that one call can lawfully come to, in pico-dollars; None where it has no known bound.

        `tier` is the word in the request. Without one, or with "auto", the account's settings choose, and
        may choose priority: then the dearer of the two counts. Say "default" in the request to avoid that.
        """
        if max_output is None:
            max_output = self.max_output(model)
        schedules = [self._schedule(model, tier, batch)]
        if not batch and tier in (None, "auto"):
            schedules.append(self._schedule(model, "priority", False) or schedules[0])
        dearest = 0
        for schedule in schedules:
            if schedule is None or max_output is None:
                return None
            for rates in (schedule.short, schedule.long if input_tokens > schedule.above else schedule.short):
                if rates.output is None and max_output:
                    return None
                per_input = max(rates.input, rates.cached_input, rates.cache_write)
                total = input_tokens * per_input + choices * max_output * (rates.output or 0)
                dearest = max(dearest, total)
        return dearest

    def max_output(self, model: str) -> int | None:
        """The most tokens that one answer of this model can have."""
        entry = self._entry(model)
        return entry.max_output if entry else None

    def context(self, model: str) -> int | None:
        """The most tokens that input and output can have together; for embeddings, of one text."""
        entry = self._entry(model)
        return entry.context if entry else None

    def shutdown_date(self, model: str) -> date | None:
        """The day from which the provider has announced that the model answers no more."""
        entry = self._entry(model)
        return entry.shutdown_date if entry else None

    def _entry(self, model: str) -> Entry | None:
        entry = self._entries.get(model)
        if entry is None and (snapshot := _SNAPSHOT.fullmatch(model)):
            return self._entries.get(snapshot[1])
        return entry

    def _find_schedule(self, model: str, tier: str | None, batch: bool) -> Schedule | None:
        entry = self._entry(model)
        name = "batch" if batch else _TIER_OF_WORD.get(tier)
        return entry.tiers.get(name) if entry and name else None


def usd(pico: int | None) -> str | None:
    """Pico-dollars as exact decimal text in USD, such as "0.000123", "5" or "0"; None stays None."""
    if pico is None:
        return None
    whole, rest = divmod(abs(pico), PICO)
    fraction = f"{rest:012d}".rstrip("0")
    return f"{'-' if pico < 0 else ''}{whole}{'.' if fraction else ''}{fraction}"


def pico(usd: Decimal) -> int:
    """USD as pico-dollars. Raises ValueError where that is not a whole number of them."""
    if not usd.is_finite() or usd.adjusted() > 18:
        raise ValueError(f"{usd} is not an amount of money in USD")
    numerator, denominator = usd.as_integer_ratio()
    amount, rest = divmod(numerator * PICO, denominator)
    if rest:
        raise ValueError(f"{usd} USD is finer than a pico-dollar, 0.000000000001")
    return amount
