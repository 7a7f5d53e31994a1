"""Rows: stored as they came, numbered where they repeat, read back in input order with what became of them."""

from itertools import pairwise
from pathlib import Path

from scene import IDENTITY, Scene, chat_body, request_line, request_lines

from runner.job import Job
from runner.store import rows, tasks
from runner.store.database import Store
from runner.store.rows import Settled
from runner.store.runs import line_of


def settled(scene: Scene) -> list[Settled]:
    with scene.store.read() as connection:
        return list(rows.settled(connection, scene.run.id, scene.run.series_id))


def faults(scene: Scene) -> list[tuple[int, str, str | None]]:
    with scene.store.read() as connection:
        return [(one.line, one.code, one.key) for one in rows.faults(connection, scene.run.id)]


def test_a_record_keeps_its_bytes(store: Store) -> None:
    odd = request_line("a", "x")[:-1] + ', "n": 1.0e+2, "\\u00e9": "\u2028\u0085", "n": 1}'.encode()
    scene = Scene(store, [odd])

    assert settled(scene)[0].record == odd


def test_rows_come_in_input_order_with_their_line_numbers(store: Store) -> None:
    lines = request_lines(700)
    lines[3:3] = [b"", b"   "]
    scene = Scene(store, lines)

    found = settled(scene)
    assert [one.record for one in found] == request_lines(700)
    assert [line_of(one.id) for one in found][:5] == [1, 2, 3, 6, 7]


def test_the_second_bearer_of_a_key_is_named_with_the_line_of_the_first(store: Store) -> None:
    scene = Scene(
        store,
        [request_line("a", "1"), request_line("b", "2"), request_line("a", "3"), request_line("a", "4")],
    )

    assert faults(scene) == [(3, "duplicate_key", "a"), (4, "duplicate_key", "a")]
    with store.read() as connection:
        assert all("line 1" in one.message for one in rows.faults(connection, scene.run.id))
    assert scene.ingested.invalid == 2


def test_a_bad_line_does_not_take_its_key_from_a_good_one(store: Store) -> None:
    bad = b'{"custom_id": "a", "method": "POST", "url": "/v1/none", "body": {"model": "m"}}'
    scene = Scene(store, [bad, request_line("a", "1")])

    assert [code for _, code, _ in faults(scene)] == ["unknown_url"]


def test_a_key_in_a_message_cannot_paint_the_terminal(store: Store) -> None:
    key = "\x1b[31m\u202e" + "x" * 500
    scene = Scene(store, [request_line(key, "1"), request_line(key, "2")])

    with store.read() as connection:
        [fault] = rows.faults(connection, scene.run.id)
    assert fault.message.isprintable()
    assert len(fault.message) < 200


def test_several_faults_of_a_line_are_all_kept(store: Store) -> None:
    scene = Scene(store, [b'{"method": "GET", "body": 3}'])

    assert len(faults(scene)) > 2
    assert {line for line, _, _ in faults(scene)} == {1}


def test_equal_questions_are_numbered_from_zero(store: Store) -> None:
    lines = [request_line(f"r{n}", text) for n, text in enumerate("abacaba")]
    scene = Scene(store, lines)

    assert scene.query("SELECT occurrence FROM row ORDER BY id") == [(0,), (0,), (1,), (0,), (2,), (1,), (3,)]
    scene.expand()
    assert len(scene.calls()) == 7


def test_deduped_equal_questions_share_one_task(store: Store) -> None:
    scene = Scene(store, [])
    scene.new_run([request_line(f"r{n}", text) for n, text in enumerate("abacaba")], dedupe=True)
    scene.expand()

    assert scene.query("SELECT DISTINCT occurrence FROM row") == [(0,)]
    assert len(scene.calls()) == 3
    scene.answer(chat_body("for a"))
    assert [one.state for one in settled(scene)].count("answered") == 4


def test_an_invalid_row_takes_no_occurrence(store: Store) -> None:
    scene = Scene(store, [request_line("k", "a"), request_line("k", "a"), request_line("l", "a")])
    found = dict(scene.query("SELECT id & 0xff, occurrence FROM row WHERE fault IS NULL"))

    assert found == {1: 0, 3: 1}


def test_an_answer_of_one_run_shows_in_another_of_the_series(store: Store) -> None:
    scene = Scene(store, request_lines(2))
    scene.expand()
    scene.answer(chat_body("first"))
    first = scene.run.id
    scene.new_run([request_line("x", "new"), *request_lines(2)])

    new, paid, waiting = settled(scene)
    assert (paid.state, paid.asked_by_run, paid.body) == ("answered", first, chat_body("first"))
    assert (new.state, waiting.state) == (None, "ready")


def test_another_series_never_sees_an_answer(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    scene.expand()
    scene.answer(chat_body())
    other = Scene(
        store,
        request_lines(1),
        identity=type(IDENTITY)("requests", "", "/in/requests.jsonl", "sim", "sim", "", ""),
    )

    assert [one.state for one in settled(other)] == [None]


def test_open_records_are_those_that_may_still_be_asked(store: Store) -> None:
    scene = Scene(store, [*request_lines(4), b"bad", request_line("r9", "another")])

    def open_lines() -> list[int]:
        with store.read() as connection:
            return [line for line, _ in rows.open_records(connection, scene.run.id)]

    assert open_lines() == [1, 2, 3, 4, 6]
    with store.write() as connection:
        tasks.expand(connection, run_id=scene.run.id, series_id=scene.tenure.series_id, limit=3)
    assert open_lines() == [1, 2, 3, 4, 6]
    scene.answer(chat_body())
    scene.fail({"code": "x"})
    assert open_lines() == [3, 4, 6]


def test_good_records_leave_the_bad_out(store: Store) -> None:
    scene = Scene(store, [request_line("a", "1"), b"nonsense", request_line("b", "2")])
    with store.read() as connection:
        assert [line for line, _ in rows.good_records(connection, scene.run.id)] == [1, 3]


def test_good_questions_bring_equal_ones_together(store: Store) -> None:
    scene = Scene(store, [request_line(f"r{n}", text) for n, text in enumerate("abaab")])
    with store.read() as connection:
        found = list(rows.good_questions(connection, scene.run.id))

    assert [one.is_repeat for one in found].count(True) == 3
    assert sum(1 for one, after in pairwise(found) if one.hash != after.hash) == 1


def test_a_job_keyed_by_a_field_takes_integers_as_text(store: Store) -> None:
    job = Job(
        name="j",
        path=Path("/j.yaml"),
        endpoint="chat",
        model="m",
        input=None,
        output=None,
        key="id",
        request={"messages": [{"role": "user", "content": "{{ t }}"}]},
    )
    scene = Scene(
        store, [b'{"id": 7, "t": "a"}', b'{"id": "7", "t": "b"}', b'{"id": 7.5, "t": "c"}'], job=job
    )

    assert faults(scene) == [(2, "duplicate_key", "7"), (3, "bad_key", None)]
