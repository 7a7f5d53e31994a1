"""The simulator's limits: arithmetic in virtual time, and headers over HTTP."""

from __future__ import annotations

import re

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.simulator import Settings, Simulator
from runner.simulator.buckets import Bucket, ModelLimits, go_duration
from runner.simulator.refusal import Refusal

UNITS = {"h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.02, "20ms"),
        (1, "1s"),
        (8.64, "8.64s"),
        (64.296, "1m4.296s"),
        (360, "6m0s"),
        (3723.5, "1h2m3.5s"),
    ],
)
def test_durations_are_written_as_go_writes_them(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


@given(st.integers(0, 10_000_000))
def test_durations_can_be_read_back(milliseconds: int) -> None:
    parts = re.findall(r"([\d.]+)(ms|h|m|s)", go_duration(milliseconds / 1000))
    assert round(sum(float(number) * UNITS[unit] for number, unit in parts)) == milliseconds


@given(
    per_minute=st.integers(1, 6_000),
    gaps=st.lists(st.floats(0, 5), max_size=200),
    sliced=st.booleans(),
)
def test_no_bucket_ever_lets_more_through_than_its_limit(
    per_minute: int, gaps: list[float], sliced: bool
) -> None:
    bucket = Bucket(per_minute, now=0.0, sliced=sliced)
    now, passed = 0.0, 0
    for gap in gaps:
        now += gap
        if bucket.wait(1, now) == 0:
            bucket.take(1)
            passed += 1
    assert passed <= bucket.capacity + now * per_minute / 60 + 1e-6


@given(per_minute=st.integers(1, 6_000), taken=st.integers(1, 400), sliced=st.booleans())
def test_who_waits_as_long_as_told_passes(per_minute: int, taken: int, sliced: bool) -> None:
    bucket = Bucket(per_minute, now=0.0, sliced=sliced)
    now = 0.0
    for _ in range(taken):
        now += bucket.wait(1, now) + 1e-6
        assert bucket.wait(1, now) == 0
        bucket.take(1)


def limits(*, rpm: int | None = None, tpm: int | None = None, sliced: bool = False) -> ModelLimits:
    return ModelLimits("gpt-6-luna", rpm=rpm, tpm=tpm, now=0.0, sliced=sliced)


def test_refused_requests_count_against_the_requests() -> None:
    account = limits(rpm=60)
    for _ in range(60):
        account.admit(1, 0.0)
    with pytest.raises(Refusal) as refused:
        account.admit(1, 0.9)
    assert refused.value.headers == {"retry-after": "1", "retry-after-ms": "1000"}
    # Asking again every 0.9 s never helps, waiting does.
    with pytest.raises(Refusal):
        account.admit(1, 1.8)
    account.admit(1, 2.81)


def test_slices_are_enforced_by_the_second_and_announced_by_the_minute() -> None:
    account = limits(rpm=600, sliced=True)
    for _ in range(10):
        account.admit(1, 0.5)
    with pytest.raises(Refusal) as refused:
        account.admit(1, 0.6)
    assert refused.value.headers["retry-after-ms"] == "400"
    assert account.headers(0.6)["x-ratelimit-limit-requests"] == "600"
    account.admit(1, 1.0)


def test_tokens_count_by_the_larger_of_prompt_and_longest_answer() -> None:
    with (
        Simulator(Settings(rpm=1000, tpm=1000)) as running,
        openai.OpenAI(api_key="x", base_url=running.url, max_retries=0) as sdk,
    ):
        calls = sdk.chat.completions.with_raw_response
        first = calls.create(
            model="gpt-6-luna", messages=[{"role": "user", "content": "x"}], max_completion_tokens=800
        )
        assert first.headers["x-ratelimit-limit-requests"] == "1000"
        assert first.headers["x-ratelimit-remaining-requests"] == "999"
        assert re.fullmatch(r"(60|5\d)ms", first.headers["x-ratelimit-reset-requests"])
        assert first.headers["x-ratelimit-limit-tokens"] == "1000"
        assert first.headers["x-ratelimit-remaining-tokens"] == "200"
        assert re.fullmatch(r"48s|47\.\d+s", first.headers["x-ratelimit-reset-tokens"])
        with pytest.raises(openai.RateLimitError) as refused:
            calls.create(
                model="gpt-6-luna", messages=[{"role": "user", "content": "x"}], max_completion_tokens=999
            )
        assert (refused.value.code, refused.value.type) == ("rate_limit_exceeded", "tokens")
        assert re.search(
            r"Rate limit reached for gpt-6-luna in organization org-sim on tokens per min \(TPM\): "
            r"Limit 1000, Used \d+, Requested 999\. Please try again in [\d.]+s\.",
            refused.value.body["message"],
        )
        assert float(refused.value.response.headers["retry-after-ms"]) > 40_000
        with pytest.raises(openai.RateLimitError) as large:
            calls.create(
                model="gpt-6-luna", messages=[{"role": "user", "content": "x"}], max_completion_tokens=1001
            )
        assert large.value.body["message"].startswith("Request too large for gpt-6-luna")
        assert "retry-after" not in large.value.response.headers
        # Another model has limits of its own.
        calls.create(
            model="gpt-6-sol", messages=[{"role": "user", "content": "x"}], max_completion_tokens=800
        )
        assert running.ledger()["refused"] == {"rate_limit_exceeded": 2}
        assert running.ledger()["executed"] == 2
