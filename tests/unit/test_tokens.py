"""Token estimates: near enough for the limits, never below the truth where the budget asks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.tokens import estimate, of_text, upper_bound

# What the o200k vocabulary makes of each text, counted once with a byte-pair encoder.
ENGLISH = """Customer reports that the invoice for October was charged twice, and that the second payment
 has not been refunded after ten working days. Please check the ledger and reply to her before Friday. """
RECORD = """{"id": "T-10423", "amount": 182.55, "created_at": "2026-10-03T14:22:11Z", "tags":
 ["billing","refund"], "customer": {"name": "Ana", "tier": 2}}"""
FRENCH = """La cliente signale que la facture d'octobre a été débitée deux fois et que le second paiement
 n'a pas été remboursé après dix jours ouvrés. """
RUSSIAN = """Клиентка сообщает, что счёт за октябрь был списан дважды, и второй платёж не возвращён спустя
 десять рабочих дней. """
CHINESE = "客户反映十月份的发票被重复扣款,第二笔付款在十个工作日后仍未退还,请尽快核对账目并在周五之前回复她。"
JAPANESE = (
    "お客様より、十月分の請求書が二重に引き落とされ、二回目の支払いが十営業日経っても"
    "返金されていないとの連絡がありました。"
)
COUNTED = [
    (ENGLISH.replace("\n", ""), 37),
    (RECORD.replace("\n", ""), 59),
    (FRENCH.replace("\n", ""), 36),
    (RUSSIAN.replace("\n", ""), 32),
    (CHINESE, 42),
    (JAPANESE, 47),
    ("4815162342 " * 10, 50),
    ("😀🎉🚀👩‍👩‍👧🔥💯", 16),
]


@pytest.mark.parametrize(("text", "counted"), COUNTED)
def test_an_estimate_is_near_what_was_counted(text: str, counted: int) -> None:
    assert 0.9 * counted <= of_text(text) <= 1.75 * counted
    assert upper_bound(len(text.encode())) >= counted


def test_nothing_is_no_token_and_anything_is_at_least_one() -> None:
    assert of_text("") == estimate(0) == upper_bound(0) == 0
    assert of_text("a") == estimate(1) == upper_bound(1) == 1


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("abcd", 1),
        ("abcde", 2),
        ("ab cd ef", 2),
        ("1234", 2),
        ("{}[]", 2),
        ("éé", 1),
        ("ы", 1),
        ("中文字", 3),
        ("한국어", 3),
        ("😀", 2),
        ("abcd中", 2),
        ("\ud800", 1),
    ],
)
def test_each_script_has_its_weight(text: str, tokens: int) -> None:
    assert of_text(text) == tokens


def test_an_estimate_by_bytes_rounds_up() -> None:
    assert [estimate(count) for count in (1, 4, 5, 8, 4_000_001)] == [1, 1, 2, 2, 1_000_001]


@given(st.text(st.characters(codec=None), max_size=300))
def test_any_text_has_an_estimate_that_grows_with_it(text: str) -> None:
    assert (of_text(text) > 0) is bool(text)
    assert of_text(text) <= of_text(text + "x") <= of_text(text) + 1
    assert of_text(text) <= 2 * len(text)


@given(st.text(max_size=300))
def test_the_upper_bound_is_never_below_the_estimate(text: str) -> None:
    assert upper_bound(len(text.encode())) >= of_text(text)
