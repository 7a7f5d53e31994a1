"""Estimates that learn: near the truth after a few answers, and never wrecked by an absurd one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.model import Demand, Usage
from runner.tokens import Estimates
from runner.tokens.estimates import FIRST_OUTPUT, MOST_KEPT, MOST_OUTPUT, MOST_RATIO

BYTES = 10**9
COUNTS = st.integers(0, 10**9)
DEMANDS = st.builds(
    Demand,
    input_tokens=st.integers(0, 10**6),
    max_output=st.none() | st.integers(0, 10**6),
    choices=st.integers(1, 10),
    unbounded=st.none() | st.just("image_url input"),
)


def used(given: float, made: float = 10) -> Usage:
    return Usage(input=round(given), output=round(made), total=round(given + made))


class Learner:
    """Estimates for one endpoint and model."""

    def __init__(self) -> None:
        self.estimates = Estimates()

    def sees(self, demand: Demand, usage: Usage | None, *, times: int = 1) -> Learner:
        for _ in range(times):
            self.estimates.learn("chat", "m", demand, usage)
        return self

    def given(self, demand: Demand, body_bytes: int = BYTES) -> float:
        return self.estimates.of("chat", "m", demand, body_bytes).input

    def made(self, demand: Demand, body_bytes: int = BYTES) -> float:
        return self.estimates.of("chat", "m", demand, body_bytes).output

    def charge(self, demand: Demand, body_bytes: int = BYTES) -> float:
        return self.estimates.charge("chat", "m", demand, body_bytes)


def test_before_any_answer_what_the_body_says_counts() -> None:
    learner = Learner()
    assert learner.estimates.of("chat", "m", Demand(100, 50), BYTES) == (100.0, 50.0)
    assert learner.charge(Demand(100, 50)) == 100
    assert learner.charge(Demand(100, 500)) == 500
    assert learner.charge(Demand(100, None)) == FIRST_OUTPUT
    assert learner.charge(Demand(100, None, choices=3)) == 3 * FIRST_OUTPUT
    assert learner.charge(Demand(100, 0)) == 100


def test_one_answer_is_believed() -> None:
    learner = Learner().sees(Demand(100, 50), used(130, 20))
    assert learner.given(Demand(200, 50)) == pytest.approx(260)
    assert learner.made(Demand(200, 50)) == pytest.approx(20)


@given(ratio=st.floats(0.2, 8.0), seed=st.integers(0, 1000))
def test_a_few_answers_find_the_ratio(ratio: float, seed: int) -> None:
    learner, chance = Learner(), random.Random(seed)
    for _ in range(5):
        size = chance.randint(100, 50_000)
        learner.sees(Demand(size, 50), used(size * ratio * chance.uniform(0.95, 1.05)))
    assert learner.given(Demand(1000, 50)) == pytest.approx(1000 * ratio, rel=0.08)


@given(ratio=st.floats(0.2, 8.0), seed=st.integers(0, 1000))
def test_sums_come_out_right_where_short_and_long_rows_have_other_ratios(ratio: float, seed: int) -> None:
    learner, chance = Learner(), random.Random(seed)
    guessed = real = 0.0
    for number in range(1000):
        size = chance.randint(20, 2_000)
        # Around each text stand 50 tokens that no text shows.
        truth = 50 + size * ratio
        if number > 50:
            guessed += learner.given(Demand(size, 50))
            real += truth
        learner.sees(Demand(size, 50), used(truth))
    assert guessed == pytest.approx(real, rel=0.05)


def test_it_follows_when_the_rows_become_of_another_kind() -> None:
    learner = Learner().sees(Demand(100, None), used(100, 10), times=500)
    learner.sees(Demand(100, None), used(180, 400), times=150)
    assert learner.given(Demand(100, None)) == pytest.approx(180, rel=0.1)
    assert learner.made(Demand(100, None)) == pytest.approx(400, rel=0.1)


@given(absurd=st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS), place=st.integers(1, 40))
def test_one_absurd_usage_does_not_wreck_it(absurd: Usage, place: int) -> None:
    learner, demand = Learner(), Demand(1000, None)
    for number in range(45):
        learner.sees(demand, absurd if number == place else used(900, 100))
        if number > 1:
            assert 0.8 * 900 <= learner.given(demand) <= 1.15 * 900
            assert 60 <= learner.made(demand) <= 250


@given(absurd=st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS))
def test_an_absurd_first_usage_is_forgotten_by_the_third_answer(absurd: Usage) -> None:
    learner, demand = Learner().sees(Demand(1000, None), absurd), Demand(1000, None)
    learner.sees(demand, used(900, 100), times=2)
    assert learner.given(demand) == pytest.approx(900)
    assert learner.made(demand) == pytest.approx(100)


def test_absurd_usages_now_and_then_do_not_carry_it_away() -> None:
    learner, demand = Learner(), Demand(1000, None)
    for number in range(2000):
        learner.sees(demand, used(10**9, 10**6) if number % 20 == 7 else used(900, 100))
    assert 900 <= learner.given(demand) <= 1100
    assert learner.made(demand) <= 200


def test_one_large_call_among_small_ones_has_no_more_than_its_share() -> None:
    learner = Learner().sees(Demand(100, 50), used(100), times=100)
    learner.sees(Demand(1_000_000, 50), used(2_000_000))
    assert learner.given(Demand(100, 50)) <= 113
    learner.sees(Demand(100, 50), used(100), times=100)
    assert learner.given(Demand(100, 50)) == pytest.approx(100, rel=0.03)


@given(st.lists(st.tuples(DEMANDS, st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS))), DEMANDS, COUNTS)
def test_whatever_it_is_told_its_estimates_stay_within_bounds(
    answers: list[tuple[Demand, Usage]], demand: Demand, body_bytes: int
) -> None:
    learner = Learner()
    for before, usage in answers:
        learner.sees(before, usage)
    given_tokens, made = learner.estimates.of("chat", "m", demand, body_bytes)
    charge = learner.charge(demand, body_bytes)

    assert 0 <= given_tokens <= MOST_RATIO * demand.input_tokens
    assert demand.unbounded is not None or given_tokens <= body_bytes
    assert 0 <= made <= MOST_OUTPUT * demand.choices
    assert demand.max_output is None or made <= demand.max_output * demand.choices
    assert charge == max(given_tokens, made if demand.max_output is None else demand.max_output)


def test_the_api_charges_the_longest_output_where_the_request_names_one() -> None:
    learner = Learner().sees(Demand(100, 500), used(100, 20), times=10)
    assert learner.charge(Demand(100, 500)) == 500
    assert learner.charge(Demand(100, None)) == pytest.approx(100)
    assert learner.charge(Demand(5, None)) == pytest.approx(20)
    assert learner.charge(Demand(5, None, choices=3)) == pytest.approx(60)


def test_several_choices_are_learned_as_one_each() -> None:
    learner = Learner().sees(Demand(100, None, choices=4), used(100, 80))
    assert learner.made(Demand(100, None)) == pytest.approx(20)
    assert learner.made(Demand(100, 10, choices=4)) == 40


def test_cached_tokens_count_as_input() -> None:
    learner = Learner().sees(Demand(2000, 50), Usage(input=2000, cached_input=1900, output=10, total=2010))
    assert learner.given(Demand(2000, 50)) == pytest.approx(2000)


def test_what_a_server_does_not_count_teaches_nothing() -> None:
    learner = Learner().sees(Demand(100, None), None, times=3)
    assert learner.given(Demand(100, None)) == 100
    learner.sees(Demand(100, None), Usage(input=0, output=30, total=30), times=3)
    assert learner.given(Demand(100, None)) == 100
    assert learner.made(Demand(100, None)) == 30


def test_embeddings_come_without_output() -> None:
    learner = Learner().sees(Demand(1000, 0), used(800, 0), times=50)
    assert learner.made(Demand(1000, 0)) == 0
    assert learner.charge(Demand(1000, 0)) == pytest.approx(800)


def test_endpoints_and_models_are_learned_apart() -> None:
    estimates = Estimates()
    estimates.learn("chat", "a", Demand(100, 50), used(200))
    assert estimates.of("chat", "a", Demand(100, 50), BYTES).input == 200
    assert estimates.of("chat", "b", Demand(100, 50), BYTES).input == 100
    assert estimates.of("responses", "a", Demand(100, 50), BYTES).input == 100


def test_however_many_models_a_file_names_memory_does_not_grow() -> None:
    estimates = Estimates()
    for number in range(2 * MOST_KEPT):
        estimates.learn("chat", f"m{number}", Demand(100, 50), used(200))
    assert estimates.of("chat", "m0", Demand(100, 50), BYTES).input == 200
    assert estimates.of("chat", f"m{2 * MOST_KEPT - 1}", Demand(100, 50), BYTES).input == 100
