"""Taking up: which run a start goes on with, and what begins a new one."""

import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scene import Scene, chat_body, request_line, request_lines

from runner.errors import BadInput
from runner.files import LineReader
from runner.ingest import InputChanged
from runner.job import Job
from runner.job.value import freeze
from runner.model import RunState
from runner.store import runs
from runner.store.database import Store
from runner.store.runs import Run
from runner.takeup import TRIES, Source, forget_answers, forget_run, take_up


class Desk:
    """A series with its input file, taken up again and again."""

    def __init__(self, store: Store, path: Path) -> None:
        self.scene = Scene(store, [])
        self.store, self.path = store, path
        forget_run(store, self.scene.tenure, self.scene.run)
        self.read = 0

    def write(self, *lines: bytes) -> None:
        self.path.write_bytes(b"\n".join(lines) + b"\n")

    def start(
        self,
        *,
        job: Job | None = None,
        limit: int | None = None,
        stdin: bytes | None = None,
        max_line: int = 10**6,
        active: bool = True,
    ) -> Run:
        self.read = 0

        def told(count: int) -> None:
            self.read = count

        this = take_up(
            self.store,
            self.scene.tenure,
            job or self.scene.job,
            Source(
                self.path if stdin is None else None,
                None if stdin is None else io.BytesIO(stdin),
                limit=limit,
                max_line=max_line,
            ),
            stopping=lambda: False,
            told=told,
        )
        if active and this.state is RunState.INGESTING:
            with self.store.write() as connection:
                runs.move(connection, this.id, RunState.ACTIVE)
        self.scene.run = this
        return this

    def names(self) -> list[str]:
        return [name for (name,) in self.scene.query("SELECT name FROM run ORDER BY id")]


@pytest.fixture
def desk(store: Store, tmp_path: Path) -> Desk:
    made = Desk(store, tmp_path / "in.jsonl")
    made.write(*request_lines(5))
    return made


def test_the_first_start_reads_the_input(desk: Desk) -> None:
    this = desk.start()
    assert (this.rows_in, desk.read) == (5, 5)


def test_the_same_input_is_not_read_again(desk: Desk) -> None:
    first = desk.start()
    again = desk.start()
    assert (again.id, desk.read) == (first.id, 0)


@pytest.mark.parametrize("state", [RunState.FINISHED, RunState.CANCELLED])
def test_a_run_that_ended_is_found_again(desk: Desk, state: RunState) -> None:
    first = desk.start()
    with desk.store.write() as connection:
        runs.move(connection, first.id, state)
    assert desk.start().id == first.id


def test_a_touched_input_is_the_same_and_costs_its_hash_once(desk: Desk) -> None:
    first = desk.start()
    os.utime(desk.path, (1, 1))
    assert desk.start().id == first.id
    assert desk.read == 0
    with desk.store.read() as connection:
        assert runs.get(connection, first.id).fingerprint.mtime_ns == 1_000_000_000


def test_an_input_written_anew_with_the_same_bytes_is_the_same(desk: Desk, tmp_path: Path) -> None:
    first = desk.start()
    data = desk.path.read_bytes()
    (tmp_path / "new").write_bytes(data)
    (tmp_path / "new").replace(desk.path)
    assert desk.start().id == first.id


def test_a_changed_input_is_a_new_run(desk: Desk) -> None:
    first = desk.start()
    desk.write(*request_lines(6))
    second = desk.start()
    assert (second.id != first.id, second.rows_in) == (True, 6)


def test_a_change_of_the_same_size_is_a_new_run(desk: Desk) -> None:
    first = desk.start()
    desk.path.write_bytes(desk.path.read_bytes().replace(b"question 3", b"question 9"))
    assert desk.start().id != first.id


def test_an_input_changed_back_finds_its_old_run(desk: Desk) -> None:
    first = desk.start()
    desk.write(*request_lines(6))
    desk.start()
    desk.write(*request_lines(5))
    assert desk.start().id == first.id
    assert len(desk.names()) == 2


