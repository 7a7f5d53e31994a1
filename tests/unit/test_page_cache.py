"""What the system is told of a growing file: to give back all but what came last, and nothing twice."""

import os
import sys
from pathlib import Path

import pytest

from runner.store.page_cache import STEP_BYTES, PageCache

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be told")

KEPT = 2 * STEP_BYTES


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """The file, start and length of each advice, which is given all the same."""
    seen: list[tuple[int, int, int]] = []
    advise = os.posix_fadvise

    def noting(file: int, start: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_DONTNEED
        seen.append((file, start, length))
        advise(file, start, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", noting)
    return seen


def test_what_came_last_stays_and_what_was_there_before_is_let_alone(
    tmp_path: Path, told: list[tuple[int, int, int]]
) -> None:
    path = tmp_path / "a.db"
    with path.open("wb") as file:
        file.truncate(5 * STEP_BYTES)
        cache = PageCache(path, kept=KEPT)
        for size in (5, 6, 7, 7, 8, 8, 9.5, 12):
            file.truncate(int(size * STEP_BYTES))
            cache.trim()
        number = file.fileno()

    assert told == [
        (number, 5 * STEP_BYTES, STEP_BYTES),
        (number, 6 * STEP_BYTES, int(1.5 * STEP_BYTES)),
        (number, int(7.5 * STEP_BYTES), int(2.5 * STEP_BYTES)),
    ]


def test_the_file_that_is_told_of_is_one_that_is_open_and_still_the_same(
    tmp_path: Path, told: list[tuple[int, int, int]]
) -> None:
    path = tmp_path / "a.db"
    path.touch()
    cache = PageCache(path, kept=0)
    cache.trim()
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    os.truncate(path, STEP_BYTES)
    cache.trim()
    assert told == []

    first = os.open(path, os.O_RDWR)
    cache.trim()
    os.close(first)
    # Its number is another file's now, whose pages are nobody's business here.
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    again = os.open(path, os.O_RDWR)
    os.ftruncate(again, 2 * STEP_BYTES)
    cache.trim()
    os.close(again)
    os.close(other)

    assert first == other
    assert told == [(first, 0, STEP_BYTES), (again, STEP_BYTES, STEP_BYTES)]
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_file_that_is_gone_is_nothing_to_tell_of(tmp_path: Path, told: list[tuple[int, int, int]]) -> None:
    PageCache(tmp_path / "none.db").trim()

    assert told == []
