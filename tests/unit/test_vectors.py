"""Vectors: kept without loss or not at all, shared out exactly, and drawn alike with NumPy and without."""

from __future__ import annotations

import io
import json
import random
import struct
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from packed_answers import f32, packed_body

from runner import vectors
from runner.vectors import shortest

THREE = [f32(1.0, -2.5), f32(0.1, 1e-8), f32(3.0, -0.0)]


def changed(body: bytes, item: int, **fields: Any) -> bytes:
    found = json.loads(body)
    found["data"][item] |= fields
    return json.dumps(found).encode()


# The kept form


def test_a_kept_body_is_an_array_that_numpy_reads() -> None:
    kept = vectors.keep(packed_body(THREE), 3, [1, 2, 3])

    assert kept is not None
    assert vectors.is_kept(kept)
    assert vectors.shape(kept) == (3, 2)
    assert np.load(io.BytesIO(kept)).tobytes() == b"".join(THREE)
    assert [bytes(vectors.row(kept, item)) for item in range(3)] == THREE


def test_a_header_is_the_one_that_numpy_writes() -> None:
    for rows, dims in ((3, 2), (1, 1), (20_000_000, 3072), (7, 0)):
        wanted = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            wanted, {"descr": "<f4", "fortran_order": False, "shape": (rows, dims)}
        )
        assert np.lib.format.read_magic(io.BytesIO(vectors.npy_header(rows, dims))) == (1, 0)
        assert len(vectors.npy_header(rows, dims)) == len(wanted.getvalue()) == vectors.HEADER_BYTES
        assert vectors.layout(vectors.npy_header(rows, dims)) == (rows, dims, vectors.HEADER_BYTES)


def test_what_else_the_answer_said_is_kept_with_its_own_digits() -> None:
    body = packed_body(THREE, system_fingerprint="f\u00e9", cost=1.5)
    kept = vectors.keep(body.replace(b"1.5", b"1.50"), 3, [5, 0, 7])

    assert kept is not None
    found = vectors.trailer(kept)
    assert b'"cost":1.50' in found.body
    assert json.loads(found.body) == {
        "object": "list",
        "model": "e5",
        "usage": {"prompt_tokens": 30, "total_tokens": 30},
        "system_fingerprint": "f\u00e9",
        "cost": 1.5,
    }
    assert found.weights == [5, 0, 7]


@pytest.mark.parametrize("more", [{}, {"id": "e-1"}, {"created": 5, "service_tier": None}, {"unknown": [1]}])
def test_whatever_else_an_answer_said_the_same_is_kept_of_it(more: dict[str, Any]) -> None:
    body = packed_body(THREE, **more)
    kept = vectors.keep(body, 3, [1, 1, 1])

    assert kept is not None
    said = json.loads(body)
    del said["data"]
    assert json.loads(vectors.trailer(kept).body) == said
    assert [bytes(vectors.row(kept, item)) for item in range(3)] == THREE


def test_of_a_member_that_is_said_twice_the_last_counts() -> None:
    body = packed_body(THREE)
    for twice in (b'{"data":[],"usage":5,' + body[1:], b'{"data":[],"unknown":1,"unknown":2,' + body[1:]):
        kept = vectors.keep(twice, 3, [1, 1, 1])
        assert kept is not None
        found = json.loads(vectors.trailer(kept).body)
        assert found["usage"] == {"prompt_tokens": 30, "total_tokens": 30}
        assert found.get("unknown", 2) == 2


def test_vectors_that_came_out_of_order_are_kept_in_the_order_of_the_inputs() -> None:
    kept = vectors.keep(packed_body(THREE, order=[2, 0, 1]), 3, [1, 1, 1])

    assert kept is not None
    assert [bytes(vectors.row(kept, item)) for item in range(3)] == THREE