def test_a_run_taken_up_again_asks_what_a_later_run_took_over(desk: Desk) -> None:
    """Nothing of the first run may be left out because its tasks went to another run meanwhile."""
    first = desk.start()
    desk.scene.expand()
    desk.scene.answer(chat_body())
    desk.write(*request_lines(6))
    desk.start()
    desk.scene.expand()
    desk.write(*request_lines(5))
    this = desk.start()
    assert this.id == first.id
    with desk.store.write() as connection:
        runs.look_again(connection, this.id)

    assert len(desk.scene.calls()) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"request": {"input": "{{ x }}"}},
        {"key": "id"},
        {"dedupe": True},
        {"schema": {"type": "object"}},
        {"endpoint": "embeddings"},
    ],
)
def test_a_field_of_meaning_starts_a_new_run(store: Store, tmp_path: Path, change: dict[str, Any]) -> None:
    desk = Desk(store, tmp_path / "in.jsonl")
    desk.write(b'{"id": 1, "t": "a", "x": "b"}')
    job = Job(
        name="j",
        path=Path("/j"),
        endpoint="responses",
        model="m",
        input=None,
        output=None,
        request={"input": "{{ t }}"},
    )
    first = desk.start(job=job)
    assert desk.start(job=replace(job, **change)).id != first.id
    assert desk.start(job=job).id == first.id


@pytest.mark.parametrize(
    "change", [{"mode": "batch"}, {"on_length": "accept"}, {"keep": ("t",)}, {"output_field": "z"}]
)
def test_a_field_of_handling_does_not(desk: Desk, change: dict[str, Any]) -> None:
    first = desk.start()
    assert desk.start(job=replace(desk.scene.job, **change)).id == first.id


def test_a_limit_is_a_run_of_its_own_and_is_found_again(desk: Desk) -> None:
    some = desk.start(limit=2)
    whole = desk.start()
    assert (some.rows_in, whole.rows_in) == (2, 5)
    assert desk.start(limit=2).id == some.id
    assert desk.start().id == whole.id


def test_a_limit_beyond_a_change_finds_the_same_rows(desk: Desk) -> None:
    some = desk.start(limit=2)
    desk.write(*request_lines(9))
    assert desk.start(limit=2).id == some.id
    assert len(desk.names()) == 1


def test_standard_input_is_told_by_its_bytes(desk: Desk) -> None:
    data = b"\n".join(request_lines(3))
    first = desk.start(stdin=data)
    assert desk.start(stdin=data).id == first.id
    assert desk.start(stdin=data + b"\n" + request_line("x")).id != first.id


def test_a_reading_that_was_cut_short_leaves_nothing(desk: Desk) -> None:
    desk.start(active=False)
    desk.write(*request_lines(7))
    this = desk.start()
    assert desk.names() == [this.name]
    assert desk.scene.query("SELECT count(*) FROM row") == [(7,)]


def rejected(desk: Desk) -> Run:
    this = desk.start(active=False)
    with desk.store.write() as connection:
        runs.move(connection, this.id, RunState.REJECTED)
    return this


def test_a_refused_input_that_was_mended_is_read_and_the_refused_one_is_gone(desk: Desk) -> None:
    desk.write(request_line("a"), b"bad")
    rejected(desk)
    desk.write(request_line("a"))
    this = desk.start()
    assert (this.rows_in, this.rows_invalid) == (1, 0)
    assert desk.names() == [this.name]


def test_a_refused_input_is_looked_at_again_with_a_larger_line(desk: Desk) -> None:
    desk.write(request_line("a"), request_line("b", "x" * 2000))
    assert desk.start(active=False, max_line=1000).rows_invalid == 1
    rejected(desk)
    assert desk.start(max_line=10_000).rows_invalid == 0


