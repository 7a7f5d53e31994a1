"""The limiter against servers in virtual time: at the limit, never beyond it, and nobody starves."""

import math
import random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from limited_servers import Server, own_bound, run

from runner.limiter import Limiter, Load
from runner.limiter.flow import SLICE, Flow
from runner.limiter.headers import DAY, MINUTE, QUANTITIES, duration, told
from runner.limiter.room import BYTES_ASKED, BYTES_IN_FLIGHT

ROWS = [100] * 2000
PHASES = [0.0, 0.1, 0.3, 0.5, 0.69, 0.7, 0.71, 0.9, 0.99]
TPM = 2_000_000


def mixed(count: int = 500) -> list[int]:
    rnd = random.Random(2)
    return [int(100 * 500 ** rnd.random()) for _ in range(count)]


def said(
    quantity: str = "requests", limit: object = 6000, remaining: object = None, reset: object = None
) -> dict[str, str]:
    values = {"limit": limit, "remaining": remaining, "reset": reset}
    return {f"x-ratelimit-{k}-{quantity}": str(v) for k, v in values.items() if v is not None}


def a_minute(limit: int, used: int = 1, quantity: str = "requests") -> dict[str, str]:
    return said(quantity, limit, limit - used, f"{used / limit * 60:.3f}s")


def probed(headers: dict[str, str], *, tokens: float = 100, latency: float = 0.3, **asked: int) -> Limiter:
    limiter = Limiter(**{"requests": None, "tokens": None, "ceiling": 1000, **asked})
    limiter.answered(latency, limiter.start(0.0, tokens), headers, latency)
    return limiter


# --- at the limit


@pytest.mark.parametrize("phase", PHASES)
def test_a_minutes_limit_in_slices_is_met_within_five_percent(phase: float) -> None:
    result = run(Server(6000, phase=phase), ROWS, seed=int(phase * 100))
    assert result.answered == 2000
    assert result.seconds <= 19.0 * 1.05
    assert result.refusals < 0.01


def test_a_bucket_of_one_second_is_met_within_five_percent() -> None:
    result = run(Server(6000, sliced=False, capacity=100), ROWS)
    assert result.seconds <= 19.0 * 1.05
    assert result.refusals < 0.01


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("kind", ["milliseconds", "whole seconds", "no word"])
def test_a_silent_server_is_met_within_a_quarter(phase: float, kind: str) -> None:
    server = Server(6000, phase=phase, says=False, coarse=kind == "whole seconds")
    result = run(server, ROWS, seed=int(phase * 100), names_wait=kind != "no word")
    assert result.answered == 2000
    assert result.seconds <= 19.0 * 1.25
    assert result.refusals < 0.05


@pytest.mark.parametrize("charge", [0.6, 1.0, 1.5])
def test_bound_by_tokens(charge: float) -> None:
    sizes = [1000] * 1000
    result = run(Server(None, TPM, charge=charge), sizes)
    assert result.answered == 1000
    assert result.seconds <= own_bound(Server(None, TPM, charge=charge), sizes, 0.3) * 1.07
    assert result.refusals < 0.01


@pytest.mark.parametrize("phase", PHASES)
def test_mixed_sizes_are_in_order_and_within_seven_percent_of_the_servers_own(phase: float) -> None:
    sizes = mixed()
    result = run(Server(None, TPM, phase=phase), sizes, seed=int(phase * 100))
    assert result.answered == 500
    assert result.seconds <= own_bound(Server(None, TPM), sizes, 0.3) * 1.07
    assert result.refusals < 0.01
    # A row that was refused comes back, and only calls that were in flight with it went before.
    assert max(at - row for at, row in enumerate(result.order)) < 20


def test_a_continuous_bucket_loses_no_room_before_large_calls() -> None:
    sizes = mixed()
    result = run(Server(None, TPM, sliced=False), sizes)
    assert result.seconds <= sum(sizes) / TPM * 60 * 1.05
    assert result.refused == 0