def test_base64_with_escaped_slashes_is_the_same() -> None:
    slashes = struct.pack("<I", 0x3FFFFFFF)
    body = packed_body([slashes])
    assert b"/" in body
    kept = vectors.keep(body.replace(b"/", b"\\/"), 1, [1])
    assert kept is not None
    assert bytes(vectors.row(kept, 0)) == slashes


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"data": []}',
        b'{"object": "list"}',
        packed_body(THREE)[:-1],
        packed_body(THREE).decode().encode("utf-16"),
        packed_body(THREE[:2]),
        packed_body([*THREE, THREE[0]]),
        packed_body([f32(1.0), f32(1.0, 2.0), f32(1.0)]),
        packed_body([b"", b"", b""]),
        packed_body([b"12345", b"12345", b"12345"]),
        packed_body([*THREE[:2], f32(1.0, float("nan"))]),
        packed_body([f32(float("inf"), 0.0), *THREE[:2]]),
        packed_body([THREE[0], f32(0.0, float("-inf")), THREE[2]]),
        packed_body(THREE, order=[0, 1, 1]),
        changed(packed_body(THREE), 1, index=None),
        changed(packed_body(THREE), 1, index="1"),
        changed(packed_body(THREE), 1, index=1.5),
        changed(packed_body(THREE), 2, index=3),
        changed(packed_body(THREE), 0, index=-1),
        changed(packed_body(THREE), 0, embedding=[1.0, 2.0]),
        changed(packed_body(THREE), 0, embedding="AAAA AAAA"),
        changed(packed_body(THREE), 0, embedding="AAAAAAAAAA"),
        changed(packed_body(THREE), 0, embedding="AAAAAAAAAA-_"),
        changed(packed_body(THREE), 0, embedding=None),
        changed(packed_body(THREE), 0, truncated=True),
    ],
)
def test_a_body_that_is_not_exactly_so_is_not_kept(body: bytes) -> None:
    assert vectors.keep(body, 3, [1, 1, 1]) is None


def test_vectors_without_numbers_are_in_order() -> None:
    found = json.loads(packed_body(THREE))
    for item in found["data"]:
        del item["index"]
    kept = vectors.keep(json.dumps(found).encode(), 3, [1, 1, 1])
    assert kept is not None
    assert bytes(vectors.row(kept, 2)) == THREE[2]


@given(st.lists(st.binary(min_size=8, max_size=8), min_size=1, max_size=5), st.randoms())
def test_a_body_is_kept_exactly_where_all_its_floats_are_numbers(given_: list[bytes], chance: Any) -> None:
    order = list(range(len(given_)))
    chance.shuffle(order)
    kept = vectors.keep(packed_body(given_, order=order), len(given_), [1] * len(given_))

    finite = bool(np.isfinite(np.frombuffer(b"".join(given_), "<f4")).all())
    assert (kept is not None) is finite
    if kept is not None:
        assert [bytes(vectors.row(kept, item)) for item in range(len(given_))] == given_


@pytest.mark.parametrize("item", [-1, 3, 2**40])
def test_a_vector_that_is_not_there_is_an_error(item: int) -> None:
    kept = vectors.keep(packed_body(THREE), 3, [1, 1, 1]) or b""
    with pytest.raises(ValueError, match="no vector"):
        vectors.row(kept, item)


def test_damage_is_an_error() -> None:
    kept = vectors.keep(packed_body(THREE), 3, [1, 1, 1]) or b""
    with pytest.raises(ValueError, match="cut short"):
        vectors.row(kept[: vectors.HEADER_BYTES + 20], 2)
    with pytest.raises(ValueError, match="does not begin"):
        vectors.shape(kept.replace(b"descr", b"discr"))
    with pytest.raises(ValueError, match="truncated"):
        vectors.trailer(kept[:-1])


def test_each_input_needs_its_weight() -> None:
    with pytest.raises(ValueError, match="2 weights for 3 vectors"):
        vectors.keep(packed_body(THREE), 3, [1, 1])


# Shares


def test_a_total_is_shared_out_by_largest_remainder() -> None:
    assert vectors.shares(10, [1, 1, 1]) == [4, 3, 3]
    assert vectors.shares(7, [1, 2, 4]) == [1, 2, 4]
    assert vectors.shares(100, [1, 1, 4]) == [17, 17, 66]
    assert vectors.shares(2, [0, 0, 0]) == [1, 1, 0]
    assert vectors.shares(0, [3, 4]) == [0, 0]
    assert vectors.shares(5, [0, 3]) == [0, 5]
    assert vectors.shares(5, []) == []