def test_an_input_that_is_not_there_is_told(desk: Desk) -> None:
    desk.path.unlink()
    with pytest.raises(BadInput, match=r"in\.jsonl"):
        desk.start()


def test_an_input_that_went_after_a_run_is_told(desk: Desk) -> None:
    desk.start()
    desk.path.unlink()
    with pytest.raises(BadInput, match="cannot be read"):
        desk.start()


def test_forgotten_answers_are_asked_again(desk: Desk) -> None:
    desk.start()
    desk.scene.answer(chat_body())
    assert forget_answers(desk.store, desk.scene.tenure) == 5
    desk.scene.expand()
    assert len(desk.scene.calls()) == 5
    assert desk.scene.query("SELECT count(*) FROM answer") == [(0,)]


def test_a_forgotten_run_is_gone_from_the_file(desk: Desk) -> None:
    desk.write(request_line("a", "very-secret-prompt"))
    this = desk.start()
    desk.scene.answer(chat_body("very-secret-answer"))
    forget_run(desk.store, desk.scene.tenure, this)

    assert desk.names() == []
    for path in desk.store.path.parent.glob("store.db*"):
        if path.is_file():
            assert b"very-secret" not in path.read_bytes()


@pytest.fixture
def records(desk: Desk) -> Job:
    """The job of an input of records, some with a field `result`, in place of the requests file."""
    desk.write(b'{"text": "a", "result": 2}', b'{"text": "b", "answer": 3}')
    request = freeze({"input": "{{ text }}"})
    return Job(
        name="small",
        path=Path("/small.yaml"),
        endpoint="embeddings",
        model="m",
        input=str(desk.path),
        output=None,
        request=request,
        keep=("text",),
    )


def test_a_taken_field_is_free_once_the_output_goes_elsewhere(desk: Desk, records: Job) -> None:
    assert desk.start(job=replace(records, keep=None), active=False).rows_invalid == 1
    rejected(desk)
    assert desk.start(job=replace(records, keep=None, output_field="other")).rows_invalid == 0


@pytest.mark.parametrize("stdin", [False, True])
def test_a_field_that_the_output_takes_later_is_told(desk: Desk, records: Job, *, stdin: bool) -> None:
    text = desk.path.read_bytes() if stdin else None
    first = desk.start(job=records, stdin=text)
    with pytest.raises(BadInput, match="output_field") as refused:
        desk.start(job=replace(records, keep=None, output_field="answer"), stdin=text)
    assert [(one.line, one.code) for one in refused.value.faults] == [(2, "field_taken")]
    assert desk.start(job=replace(records, output_field="answer"), stdin=text).id == first.id
    assert desk.names() == [first.name]


def test_an_input_that_keeps_changing_is_given_up_and_can_be_read_later(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings: list[int] = []
    monkeypatch.setattr(LineReader, "changed", lambda reader: not readings.append(1))
    with pytest.raises(InputChanged, match="Nothing was sent"):
        desk.start()
    assert len(readings) == TRIES
    monkeypatch.undo()
    this = desk.start()
    assert (this.rows_in, desk.names()) == (5, [this.name])


def test_an_input_that_changed_once_while_it_was_read_is_read_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [True]
    monkeypatch.setattr(LineReader, "changed", lambda reader: bool(changes and changes.pop()))
    assert desk.start().rows_in == 5
    assert desk.scene.query("SELECT count(*) FROM row") == [(5,)]


def test_a_stamp_of_before_is_not_trusted_when_another_input_came_between(desk: Desk) -> None:
    for text in (b"first", b"other"):
        desk.write(request_line("a", text.decode()))
        os.utime(desk.path, ns=(1, 1) if text == b"first" else (2, 2))
        desk.start()
    os.utime(desk.path, ns=(1, 1))
    this = desk.start()
    assert b"other" in desk.scene.query("SELECT record FROM row WHERE id >> 40 = ?", this.id)[0][0]
    assert desk.names()[-1] == this.name
