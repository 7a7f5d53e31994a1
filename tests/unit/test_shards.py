"""What a shard may hold: each bound exactly, what fits in none, and which lines lie side by side."""

import random
from typing import Any

import pytest

from runner.shards import (
    PREFIX_BYTES,
    Bound,
    Bounds,
    Filling,
    grouped,
    inputs_of,
    never_fits,
    prompt_prefix,
)

LONG = "Classify the ticket. " * 300
LINE = {"size": 100, "inputs": 1, "tokens": 10, "cost": 1_000}


def filled(bounds: Bounds, count: int) -> Filling:
    filling = Filling(bounds)
    for _ in range(count):
        assert filling.take(**LINE) is None
    return filling


def test_the_bounds_are_those_of_the_api() -> None:
    assert Bounds() == (50_000, 200_000_000, 50_000, None, None, None)


@pytest.mark.parametrize(
    ("bounds", "bound"),
    [
        (Bounds(requests=10), Bound.REQUESTS),
        (Bounds(bytes=1_000), Bound.BYTES),
        (Bounds(inputs=10), Bound.INPUTS),
        (Bounds(tokens=100), Bound.TOKENS),
        (Bounds(cost=10_000), Bound.COST),
    ],
    ids=lambda value: value.value if isinstance(value, Bound) else "",
)
def test_each_bound_holds_exactly(bounds: Bounds, bound: Bound) -> None:
    filling = filled(bounds, 10)
    before = (filling.requests, filling.size, filling.inputs, filling.tokens, filling.cost)

    assert before == (10, 1_000, 10, 100, 10_000)
    assert filling.take(**LINE) is bound
    assert (filling.requests, filling.size, filling.inputs, filling.tokens, filling.cost) == before


@pytest.mark.parametrize(
    ("field", "bound"),
    [("size", Bound.BYTES), ("inputs", Bound.INPUTS), ("tokens", Bound.TOKENS), ("cost", Bound.COST)],
)
@pytest.mark.parametrize(("beyond", "fits"), [(-1, True), (0, True), (1, False)])
def test_the_last_line_fits_to_the_unit(field: str, bound: Bound, beyond: int, fits: bool) -> None:
    bounds = Bounds(bytes=1_000, inputs=1_000, tokens=1_000, cost=1_000)
    given = dict.fromkeys(("size", "inputs", "tokens", "cost"), 600)
    filling = Filling(bounds)
    assert filling.take(**given) is None

    last = dict.fromkeys(given, 1) | {field: 400 + beyond}
    assert filling.take(**last) is (None if fits else bound)


def test_a_line_without_a_worst_case_goes_under_no_budget() -> None:
    assert Filling(Bounds(cost=10**15)).take(100, inputs=0, tokens=1, cost=None) is Bound.COST

    free = Filling(Bounds())
    assert free.take(100, inputs=0, tokens=1, cost=7) is None
    assert free.take(100, inputs=0, tokens=1, cost=None) is None
    assert free.take(100, inputs=0, tokens=1, cost=7) is None
    assert free.cost is None


@pytest.mark.parametrize(
    ("size", "inputs", "code"),
    [
        (199_999_999, 1, None),
        (200_000_000, 50_000, None),
        (200_000_001, 1, "line_too_large"),
        (100, 49_999, None),
        (100, 50_001, "too_many_inputs"),
    ],
)
def test_what_fits_in_no_shard_is_told_with_its_measure(size: int, inputs: int, code: str | None) -> None:
    found = never_fits(Bounds(), size, inputs)

    assert (found and found[0]) == code
    if found is not None:
        assert f"{max(size if code == 'line_too_large' else 0, inputs):,}" in found[1]


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ("one text", 1),
        (["a", "b", "c"], 3),
        ([1, 2, 3], 1),
        ([[1, 2], [3]], 2),
        (["only"], 1),
        (None, 1),
        ([], 1),
    ],
)
def test_list_inputs_count_each(given: object, count: int) -> None:
    assert inputs_of({"model": "e", "input": given}) == count


def chat(system: str, user: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return {"model": "m", "messages": messages, **more}


def response(instructions: str, text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "instructions": instructions, "input": text, **more}


@pytest.mark.parametrize("ask", [chat, response])
def test_prompts_that_begin_alike_share_a_prefix(ask: Any) -> None:
    first = prompt_prefix(ask(LONG, "one"))

    assert first is not None
    assert prompt_prefix(ask(LONG, "another", max_completion_tokens=5)) == first
    assert prompt_prefix(ask("!" + LONG, "one")) != first
    assert prompt_prefix(ask(LONG, "one", prompt_cache_key="mine")) != first
    assert prompt_prefix(ask("short", "one")) is None


def test_a_long_text_given_alone_is_a_prefix_too() -> None:
    assert prompt_prefix({"input": LONG + "a"}) == prompt_prefix({"input": LONG + "b"}) is not None
    assert prompt_prefix({"input": "x" * (PREFIX_BYTES // 2)}) is None


def test_tools_stand_before_the_messages() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": LONG}}]
    assert (
        prompt_prefix(chat("a", "b", tools=tools)) == prompt_prefix(chat("c", "d", tools=tools)) is not None
    )


@pytest.mark.parametrize(
    ("prefixes", "order"),
    [
        ([], None),
        ([None, None], None),
        ([1, None, 1, None, 1], None),
        ([1, 1, None, 2, 2], None),
        ([1, 2, 3, 1, 4], None),
        ([1, 2, 1, 2], [0, 2, 1, 3]),
        ([None, 1, 2, None, 1, 9, 2], [0, 1, 4, 2, 6, 3, 5]),
    ],
    ids=str,
)
def test_lines_of_one_prefix_are_neighbours_where_several_mix(
    prefixes: list[int | None], order: list[int] | None
) -> None:
    assert grouped(prefixes) == order


def test_grouping_moves_each_line_once_and_keeps_the_order_within() -> None:
    chance = random.Random(4)
    for _ in range(200):
        prefixes = [chance.choice([None, 1, 2, 3, 4 + n]) for n in range(chance.randrange(40))]
        order = grouped(prefixes)
        if order is None:
            continue
        assert sorted(order) == list(range(len(prefixes)))
        for prefix in {1, 2, 3} & set(prefixes):
            places = [place for place, at in enumerate(order) if prefixes[at] == prefix]
            assert places == list(range(places[0], places[0] + len(places)))
            assert [order[place] for place in places] == sorted(order[place] for place in places)


def test_a_shard_takes_no_more_of_the_disk_than_it_may() -> None:
    filling = Filling(Bounds(disk=250))

    assert [filling.take(100, inputs=0, tokens=1, cost=0) for _ in range(3)] == [None, None, Bound.DISK]
    assert never_fits(Bounds(disk=250), 1_000, 0) is None, "no fault of the line's"
