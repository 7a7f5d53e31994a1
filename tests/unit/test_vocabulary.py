"""True counts: the numbers of the vocabularies themselves, whatever the text, and none where none is installed."""

from __future__ import annotations

import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.tokens import Vocabularies
from runner.tokens.vocabulary import CL100K, O200K, name_of


@pytest.fixture(scope="module")
def vocabularies() -> Vocabularies:
    pytest.importorskip("rs_bpe")
    return Vocabularies()


# Counted with tiktoken 0.14.0 from the same rank files.
COUNTED = [
    ("", 0, 0),
    ("Hello, world!", 4, 4),
    ("The quick brown fox jumps over the lazy dog.", 10, 10),
    ("<|endoftext|>", 7, 7),
    ("  two  spaces\n\n\nand lines ", 8, 8),
    ("Клиентка сообщает, что счёт", 9, 12),
    ("発票 😀", 3, 4),
]


@pytest.mark.parametrize(
    ("model", "name", "is_known"),
    [
        ("gpt-4o", O200K, True),
        ("gpt-4o-mini-2024-07-18", O200K, True),
        ("ft:gpt-4o-mini-2024-07-18:org::abc", O200K, True),
        ("gpt-4.1-nano", O200K, True),
        ("gpt-5", O200K, True),
        ("gpt-5.4-mini", O200K, True),
        ("o3-pro", O200K, True),
        ("gpt-4", CL100K, True),
        ("gpt-4-turbo", CL100K, True),
        ("ft:gpt-3.5-turbo:org::x", CL100K, True),
        ("gpt-35-turbo", CL100K, True),
        ("text-embedding-3-small", CL100K, True),
        ("text-embedding-ada-002", CL100K, True),
        ("gpt-6-luna", O200K, False),
        ("gpt-40", O200K, False),
        ("o1000", O200K, False),
        ("llama-3", O200K, False),
        ("", O200K, False),
    ],
)
def test_each_model_has_its_vocabulary_or_the_newest(model: str, name: str, is_known: bool) -> None:
    assert name_of(model) == (name, is_known)


@pytest.mark.parametrize(("text", "new", "old"), COUNTED)
def test_counts_are_those_of_the_vocabulary(
    vocabularies: Vocabularies, text: str, new: int, old: int
) -> None:
    of_new, of_old = vocabularies.of("gpt-4o"), vocabularies.of("gpt-4")
    assert of_new is not None
    assert of_old is not None
    assert (of_new.count(text), of_old.count(text)) == (new, old)
    assert (of_new.name, of_old.name) == (O200K, CL100K)


@given(st.text(st.characters(codec=None), max_size=200))
def test_any_text_has_a_count_that_its_bytes_bound(vocabularies: Vocabularies, text: str) -> None:
    vocabulary = vocabularies.of("anything")
    assert vocabulary is not None
    count = vocabulary.count(text)
    assert (count > 0) is bool(text)
    assert count <= len(text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("letter", ["a", " ", "=", "\n", "é", "日", "<|endoftext|>"])
def test_a_megabyte_of_one_letter_is_counted_in_time(vocabularies: Vocabularies, letter: str) -> None:
    vocabulary = vocabularies.of("gpt-4o")
    assert vocabulary is not None
    text = letter * (10**6 // len(letter.encode()))
    started = time.process_time()
    assert 0 < vocabulary.count(text) <= 10**6
    assert time.process_time() - started < 10


def test_without_the_package_nothing_is_counted_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rs_bpe.bpe", None)
    assert Vocabularies().of("gpt-4o") is None


def test_a_vocabulary_is_loaded_once(monkeypatch: pytest.MonkeyPatch, vocabularies: Vocabularies) -> None:
    loaded = Vocabularies()
    first = loaded.of("gpt-4o")
    assert first is not None
    monkeypatch.setitem(sys.modules, "rs_bpe.bpe", None)
    again = loaded.of("o3")
    assert again is not None
    assert again.count is first.count
