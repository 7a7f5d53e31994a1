"""A pack in the making: no more than it may come to, and no less."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packed_answers import embedding_job

from runner import packing, record
from runner.dispatch.pack import Most, Pack
from runner.model import Call, Demand, Usage
from runner.pricing import Prices
from runner.question import Question, Questions, worst_case
from runner.store.tasks import Ready
from runner.tokens import Estimates

PRICES = Prices.parse(
    b'{"as_of": "2026-11-01", "models": {"e5": {"input": "1", "output": "0",'
    b' "long_context": {"above": 400, "input": "2", "output": "0"}}}}',
    "test prices",
)
QUESTIONS = Questions(embedding_job())


def question(text: str) -> Question:
    return QUESTIONS.ask(record.dumps({"t": text}))


def ready(number: int) -> Ready:
    return Ready(number, number, 0, None, b"")


def packed(
    texts: Sequence[str],
    most: Most,
    *,
    prices: Prices = PRICES,
    guessed: int = 10**6,
    estimates: Estimates | None = None,
) -> Call:
    """The first of the texts, and as many of those behind it as go with it."""
    first = question(texts[0])
    part = packing.part(first.request)
    assert part is not None
    pack = Pack(
        first,
        part,
        ready(0),
        most=most,
        most_guessed=guessed,
        prices=prices,
        estimates=estimates or Estimates(),
    )
    for number, text in enumerate(texts[1:], 1):
        if not pack.take(text, ready(number)):
            break
    return pack.call(base64=False)


def worst(texts: Sequence[str]) -> int:
    """The worst case of texts that are asked at once, by the bytes of all their bodies."""
    size = sum(len(question(text).body) for text in texts)
    found = worst_case(question(texts[0]), Demand(1, 0), PRICES, size=size)
    assert found is not None
    return found


def tokens(texts: Sequence[str]) -> int:
    return packed(texts, Most(10**9)).demand.input_tokens


texts_of_a_pack = st.lists(st.text(max_size=40), min_size=1, max_size=12)


@given(texts_of_a_pack, st.integers(0, 2_000 * 10**6), st.integers(1, 200), st.integers(1, 200))
def test_a_pack_holds_as_many_texts_as_it_may_and_no_more(
    texts: list[str], cost: int, likely: int, guessed: int
) -> None:
    call = packed(texts, Most(likely, cost), guessed=guessed)
    count = len(call.asked)

    def fits(some: Sequence[str]) -> bool:
        return worst(some) <= cost and tokens(some) <= min(likely, guessed)

    assert call.worst_case == worst(texts[:count])
    assert count == 1 or fits(texts[:count])
    assert count == len(texts) or not fits(texts[: count + 1])


@given(texts_of_a_pack, st.integers(0, 10**6))
def test_no_usage_that_a_pack_can_have_costs_more_than_it_reserves(texts: list[str], used: int) -> None:
    call = packed(texts, Most())
    used = min(used, sum(len(question(text).body) for text in texts))
    cost = PRICES.cost("e5", None, Usage(input=used, total=used))
    assert call.worst_case is not None
    assert cost is not None
    assert cost <= call.worst_case


def test_without_a_known_price_a_pack_reserves_nothing_and_a_budget_does_not_cut_it() -> None:
    call = packed(["a", "b"], Most(cost=1), prices=Prices.none())
    assert (len(call.asked), call.worst_case) == (2, None)


def test_prices_are_not_looked_up_for_each_text(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def counted(*_: object, size: int, **__: object) -> int:
        looked.append(size)
        return size

    monkeypatch.setattr("runner.dispatch.pack.worst_case", counted)
    assert len(packed(["text"] * 2_000, Most(cost=10**9)).asked) == 2_000
    assert len(looked) < 20


def test_what_answers_have_taught_counts_for_the_tokens_of_a_pack() -> None:
    estimates = Estimates()
    for _ in range(5):
        estimates.learn("embeddings", "e5", Demand(100, 0), Usage(input=200, total=200))
    texts = ["four words of text"] * 10
    whole = tokens(texts)
    assert len(packed(texts, Most(whole)).asked) == 10
    assert len(packed(texts, Most(whole), estimates=estimates).asked) == 5
