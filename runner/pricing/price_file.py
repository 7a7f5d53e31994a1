"""Reading a price file: its form, checked whole, with every fault told at once."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from datetime import date

from runner.pricing.rates import Block, Entry, grow, inherit, schedule

_RATES = ("input", "cached_input", "cache_write", "output")
_TIERS = ("batch", "flex", "priority")
_FACTS = ("max_output", "context", "shutdown_date", "aliases")
_PRICE = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,6}))?")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class PriceFile:
    """Reads the form of a price file, and notes every fault on the way instead of stopping at the first."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def unique(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        for name in found if len(found) < len(pairs) else ():
            if sum(other == name for other, _ in pairs) > 1:
                self.faults.append(f"{_shown(name)} is written twice in one object; keep one of the two")
        return found

    def table(self, value: object) -> tuple[str, dict[str, Entry]]:
        table = self._object("the file", value, ("as_of", "sources", "models"))
        as_of = self._day("as_of", table["as_of"]) if "as_of" in table else None
        self._texts("sources", table.get("sources", []))
        if "models" not in table and isinstance(value, dict):
            self.faults.append('models is missing; write {"models": {"NAME": {"input": "0.10"}}}')
        forms = self._object("models", table.get("models", {}), None)
        entries: dict[str, Entry] = {}
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

    def _entry(self, where: str, form: object) -> tuple[Entry, list[str]]:
        fields, standard = self._prices(where, form, (*_RATES, "long_context", *_TIERS, *_FACTS))
        above, long = self._long(where, fields)
        tiers = {"standard": schedule(standard, above, long)}
        for tier in _TIERS:
            if tier in fields:
                place = f"{where}.{tier}"
                own_fields, stated = self._prices(place, fields[tier], (*_RATES, "long_context"))
                own = inherit(stated, standard)
                own_above, own_long = self._long(place, own_fields)
                if own_long is None and long is not None:
                    own_above, own_long = above, grow(own, standard, inherit(long, standard))
                tiers[tier] = schedule(own, own_above, own_long)
        shutdown = fields.get("shutdown_date")
        entry = Entry(
            tiers,
            self._count(f"{where}.max_output", fields.get("max_output")),
            self._count(f"{where}.context", fields.get("context")),
            None if shutdown is None else self._day(f"{where}.shutdown_date", shutdown),
        )
        return entry, self._texts(f"{where}.aliases", fields.get("aliases", []))

    def _prices(self, where: str, form: object, known: Sequence[str]) -> tuple[dict[str, object], Block]:
        fields = self._object(where, form, known)
        if isinstance(form, dict) and "input" not in fields:
            self.faults.append(f"{where}.input is missing; where it is unknown, leave {where} out")
        stated = {name: self._price(f"{where}.{name}", fields[name]) for name in _RATES if name in fields}
        return fields, {"input": 0} | stated

    def _long(self, where: str, fields: dict[str, object]) -> tuple[int, Block | None]:
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


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
