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

import difflib
import importlib.resources
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import lru_cache
from types import MappingProxyType

from runner.errors import BadConfiguration
from runner.model import Usage

PICO = 10**12
"""Pico-dollars in one US dollar."""

_RATES = ("input", "cached_input", "cache_write", "output")
_TIERS = ("batch", "flex", "priority")
_FACTS = ("max_output", "context", "shutdown_date", "aliases")
_PRICE = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,6}))?")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_SNAPSHOT = re.compile(r"(.+)-[0-9]{4}-[0-9]{2}-[0-9]{2}")

_TIER_OF_WORD: Mapping[str | None, str] = MappingProxyType(
    {
        None: "standard",
        "default": "standard",
        "auto": "standard",
        "standard": "standard",
        # Scale units are paid in advance; the list price is what their tokens are worth, and never too low.
        "scale": "standard",
        "flex": "flex",
        "priority": "priority",
        "fast": "priority",
    }
)

_Block = dict[str, int]


@dataclass(frozen=True, slots=True)
class _Rates:
    """Pico-dollars for one token of each kind; `output` is None where it is unknown."""

    input: int
    cached_input: int
    cache_write: int
    output: int | None

    @classmethod
    def of(cls, block: _Block) -> _Rates:
        plain, get = block["input"], block.get
        return cls(plain, get("cached_input", plain), get("cache_write", plain), get("output"))


@dataclass(frozen=True, slots=True)
class _Schedule:
    """The prices of one model at one tier; those in `long` count above `above` tokens of input."""

    short: _Rates
    above: int
    long: _Rates


@dataclass(frozen=True, slots=True)
class _Entry:
    tiers: Mapping[str, _Schedule]
    max_output: int | None
    context: int | None
    shutdown_date: date | None


_Find = Callable[[str, str | None, bool], _Schedule | None]


class Prices:
    """A dated table of prices. It answers None wherever it does not know."""

    def __init__(self, as_of: str, entries: Mapping[str, _Entry]) -> None:
        self.as_of = as_of
        self._entries = entries
        # Names come from servers as well as from jobs, so what is remembered of them is bounded.
        self._schedule: _Find = lru_cache(1024)(self._find_schedule)

    @classmethod
    def parse(cls, data: bytes, origin_name: str) -> Prices:
        """Read a price file. Raises BadConfiguration that names the file and every faulty field."""
        reader = _Reader()
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

    def knows(self, model: str) -> bool:
        """Whether the model has a price: by its exact name, an alias, or as a dated snapshot of either.

        A fine-tuned model (`ft:...`) is known only where the file lists that very name.
        """
        return self._entry(model) is not None

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

    def _entry(self, model: str) -> _Entry | None:
        entry = self._entries.get(model)
        if entry is None and (snapshot := _SNAPSHOT.fullmatch(model)):
            return self._entries.get(snapshot[1])
        return entry

    def _find_schedule(self, model: str, tier: str | None, batch: bool) -> _Schedule | None:
        entry = self._entry(model)
        name = "batch" if batch else _TIER_OF_WORD.get(tier)
        return entry.tiers.get(name) if entry and name else None