@pytest.mark.parametrize("at", [8.0, 8.1, 8.36, 8.5, 8.9])
def test_a_halved_limit_is_followed(at: float) -> None:
    result = run(Server(6000), ROWS, changes=[(at, 3000)])
    assert result.answered == 2000
    assert result.seconds <= (at + (2000 - 100 * at) / 50) * 1.1


@pytest.mark.parametrize("at", [8.0, 8.36, 8.9])
def test_a_doubled_limit_is_followed(at: float) -> None:
    result = run(Server(3000), ROWS, changes=[(at, 6000)])
    assert result.seconds <= (at + (2000 - 50 * at) / 100) * 1.1


@pytest.mark.parametrize("headers", [True, False])
@pytest.mark.parametrize("names_wait", [True, False])
@pytest.mark.parametrize(("in_flight", "rows"), [(1, 1200), (8, 2400), (64, 2400), (500, 4000)])
def test_a_quarter_of_an_hour_of_429_wastes_few_calls(
    in_flight: int, rows: int, headers: bool, names_wait: bool
) -> None:
    def weather(now: float, rnd: random.Random) -> bool:
        return 10 <= now < 910 and rnd.random() < 0.9

    for seed in range(4):
        server = Server(60_000) if headers else Server()
        result = run(
            server,
            [100] * rows,
            weather=weather,
            latency=1.0,
            ceiling=in_flight,
            seed=seed,
            names_wait=names_wait,
        )
        assert result.answered == rows
        assert result.refusals < 0.05
        assert result.refused < 120 or in_flight == 500
        assert result.seconds < 910 + 60 + 2 * rows / min(in_flight, 16)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("jitter", [0.02, 0.04])
def test_calls_that_do_not_arrive_evenly_cost_little(phase: float, jitter: float) -> None:
    result = run(Server(6000, phase=phase), ROWS, seed=int(phase * 100), jitter=jitter)
    assert result.refusals < 0.01
    assert result.seconds <= 19.0 * 1.07


@pytest.mark.parametrize("rpm", [30, 100, 500])
def test_low_limits_in_slices_cost_few_refusals(rpm: int) -> None:
    sizes = [10] * 60
    result = run(Server(rpm), sizes)
    assert result.answered == 60
    assert result.refused <= 2
    assert result.seconds <= own_bound(Server(rpm), sizes, 0.3) * 1.12 + 2


def test_long_latency_fills_the_ceiling() -> None:
    result = run(Server(), [100] * 20_000, latency=10.0, ceiling=5000)
    assert result.seconds < 10 + 6 + 20_000 / 500 + 10


# --- never beyond it

amounts = st.lists(st.tuples(st.floats(0, 3), st.floats(1, 300)), min_size=1, max_size=60)


@given(st.floats(1, 1e5), amounts)
def test_no_window_of_a_second_holds_more_than_a_seconds_worth(
    rate: float, asked: list[tuple[float, float]]
) -> None:
    flow, now, starts = Flow(rate, strict=True), 1000.0, []
    for gap, percent in asked:
        now += gap
        amount = rate * percent / 100
        now += flow.wait(now, amount)
        assert flow.wait(now, amount) == 0.0
        flow.start(now, amount)
        starts.append((now, amount))
    for at, _ in starts:
        within = [amount for start, amount in starts if at <= start < at + SLICE]
        assert sum(within) <= rate * (1 + 1e-6) or len(within) == 1


@given(st.floats(0.01, 1000), st.booleans(), st.lists(st.floats(0, 2), min_size=1, max_size=150))
def test_calls_keep_to_the_rate(rate: float, strict: bool, gaps: list[float]) -> None:
    flow, now, starts = Flow(rate, whole=True, strict=strict), 0.0, []
    for gap in gaps:
        now += gap if rate > 1 else 0.0
        now += flow.wait(now, 1)
        flow.start(now, 1)
        starts.append(now)
    most = max(1, math.floor(rate + 1e-9)) if strict else math.ceil(rate)
    for first, at in enumerate(starts):
        assert sum(at <= start < at + SLICE for start in starts[first:]) <= most
        for after, later in enumerate(starts[first:]):
            assert after <= rate * (later - at) * (1 + 1e-6) + most


