"""What executed calls come to, in tokens and in money."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

from runner.simulator.models import Catalogue

_MILLION = Decimal(1_000_000)


class Tokens:
    """Tokens of one answer. `input` includes `cached` and `cache_write`."""

    __slots__ = ("cache_write", "cached", "input", "output")

    def __init__(self, read: int, output: int = 0, *, cached: int = 0, cache_write: int = 0) -> None:
        self.input = read
        self.output = output
        self.cached = cached
        self.cache_write = cache_write


class Bill:
    """Tokens by model, tier and length of prompt, and what they cost at the catalogue's prices."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._sums: dict[tuple[str, str, bool], Counter[str]] = {}

    def add(self, tokens: Tokens, *, base: str, tier: str) -> None:
        """Adds one answer; `base` is the model's name in the price file."""
        long = self._catalogue.is_long(base, tokens.input)
        sums = self._sums.setdefault((base, tier, long), Counter())
        sums["input"] += tokens.input
        sums["cached_input"] += tokens.cached
        sums["cache_write"] += tokens.cache_write
        sums["output"] += tokens.output

    def tokens(self) -> dict[str, dict[str, int]]:
        """Tokens by model and kind."""
        found: dict[str, Counter[str]] = {}
        for (base, _, _), sums in self._sums.items():
            found.setdefault(base, Counter()).update(sums)
        return {
            base: {
                **{kind: int(count) for kind, count in sums.items()},
                "total": sums["input"] + sums["output"],
            }
            for base, sums in found.items()
        }

    def shown(self) -> dict[str, Any]:
        """`cost_usd`, exact decimal text for all that is priced, and `unpriced`, a list of what is not."""
        cost = Decimal(0)
        unpriced: set[str] = set()
        for (base, tier, long), sums in self._sums.items():
            price = self._catalogue.price(base, tier, long=long)
            if price is None or ("output" not in price and sums["output"]):
                unpriced.add(f"{base} ({tier})")
                continue
            plain = sums["input"] - sums["cached_input"] - sums["cache_write"]
            cost += plain * price["input"] + sums["output"] * price.get("output", Decimal(0))
            cost += sums["cached_input"] * price.get("cached_input", price["input"])
            cost += sums["cache_write"] * price.get("cache_write", price["input"])
        return {"cost_usd": format(cost / _MILLION, "f"), "unpriced": sorted(unpriced)}
