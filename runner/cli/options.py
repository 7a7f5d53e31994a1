"""Options that several commands share, and the values behind them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from runner.errors import UsageError

if TYPE_CHECKING:
    from runner.job import Job

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Duration(click.ParamType[float]):
    """A duration such as 250ms, 30s, 5m, 1h30m; a bare number is seconds. `low` and `high` bound it, as the same field
    of a job file is bounded."""

    name = "duration"

    def __init__(self, low: str | None = None, high: str | None = None) -> None:
        self._low, self._high = low, high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        from runner.job import parse_duration

        try:
            seconds = parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        low, high = self._low, self._high
        if (
            low is not None
            and high is not None
            and not parse_duration(low) <= seconds <= parse_duration(high)
        ):
            self.fail(f"must be from {low} to {high}, not {value!r}", param, ctx)
        return seconds


class Money(click.ParamType[Any]):
    """An amount of US dollars, such as 5 or 5.00."""

    name = "usd"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from runner.job import parse_money

        try:
            return parse_money(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Size(click.ParamType[int]):
    """A number of bytes, such as 32MiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        from runner.job import parse_size

        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def store_option(command: Decorated) -> Decorated:
    return click.option(
        "--store",
        metavar="URL",
        envvar="RUNNER_STORE",
        help="Where runs are kept: sqlite:///PATH. Default: RUNNER_STORE, else runner/store.db in your data folder.",
    )(command)


def address_options(command: Decorated) -> Decorated:
    """Whose API, and where."""
    for option in reversed(
        [
            click.option(
                "--provider",
                type=click.Choice(["openai", "azure", "sim"]),
                help="Whose API: openai (or anything compatible), azure, or sim, the simulator inside the run.",
            ),
            click.option("--base-url", metavar="URL", help="The API's address. Default: OPENAI_BASE_URL."),
            click.option("--insecure-http", is_flag=True, help="Allow plain http to a public address."),
        ]
    ):
        command = option(command)
    return command


def account_options(command: Decorated) -> Decorated:
    """Whose API, where, and at which prices."""
    prices = click.option(
        "--prices",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="A price file; without it, the table that ships with runner for OpenAI and Azure.",
    )
    return address_options(prices(command))


def mode_option(command: Decorated) -> Decorated:
    return click.option(
        "--mode",
        type=click.Choice(["online", "batch", "auto"]),
        help="online: as fast as the limits allow. batch: the Batch API, at half price, within a day. "
        "auto: the cheapest way to be done by --deadline. [default: the job's, or online]",
    )(command)


def deadline_option(command: Decorated) -> Decorated:
    return click.option(
        "--deadline",
        metavar="WHEN",
        help="For --mode auto, which needs it: 8h from the run's beginning, or '06:00 Europe/Berlin', the next one.",
    )(command)


def quarantine_option(command: Decorated) -> Decorated:
    return click.option(
        "--quarantine",
        type=Duration(),
        default="10m",
        show_default=True,
        help="How long a batch of unknown fate is looked for before it may be repeated.",
    )(command)


def grace_option(command: Decorated) -> Decorated:
    return click.option(
        "--grace",
        type=Duration(),
        default="25s",
        show_default=True,
        help="How long to wait for calls in flight when asked to stop.",
    )(command)


def handling_options(command: Decorated) -> Decorated:
    """How a start handles its run: the same for `run`, `resume` and `retry`."""
    for option in reversed(
        [
            click.option(
                "-o",
                "--output",
                type=click.Path(path_type=Path),
                help="Where the output goes. Default: the job's; of a requests file, NAME.results.jsonl beside it.",
            ),
            mode_option,
            click.option("--budget", type=Money(), help="Most that may be spent, in USD; never overshot."),
            click.option("--concurrency", type=click.IntRange(min=1), help="Most calls in flight at once."),
            deadline_option,
            click.option(
                "--poll",
                type=Duration("10ms", "1h"),
                help="First pause between polls of a batch. [default: 30s]",
            ),
            click.option(
                "--queue-wait",
                type=Duration("10ms", "1d"),
                help="First wait when the batch queue is full. [default: 5m]",
            ),
            quarantine_option,
            click.option(
                "--on-ambiguous",
                type=click.Choice(["retry", "hold", "fail"]),
                default="retry",
                show_default=True,
                help="What becomes of a row whose call may have been charged without an answer.",
            ),
            click.option(
                "--skip-invalid", is_flag=True, help="Run the good rows of an input with bad lines; exit 3."
            ),
            click.option(
                "--overwrite", is_flag=True, help="Replace an output that this series did not write."
            ),
            click.option(
                "--no-wait",
                is_flag=True,
                help="Batch API, from cron: do what can be done now; exit 75 if something is out.",
            ),
            click.option(
                "--if-locked",
                type=click.Choice(["error", "ok"]),
                default="error",
                show_default=True,
                help="Exit 5, or 0, if another process is running this series.",
            ),
            grace_option,
            click.option("--json", "as_json", is_flag=True, help="Events as JSON lines on standard error."),
            click.option(
                "-q", "--quiet", is_flag=True, help="No progress, only errors; nothing when it ends with 75."
            ),
        ]
    ):
        command = option(command)
    return command


def store_url(given: str | None) -> str:
    """The store that the command line or RUNNER_STORE names, or the user's own."""
    return given or f"sqlite:///{_data_folder() / 'runner' / 'store.db'}"


def _data_folder() -> Path:
    home = os.environ.get("XDG_DATA_HOME")
    if home and Path(home).is_absolute():
        return Path(home)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    return Path.home() / ".local" / "share"


def is_job(path: str) -> bool:
    """A path that ends in .yaml or .yml is a job file; any other is a requests file."""
    return path.lower().endswith((".yaml", ".yml"))


def existing(path: str) -> Path:
    """The real path of a file named on the command line. UsageError if it is not there."""
    found = Path(path)
    if not found.exists():
        raise UsageError(f"{path} does not exist.")
    return found.resolve()


def job_of(job_or_requests: str, input_path: str | None) -> Job:
    """The job that a command names, over the input that it names. BadJob or UsageError if it cannot be."""
    from runner.job import read_job, requests_job

    if is_job(job_or_requests):
        job = read_job(existing(job_or_requests))
        if input_path is not None:
            job = replace(job, input="-" if input_path == "-" else str(existing(input_path)))
        if job.input is None:
            raise UsageError(f"{job_or_requests} names no input: add `input:` to the job, or --input PATH.")
        return job
    if input_path is not None:
        raise UsageError("--input goes with a job file: a requests file is its own input.")
    return requests_job("-" if job_or_requests == "-" else str(existing(job_or_requests)))