@given(st.floats(1, 1e5), st.booleans(), amounts)
@example(100.0, False, [(0.0, 60.0), (0.5, 30.0), (0.0, 200.0), (0.0, 10.0)])
def test_debts_are_paid(rate: float, strict: bool, asked: list[tuple[float, float]]) -> None:
    """Over any stretch no more starts than the rate allows, one slice ahead, and the last call."""
    flow, now, starts = Flow(rate, strict=strict), 0.0, []
    for gap, percent in asked:
        now += gap
        now += flow.wait(now, rate * percent / 100)
        flow.start(now, rate * percent / 100)
        starts.append((now, rate * percent / 100))
    for first, (at, _) in enumerate(starts):
        total = 0.0
        for start, amount in starts[first:]:
            assert total <= rate * (start - at + SLICE) * (1 + 1e-6)
            total += amount


@given(st.floats(0.01, 1e5), st.booleans(), st.booleans(), amounts)
def test_waiting_is_exact(rate: float, strict: bool, whole: bool, asked: list[tuple[float, float]]) -> None:
    flow, now = Flow(rate, whole=whole, strict=strict), 0.0
    for gap, percent in asked:
        now += gap
        amount = 1.0 if whole else rate * percent / 100
        wait = flow.wait(now, amount)
        if wait > 1e-6:
            assert flow.wait(now + wait - 1e-7, amount) > 0
        assert flow.wait(now + wait, amount) == 0.0
        now += wait
        flow.start(now, amount)


@given(st.floats(1, 1e4), st.booleans(), st.lists(st.floats(1, 1000), min_size=1, max_size=30))
def test_none_starves(rate: float, strict: bool, percents: list[float]) -> None:
    """Whatever comes, one waits no longer than what went before is worth, and two slices."""
    flow, now, worth = Flow(rate, strict=strict), 0.0, 0.0
    for percent in percents:
        wait = flow.wait(now, rate * percent / 100)
        assert wait <= (worth + 2) * 1.05
        now += wait
        flow.start(now, rate * percent / 100)
        worth = percent / 100 + (worth if strict else 0.0)


@given(
    st.lists(st.tuples(st.floats(0, 0.3), st.sampled_from(["ok", "429", "other"])), max_size=200),
    st.integers(1, 3000),
)
def test_any_history_keeps_to_the_ceilings(history: list[tuple[float, str]], per_minute: int) -> None:
    limiter, now, starts = Limiter(requests=per_minute, tokens=None, ceiling=7), 0.0, []
    for gap, fate in history:
        wait = limiter.wait(now, 10)
        assert 0 <= wait < 400
        now += gap + wait
        if limiter.wait(now, 10) > 0:
            continue
        ticket = limiter.start(now, 10)
        starts.append(now)
        if fate == "ok":
            limiter.answered(now, ticket, a_minute(9000) if gap > 0.1 else {}, gap)
        elif fate == "429":
            limiter.refused(now, ticket, {}, gap)
        assert 1 <= limiter.window <= 7
    for first, at in enumerate(starts):
        assert sum(start < at + 1 for start in starts[first:]) <= math.ceil(per_minute / 60)


# --- headers


