"""The checksum of a large body, found in a thread of its own."""

import threading

import pytest
from msgspec.structs import replace

from runner.store import summing
from runner.store.answers import NewAnswer, checksum
from runner.store.summing import Summing


@pytest.mark.parametrize("body", [b"", b"a", b"x" * 3_000_000])
def test_it_is_the_same_however_often_it_is_asked_for(body: bytes) -> None:
    found = Summing(body)
    assert found() == found() == checksum(body)


def test_an_answer_takes_the_checksum_that_somebody_has_begun_to_find() -> None:
    body = b"x" * 100
    answer = NewAnswer(200, None, body, None, None, None, None)
    assert replace(answer, summing=Summing(body)).checksum == answer.checksum == checksum(body)
    assert replace(answer, summing=lambda: b"begun").checksum == b"begun"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_it_is_found_in_another_thread_and_again_where_that_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[threading.Thread] = []

    def dying(body: bytes) -> bytes:
        seen.append(threading.current_thread())
        if len(seen) == 1:
            raise SystemExit
        return checksum(body)

    monkeypatch.setattr(summing, "checksum", dying)
    assert Summing(b"body")() == checksum(b"body")
    assert seen[0] is not threading.main_thread()
    assert seen[1] is threading.main_thread()
