"""Outages in virtual time: the real dispatch, settler, writer and store, and an API inside the process."""

import asyncio
import itertools
import random
import types
from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from scene import PRICES, Scene, chat_body, refusal, request_lines
from virtual_time import VirtualLoop, run_virtually

from runner import asking, loop
from runner.api.sending import Landed, by_task
from runner.asking import Asking
from runner.errors import MoneyRefused, Paused
from runner.model import Reply
from runner.stop import Stop
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
        self.sent_at: list[float] = []
        self.told: list[dict[str, Any]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, _wire: object, **_settings: object) -> "Api":
        return self

    async def __aenter__(self) -> "Api":
        self._loop = asyncio.get_running_loop()
        return self

    def now(self) -> float:
        # The writer's thread asks too, and has no running loop of its own.
        return 0.0 if self._loop is None else self._loop.time()

    async def __aexit__(self, *_error: object) -> None:
        return None

    def start(self, path: str, model: str, body: bytes, landed: Landed) -> asyncio.Task[Reply]:
        return by_task(self.send(path, model, body), landed)

    async def send(self, _path: str, _model: str, body: bytes) -> Reply:
        self.in_flight += 1
        self.sent_at.append(self.now())
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            bad = self._weather(self.now(), body.decode())
            await anyio.sleep(LATENCY if bad is None or bad.sent else 0.01)
        finally:
            self.in_flight -= 1
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

    def submit(self, verb: Any, items: Any, *, size: int = 0) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.outside += 1
        done = super().submit(verb, items, size=size)
        done.add_done_callback(self._is_back)
        return done

    def _is_back(self, done: asyncio.Future[Any]) -> None:
        loop = done.get_loop()
        assert isinstance(loop, VirtualLoop)
        loop.outside -= 1

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.outside += 1
        await super().close()
        loop.outside -= 1


@pytest.fixture
def run_against(store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Scene, Api]]:
    def run(rows: int, weather: Weather, *, concurrency: int = 16, seed: int = 1) -> tuple[Scene, Api]:
        scene, api = Scene(store, request_lines(rows)), Api(weather)
        clock = types.SimpleNamespace(
            monotonic=api.now,
            time=lambda: MORNING + api.now(),
            time_ns=lambda: int((MORNING + api.now()) * 1_000_000_000),
            process_time=lambda: 0.0,
        )
        monkeypatch.setattr("runner.store.clock.time", clock)
        monkeypatch.setattr("runner.asking.time", clock)
        monkeypatch.setattr("runner.asking.GroupWriter", Writer)
        monkeypatch.setattr("runner.api.dataplane.transport_for", api)
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
        try:
            run_virtually(asking._Dispatch(what, Stop(), api.told.append).run)
        except BaseExceptionGroup as group:
            raise loop.ours_of(group) from group
        return scene, api

    return run


def between(start: float, end: float, reply: Reply) -> Weather:
    return lambda now, _text: reply if start <= now < end else None


def share(weather: Weather, part: float, *, seed: int = 7) -> Weather:
    """The same weather, but only for a part of the calls, by lot."""
    lots = random.Random(seed)
    return lambda now, text: weather(now, text) if lots.random() < part else None


def assert_all_answered_once(scene: Scene, api: Api, rows: int) -> None:
    assert Counter(scene.states()) == {"answered": rows}
    assert set(api.executed.values()) == {1}
    assert len(api.executed) == rows


REFUSED = Reply(None, fault="connect", detail="connection refused", sent=False)
OUTAGES = {
    "all 503": refusal(503, "internal", "upstream connect error"),
    "503 overloaded": refusal(503, "server_is_overloaded", "The server is overloaded"),
    "502 of a gateway": Reply(502, {}, b"<html><title>Bad gateway</title></html>"),
    "connection refused": REFUSED,
    "resets": Reply(None, fault="reset", detail="connection reset"),
    "portal": Reply(302, {"location": "https://portal.example/login"}, b""),
}


@pytest.mark.parametrize(
    ("reply", "start"),
    [*((name, 0.0) for name in OUTAGES), ("all 503", 20.0), ("connection refused", 20.0), ("resets", 20.0)],
)
def test_ten_minutes_of_outage_fail_no_row_and_waste_few_calls(
    run_against: Any, reply: str, start: float
) -> None:
    scene, api = run_against(800, between(start, start + 600, OUTAGES[reply]))

    assert_all_answered_once(scene, api, 800)
    assert api.wasted < 0.05 * api.replies.total()
    assert api.now() < start + 600 + 2 * 60 + 800 / 16
    if not OUTAGES[reply].sent:
        assert scene.query("SELECT count(*) FROM attempt WHERE outcome = 'ambiguous'") == [(0,)]


