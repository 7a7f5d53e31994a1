"""The models that the simulator knows: their names, sizes, shutdown dates and prices."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

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
_KINDS = ("input", "cached_input", "cache_write", "output")
_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_REASONING = re.compile(r"(gpt-[5-9]|o\d)")


@dataclass(frozen=True, slots=True)
class Model:
    """A model: its name as asked for, the name that prices know, and its sizes in tokens."""

    name: str
    base: str
    context: int
    max_output: int | None
    dimensions: int
    embeds: bool
    writes: bool
    """Whether the API can generate text with it."""
    reasons: bool
    """Whether it takes `max_completion_tokens` only."""
    shutdown_date: str | None
    retired: bool
    cache_writes_cost: bool


class Catalogue:
    """The models of the price file, and any name that begins with `sim-`, or any at all where they are `deployments`.

    A model whose shutdown date lies before the date of the price file is retired. That date, and not today's,
    decides, so that a rehearsal gives the same tomorrow.
    """

    def __init__(self, price_file: Path = PRICE_FILE, *, deployments: bool = False) -> None:
        self._deployments = deployments
        self._as_of, self._entries = _read(price_file)
        self._bases = {
            alias: name for name, entry in self._entries.items() for alias in entry.get("aliases", ())
        }
        self._known: dict[str, Model] = {}
        self.names = tuple(name for name in sorted(self._entries) if not self.find_any(name).retired)

    def find(self, name: object) -> Model:
        """The model of this name, or the API's refusal of an unknown or retired one."""
        if name is None or name == "":
            raise missing("model")
        if not isinstance(name, str):
            raise wrong_type("model", "a string", name)
        model = self._known.get(name)
        if model is None:
            model = self._known[name] = self.find_any(name)
        if model.retired:
            raise Refusal(
                404,
                f"The model `{name}` has been deprecated, learn more here: "
                "https://platform.openai.com/docs/deprecations",
                code="model_not_found",
            )
        return model

    def knows(self, name: object) -> bool:
        """Whether a request may name this model."""
        try:
            self.find(name)
        except Refusal:
            return False
        return True

    def find_any(self, name: str) -> Model:
        """The model of this name, be it retired; a dated snapshot or a fine-tuned one is as its base."""
        base = name.split(":")[1] if name.startswith("ft:") and name.count(":") >= 2 else name
        base = base if base in self._entries else _DATED.sub("", base)
        base = self._bases.get(base, base)
        simulated = name.startswith("sim-") or (self._deployments and base not in self._entries)
        if not simulated and base not in self._entries:
            raise Refusal(
                404,
                f"The model `{name}` does not exist or you do not have access to it.",
                code="model_not_found",
            )
        entry = self._entries.get(base, {})
        embeds = "embedding" in base
        shutdown = entry.get("shutdown_date")
        return Model(
            name=name,
            base=base,
            context=int(entry.get("context", 8_192 if embeds else 1_050_000)),
            max_output=int(entry["max_output"]) if "max_output" in entry else None,
            dimensions=3_072 if base.endswith("3-large") else 1_536,
            embeds=embeds or simulated,
            writes=not embeds or simulated,
            reasons=bool(_REASONING.match(base)),
            shutdown_date=shutdown,
            retired=shutdown is not None and str(shutdown) < self._as_of,
            cache_writes_cost="cache_write" in entry,
        )

    def describe(self, name: str) -> dict[str, object]:
        """The model object of `GET /models/{name}`."""
        return {
            "id": name,
            "object": "model",
            "created": 1_750_000_000,
            "owned_by": "simulator" if name.startswith("sim-") else "system",
            "shutdown_date": self.find(name).shutdown_date,
        }

    def is_long(self, base: str, prompt: int) -> bool:
        """Whether a prompt of so many tokens is charged at the dearer rates for long ones."""
        long_context = self._entries.get(base, {}).get("long_context")
        return isinstance(long_context, dict) and prompt > int(long_context["above"])

    def price(self, base: str, tier: str, *, long: bool) -> dict[str, Decimal] | None:
        """USD per million tokens by kind, for "default", "batch", "flex" or "priority"; None if not known."""
        entry = self._entries.get(base)
        if entry is None or "input" not in entry:
            return None
        standard = _rates(entry)
        if tier == "default":
            return _inherited(standard, entry["long_context"]) if long else standard
        block = entry.get(tier)
        if not isinstance(block, dict):
            return None
        rates = _inherited(standard, block)
        if not long:
            return rates
        if isinstance(block.get("long_context"), dict):
            return _inherited(rates, block["long_context"])
        grown = _inherited(standard, entry["long_context"])
        return {kind: rate * grown[kind] / standard[kind] for kind, rate in rates.items()}


def _rates(block: Mapping[str, Any]) -> dict[str, Decimal]:
    return {kind: Decimal(block[kind]) for kind in _KINDS if kind in block}


def _inherited(outer: Mapping[str, Decimal], block: Mapping[str, Any]) -> dict[str, Decimal]:
    """A block's rates; what it leaves out is the outer rate, raised as far as the input's is raised."""
    own = _rates(block)
    raised = max(Decimal(1), own["input"] / outer["input"])
    return {**{kind: rate * raised for kind, rate in outer.items()}, **own}


def _read(path: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return "", {name: {} for name in _WITHOUT_PRICE_FILE}
    table = json.loads(text)
    return str(table["as_of"]), dict(table["models"])
