"""Prices: the shipped figures, the arithmetic over them, and what a faulty price file is told."""

from __future__ import annotations

import json
import timeit
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import BadConfiguration
from runner.model import Usage
from runner.pricing import PICO, Prices, pico, usd

SHIPPED = Prices.shipped()
MILLION = 10**6

# USD per million tokens: input, cached input, cache write, output; None where the price lists name none.
STANDARD = [
    ("gpt-6-astra", "10", "1", "12.5", "50"),
    ("gpt-6.1-sol", "2", "0.1", "2.5", "10"),
    ("gpt-6.1-terra", "1", "0.05", "1.25", "5"),
    ("gpt-6-sol", "2", "0.2", "2.5", "10"),
    ("gpt-6-luna", "0.1", "0.01", "0.125", "0.5"),
    ("gpt-6-cyber", "20", "2", "25", "100"),
    ("gpt-6-rosalind", "15", "1.5", "18.75", "75"),
    ("gpt-5.6-sol", "4", "0.4", "5", "20"),
    ("gpt-5.6-terra", "2", "0.2", "2.5", "12"),
    ("gpt-5.6-luna", "0.2", "0.02", "0.25", "1.2"),
    ("gpt-5.5", "5", "0.5", None, "30"),
    ("gpt-5.5-pro", "30", None, None, "180"),
    ("gpt-5.4", "2.5", "0.25", None, "15"),
    ("gpt-5.4-mini", "0.75", "0.075", None, "4.5"),
    ("gpt-5.4-nano", "0.2", "0.02", None, "1.25"),
    ("gpt-5.4-pro", "30", None, None, "180"),
    ("gpt-5.2", "1.75", "0.175", None, "14"),
    ("gpt-5.1", "1.25", "0.125", None, "10"),
    ("gpt-4.1", "2", "0.5", None, "8"),
    ("gpt-4.1-mini", "0.4", "0.1", None, "1.6"),
    ("gpt-4o", "2.5", "1.25", None, "10"),
    ("gpt-4o-mini", "0.15", "0.075", None, "0.6"),
]
BATCH = [
    ("gpt-6-astra", "5", "0.5", "25"),
    ("gpt-6.1-sol", "1", "0.05", "5"),
    ("gpt-6.1-terra", "0.5", "0.025", "2.5"),
    ("gpt-6-sol", "1", "0.1", "5"),
    ("gpt-6-luna", "0.05", "0.005", "0.25"),
    ("gpt-5.6-sol", "2", "0.2", "10"),
    ("gpt-5.6-terra", "1", "0.1", "6"),
    ("gpt-5.6-luna", "0.1", "0.01", "0.6"),
    ("gpt-5.5", "2.5", "0.25", "15"),
    ("gpt-5.4", "1.25", "0.13", "7.5"),
    ("gpt-5.4-mini", "0.375", "0.0375", "2.25"),
    ("gpt-5.4-nano", "0.1", "0.01", "0.625"),
    ("gpt-5.2", "0.875", "0.0875", "7"),
    ("gpt-5.1", "0.625", "0.0625", "5"),
    # The batch lists of the older models name no cached price: the standard one stands.
    ("gpt-4.1", "1", "0.5", "4"),
    ("gpt-4.1-mini", "0.2", "0.1", "0.8"),
    ("gpt-4o", "1.25", "1.25", "5"),
    ("gpt-4o-mini", "0.075", "0.075", "0.3"),
]
LONG = [
    "gpt-6-astra",
    "gpt-6.1-sol",
    "gpt-6.1-terra",
    "gpt-6-sol",
    "gpt-6-luna",
    "gpt-5.6-sol",
    "gpt-5.6-luna",
]
FLEX = [row for row in BATCH if not row[0].startswith("gpt-4")]