NAMES = [
    f"x-ratelimit-{word}-{quantity}" for word in ("limit", "remaining", "reset") for quantity in QUANTITIES
]
VALUES = ["", "0", "-1", "-0.0", "1", "6000", "1e308", "1e999", "nan", "inf", "0s", "20ms",
    "6m0s", "24h", "9" * 500 + "h", "１２", "1.2.3s"]  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from(NAMES),
        st.sampled_from(VALUES) | st.text("0123456789.-+_eEnaifhmsdµ １,;", max_size=20),
        max_size=9,
    )
)
def test_no_header_raises(headers: dict[str, str]) -> None:
    for quantity in QUANTITIES:
        found = told(headers, quantity)
        assert found is None or (0 < found.limit < math.inf and found.window in (None, MINUTE, DAY))
    limiter = probed(headers)
    assert 0 <= limiter.wait(1e9, 10) < math.inf
    limiter.refused(1e9, limiter.start(1e9, 10), headers, None)
    assert limiter.window >= 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("6m0s", 360), ("20ms", 0.02), ("1h2m3.5s", 3723.5), ("0s", 0), ("12", 12), ("1d", DAY), ("", None),
     ("-1", None), ("nan", None), ("soon", None), ("5x", None), ("1s!", None), (None, None), ("1e999", None)],
)  # fmt: skip
def test_durations(text: str | None, seconds: float | None) -> None:
    assert duration(text) == pytest.approx(seconds) if seconds is not None else duration(text) is None


@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "window"),
    [
        (6000, 5999, "10ms", MINUTE), (6000, 5999, "1s", MINUTE), (2_000_000, 1_999_840, "5ms", MINUTE),
        (10_000, 9_999, "8.64s", DAY),
        (10_000, 9_999, "9s", DAY), (200, 150, "6h0m0s", DAY), (200, 0, "23h59m", DAY), (6000, 5999, "50s", MINUTE),
        (6000, 0, "12ms", None), (6000, 6000, "0s", None), (6000, -1, "1s", None), (6000, None, None, None),
    ],
)  # fmt: skip
def test_a_minute_and_a_day_are_told_apart(
    limit: int, remaining: int | None, reset: str | None, window: float | None
) -> None:
    found = told(said("requests", limit, remaining, reset), "requests")
    assert found is not None
    assert found.window == window


@pytest.mark.parametrize("limit", ["0", "-1", "", "many", "inf", "nan"])
def test_impossible_limits_say_nothing(limit: str) -> None:
    assert told({"x-ratelimit-limit-requests": limit}, "requests") is None
    assert not probed({"x-ratelimit-limit-requests": limit})._announced.is_told


# --- the limiter


def test_the_first_call_is_the_probe() -> None:
    limiter = Limiter(requests=None, tokens=None, ceiling=64)
    assert limiter.window == 1
    limiter.answered(0.3, limiter.start(0.0, 100), a_minute(6000), 0.3)
    assert limiter.window == 64


def test_a_project_has_a_limit_of_its_own() -> None:
    headers = a_minute(600_000, 100, "tokens") | a_minute(60_000, 100, "project-tokens")
    limiter = probed(headers)
    limiter.start(2.0, 1000)
    assert limiter.wait(2.0, 1000) > 0


def test_a_days_limit_is_not_spread_over_the_day_but_pauses_at_its_end() -> None:
    limiter = probed(said("requests", 10_000, 9_999, "8.64s"))
    assert limiter.exhausted_until(1.0) is None
    assert not limiter._announced.is_told
    limiter.refused(100.0, limiter.start(100.0, 10), said("requests", 10_000, 0, "6h0m0s"), None)
    assert limiter.exhausted_until(100.0) == pytest.approx(100.0 + 6 * 3600)
    assert limiter.exhausted_until(100.0 + 6 * 3600) is None


def test_a_short_reset_of_a_day_known_before_is_still_the_days() -> None:
    limiter = probed(said("requests", 10_000, 9_999, "8.64s"))
    limiter.refused(100.0, limiter.start(100.0, 10), said("requests", 10_000, 0, "8.64s"), None)
    assert limiter.exhausted_until(100.0) == pytest.approx(108.64)


def test_headers_are_followed_at_once() -> None:
    limiter = probed(a_minute(6000))
    for limit, most in ((600, 10), (12_000, 200)):
        now = limit * 10.0
        limiter.answered(now, limiter.start(now, 10), a_minute(limit), 0.3)
        now += 5
        started = 0
        while limiter.wait(now, 10) == 0.0:
            limiter.start(now, 10)
            started += 1
        assert started == most