@pytest.mark.parametrize("headers", [{}, {"retry_after": "20"}], ids=["no word", "Retry-After"])
@pytest.mark.parametrize(("in_flight", "rows"), [(1, 1_200), (8, 2_000), (64, 2_000), (500, 3_000)])
def test_a_quarter_of_an_hour_of_mostly_429(
    run_against: Any, headers: dict[str, str], in_flight: int, rows: int
) -> None:
    limited = refusal(429, "rate_limit_exceeded", "Rate limit reached", **headers)
    scene, api = run_against(
        rows, share(between(10, 910, limited), 0.9, seed=in_flight), concurrency=in_flight, seed=in_flight
    )

    assert_all_answered_once(scene, api, rows)
    assert api.wasted < 0.05 * api.replies.total()
    assert scene.query("SELECT max(attempts) FROM task") == [(1,)]


@pytest.mark.parametrize("part", [0.3, 0.5, 0.8])
def test_a_brown_out_fails_no_row(run_against: Any, part: float) -> None:
    scene, api = run_against(400, share(between(5, 905, OUTAGES["all 503"]), part))

    assert_all_answered_once(scene, api, 400)


def test_one_outage_after_another(run_against: Any) -> None:
    def weather(now: float, _text: str) -> Reply | None:
        return OUTAGES["all 503"] if now % 130 < 90 else None

    scene, api = run_against(500, weather)

    assert_all_answered_once(scene, api, 500)


def test_during_an_outage_one_prober_tries_and_nobody_else(run_against: Any) -> None:
    _, api = run_against(300, between(2, 602, OUTAGES["all 503"]), concurrency=16)

    during = [at for at in api.sent_at if 10 < at < 600]
    assert 5 <= len(during) <= 30
    assert all(later - at > LATENCY for at, later in itertools.pairwise(during))


def test_the_time_that_the_server_names_is_kept_by_all(run_against: Any) -> None:
    limited = refusal(429, "rate_limit_exceeded", retry_after="120")
    scene, api = run_against(400, between(5, 6, limited), concurrency=16)

    assert_all_answered_once(scene, api, 400)
    assert not [at for at in api.sent_at if 7 < at < 125]


@pytest.mark.parametrize(
    "poison",
    [
        refusal(500, "server_error"),
        OUTAGES["502 of a gateway"],
        Reply(None, fault="timeout", detail="silence"),
    ],
    ids=["500", "502", "timeout"],
)
def test_a_poison_row_fails_alone_with_its_attempts(run_against: Any, poison: Reply) -> None:
    scene, api = run_against(400, lambda _now, text: poison if '"question 100"' in text else None)

    assert Counter(scene.states()) == {"answered": 399, "failed": 1}
    assert scene.query("SELECT attempts FROM task WHERE state = 'failed'") == [(6,)]
    assert api.wasted == 6
    assert api.now() < 600


def test_a_poison_row_beside_an_outage_fails_alone(run_against: Any) -> None:
    def weather(now: float, text: str) -> Reply | None:
        if '"question 100"' in text:
            return refusal(500, "server_error")
        return OUTAGES["all 503"] if 3 <= now < 603 else None

    scene, _ = run_against(600, weather)

    assert Counter(scene.states()) == {"answered": 599, "failed": 1}


def test_the_last_row_as_poison_does_not_hold_the_run_for_ever(run_against: Any) -> None:
    scene, api = run_against(200, lambda _now, text: OUTAGES["all 503"] if '"question 199"' in text else None)

    assert Counter(scene.states()) == {"answered": 199, "failed": 1}
    assert api.now() < 2 * 3600


def test_no_money_sends_not_one_more_call_than_was_in_flight(store: Store, run_against: Any) -> None:
    broke = refusal(429, "insufficient_quota", "You exceeded your current quota", kind="insufficient_quota")

    with pytest.raises(MoneyRefused, match="insufficient_quota"):
        run_against(500, between(5, 1e9, broke), concurrency=16)

    with store.read() as connection:
        states = {one for (one,) in connection.exec_driver_sql("SELECT DISTINCT state FROM task")}
        kinds = Counter(one for (one,) in connection.exec_driver_sql("SELECT kind FROM attempt"))
    assert states == {"answered", "ready"}
    assert 1 <= kinds["no_money"] <= 16


def test_a_wait_beyond_max_wait_pauses_the_run(run_against: Any) -> None:
    daily = refusal(429, "rate_limit_exceeded", "Limit per day. Please try again in 7h", kind="requests")

    with pytest.raises(Paused, match="asks to wait until 2027-01-15 15:0"):
        run_against(200, between(0, 1e9, daily), concurrency=8)


def test_an_outage_is_told(run_against: Any) -> None:
    _, api = run_against(100, between(1, 301, OUTAGES["all 503"]), concurrency=8)

    held = [event for event in api.told if event["event"] == "held"]
    assert held
    assert {event["reason"] for event in held} == {"HTTP 503 internal"}
    waiting = [event for event in api.told if event["event"] == "progress" and event["held_because"]]
    assert len(waiting) > 100
