"""The budget is a bound: no order of calls passes it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runner.budget import Budget


def test_a_call_is_let_through_only_if_its_worst_case_fits() -> None:
    budget = Budget(100)
    assert budget.reserve(60)
    assert not budget.reserve(41)
    assert (budget.spent, budget.reserved, budget.left) == (0, 60, 40)
    assert budget.reserve(40)
    assert not budget.reserve(1)
    assert budget.reserve(0)


def test_settling_gives_back_what_the_call_did_not_cost() -> None:
    budget = Budget(100)
    budget.reserve(60)
    budget.settle(60, 10)
    assert (budget.spent, budget.reserved, budget.left) == (10, 0, 90)


def test_a_call_that_was_not_executed_costs_nothing() -> None:
    budget = Budget(100)
    budget.reserve(60)
    budget.settle(60, 0)
    assert (budget.spent, budget.reserved, budget.left) == (0, 0, 100)


def test_an_unknown_cost_counts_as_its_worst_case() -> None:
    budget = Budget(100)
    budget.reserve(60)
    budget.settle(60, None)
    assert (budget.spent, budget.reserved, budget.left) == (60, 0, 40)


def test_a_cost_above_its_reservation_is_counted_and_stops_what_follows() -> None:
    budget = Budget(100)
    budget.reserve(60)
    budget.settle(60, 120)
    assert (budget.spent, budget.left) == (120, 0)
    assert not budget.reserve(0)


def test_what_was_spent_before_counts() -> None:
    budget = Budget(100, spent=90)
    assert not budget.reserve(11)
    assert budget.reserve(10)
    assert Budget(100, spent=130).left == 0
    assert Budget(100, spent=130).calls_in_flight(1) == 0


def test_a_budget_of_nothing_lets_only_free_calls_through() -> None:
    budget = Budget(0)
    assert not budget.reserve(1)
    assert budget.reserve(0)
    assert budget.calls_in_flight(1) == 0


def test_without_a_limit_everything_is_let_through_and_counted() -> None:
    budget = Budget(None)
    assert budget.reserve(10**30)
    budget.settle(10**30, 7)
    assert (budget.spent, budget.reserved, budget.left) == (7, 0, None)
    assert budget.calls_in_flight(5) is None


def test_how_many_calls_may_be_under_way_at_once() -> None:
    budget = Budget(100, spent=10)
    assert budget.calls_in_flight(30) == 3
    assert budget.calls_in_flight(91) == 0
    assert budget.calls_in_flight(0) is None
    budget.reserve(30)
    assert budget.calls_in_flight(30) == 3


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 10**5))
def test_exactly_as_many_calls_as_foretold_are_let_through(limit: int, spent: int, amount: int) -> None:
    budget = Budget(limit, spent)
    foretold = budget.calls_in_flight(amount)
    assert foretold is not None
    for _ in range(min(foretold, 50)):
        assert budget.reserve(amount)
    if foretold <= 50:
        assert not budget.reserve(amount)


def test_more_than_was_reserved_cannot_be_settled() -> None:
    budget = Budget(100)
    budget.reserve(10)
    with pytest.raises(ValueError, match="never reserved"):
        budget.settle(11, 1)
    assert (budget.spent, budget.reserved) == (0, 10)


def test_amounts_below_zero_are_refused() -> None:
    budget = Budget(100)
    budget.reserve(10)
    for wrong in (
        lambda: budget.reserve(-1),
        lambda: budget.settle(-1, 0),
        lambda: budget.settle(1, -1),
        lambda: budget.calls_in_flight(-1),
        lambda: Budget(-1),
        lambda: Budget(1, -1),
    ):
        with pytest.raises(ValueError, match="below zero"):
            wrong()
    assert (budget.spent, budget.reserved) == (0, 10)


class AnyOrderOfCalls(RuleBasedStateMachine):
    """Calls that cost no more than was reserved for them, begun and ended in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(1000)
        self.under_way: list[int] = []
        self.paid = 0

    @rule(amount=st.integers(0, 600))
    def begin(self, amount: int) -> None:
        fits = self.paid + sum(self.under_way) + amount <= 1000
        assert self.budget.reserve(amount) is fits
        if fits:
            self.under_way.append(amount)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        reserved = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        actual = data.draw(st.none() | st.integers(0, reserved))
        self.budget.settle(reserved, actual)
        self.paid += reserved if actual is None else actual

    @invariant()
    def the_limit_holds(self) -> None:
        budget = self.budget
        assert (budget.spent, budget.reserved) == (self.paid, sum(self.under_way))
        assert budget.spent + budget.reserved <= 1000
        assert budget.left == 1000 - budget.spent - budget.reserved


TestAnyOrderOfCalls = AnyOrderOfCalls.TestCase
