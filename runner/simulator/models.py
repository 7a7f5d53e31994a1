"""The models that the simulator knows: their names, sizes, shutdown dates and prices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar


from runner.simulator.refusal import Refusal, missing, wrong_type

PRICE_FILE = Path(__file__).resolve().parent.parent / "prices.json"

_WITHOUT_PRICE_FILE = (
    "gpt-6-luna",
    "gpt-6-sol",
    "gpt-6.1-sol",
    "gpt-5.4-mini",
    "gpt-4o-mini",
    "text-embedding-3-small",
    "text-embedding-3-large",
)

# Dates that the API announces itself in `shutdown_date`; by beginning of the name, the longest one wins.
_SHUTDOWN = MappingProxyType(
    {
        "gpt-4o": "2027-01-14",
        "gpt-4.1": "2027-01-14",
        "gpt-5": "2026-12-11",
        "gpt-5.1": "2027-04-01",
        "gpt-5.2": None,
        "gpt-5.4": None,
        "gpt-5.4-nano": "2027-04-01",
        "gpt-5.5": None,
        "gpt-5.6": None,
        "o3": "2026-12-11",
        "o3-mini": "2026-10-23",
        "o4-mini": "2026-10-23",
    }
)
_CONTEXT = MappingProxyType(
    {"gpt-4o": 128_000, "gpt-4.1": 1_047_576, "gpt-5": 400_000, "gpt-5.5": 1_000_000, "gpt-5.6": 1_050_000}
)
_T = TypeVar("_T")
_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_REASONING = re.compile(r"^(gpt-[5-9]|o\d)")


@dataclass(frozen=True, slots=True)
class Model:
    """A model: its name as asked for, the name that prices know, and how much it can read (tokens)."""

    name: str
    base: str
    context: int
    dimensions: int
    embeds: bool
    writes: bool
    """Whether the API can generate text with it."""
    reasons: bool
    """Whether it takes `max_completion_tokens` only."""
    shutdown_date: str | None
    cache_writes_cost: bool


class Catalogue:
    """The names in the price file, and any name that begins with `sim-`."""

    def __init__(self, price_file: Path = PRICE_FILE) -> None:
        self._prices = _read_prices(price_file)
        self.names = tuple(sorted(self._prices)) or _WITHOUT_PRICE_FILE
        self._known: dict[str, Model] = {}

    def find(self, name: object) -> Model:
        """The model of this name, or the API's refusal of an unknown one."""
        if name is None or name == "":
            raise missing("model")
        if not isinstance(name, str):
            raise wrong_type("model", "a string", name)
        model = self._known.get(name) or self._describe(name)
        if model is None:
            raise Refusal(
                404,
                f"The model `{name}` does not exist or you do not have access to it.",
                code="model_not_found",
            )
        return self._known.setdefault(name, model)

    def knows(self, name: object) -> bool:
        """Whether a request may name this model."""
        return isinstance(name, str) and self._describe(name) is not None

    def price(self, base: str, tier: str, *, prompt: int | None = None) -> Mapping[str, Decimal] | None:
        """USD per million tokens by kind, for "default", "batch" or "flex"; None where it is not known.

        `prompt` is the number of input tokens, for models that charge more for long prompts.
        """
        entry = self._prices.get(base)
        if entry is None:
            return None
        rates = dict(entry)
        if tier != "default":
            special = entry.get(tier)
            if not isinstance(special, dict):
                return None
            rates.update(special)
        if prompt is not None and self.is_long(base, prompt):
            rates.update(_long_rates(rates, entry, tier))
        return {kind: Decimal(str(rate)) for kind, rate in rates.items() if isinstance(rate, str | int)}

    def is_long(self, base: str, prompt: int) -> bool:
        """Whether a prompt of so many tokens is charged at the dearer rates for long ones."""
        long_context = self._prices.get(base, {}).get("long_context")
        return isinstance(long_context, dict) and prompt > int(long_context["above"])

    def describe(self, name: str) -> dict[str, object]:
        """The model object of `GET /models/{name}`."""
        model = self.find(name)
        return {
            "id": name,
            "object": "model",
            "created": 1_750_000_000,
            "owned_by": "simulator" if name.startswith("sim-") else "system",
            "shutdown_date": model.shutdown_date,
        }

    def _describe(self, name: str) -> Model | None:
        base = name.split(":")[1] if name.startswith("ft:") and name.count(":") >= 2 else name
        base = base if base in self._prices else _DATED.sub("", base)
        simulated = name.startswith("sim-")
        if not simulated and base not in self.names:
            return None
        embeds = "embedding" in base
        context = 8_192 if embeds else _by_beginning(_CONTEXT, base, 128_000 if simulated else 1_050_000)
        return Model(
            name=name,
            base=base,
            context=context,
            dimensions=3_072 if base.endswith("3-large") else 1_536,
            embeds=embeds or simulated,
            writes=not embeds or simulated,
            reasons=bool(_REASONING.match(base)),
            shutdown_date=_by_beginning(_SHUTDOWN, base, None),
            cache_writes_cost="cache_write" in self._prices.get(base, {}),
        )


def _by_beginning(table: Mapping[str, _T], name: str, otherwise: _T) -> _T:
    fitting = [key for key in table if name == key or name.startswith(f"{key}-")]
    return table[max(fitting, key=len)] if fitting else otherwise


def _long_rates(rates: Mapping[str, Any], entry: Mapping[str, Any], tier: str) -> dict[str, str]:
    """The rates for a long prompt; a cheaper tier keeps its discount on them, as it does on the usual ones."""
    found: dict[str, str] = {}
    for kind, rate in entry["long_context"].items():
        if kind == "above":
            continue
        share = Decimal(1) if tier == "default" else Decimal(str(rates[kind])) / Decimal(str(entry[kind]))
        found[kind] = str(Decimal(str(rate)) * share)
    return found


def _read_prices(path: Path) -> dict[str, dict[str, Any]]:
    import json

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    return dict(json.loads(text, parse_float=str)["models"])
