"""The id of a batch's line is its task's key as text, and nothing else is taken for one."""

import random
import re

import pytest

from runner.record.line_id import key_of, line_id


def test_a_key_comes_back_from_its_id() -> None:
    chance = random.Random(1)
    for number in range(2_000):
        key = (chance.randbytes(32), chance.choice([0, 1, number, 10**9, 10**18 - 1]))
        made = line_id(*key)
        assert key_of(made) == key
        assert re.fullmatch(r"[A-Za-z0-9_.-]{45,64}", made)


def test_an_id_looks_the_same_in_every_version() -> None:
    assert line_id(bytes(32), 0) == "A" * 43 + ".0"
    assert line_id(b"\xff" * 32, 7) == "_" * 42 + "8.7"


@pytest.mark.parametrize(
    "foreign",
    [
        "",
        "request-1",
        "A" * 43,
        "A" * 43 + ".",
        "A" * 43 + ".-1",
        "A" * 43 + ".01",
        "A" * 43 + ".1 ",
        "A" * 43 + ".1\n",
        "A" * 43 + ".\u0661",
        "A" * 43 + "." + "9" * 19,
        "A" * 42 + ".0",
        "A" * 44 + ".0",
        "A" * 42 + "B.0",
        "+" + "A" * 42 + ".0",
        "é" + "A" * 42 + ".0",
        " " + "A" * 43 + ".0",
    ],
)
def test_what_is_not_ours_is_no_key(foreign: str) -> None:
    assert key_of(foreign) is None
