"""Outages in virtual time: the real dispatch, settler, writer and store, and an API inside the process."""

import asyncio
import random
import tempfile
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from scene import PRICES, Scene, chat_body, refusal, request_lines
from virtual_time import VirtualLoop, run_virtually, virtual_now

from runner import asking
from runner.asking import Asking
from runner.errors import MoneyRefused, Paused
from runner.model import Reply
from runner.stop import Stop
from runner.store import totals
from runner.store.database import Store
from runner.store.writer import GroupWriter

MORNING = 1_800_000_000
LATENCY = 1.0

Weather = Callable[[float, str], Reply | None]
"""What the server answers at a time to a question instead of an answer."""


class Api:
    """A server inside the process: the transport's one method, and a ledger of what it was asked."""

    def __init__(self, weather: Weather) -> None:
        self._weather = weather
        self.replies: Counter[str] = Counter()
        self.executed: Counter[bytes] = Counter()
        self.in_flight = self.most_in_flight = 0
        self.ended_at = 0.0

    def __call__(self, _wire: object, **_settings: object) -> "Api":
        return self

    async def __aenter__(self) -> "Api":
        return self

    async def __aexit__(self, *_error: object) -> None:
        return None

    async def send(self, _path: str, _model: str, body: bytes) -> Reply:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            bad = self._weather(virtual_now(), body.decode())
            await anyio.sleep(LATENCY if bad is None or bad.sent else 0.01)
        finally:
            self.in_flight -= 1
        self.ended_at = virtual_now()
        if bad is not None:
            self.replies[str(bad.status or bad.fault)] += 1
            return bad
        self.replies["200"] += 1
        self.executed[body] += 1
        return Reply(200, {}, chat_body())

    @property
    def wasted(self) -> int:
        return self.replies.total() - self.replies["200"]


class Writer(GroupWriter):
    """The real writer, whose thread the virtual clock waits for."""

    async def submit(self, verb: Any, item: Any) -> Any:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.outside += 1
        try:
            return await super().submit(verb, item)
        finally:
            loop.outside -= 1

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.outside += 1
        await super().close()
        loop.outside -= 1


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    # In memory where there is such a folder: not the disk is on trial here.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        with Store.open(f"{folder}/store.db") as opened:
            yield opened


@pytest.fixture
def run_against(store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Scene, Api]]:
    def run(rows: int, weather: Weather, *, concurrency: int = 32, seed: int = 1) -> tuple[Scene, Api]:
        scene, api = Scene(store, request_lines(rows)), Api(weather)
        clock = types.SimpleNamespace(
            monotonic=lambda: _now(), time_ns=lambda: int((MORNING + _now()) * 1_000_000_000)
        )
        monkeypatch.setattr("runner.store.clock.time", clock)
        monkeypatch.setattr("runner.asking.time", clock)
        monkeypatch.setattr("runner.asking.GroupWriter", Writer)
        monkeypatch.setattr("runner.api.transport.Transport", api)
        monkeypatch.setattr("runner.api.client.wire", lambda account: None)
        random.seed(seed)
        what = Asking(
            store=store,
            tenure=scene.tenure,
            run=scene.run,
            job=scene.job,
            account=None,  # type: ignore[arg-type]  # only the transport needs one
            prices=PRICES,
            budget=None,
            concurrency=concurrency,
            on_ambiguous="retry",
            grace=25.0,
        )
        scene.told = told = []  # type: ignore[attr-defined]
        try:
            run_virtually(asking._Dispatch(what, Stop(), told.append).run)
        except BaseExceptionGroup as group:
            raise asking._first(group) from group
        return scene, api

    return run


def _now() -> float:
    try:
        return virtual_now()
    except RuntimeError:  # no loop runs: before the beginning, or in the writer's thread
        return 0.0


def between(start: float, end: float, reply: Reply) -> Weather:
    return lambda now, _text: reply if start <= now < end else None


REFUSED = Reply(None, fault="connect", detail="connection refused", sent=False)
OUTAGES = {
    "all 503": refusal(503, "internal", "upstream connect error"),
    "503 overloaded": refusal(503, "server_is_overloaded", "The server is overloaded"),
    "502 of a gateway": Reply(502, {}, b"<html><title>Bad gateway</title></html>"),
    "connection refused": REFUSED,
    "resets": Reply(None, fault="reset", detail="connection reset"),
}


@pytest.mark.parametrize("reply", OUTAGES.values(), ids=OUTAGES)
@pytest.mark.parametrize("start", [0.0, 20.0], ids=["from the start", "in the middle"])
def test_ten_minutes_of_outage(run_against: Any, reply: Reply, start: float) -> None:
    scene, api = run_against(2_000, between(start, start + 600, reply))
    print(api.replies, api.ended_at)
    assert False