def rate(model: str, *, tier: str | None = None, batch: bool = False, **tokens: int) -> str | None:
    """USD for a million tokens of one kind, measured far below the long context."""
    small = {name: count // 1000 for name, count in tokens.items()}
    cost = SHIPPED.cost(model, tier, Usage(**small), batch=batch)
    return usd(None if cost is None else cost * 1000)


def kinds(model: str, tier: str | None = None, *, batch: bool = False) -> tuple[str | None, ...]:
    return (
        rate(model, tier=tier, batch=batch, input=MILLION),
        rate(model, tier=tier, batch=batch, input=MILLION, cached_input=MILLION),
        rate(model, tier=tier, batch=batch, input=MILLION, cache_write=MILLION),
        rate(model, tier=tier, batch=batch, output=MILLION),
    )


@pytest.mark.parametrize(("model", "plain", "cached", "write", "output"), STANDARD)
def test_standard_prices(model: str, plain: str, cached: str | None, write: str | None, output: str) -> None:
    assert kinds(model) == (plain, cached or plain, write or plain, output)
    assert kinds(model, "default") == kinds(model, "auto") == kinds(model, "scale") == kinds(model)


@pytest.mark.parametrize(("model", "plain", "cached", "output"), BATCH)
def test_batch_prices_whatever_tier_the_line_names(model: str, plain: str, cached: str, output: str) -> None:
    found = kinds(model, "default", batch=True)
    assert (found[0], found[1], found[3]) == (plain, cached, output)
    assert kinds(model, None, batch=True) == found


@pytest.mark.parametrize(("model", "plain", "cached", "output"), FLEX)
def test_flex_is_priced_as_batch(model: str, plain: str, cached: str, output: str) -> None:
    found = kinds(model, "flex")
    assert (found[0], found[1], found[3]) == (plain, cached, output)


@pytest.mark.parametrize("model", ["gpt-6-astra", "gpt-6.1-sol", "gpt-6-luna", "gpt-5.6-terra"])
def test_cache_writes_halve_in_batch_and_flex(model: str) -> None:
    half = usd(pico(Decimal(kinds(model)[2] or "")) // 2)
    assert kinds(model, batch=True)[2] == kinds(model, "flex")[2] == half


@pytest.mark.parametrize(
    ("model", "times"),
    [("gpt-6-luna", 2), ("gpt-6.1-sol", 2), ("gpt-5.6-sol", 2), ("gpt-5.4", 2), ("gpt-5.5", 2.5)],
)
def test_priority_and_fast_multiply_every_rate(model: str, times: float) -> None:
    expected = tuple(usd(int(pico(Decimal(price or "")) * times)) for price in kinds(model))
    assert kinds(model, "priority") == kinds(model, "fast") == expected


@pytest.mark.parametrize("model", LONG)
@pytest.mark.parametrize(
    ("tier", "batch"), [(None, False), ("flex", False), ("priority", False), (None, True)]
)
def test_a_long_context_doubles_input_and_raises_output_by_half(
    model: str, tier: str | None, batch: bool
) -> None:
    def cost(**tokens: int) -> int:
        found = SHIPPED.cost(model, tier, Usage(**tokens), batch=batch)
        assert found is not None
        return found

    for part in ({}, {"cached_input": 272_000}, {"cache_write": 272_000}):
        twice = {name: 2 * count for name, count in part.items()}
        assert cost(input=544_000, **twice) == 4 * cost(input=272_000, **part)
    output_alone = cost(input=272_001, output=1_000_000) - cost(input=272_001)
    assert output_alone * 2 == 3 * (cost(input=272_000, output=1_000_000) - cost(input=272_000))


def test_a_long_context_counts_for_the_whole_request_from_the_first_token_above() -> None:
    assert usd(SHIPPED.cost("gpt-6-luna", "default", Usage(input=272_000, output=1000))) == "0.0277"
    assert usd(SHIPPED.cost("gpt-6-luna", "default", Usage(input=272_001, output=1000))) == "0.0551502"


def test_the_rounded_cached_rate_of_a_batch_is_not_doubled_in_a_long_context() -> None:
    usage = Usage(input=MILLION, cached_input=MILLION)
    assert usd(SHIPPED.cost("gpt-5.4", "default", usage, batch=True)) == "0.25"


def test_models_without_a_long_context_stay_at_their_price() -> None:
    assert usd(SHIPPED.cost("gpt-4.1", "default", Usage(input=MILLION))) == "2"


@pytest.mark.parametrize(
    ("model", "standard", "batch"),
    [
        ("text-embedding-3-small", "0.02", "0.01"),
        ("text-embedding-3-large", "0.13", "0.065"),
        ("text-embedding-ada-002", "0.1", "0.05"),
    ],
)
def test_embeddings(model: str, standard: str, batch: str) -> None:
    usage = Usage(input=MILLION, total=MILLION)
    assert usd(SHIPPED.cost(model, None, usage)) == standard
    assert usd(SHIPPED.cost(model, None, usage, batch=True)) == batch
    assert SHIPPED.cost(model, "flex", usage) is None
    assert SHIPPED.cost(model, None, Usage(input=1, output=1)) is None
    assert SHIPPED.max_output(model) == 0
    assert usd(SHIPPED.worst_case(model, input_tokens=300_000, max_output=None)) == usd(
        SHIPPED.cost(model, None, Usage(input=300_000))
    )


def test_one_call_with_every_kind_of_token() -> None:
    usage = Usage(
        input=10_000, cached_input=4_000, cache_write=2_000, output=500, reasoning=300, total=10_500
    )
    # 4,000 plain at 0.10, 4,000 cached at 0.01, 2,000 written at 0.125, 500 out at 0.50; reasoning is inside
    assert usd(SHIPPED.cost("gpt-6-luna", "default", usage)) == "0.00094"


def test_what_is_not_known_has_no_price() -> None:
    usage = Usage(input=1, output=1)
    assert SHIPPED.cost("llama-4", "default", usage) is None
    assert SHIPPED.cost("gpt-6-luna", "ultrafast", usage) is None
    assert SHIPPED.cost("gpt-6-cyber", "flex", usage) is None
    assert SHIPPED.cost("gpt-6-cyber", "default", usage, batch=True) is None
    assert SHIPPED.cost("gpt-5.5-pro", "priority", usage) is None
    assert Prices.none().cost("gpt-6-luna", "default", usage) is None
    assert Prices.none().worst_case("gpt-6-luna", input_tokens=1, max_output=1) is None
    assert not Prices.none().knows("gpt-6-luna")


def test_an_impossible_usage_has_no_price() -> None:
    assert SHIPPED.cost("gpt-6-luna", None, Usage(input=10, cached_input=8, cache_write=3)) is None


@pytest.mark.parametrize(
    ("name", "same_as"),
    [
        ("gpt-6-luna-2026-09-01", "gpt-6-luna"),
        ("gpt-5.6", "gpt-5.6-sol"),
        ("gpt-5.6-2026-07-09", "gpt-5.6-sol"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4.1-mini-2025-04-14", "gpt-4.1-mini"),
        ("gpt-3.5-turbo-0125", "gpt-3.5-turbo"),
    ],
)
def test_snapshots_and_aliases_share_the_price_of_their_model(name: str, same_as: str) -> None:
    assert SHIPPED.knows(name)
    assert kinds(name) == kinds(same_as)
    assert SHIPPED.max_output(name) == SHIPPED.max_output(same_as) is not None


def test_a_snapshot_with_prices_of_its_own_keeps_them() -> None:
    assert kinds("gpt-4o-2024-05-13") == ("5", "5", "5", "15")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "gpt-6",
        "gpt-6-luna-",
        "gpt-6-luna-mini",
        "GPT-6-luna",
        "gpt-6-luna-2026-9-1",
        "gpt-6-luna-2026-09-01\n",
        "models/gpt-6-luna",
        "ft:gpt-4o-mini:acme::a1",
        "ft:gpt-4o-mini:acme::2026-01-01",
    ],
)
def test_other_names_are_unknown(name: str) -> None:
    assert not SHIPPED.knows(name)
    assert SHIPPED.max_output(name) is SHIPPED.context(name) is SHIPPED.shutdown_date(name) is None


def test_limits_and_shutdown_dates() -> None:
    assert SHIPPED.as_of == "2026-11-21"
    assert (SHIPPED.max_output("gpt-6-luna"), SHIPPED.context("gpt-6-luna")) == (128_000, 1_050_000)
    assert SHIPPED.shutdown_date("gpt-6-luna") is None
    assert SHIPPED.shutdown_date("gpt-5-mini") == date(2026, 12, 11)
    assert SHIPPED.shutdown_date("gpt-4o-2024-11-20") == date(2027, 1, 14)
    assert SHIPPED.shutdown_date("gpt-5.4-nano") == date(2027, 4, 1)
    assert SHIPPED.shutdown_date("o1") == date(2026, 10, 23)
    assert (SHIPPED.max_output("gpt-6-cyber"), SHIPPED.context("gpt-6-cyber")) == (None, None)


def worst(model: str = "gpt-6-luna", *, max_output: int | None = 60, **more: object) -> str | None:
    more.setdefault("tier", "default")
    return usd(SHIPPED.worst_case(model, max_output=max_output, **{"input_tokens": 1000, **more}))  # type: ignore[arg-type]


def test_the_worst_case_takes_the_dearest_input_and_the_longest_output() -> None:
    assert worst() == "0.000155"  # 1,000 written at 0.125 and 60 out at 0.50
    assert worst(choices=3) == "0.000215"
    assert worst(max_output=None) == "0.064125"  # the model's own 128,000
    assert worst(batch=True) == worst(tier="flex") == "0.0000775"
    assert worst(tier="priority") == "0.00031"
    assert worst("gpt-4.1") == "0.00248"  # no cache writes: input at 2


def test_the_worst_case_of_a_request_that_leaves_the_tier_to_the_account_may_be_priority() -> None:
    assert worst(tier=None) == worst(tier="auto") == worst(tier="priority")
    assert worst(tier=None, batch=True) == worst(batch=True)
    assert worst("gpt-5.5-pro", tier=None) == worst("gpt-5.5-pro")


def test_the_worst_case_of_a_long_context() -> None:
    assert worst(input_tokens=272_000) == "0.03403"
    assert worst(input_tokens=272_001) == "0.06804525"


def test_no_worst_case_without_a_bound_or_a_price() -> None:
    assert worst("gpt-6-cyber", max_output=None) is None
    assert worst("gpt-6-cyber") == "0.031"
    assert worst("gpt-6-cyber", batch=True) is None
    assert worst("gpt-5.5-pro", tier="priority") is None
    assert worst(tier="ultrafast") is None
    assert worst("text-embedding-3-small", max_output=1) is None
    assert worst("unheard-of") is None


NAMES = ["gpt-6-luna", "gpt-5.6", "gpt-5.4", "gpt-5.5-pro", "gpt-4o", "o3"]


@given(
    st.sampled_from(NAMES), st.sampled_from([None, "default", "flex", "priority"]), st.booleans(), st.data()
)
def test_no_cost_exceeds_the_worst_case(
    model: str, tier: str | None, batch: bool, data: st.DataObject
) -> None:
    total = data.draw(st.integers(0, 600_000))
    cached = data.draw(st.integers(0, total))
    write = data.draw(st.integers(0, total - cached))
    usage = Usage(total, cached, write, data.draw(st.integers(0, 4096)))
    bound = SHIPPED.worst_case(model, input_tokens=total, max_output=4096, tier=tier, batch=batch)
    served = data.draw(st.sampled_from(["default", "priority", tier])) if tier is None else tier
    cost = SHIPPED.cost(model, served, usage, batch=batch)
    if cost is not None:
        assert bound is not None
        assert 0 <= cost <= bound


FORM = {
    "as_of": "2026-11-01",
    "models": {
        "m": {
            "input": "0.10",
            "cached_input": "0.01",
            "cache_write": "0.125",
            "output": "0.50",
            "batch": {"input": "0.05", "cached_input": "0.005", "output": "0.25"},
            "long_context": {"above": 272000, "input": "0.20", "output": "0.75"},
        },
        "free": {"input": "0", "output": "0.000"},
        "input-only": {"input": "1", "priority": {"input": "2.5"}},
        "ft:m:acme::1": {"input": "3", "output": "4"},
        "models/x": {"input": "5"},
    },
}


def parsed(form: object) -> Prices:
    return Prices.parse(json.dumps(form).encode(), "my-prices.json")


def dollars(
    prices: Prices, model: str, tier: str | None = None, *, batch: bool = False, **tokens: int
) -> str | None:
    return usd(prices.cost(model, tier, Usage(**tokens), batch=batch))


def test_what_a_file_leaves_out_is_never_guessed_too_low() -> None:
    prices = parsed(FORM)
    assert prices.as_of == "2026-11-01"
    million = {"input": MILLION}
    assert dollars(prices, "m", input=100_000, cache_write=100_000, batch=True) == "0.0125"  # standard stands
    assert dollars(prices, "m", **million, cached_input=MILLION) == "0.02"  # doubled as its input is
    assert dollars(prices, "m", **million, cache_write=MILLION) == "0.25"
    assert dollars(prices, "m", **million, batch=True) == "0.1"  # a batch grows as the standard grows
    assert dollars(prices, "m", **million, cached_input=MILLION, batch=True) == "0.01"
    assert dollars(prices, "m", **million, output=MILLION, batch=True) == "0.475"
    assert dollars(prices, "input-only", "priority", **million, cached_input=MILLION) == "2.5"
    assert dollars(prices, "input-only", output=1) is None
    assert dollars(prices, "free", input=5, output=5) == "0"
    assert prices.worst_case("free", input_tokens=9, max_output=9) == 0
    assert prices.worst_case("m", input_tokens=9, max_output=None) is None
    assert prices.worst_case("input-only", input_tokens=9, max_output=None) is None


def test_a_name_in_the_file_is_taken_exactly() -> None:
    prices = parsed(FORM)
    assert dollars(prices, "ft:m:acme::1", input=MILLION) == "3"
    assert prices.knows("models/x")
    assert not prices.knows("x")
    assert not prices.knows("ft:m:acme::2")


def test_the_date_may_be_left_out() -> None:
    assert parsed({"models": {}}).as_of == ""


M = 'my-prices.json: models["m"]'


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"input": 0.1}, f"{M}.input: 0.1 is not a price; write USD per million tokens as text"),
        ({"input": 1}, f"{M}.input: 1 is not a price"),
        ({"output": "-1"}, f'{M}.output: "-1" is not a price'),
        ({"output": "1e-1"}, f'{M}.output: "1e-1" is not a price'),
        ({"output": "NaN"}, f'{M}.output: "NaN" is not a price'),
        ({"output": float("nan")}, f"{M}.output: NaN is not a price"),
        ({"output": ""}, f'{M}.output: "" is not a price'),
        ({"output": " 1"}, f'{M}.output: " 1" is not a price'),
        ({"output": "1\n"}, f"{M}.output: "),
        ({"output": "١"}, f"{M}.output: "),
        ({"output": "1,5"}, f'{M}.output: "1,5" is not a price'),
        ({"output": "0.1234567"}, f"{M}.output: "),
        ({"output": None}, f"{M}.output: null is not a price"),
        ({"output": "9" * 6000}, "..."),
        ({"outptu": "1"}, f'{M}: the field "outptu" is unknown; did you mean output?'),
        ({"zzz": "1"}, f'{M}: the field "zzz" is unknown; known are input, cached_input'),
        ({"batch": {"cached_input": "1"}}, f"{M}.batch.input is missing"),
        ({"batch": {"input": "-1"}}, f"{M}.batch.input: "),
        ({"batch": "0.05"}, f'{M}.batch: "0.05" is not an object'),
        ({"batch": {"input": "1", "batch": {}}}, f'{M}.batch: the field "batch" is unknown'),
        ({"flex": {"input": "1", "long_context": {"above": 1}}}, f"{M}.flex.long_context.input is missing"),
        ({"long_context": {"input": "1"}}, f"{M}.long_context.above is missing"),
        (
            {"long_context": {"above": "1", "input": "1"}},
            f'{M}.long_context.above: "1" is no number of tokens',
        ),
        ({"max_output": -1}, f"{M}.max_output: -1 is no number of tokens"),
        ({"max_output": True}, f"{M}.max_output: true is no number of tokens"),
        ({"context": 1.5}, f"{M}.context: 1.5 is no number of tokens"),
        ({"shutdown_date": "2026-02-30"}, f'{M}.shutdown_date: "2026-02-30" is not a date'),
        ({"shutdown_date": "20260201"}, f"{M}.shutdown_date: "),
        ({"aliases": "x"}, f'{M}.aliases: "x" is not a list of texts'),
        ({"aliases": ["free"]}, f'{M}.aliases: "free" has prices already in this file'),
        ({"aliases": ["a", "a"]}, f'{M}.aliases: "a" has prices already'),
    ],
)
def test_a_faulty_field_is_named_with_its_file(change: dict[str, object], expected: str) -> None:
    form = {"models": {"m": {"input": "1", "output": "1", **change}, "free": {"input": "0"}}}
    with pytest.raises(BadConfiguration) as caught:
        parsed(form)
    assert expected in str(caught.value)
    assert len(str(caught.value).split("\n")) == 1
    assert caught.value.exit_code == 78


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(BadConfiguration) as caught:
        parsed({"as_of": "soon", "model": {}, "models": {"a": {"output": "x"}, "b": []}})
    expected = [
        'the file: the field "model" is unknown; did you mean models?',
        'as_of: "soon" is not a date; write it as "2026-11-01"',
        'models["a"].input is missing; where it is unknown, leave models["a"] out',
        'models["a"].output: "x" is not a price; write USD per million tokens as text',
        'models["b"]: [] is not an object; write it as {...}',
    ]
    for fault, beginning in zip(str(caught.value).split("\n"), expected, strict=True):
        assert fault.startswith(f"my-prices.json: {beginning}")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "p.json: line 1, column 1: the price file is not JSON"),
        (b'{"models": {\n "m": }}', "p.json: line 2, column 7: the price file is not JSON"),
        (b'{"models": "\xff"}', "p.json: the price file is not JSON in UTF-8"),
        (b'{"models": ' + b"[" * 100_000, "p.json: "),
        (b'{"models": ' + b"9" * 10_000 + b"}", "p.json: the price file is not JSON in UTF-8"),
        (b"[]", "p.json: the file: [] is not an object"),
        (b"{}", "p.json: models is missing"),
        (b'{"models": null}', "p.json: models: null is not an object"),
        (b'{"models": {"m": {"input": "1", "input": "2"}}}', 'p.json: "input" is written twice'),
        (b'{"models": {"m": {"input": "1"}, "m": {"input": "2"}}}', 'p.json: "m" is written twice'),
    ],
)
def test_a_file_that_is_no_price_file(data: bytes, expected: str) -> None:
    with pytest.raises(BadConfiguration) as caught:
        Prices.parse(data, "p.json")
    assert str(caught.value).startswith(expected)
    assert len(str(caught.value).split("\n")) == 1


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0"),
        (1, "0.000000000001"),
        (123_000_000, "0.000123"),
        (5 * PICO, "5"),
        (10 * PICO, "10"),
        (PICO + PICO // 2, "1.5"),
        (-PICO // 4, "-0.25"),
        (10**30, "1000000000000000000"),
    ],
)
def test_money_as_text(amount: int, text: str) -> None:
    assert usd(amount) == text
    assert pico(Decimal(text)) == amount


def test_an_unknown_cost_stays_unknown() -> None:
    assert usd(None) is None


@pytest.mark.parametrize("text", ["NaN", "sNaN", "Infinity", "1e-13", "1E+999999", "0.0000000000005"])
def test_an_amount_that_is_no_whole_number_of_pico_dollars_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="USD"):
        pico(Decimal(text))


@given(st.integers(-(10**25), 10**25))
def test_money_survives_the_way_to_text_and_back(amount: int) -> None:
    text = usd(amount)
    assert text is not None
    assert "E" not in text
    assert Decimal(text) * PICO == amount


def test_pricing_a_call_takes_microseconds() -> None:
    usage = Usage(1000, 100, 100, 50)
    SHIPPED.cost("gpt-6-luna", "default", usage)
    fastest = min(timeit.repeat(lambda: SHIPPED.cost("gpt-6-luna", "default", usage), number=2000, repeat=20))
    # Two are promised; the rest is for a machine that is busy elsewhere.
    assert fastest / 2000 < 8e-6