def test_runs_that_share_an_account_share_its_limit() -> None:
    limiter = probed(a_minute(6000))
    limiter.shared_by(2)
    started = 0
    while limiter.wait(5.0, 10) == 0.0:
        limiter.start(5.0, 10)
        started += 1
    assert started == 50


@settings(deadline=None)
@given(
    st.integers(60, 12_000),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from([1, 7, 40, 400]),
)
@example(6000, 0.0, 0.99, 0.0, 400)
def test_two_runs_together_keep_to_the_limit(
    per_minute: int, came: float, first_hears: float, second_hears: float, rows: int
) -> None:
    """One asks; another comes, and goes after so many rows. Each hears of the other once a second."""
    first, second = probed(a_minute(per_minute)), Limiter(requests=None, tokens=None, ceiling=1000)
    starts, now, left = [0.0], 1.0, rows
    came, gone, answered_at = 3.0 + came, math.inf, math.inf
    beats = [first_hears + 1, second_hears + came]
    second.shared_by(2, came)
    while now < gone + 4 and now < 60:
        if now >= beats[0]:
            beats[0] += 1
            first.shared_by(2 if came <= now < gone else 1)
        if came <= now and now >= beats[1]:
            beats[1] += 1
            second.shared_by(2)
        if now >= answered_at:
            second.answered(now, 1, a_minute(per_minute), 0.3)
            answered_at = math.inf
        while first.wait(now, 10) == 0.0:
            first.start(now, 10)
            starts.append(now)
        while came <= now and left and second.wait(now, 10) == 0.0 and (second.window > 1 or left == rows):
            if second.start(now, 10) == 1:
                answered_at = now + 0.3
            starts.append(now)
            left -= 1
            # What it started last is answered before it is gone.
            gone = now + 0.3 if not left else gone
        now += 0.01
    most = math.ceil(per_minute / 60) + 1
    for at, start in enumerate(starts):
        assert sum(one < start + 1 for one in starts[at:]) <= most + 1


def test_a_run_that_comes_to_others_waits_after_its_probe_until_they_have_heard_of_it() -> None:
    limiter = Limiter(requests=None, tokens=None, ceiling=100)
    limiter.shared_by(2, 10.0)
    assert limiter.wait(10.0, 10) == 0.0
    limiter.answered(10.3, limiter.start(10.0, 10), a_minute(6000), 0.3)
    assert limiter.wait(10.3, 10) == pytest.approx(1.75)
    alone = Limiter(requests=None, tokens=None, ceiling=100)
    alone.shared_by(1, 10.0)
    alone.answered(10.3, alone.start(10.0, 10), a_minute(6000), 0.3)
    assert alone.wait(10.3, 10) == 0.0


def test_a_single_refusal_needs_no_prober_and_costs_little() -> None:
    limiter = probed(a_minute(6000))
    tickets = [limiter.start(2.0, 10) for _ in range(100)]
    assert limiter.refused(2.02, tickets[99], a_minute(6000), 0.5) is False
    assert limiter.wait(2.02, 10) >= 0.5
    for ticket in tickets[:99]:
        limiter.answered(2.3, ticket, a_minute(6000), 0.3)
    started, now = 0, 2.5
    while now < 12.5:
        while limiter.wait(now, 10) == 0.0:
            limiter.start(now, 10)
            started += 1
        now += limiter.wait(now, 10)
    assert started > 960


@pytest.mark.parametrize(("refusals", "wait"), [(60, 0.5), (1, 30.0)])
def test_many_refusals_or_a_long_wait_need_a_prober(refusals: int, wait: float) -> None:
    limiter = probed(a_minute(6000))
    tickets = [limiter.start(2.0, 10) for _ in range(100)]
    advice = [limiter.refused(2.02, ticket, {}, wait) for ticket in tickets[:refusals]]
    assert advice[-1] is True


