"""Deliveries of webhooks: each is kept once, and tells those who wait which batches to look at."""

import pytest

from runner.store import webhooks
from runner.store.database import Store


def note(store: Store, *deliveries: tuple[str, str, str]) -> list[bool]:
    with store.write() as connection:
        return webhooks.note(connection, deliveries)


def hints(store: Store, after: int) -> tuple[int, list[str]]:
    with store.read() as connection:
        return webhooks.hints(connection, after)


def test_a_delivery_that_comes_again_is_not_new(store: Store) -> None:
    assert note(store, ("wh_1", "b1", "batch.completed"), ("wh_2", "b1", "batch.failed")) == [True, True]
    assert note(store, ("wh_2", "b1", "batch.failed"), ("wh_3", "b2", "batch.expired")) == [False, True]
    assert note(store, ("wh_4", "b", "t"), ("wh_4", "b", "t")) == [True, False]
    assert note(store) == []


def test_hints_are_what_came_since(store: Store) -> None:
    assert hints(store, 0) == (0, [])
    note(store, ("wh_1", "b1", "t"), ("wh_2", "b2", "t"), ("wh_3", "b1", "t"))
    newest, found = hints(store, 0)
    assert found == ["b1", "b2"]
    assert hints(store, newest) == (newest, [])
    note(store, ("wh_1", "b1", "t"), ("wh_4", "b3", "t"))
    assert hints(store, newest) == (newest + 1, ["b3"])


def test_only_so_many_are_remembered_and_no_number_is_given_twice(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "MOST_KEPT", 3)
    last = 0
    for n in range(10):
        note(store, (f"wh_{n}", f"b{n}", "t"))
        newest, found = hints(store, last)
        assert (newest, found) == (last + 1, [f"b{n}"])
        last = newest
    assert hints(store, 0) == (last, ["b7", "b8", "b9"])
