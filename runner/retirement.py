"""Models that are past their last day: said before the first call, where the server or the price table knows it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from datetime import date

import anyio
import orjson

from runner.model import Reply
from runner.pricing import Prices

LIST_SECONDS = 2.0
"""How long a run waits for the server's list of models; most give it at once, some have none."""


async def told(
    fetch: Callable[[str], Awaitable[Reply]], models: Collection[str], prices: Prices, *, today: date
) -> list[str]:
    """A sentence for each of these models that is past its last day, as the server's list says or the price table. A
    list that does not come at once keeps nobody waiting."""
    dates: dict[str, str | None] = {}
    with anyio.move_on_after(LIST_SECONDS):
        dates = listed((await fetch("/models")).body)
    return warnings(models, dates, prices, today=today)


def listed(body: bytes) -> dict[str, str | None]:
    """The models that the body of GET /models lists, with the text of their shutdown dates; {} if it lists none."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    items = found.get("data") if isinstance(found, dict) else None
    return {
        str(one["id"]): one.get("shutdown_date")
        for one in (items if isinstance(items, list) else [])
        if isinstance(one, dict) and "id" in one
    }


def last_day(model: str, dates: Mapping[str, str | None], prices: Prices) -> date | None:
    """When a model is shut down, by the server's list or else by the price table; None if neither says."""
    return _day(dates.get(model)) or prices.shutdown_date(model)


def warnings(
    models: Iterable[str], dates: Mapping[str, str | None], prices: Prices, *, today: date
) -> list[str]:
    """A sentence for each of these models that is past its last day."""
    found = []
    for model in sorted(set(models)):
        ends = last_day(model, dates, prices)
        if ends is not None and ends <= today:
            found.append(
                f"{model} was to be shut down on {ends}: its calls may all be refused. Name another model in the job."
            )
    return found


def _day(text: object) -> date | None:
    try:
        return date.fromisoformat(text[:10]) if isinstance(text, str) else None
    except ValueError:
        return None