def test_a_slow_down_lets_half_as_much_more_in_fifteen_minutes() -> None:
    headers = a_minute(60_000_000, 10_000, "tokens")
    limiter = probed(headers, tokens=10_000)

    def throughput(start: float) -> float:
        now, total = start, 0.0
        while now < start + 30:
            wait = limiter.wait(now, 10_000)
            if wait > 0:
                now += wait
                continue
            ticket = limiter.start(now, 10_000)
            limiter.answered(now, ticket, headers, 0.3)
            total += 10_000
        return total / 30

    throughput(1.0)
    tickets = [limiter.start(40.0, 10_000) for _ in range(100)]
    for ticket in tickets[:50]:
        limiter.refused(40.02, ticket, headers, 1.0, slow_down=True)
    before = throughput(45.0)
    now = 75.0
    while now < 945.0:
        throughput(now)
        now += 30.0
    assert before * 1.3 < throughput(945.0) <= before * 1.55


def test_it_says_what_binds() -> None:
    limiter = probed(a_minute(60) | a_minute(600_000, 100, "tokens"))
    limiter.start(5.0, 10)
    limiter.wait(5.0, 10)
    assert limiter.bound_by(5.0) == "requests"
    limiter.start(100.0, 50_000)
    limiter.wait(100.0, 50_000)
    assert limiter.bound_by(100.0) == "tokens"
    assert limiter.bound_by(1000.0) == "latency"
    assert probed({}, ceiling=2).bound_by(1000.0) == "concurrency"


def test_a_server_that_only_queues_is_not_flooded() -> None:
    """50 answers a second whatever is in flight: latency grows with it, and no refusal ever tells."""
    limiter = probed({})
    now, flight, done, most = 1.0, 0, 0.0, 0
    for _ in range(60_000):
        now += 0.001
        done += 0.05 if flight else 0.0
        if done >= 1:
            done -= 1
            limiter.answered(now, 1, {}, max(0.3, flight / 50))
            flight -= 1
        while flight < limiter.window and limiter.wait(now, 10) == 0.0:
            limiter.start(now, 10)
            flight += 1
        most = max(most, flight)
    assert 15 <= most <= 500


