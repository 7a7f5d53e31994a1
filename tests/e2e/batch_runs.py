"""Runs in batch mode in the test's own process, several side by side, each against a fault server of its own.

    found = side_by_side({"expired": Case(folder, empty_store, batches="expired:0.4")}, most=8, within=60)
    assert found["expired"].result(0).code == 0

A process of its own would cost each of them a second of imports. The command is the real one, from its arguments
to its exit code; sockets, store and files are real.
"""

from __future__ import annotations

import io
import os
import queue
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock

import orjson
import pytest
from e2e.conftest import KEY, Ended, read_jsonl, request_line, write_jsonl
from faultserver import BatchFaults, FaultServer, Ledger

from runner.cli import main

Command = Callable[..., Ended]
Key = TypeVar("Key")

ENVIRONMENT = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "COLUMNS": "200"}
NO_PARAMS = SimpleNamespace(params={})
ALWAYS_THERE = frozenset({"requests.jsonl", "store.db", "store.db.d/store.lock"})


class Screen(io.TextIOBase):
    """A standard stream that keeps apart what each thread writes."""

    encoding = "utf-8"
    errors = "strict"

    def __init__(self) -> None:
        self._written: dict[int, list[str]] = {}

    def write(self, text: str, /) -> int:
        # Whoever looks whether a stream takes bytes is told no, as by any other text stream.
        if not isinstance(text, str):
            raise TypeError("not text")
        self._written.setdefault(threading.get_ident(), []).append(text)
        return len(text)

    def writable(self) -> bool:
        return True

    def take(self) -> str:
        """What the calling thread has written since it last took."""
        return "".join(self._written.pop(threading.get_ident(), []))


@contextmanager
def screens() -> Iterator[Command]:
    """Give a function that runs the command and tells how it ended; any thread may call it."""
    out, err = Screen(), Screen()

    def command(*args: object) -> Ended:
        began = time.monotonic()
        try:
            main([str(one) for one in args])
        except SystemExit as end:
            code = end.code
        assert isinstance(code, int)
        ended = Ended(code, out.take().encode(), err.take(), time.monotonic() - began)
        assert KEY not in ended.err + ended.out.decode()
        return ended

    theirs = ("OPENAI_", "AZURE_", "RUNNER_STORE")
    without = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    with (
        mock.patch.dict(os.environ, {**without, **ENVIRONMENT}, clear=True),
        mock.patch.object(sys, "stdout", out),
        mock.patch.object(sys, "stderr", err),
    ):
        yield command


@dataclass
class Case:
    """A requests file in a folder of its own, beside a store, and what goes wrong at the server that is asked.

    `waits_for` is how many batches there must be before the server goes.
    """

    folder: Path
    empty_store: Path
    rows: int = 300
    batches: str | BatchFaults = "plain"
    batch_time: float = 0.3
    options: tuple[str, ...] = ()
    waits_for: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        shutil.copy(self.empty_store, self.store)
        write_jsonl(self.input, (request_line(number) for number in range(1, self.rows + 1)))

    @property
    def input(self) -> Path:
        return self.folder / "requests.jsonl"

    @property
    def output(self) -> Path:
        return self.folder / "out.jsonl"

    @property
    def store(self) -> Path:
        return self.folder / "store.db"

    @property
    def ids(self) -> list[str]:
        """The rows' custom ids, in order."""
        return [f"r{number}" for number in range(1, self.rows + 1)]

    def command(self, url: str) -> list[str]:
        """The command line that runs it."""
        how = ["--mode", "batch", "-o", str(self.output), *self.options]
        return ["run", str(self.input), *self.where(url), *how]

    def where(self, url: str) -> list[str]:
        """The options that name its store and its server."""
        return ["--store", f"sqlite:///{self.store}", "--base-url", url]

    def run(self, command: Command) -> Result:
        """Run it and, once its output is there, the same command again, which has nothing to do."""
        with FaultServer(batches=self.batches, batch_time=self.batch_time) as server:
            ended = command(*self.command(server.url))
            arrived = len(server.ledger.arrivals)
            if self.output.exists():
                assert command(*self.command(server.url)).code == ended.code
                assert len(server.ledger.arrivals) == arrived, "a run that has ended asks nothing"
            server.ledger.wait_until(lambda ledger: has_ended(ledger, self.waits_for), timeout=30)
            return Result(self, ended, server.ledger)


def has_ended(ledger: Ledger, batches: int) -> bool:
    """Whether so many batches came to be and have ended."""
    found = ledger.batches().values()
    return len(found) >= batches and all(one["status"] for one in found)


@dataclass
class Result:
    """What came of a case: the command's end, its files, and what the server's ledger says."""

    case: Case
    ended: Ended
    ledger: Ledger = field(repr=False)

    @property
    def code(self) -> int:
        return self.ended.code

    @property
    def answered(self) -> list[str]:
        """The ids of the rows that the output has an answer for, in its order."""
        found = [line for line in read_jsonl(self.case.output) if line["error"] is None]
        assert all(line["response"]["status_code"] == 200 for line in found)
        return [line["custom_id"] for line in found]

    @property
    def executed(self) -> Counter[str]:
        """How often each row was executed."""
        return self.ledger.executed_rows

    @property
    def statuses(self) -> tuple[str | None, ...]:
        """How the batches ended that came to be, in their order."""
        return tuple(one["status"] for one in self.ledger.batches().values())

    @property
    def operations(self) -> Counter[str]:
        """How often each operation of the Batch API was asked for."""
        return Counter(one.operation.name for one in self.ledger.arrivals if one.operation is not None)

    @property
    def summary(self) -> dict[str, Any]:
        path = self.case.output.with_name(f"{self.case.output.name}.summary.json")
        found: dict[str, Any] = orjson.loads(path.read_bytes())
        rows = found["rows"]
        assert rows["in"] == rows["ok"] + rows["failed"] + rows["invalid"] + rows["skipped"]
        return found

    @property
    def files(self) -> set[str]:
        """The files that lie in its folder beside those that always do."""
        found = (one.relative_to(self.case.folder) for one in self.case.folder.rglob("*") if one.is_file())
        names = {str(one) for one in found}
        return {
            one for one in names - ALWAYS_THERE if not one.startswith(("store.db-", "store.db.d/series-"))
        }


def side_by_side(cases: Mapping[Key, Case], *, most: int, within: float) -> dict[Key, Future[Result]]:
    """Run cases, so many of them at one time, and give what came of each. What has not ended within so many seconds
    hangs, and is left alone."""
    waiting: queue.SimpleQueue[tuple[Case, Future[Result]] | None] = queue.SimpleQueue()
    futures: dict[Key, Future[Result]] = {key: Future() for key in cases}

    def work() -> None:
        while (one := waiting.get()) is not None:
            case, future = one
            try:
                future.set_result(case.run(command))
            except BaseException as error:  # noqa: BLE001 - the outermost frame of a thread
                future.set_exception(error)

    for key, case in cases.items():
        waiting.put((case, futures[key]))
    with screens() as command:
        for _ in range(most):
            waiting.put(None)
            threading.Thread(target=work, daemon=True).start()
        wait(futures.values(), within)
    return futures


def params_of(request: pytest.FixtureRequest, name: str) -> list[Any]:
    """What the chosen tests of the asking module are parametrized with under this name."""
    chosen = [item for item in request.session.items if item.path == request.path]
    return [
        item.callspec.params[name] for item in chosen if name in getattr(item, "callspec", NO_PARAMS).params
    ]
