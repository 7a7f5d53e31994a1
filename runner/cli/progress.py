"""What a start shows of itself, on standard error: a live bar, plain lines, JSON lines, or nothing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

import click

from runner.cli import printable
from runner.cli.closing import closing
from runner.errors import BadInput, RunnerError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from runner.engine import Finished

PLAIN_SECONDS = 30.0
BATCH_SECONDS = 600.0
"""How often a plain line tells of batches, whose changes have lines of their own."""


class Reporter(Protocol):
    """Hears the events of a start and shows them."""

    def emit(self, event: dict[str, Any]) -> None: ...

    def finished(self, finished: Finished) -> None: ...


@contextmanager
def reporter(*, as_json: bool, quiet: bool) -> Iterator[Reporter]:
    """The reporter that fits: JSON lines if asked for, a bar on a terminal, plain lines elsewhere."""
    if as_json:
        yield JsonLines()
    elif quiet:
        yield Quiet()
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with bar() as shown:
            yield shown
    else:
        yield PlainLines()


class JsonLines:
    """One JSON object a line; the README documents their fields."""

    def __init__(self) -> None:
        self._did: dict[str, Any] = {}

    def emit(self, event: dict[str, Any]) -> None:
        import orjson

        if event["event"] == "progress":
            self._did = event
        _say(orjson.dumps({"at": _now(), **event}).decode())

    def stopped(self, error: RunnerError) -> None:
        """The last line of a start that ended before its end: why, with which exit code, what it had done."""
        faults = error.faults if isinstance(error, BadInput) else ()
        self.emit(
            {
                "event": "stopped",
                "exit_code": error.exit_code,
                "message": str(error),
                "faults": [
                    {"line": one.line, "key": one.key, "code": one.code, "message": one.message}
                    for one in faults
                ],
                "this_start": self._did,
            }
        )

    def finished(self, finished: Finished) -> None:
        self.emit(
            {
                "event": "finished",
                "run": finished.run,
                "exit_code": finished.exit_code,
                "output": str(finished.output),
                "did_nothing": finished.did_nothing,
                "this_start": finished.this_start,
                "summary": finished.summary,
            }
        )


class Quiet:
    """Says nothing but warnings."""

    def emit(self, event: dict[str, Any]) -> None:
        if event["event"] == "warning":
            _say(sentence(event))

    def finished(self, finished: Finished) -> None:
        pass


class PlainLines:
    """A line for each thing that happens, and one every half minute for how far it is."""

    def __init__(self) -> None:
        self._said_at = time.monotonic()

    def emit(self, event: dict[str, Any]) -> None:
        if event["event"] in ("progress", "ingesting"):
            if time.monotonic() - self._said_at < (BATCH_SECONDS if "batches" in event else PLAIN_SECONDS):
                return
            self._said_at = time.monotonic()
        text = sentence(event)
        if text:
            _say(text)

    def finished(self, finished: Finished) -> None:
        for line in _closing_of(finished):
            _say(line)


class Bar:
    """A live bar: done, failed, rate, time left, tokens, cost."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def emit(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "progress":
            self._progress.update(
                self._task,
                total=event["rows"],
                completed=event["done"],
                description="",
                detail=_beside_bar(event),
            )
        elif kind == "ingesting":
            self._progress.update(self._task, description="reading ", detail=f"{event['rows']:,} rows")
        elif kind == "started":
            self._progress.update(self._task, description="", total=event["rows"], detail="")
            self._progress.console.print(sentence(event), markup=False, highlight=False)
        else:
            text = sentence(event)
            if text:
                self._progress.console.print(text, markup=False, highlight=False)

    def finished(self, finished: Finished) -> None:
        self._progress.stop()
        for line in _closing_of(finished):
            _say(line)


@contextmanager
def bar() -> Iterator[Bar]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.table import Column

    progress = Progress(
        # Where the terminal is narrow, the end of the detail is cut, never the bar.
        BarColumn(10, table_column=Column(min_width=10)),
        TaskProgressColumn(table_column=Column(min_width=4, no_wrap=True)),
        TextColumn("{task.description}{task.fields[detail]}", markup=False),
        console=Console(stderr=True),
        refresh_per_second=4,
        transient=True,
    )
    with progress:
        yield Bar(progress, progress.add_task("starting", total=None, detail=""))