@settings(max_examples=25, deadline=None)
@given(st.integers(60, 30_000), st.floats(0, 1), st.floats(0.05, 3), st.integers(0, 99))
def test_any_minutes_limit_is_used_and_hardly_exceeded(
    rpm: int, phase: float, latency: float, seed: int
) -> None:
    sizes = [10] * max(20, rpm // 8)
    result = run(Server(rpm, phase=phase), sizes, latency=latency, seed=seed, cpu=0.0)
    assert result.answered == len(sizes)
    assert result.refused <= 2 + 0.01 * len(sizes)


def test_few_refusals_of_a_volley_cut_nothing_once_in_a_while() -> None:
    limiter = probed(a_minute(6000))

    def volley(now: float, refusals: int) -> int:
        tickets = []
        while limiter.wait(now, 10) == 0.0:
            tickets.append(limiter.start(now, 10))
        for ticket in tickets[:refusals]:
            limiter.refused(now + 0.1, ticket, a_minute(6000), 0.1)
        for ticket in tickets[refusals:]:
            limiter.answered(now + 0.3, ticket, a_minute(6000), 0.3)
        return len(tickets)

    assert volley(2.0, 15) == 100
    # What was refused has its room still.
    assert volley(2.3, 0) == 15
    assert volley(4.0, 0) == 100
    assert volley(6.0, 15) == 100
    assert volley(8.0, 0) < 90


def test_a_ceiling_of_the_jobs_counts_what_was_refused_too() -> None:
    limiter = probed(a_minute(6000), requests=600)
    tickets = [limiter.start(2.0, 10) for _ in range(10)]
    limiter.refused(2.01, tickets[0], a_minute(6000), 0.001)
    assert limiter.wait(2.1, 10) > 0.8


def test_after_a_storm_calls_go_by_ones_and_twos() -> None:
    limiter = probed({}, ceiling=500)
    tickets = [limiter.start(2.0, 10) for _ in range(30)]
    assert any(limiter.refused(2.1, ticket, {}, None) for ticket in tickets)

    def let_in(now: float) -> list[int]:
        found = []
        while limiter.wait(now, 10) == 0.0:
            found.append(limiter.start(now, 10))
        return found

    limiter.answered(9.0, tickets[0], {}, 0.3)
    probe = let_in(10.0)
    assert len(probe) == 1
    assert let_in(10.5) == []
    limiter.answered(10.6, probe[0], {}, 0.3)
    assert len(let_in(10.6)) == 2
    # Whatever became of these, one more tries each second.
    assert len(let_in(11.7)) == 1


LARGE = 17_000_000


def test_large_answers_are_fewer_at_once_and_small_ones_as_many_as_may_be() -> None:
    limiter = Limiter(requests=None, tokens=None, ceiling=5000)
    limiter.answered(0.3, limiter.start(0.0, 10), {}, 100.0, sizes=(0, LARGE))
    assert limiter.window == BYTES_IN_FLIGHT // LARGE
    for _ in range(200):
        limiter.answered(1.0, 1, {}, 100.0, sizes=(500, 500))
    assert limiter.window > 100
    limiter.answered(1.0, 1, {}, 100.0, sizes=(0, 10**12))
    assert limiter.window == 1
    small = Limiter(requests=None, tokens=None, ceiling=5000)
    small.answered(10.0, small.start(0.0, 10), a_minute(60_000), 10.0, sizes=(500, 500))
    assert small.window == 5000


def test_large_answers_that_are_stored_as_fast_as_they_come_may_be_more_at_once() -> None:
    limiter = Limiter(requests=None, tokens=None, ceiling=5000)
    windows = [
        answered_window(limiter, 0.3, sizes=(100_000, LARGE), is_full=is_full)
        for is_full in [True] * 5 + [False] * 5 + [True] * 20
    ]
    least = BYTES_IN_FLIGHT // LARGE
    assert windows[:10] == [least] * 5 + [least + n for n in range(1, 6)]
    assert windows[10:] == [least + n for n in range(4, 0, -1)] + [least] * 16
    for _ in range(1_000):
        answered_window(limiter, 0.3, sizes=(100_000, LARGE), is_full=False)
    assert limiter.window == BYTES_ASKED // LARGE


def test_large_requests_are_in_memory_all_the_while() -> None:
    limiter = Limiter(requests=None, tokens=None, ceiling=5000)
    for _ in range(1_000):
        answered_window(limiter, 0.3, sizes=(LARGE, 1_000), is_full=False)
    assert limiter.window == BYTES_IN_FLIGHT // LARGE


def answered_window(limiter: Limiter, now: float, **more: Any) -> int:
    """The window after one more answer."""
    limiter.answered(now, limiter.start(now, 10), {}, 100.0, **more)
    return limiter.window


def test_it_says_when_the_clients_own_cpu_binds() -> None:
    limiter, load = probed(a_minute(6_000), ceiling=8), Load()
    assert limiter.bound_by(10.0) == "concurrency"
    for second in range(6):
        limiter.busy(load.beat(0.95 * second, 10.0 + second))
    assert limiter.bound_by(16.0) == "cpu"
    for _ in range(200):
        limiter.start(16.0, 10)
    limiter.wait(16.0, 10)
    assert limiter.bound_by(16.0) == "requests"
    for second in range(6, 12):
        limiter.busy(load.beat(5.0, 10.0 + second))
    assert limiter.bound_by(30.0) == "concurrency"


def test_the_load_is_that_of_the_last_beats_alone() -> None:
    load = Load()
    assert load.beat(5.0, 100.0) == 0.0
    assert load.beat(5.0, 100.0) == 0.0
    assert [round(load.beat(5.0 + n, 100.0 + n), 6) for n in range(1, 5)] == [1.0] * 4
    assert [round(load.beat(9.0, 104.0 + n), 6) for n in range(1, 5)] == [0.666667, 0.333333, 0.0, 0.0]
