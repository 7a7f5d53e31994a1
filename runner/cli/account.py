"""Whose API a command asks: options and environment made into an account, its prices, and the series' identity."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import BadConfiguration, UsageError

if TYPE_CHECKING:
    from runner.api.account import Account
    from runner.job import Job
    from runner.pricing import Prices
    from runner.store.identity import Identity


@contextmanager
def account_of(
    options: dict[str, Any], emit: Callable[[dict[str, Any]], None], *, asks: bool = True
) -> Iterator[Account]:
    """The account that options and environment name; the simulator is started for it where it is asked for.

    `asks` is False for commands that call no API: they need no key, and no simulator.
    """
    from runner.api.account import account_from

    base_url = options["base_url"]
    simulator = None
    if options["provider"] == "sim" and base_url is None and asks:
        from runner.simulator import Settings, Simulator

        simulator = Simulator(Settings())
        simulator.start()
        base_url = simulator.url
    try:
        account, warnings = account_from(
            os.environ,
            provider=options["provider"],
            base_url=base_url,
            insecure_http=options["insecure_http"],
            demand_key=asks,
        )
        for warning in warnings:
            emit({"event": "warning", "message": warning})
        yield replace(account, is_inside=simulator is not None)
    finally:
        if simulator is not None:
            simulator.stop()


def prices_of(path: Path | None, account: Account) -> Prices:
    """The prices that hold at an account: those of the file given, else those shipped, where they hold."""
    from runner.pricing import Prices

    if path is not None:
        try:
            return Prices.parse(path.read_bytes(), str(path))
        except OSError as error:
            raise BadConfiguration(f"The price file {path} cannot be read: {error.strerror}.") from error
    return Prices.shipped() if account.known_prices else Prices.none()


def identity_of(job: Job, account: Account) -> Identity:
    """What series a start belongs to."""
    from runner.store.identity import Identity

    source = job.input or ""
    return Identity(
        job_name=job.name,
        job_path="" if job.path is None else str(job.path),
        input_path=source if source == "-" else os.path.realpath(source),
        provider=account.provider,
        origin=account.origin,
        organization=account.organization or "",
        project=account.project or "",
    )


def check_same_account(kept: Identity, asked: Identity, run_name: str) -> None:
    """UsageError if this start would go on with a run of another account."""
    ours = (asked.provider, asked.origin, asked.organization, asked.project)
    theirs = (kept.provider, kept.origin, kept.organization, kept.project)
    if ours != theirs:
        raise UsageError(
            f"Run {run_name} belongs to {kept.provider} at {kept.origin}"
            f"{_of(kept.organization, kept.project)}; this start would ask {asked.provider} at {asked.origin}"
            f"{_of(asked.organization, asked.project)}. Give the same --provider, --base-url and variables as then."
        )


def _of(organization: str, project: str) -> str:
    named = [f"organisation {organization}"] if organization else []
    named += [f"project {project}"] if project else []
    return f" ({', '.join(named)})" if named else ""