def sentence(event: dict[str, Any]) -> str:
    """An event as one line for people; empty if it is not worth one."""
    match event["event"]:
        case "warning":
            return f"Warning: {printable(str(event['message']))}"
        case "ingesting":
            return f"Reading the input: {event['rows']:,} rows so far."
        case "started":
            return f"Run {event['run']} of {event['job']}: {_rows(event['rows'])}."
        case "recovered":
            return (
                f"{event['tasks']:,} rows were in calls of an earlier start whose answers never reached us; these "
                f"may have been charged. The rows are {_becomes(event['now'])}."
            )
        case "retrying" if not event["tasks"]:
            return "No row failed or is held: nothing goes round again."
        case "retrying":
            return f"{event['tasks']:,} failed or held {'row is' if event['tasks'] == 1 else 'rows are'} asked again."
        case "held":
            return f"Waiting {_seconds(event['seconds'])} for the server ({printable(event['reason'])})."
        case "batch":
            return _batch(event)
        case "way":
            return f"{_WAYS[event['way']]}: {_rows(event['rows'])}, {event['message']}."
        case "stopping" if not event["in_flight"]:
            return f"Stopping ({event['reason']}): no call is in flight."
        case "stopping":
            return (
                f"Stopping ({event['reason']}): waiting up to {_seconds(event['grace'])} for "
                f"{event['in_flight']:,} calls in flight. Ctrl-C again leaves at once; they may be charged."
            )
        case "progress":
            return f"{event['done']:,} of {event['rows']:,} rows, {_detail(event)}"
        case _:
            return ""


_WAYS = {"flex": "By flex", "batch": "By batches", "online": "Online"}
_TOLD_STATES = {
    "submitted": "submitted",
    "unknown": "no answer tells whether it was created: looking for it before it may be submitted again",
    "completed": "completed",
    "expired": "expired; what it did is kept, the rest is asked again",
    "cancelling": "being cancelled",
    "cancelled": "cancelled; what it did is kept",
}


def _batch(event: dict[str, Any]) -> str:
    """What has become of a batch; empty for the steps between."""
    told = event["message"] or _TOLD_STATES.get(event["state"], "")
    return f"Batch {printable(event['batch'])} ({_rows(event['lines'])}): {printable(told)}." if told else ""


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _closing_of(finished: Finished) -> list[str]:
    return closing(finished.run, finished.summary, finished.output, did_nothing=finished.did_nothing)


def _out(batches: list[dict[str, Any]]) -> str:
    """The batches that are out, in a few words: how many, and how the oldest is."""
    if not batches:
        return "no batch out"
    oldest = max(batches, key=lambda one: one["age_seconds"])
    done = "" if oldest["done"] is None else f", {oldest['done']:,} of {oldest['lines']:,} done"
    state = f"{printable(oldest['state'])}, {_seconds(oldest['age_seconds'])} old{done}"
    return (
        f"1 batch out ({state})" if len(batches) == 1 else f"{len(batches)} batches out (the oldest {state})"
    )


def _detail(event: dict[str, Any]) -> str:
    parts = [f"{event['failed']:,} failed"]
    if "batches" in event:
        parts += [_out(event["batches"]), f"{event['input_tokens'] + event['output_tokens']:,} tokens"]
        if event["cost_usd"] is not None:
            parts.append(f"${Decimal(event['cost_usd']):.4f}")
        return ", ".join(parts)
    parts.append(f"{event['rows_per_second']:,} rows/s")
    if event["eta_seconds"] is not None:
        parts.append(f"{_seconds(event['eta_seconds'])} left")
    parts.append(f"{event['input_tokens'] + event['output_tokens']:,} tokens")
    if event["cost_usd"] is not None:
        parts.append(f"${Decimal(event['cost_usd']):.4f}")
    if not event["held_for"]:
        parts.append(f"bound by {event['bound_by']}")
    else:
        parts.append(f"waiting {_seconds(event['held_for'])} ({printable(event['held_because'])})")
    return ", ".join(parts)


def _beside_bar(event: dict[str, Any]) -> str:
    """What stands beside the bar: the same in 60 characters or so; what is worth most comes first."""
    parts = [f"{event['failed']:,} failed"] if event["failed"] else []
    if "batches" in event:
        return ", ".join([*parts, _out(event["batches"])])
    if event["held_for"]:
        parts.append(f"waiting {_seconds(event['held_for'])} for the server")
    else:
        parts.append(f"{event['rows_per_second']:,} rows/s")
    if event["eta_seconds"] is not None:
        parts.append(f"{_seconds(event['eta_seconds'])} left")
    tokens = event["input_tokens"] + event["output_tokens"]
    parts.append(f"{tokens:,} tokens" if tokens < 100_000 else f"{tokens // 1000:,}k tokens")
    if event["cost_usd"] is not None:
        parts.append(f"${Decimal(event['cost_usd']):.4f}")
    if not event["held_for"]:
        parts.append(f"bound by {event['bound_by']}")
    return ", ".join(parts)


def _becomes(state: str) -> str:
    return {"ready": "asked again", "held": "held", "failed": "failed"}.get(state, state)


def _seconds(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _say(text: str) -> None:
    try:
        click.echo(text, err=True)
    except OSError:
        # Nobody reads our progress any more; the run goes on.
        pass
