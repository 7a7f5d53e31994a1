"""What arrived at the simulator, what it executed, and what that would have cost."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from decimal import Decimal
from typing import Any

import orjson

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


class Visits:
    """How often one body came, passed the limits, and was executed."""

    __slots__ = ("admitted", "arrived", "executed")

    def __init__(self) -> None:
        self.arrived = 0
        self.admitted = 0
        self.executed = 0


class Ledger:
    """The book of one simulator. Safe to read from any thread, also after the simulator has stopped."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._visits: dict[bytes, Visits] = {}
            self._inputs: Counter[bytes] = Counter()
            self._counts: Counter[str] = Counter()
            self._endpoints: dict[str, Counter[str]] = {}
            self._refused: Counter[str] = Counter()
            self._faults: Counter[str] = Counter()
            self._tokens: dict[tuple[str, str, bool], Counter[str]] = {}

    def arrive(self, endpoint: str, digest: bytes) -> Visits:
        """A model call has arrived."""
        with self._lock:
            self._counts["arrived"] += 1
            self._endpoints.setdefault(endpoint, Counter())["arrived"] += 1
            visits = self._visits.get(digest)
            if visits is None:
                visits = self._visits[digest] = Visits()
            visits.arrived += 1
            return visits

    def execute(
        self, endpoint: str, digest: bytes, tokens: Tokens, *, base: str, tier: str, inputs: list[bytes]
    ) -> None:
        """A model call has been executed: from here on it would be charged, whatever reaches the client.

        `base` is the model's name in the price file, `tier` "default", "batch" or "flex"; `inputs` are the
        digests of an embeddings call's single inputs.
        """
        long = self._catalogue.is_long(base, tokens.input)
        with self._lock:
            self._counts["executed"] += 1
            self._endpoints[endpoint]["executed"] += 1
            self._visits[digest].executed += 1
            self._inputs.update(inputs)
            sums = self._tokens.setdefault((base, tier, long), Counter())
            sums["input"] += tokens.input
            sums["cached_input"] += tokens.cached
            sums["cache_write"] += tokens.cache_write
            sums["output"] += tokens.output

    def refuse(self, word: str) -> None:
        """A model call was refused, for the reason that this word names."""
        with self._lock:
            self._refused[word] += 1

    def fault(self, name: str) -> None:
        """A fault of the script was met."""
        with self._lock:
            self._faults[name] += 1

    def count(self, word: str, amount: int = 1) -> None:
        """Counts an event of the control plane, such as a batch created."""
        with self._lock:
            self._counts[word] += amount

    def snapshot(self) -> dict[str, Any]:
        """The whole book as JSON types.

        `executions` maps the SHA-256 of each executed body (`body_digest`) to how often; `inputs` counts the
        single inputs of embeddings likewise and names those executed more than once. `cost_usd` is exact
        decimal text for all that is priced; `unpriced` lists what is not.
        """
        with self._lock:
            counts = Counter(self._counts)
            cost, unpriced = self._cost()
            return {
                "arrived": counts.pop("arrived", 0),
                "executed": counts.pop("executed", 0),
                "refused": dict(self._refused),
                "faults": dict(self._faults),
                "endpoints": {
                    name: {"arrived": seen["arrived"], "executed": seen["executed"]}
                    for name, seen in self._endpoints.items()
                },
                "executions": {
                    digest.hex(): seen.executed for digest, seen in self._visits.items() if seen.executed
                },
                "inputs": {
                    "executed": sum(self._inputs.values()),
                    "distinct": len(self._inputs),
                    "repeated": {digest.hex(): times for digest, times in self._inputs.items() if times > 1},
                },
                "tokens": self._tokens_by_model(),
                "cost_usd": format(cost, "f"),
                "unpriced": unpriced,
                "control": dict(counts),
            }

    def _tokens_by_model(self) -> dict[str, dict[str, int]]:
        found: dict[str, Counter[str]] = {}
        for (base, _, _), sums in self._tokens.items():
            found.setdefault(base, Counter()).update(sums)
        return {
            base: {
                **{kind: int(count) for kind, count in sums.items()},
                "total": sums["input"] + sums["output"],
            }
            for base, sums in found.items()
        }

    def _cost(self) -> tuple[Decimal, list[str]]:
        cost = Decimal(0)
        unpriced: set[str] = set()
        for (base, tier, long), sums in self._tokens.items():
            price = self._catalogue.price(base, tier, long=long)
            if price is None or ("output" not in price and sums["output"]):
                unpriced.add(f"{base} ({tier})")
                continue
            plain = sums["input"] - sums["cached_input"] - sums["cache_write"]
            cost += plain * price["input"] + sums["output"] * price.get("output", Decimal(0))
            cost += sums["cached_input"] * price.get("cached_input", price["input"])
            cost += sums["cache_write"] * price.get("cache_write", price["input"])
        return cost / _MILLION, sorted(unpriced)


def body_digest(body: object) -> bytes:
    """SHA-256 of a body as compact JSON with sorted keys, so that spacing and order make no difference."""
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()