@given(st.integers(0, 10**18), st.lists(st.integers(0, 10**7), min_size=1, max_size=60))
def test_shares_sum_up_and_are_never_one_off(total: int, weights: list[int]) -> None:
    found = vectors.shares(total, weights)

    assert sum(found) == total
    whole = sum(weights)
    for share, weight in zip(found, weights, strict=True):
        exact = total * weight // whole if whole else total // len(weights)
        assert exact <= share <= exact + 1


# Decimals


def drawn_both_ways(data: bytes, monkeypatch: pytest.MonkeyPatch) -> bytes:
    fast = vectors.decimals(data)
    with monkeypatch.context() as patched:
        patched.setattr(vectors, "_fast_encoder", lambda: None)
        assert vectors.decimals(data) == fast
    return fast


ANY = st.integers(0, 2**32 - 1).filter(lambda bits: bits & 0x7F800000 != 0x7F800000)
POWERS_OF_TWO = st.integers(0, 254).map(lambda exponent: exponent << 23)
LIKE_EMBEDDINGS = st.floats(-1, 1, width=32).map(lambda value: int.from_bytes(f32(value), "little"))


@settings(max_examples=300, deadline=None)
@given(st.lists(ANY | POWERS_OF_TWO | LIKE_EMBEDDINGS, max_size=30))
@example(
    [0, 0x80000000, 1, 0x80000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x3F800000, 0x358637BD, 0x3727C5AC]
)
def test_decimals_give_every_float_back_the_same_with_numpy_and_without(bits: list[int]) -> None:
    data = struct.pack(f"<{len(bits)}I", *bits)
    with pytest.MonkeyPatch.context() as monkeypatch:
        text = drawn_both_ways(data, monkeypatch)
    values = json.loads(text)
    assert struct.pack(f"<{len(bits)}f", *values) == data
    assert text == orjson.dumps([shortest(value) for value in struct.unpack(f"<{len(bits)}f", data)])


def test_many_decimals_are_drawn_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(7)
    like_embeddings = (chance.standard_normal(20_000) / 40).astype("<f4")
    anything = chance.integers(0, 2**32, 20_000, dtype=np.uint32).view("<f4")
    halfway = chance.integers(2**21, 2**22, 5_000).astype("<f4") + np.float32(0.25)
    for values in (like_embeddings, anything[np.isfinite(anything)], halfway):
        text = drawn_both_ways(values.tobytes(), monkeypatch)
        assert np.array(json.loads(text)).astype("<f4").tobytes() == values.tobytes()


def test_the_notation_is_that_of_64_bit_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [1e-5, 9e-6, 1e-6, 2.5e-7, 0.0, -0.0, 1.0, 1e10, 1e14, 1e16, -3e-6, 10.000001]
    text = drawn_both_ways(f32(*values), monkeypatch)
    assert text == orjson.dumps(values)


def test_no_float_at_all_is_an_empty_list(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn_both_ways(b"", monkeypatch) == b"[]"


def test_the_shortest_text_of_a_float_is_right_at_every_power_of_two_and_elsewhere() -> None:
    chance = random.Random(1)
    singles = [2.0**power for power in range(-149, 128)]
    while len(singles) < 3000:
        (value,) = struct.unpack("<f", chance.randbytes(4))
        if value == value and abs(value) != float("inf"):
            singles.append(value)
    for value in singles:
        found = shortest(value)
        assert struct.pack("<f", found) == struct.pack("<f", value)
        digits = len(f"{found!r}".partition("e")[0].replace(".", "").strip("-0"))
        # No text of one digit less gives this float back.
        for nearby in (0, 1, -1) if digits > 1 else ():
            text = f"{value:.{digits - 2}e}"
            mantissa, _, power = text.partition("e")
            shorter = float(f"{float(mantissa) + nearby * 10.0 ** (2 - digits):.{digits - 2}f}e{power}")
            try:
                assert struct.pack("<f", shorter) != struct.pack("<f", value)
            except OverflowError:
                continue


@settings(max_examples=200, deadline=None)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_shortest_gives_the_same_single_back(value: float) -> None:
    assert struct.pack("<f", shortest(value)) == struct.pack("<f", value)
