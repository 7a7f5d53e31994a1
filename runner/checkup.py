"""What `doctor` looks at: versions, store, key, limits, prices, and whether the models live on."""

from __future__ import annotations

import platform
import sqlite3
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib import metadata

import anyio

from runner import __version__, retirement
from runner.api.account import Account
from runner.errors import RunnerError
from runner.pricing import Prices
from runner.store import answers, runs
from runner.store.database import Store
from runner.store.place import path_of

FIXED_SQLITE = (3, 51, 3)
OLD_PRICES_DAYS = 120
SOON_DAYS = 60
LIBRARIES = ("openai", "aiohttp", "sqlalchemy", "orjson", "alembic")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: ok, warn or fail, and what was found."""

    name: str
    verdict: str
    found: str


def check_versions() -> list[Check]:
    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES)
    checks = [
        Check(
            "versions",
            "ok",
            f"runner {__version__}, Python {platform.python_version()}, {sys.platform}, {libraries}",
        )
    ]
    version = sqlite3.sqlite_version_info
    if version < FIXED_SQLITE:
        text = f"{sqlite3.sqlite_version}: has the WAL-reset bug of 3.7.0 to 3.51.2; the store's own lock avoids it"
        checks.append(Check("sqlite", "warn", text))
    else:
        checks.append(Check("sqlite", "ok", sqlite3.sqlite_version))
    return checks


def check_store(store_url: str) -> list[Check]:
    """SQLite's whole check, and every stored answer against its checksum."""
    path = path_of(store_url)
    if not path.exists():
        return [Check("store", "ok", f"{path} is not there yet; the first run makes it")]
    try:
        with Store.read_only(store_url) as store:
            wrong = store.integrity()
            with store.read() as connection:
                checked, damaged = answers.check(connection)
    except RunnerError as error:
        return [Check("store", "fail", str(error))]
    if wrong or damaged:
        found = "; ".join([*wrong[:3], *([f"{damaged} of {checked} answers damaged"] if damaged else [])])
        return [
            Check(
                "store",
                "fail",
                f"{path}: {found}. Restore a copy, or rescue it with `sqlite3 STORE .recover`",
            )
        ]
    return [Check("store", "ok", f"{path}: sound, {checked:,} answers with their checksums")]


def check_prices(prices: Prices, today: date) -> Check:
    if not prices.as_of:
        return Check("prices", "warn", "none known here: costs stay unknown; --prices FILE gives them")
    age = (today - date.fromisoformat(prices.as_of)).days
    verdict = "warn" if age > OLD_PRICES_DAYS else "ok"
    return Check(
        "prices",
        verdict,
        f"as of {prices.as_of}"
        + (f", {age} days old: give newer ones with --prices" if verdict == "warn" else ""),
    )


def check_account(account: Account, used: set[str], prices: Prices) -> list[Check]:
    """Whether the key opens the API, and whether the models in use live on. One request, free of charge."""
    from runner.api.client import list_models

    try:
        models = anyio.run(list_models, account)
    except RunnerError as error:
        return [Check("key", "fail", str(error))]
    dates = {model.id: model.shutdown_date for model in models}
    checks = [Check("key", "ok", f"{account.origin} answers and lists {len(dates):,} models")]
    today = datetime.now(UTC).date()
    for name in sorted(used):
        ends = retirement.last_day(name, dates, prices)
        if name not in dates:
            checks.append(Check("model", "warn", f"{name} is not among the models listed"))
        elif ends is not None and ends <= today:
            checks.append(Check("model", "fail", f"{name} was to be shut down on {ends}"))
        elif ends is not None and (ends - today).days <= SOON_DAYS:
            checks.append(Check("model", "warn", f"{name} is to be shut down on {ends}"))
        else:
            checks.append(Check("model", "ok", f"{name}" + (f" lives until {ends}" if ends else "")))
    return checks


def models_in_use(store_url: str) -> set[str]:
    """The models of the newest runs in the store."""
    if not path_of(store_url).exists():
        return set()
    with Store.read_only(store_url) as store, store.read() as connection:
        return {str(run.job["model"]) for run in runs.newest(connection, 20) if run.job.get("model")}