class _Reader:
    """Reads the form of a price file, and notes every fault on the way instead of stopping at the first."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def unique(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        for name in found if len(found) < len(pairs) else ():
            if sum(other == name for other, _ in pairs) > 1:
                self.faults.append(f"{_shown(name)} is written twice in one object; keep one of the two")
        return found

    def table(self, value: object) -> tuple[str, dict[str, _Entry]]:
        table = self._object("the file", value, ("as_of", "sources", "models"))
        as_of = self._day("as_of", table["as_of"]) if "as_of" in table else None
        self._texts("sources", table.get("sources", []))
        if "models" not in table and isinstance(value, dict):
            self.faults.append('models is missing; write {"models": {"NAME": {"input": "0.10"}}}')
        forms = self._object("models", table.get("models", {}), None)
        entries: dict[str, _Entry] = {}
        names = set(forms)
        for name, form in forms.items():
            where = f"models[{_shown(name)}]"
            entries[name], aliases = self._entry(where, form)
            for alias in aliases:
                if alias in names:
                    self.faults.append(f"{where}.aliases: {_shown(alias)} has prices already in this file")
                names.add(alias)
                entries[alias] = entries[name]
        return str(as_of or ""), entries

    def _entry(self, where: str, form: object) -> tuple[_Entry, list[str]]:
        fields, standard = self._prices(where, form, (*_RATES, "long_context", *_TIERS, *_FACTS))
        above, long = self._long(where, fields)
        tiers = {"standard": _schedule(standard, above, long)}
        for tier in _TIERS:
            if tier in fields:
                place = f"{where}.{tier}"
                own_fields, stated = self._prices(place, fields[tier], (*_RATES, "long_context"))
                own = _inherit(stated, standard)
                own_above, own_long = self._long(place, own_fields)
                if own_long is None and long is not None:
                    own_above, own_long = above, _grow(own, standard, _inherit(long, standard))
                tiers[tier] = _schedule(own, own_above, own_long)
        shutdown = fields.get("shutdown_date")
        entry = _Entry(
            tiers,
            self._count(f"{where}.max_output", fields.get("max_output")),
            self._count(f"{where}.context", fields.get("context")),
            None if shutdown is None else self._day(f"{where}.shutdown_date", shutdown),
        )
        return entry, self._texts(f"{where}.aliases", fields.get("aliases", []))

    def _prices(self, where: str, form: object, known: Sequence[str]) -> tuple[dict[str, object], _Block]:
        fields = self._object(where, form, known)
        if isinstance(form, dict) and "input" not in fields:
            self.faults.append(f"{where}.input is missing; where it is unknown, leave {where} out")
        stated = {name: self._price(f"{where}.{name}", fields[name]) for name in _RATES if name in fields}
        return fields, {"input": 0} | stated

    def _long(self, where: str, fields: dict[str, object]) -> tuple[int, _Block | None]:
        if "long_context" not in fields:
            return 0, None
        place = f"{where}.long_context"
        form, prices = self._prices(place, fields["long_context"], ("above", *_RATES))
        above = self._count(f"{place}.above", form.get("above"))
        if above is None and "above" not in form:
            self.faults.append(f"{place}.above is missing; write how many input tokens are not yet long")
        return above or 0, prices

    def _price(self, where: str, value: object) -> int:
        if isinstance(value, str) and (match := _PRICE.fullmatch(value)):
            # A micro-dollar per million tokens is a pico-dollar per token.
            return int(match[1]) * 10**6 + int((match[2] or "").ljust(6, "0"))
        form = 'write USD per million tokens as text, such as "0.10", with at most six decimals'
        self.faults.append(f"{where}: {_shown(value)} is not a price; {form}")
        return 0

    def _count(self, where: str, value: object) -> int | None:
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12:
            return value
        self.faults.append(f"{where}: {_shown(value)} is no number of tokens; write it as 128000, say")
        return None

    def _day(self, where: str, value: object) -> date | None:
        if isinstance(value, str) and _DAY.fullmatch(value):
            try:
                return date.fromisoformat(value)
            except ValueError:
                pass
        self.faults.append(f'{where}: {_shown(value)} is not a date; write it as "2026-11-01"')
        return None

    def _texts(self, where: str, value: object) -> list[str]:
        if isinstance(value, list) and all(isinstance(item, str) and item for item in value):
            return value
        self.faults.append(f'{where}: {_shown(value)} is not a list of texts; write it as ["..."]')
        return []

    def _object(self, where: str, value: object, known: Sequence[str] | None) -> dict[str, object]:
        if not isinstance(value, dict):
            self.faults.append(f"{where}: {_shown(value)} is not an object; write it as {{...}}")
            return {}
        for name in value if known is not None else ():
            if known is not None and name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                self.faults.append(f"{where}: the field {_shown(name)} is unknown; {hint}")
        return value


def _schedule(short: _Block, above: int, long: _Block | None) -> _Schedule:
    rates = _Rates.of(short)
    return _Schedule(rates, above, rates if long is None else _Rates.of(_inherit(long, short)))


def _inherit(block: _Block, around: _Block) -> _Block:
    """The block, with what it leaves out taken from around it, raised as far as its input is raised."""
    new, old = block["input"], around["input"]
    if new <= old or old == 0:
        return around | block
    return {name: -(-rate * new // old) for name, rate in around.items()} | block


def _grow(block: _Block, short: _Block, long: _Block) -> _Block:
    """The block in a long context, each rate grown as the standard rate of its kind grows there."""
    return {
        name: -(-rate * long[name] // short[name]) if short.get(name) else max(rate, long.get(name, 0))
        for name, rate in block.items()
    }


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


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
