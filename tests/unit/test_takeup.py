"""Which run a start goes on with: what begins a new one, and what becomes of those left behind."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from scene import IDENTITY, chat_body, request_line

from runner import takeup
from runner.errors import BadInput, Interrupted
from runner.expand import expand
from runner.files import MAX_LINE, LineReader
from runner.ingest import InputChanged
from runner.job import Job, Limits, Retry
from runner.job.value import freeze
from runner.model import Outcome, RunState, TaskState
from runner.store import rows, runs, series, tasks
from runner.store.database import Store
from runner.store.runs import Run
from runner.store.tasks import Claim, NewAnswer, Settlement, checksum

REQUEST = {"messages": [{"role": "user", "content": "{{ text }}"}]}


class Series:
    """A series with its input file; `start` is what one start of the command does."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.input = folder / "rows.jsonl"
        self.job = Job(
            name="small",
            path=folder / "small.yaml",
            endpoint="chat",
            model="m",
            input=str(self.input),
            output=None,
            request=freeze(REQUEST),
        )
        with store.write() as connection:
            self.tenure = series.take(connection, IDENTITY)
        self.read = 0

    def write(self, *texts: str, key: int = 0) -> None:
        lines = [json.dumps({"id": key or n, "text": text}) for n, text in enumerate(texts, 1)]
        self.input.write_text("".join(line + "\n" for line in lines))

    def start(
        self,
        *,
        stdin: bytes | None = None,
        limit: int | None = None,
        max_line: int = MAX_LINE,
        stopping: bool = False,
        **fields: Any,
    ) -> Run:
        """Take the run up, and make it active where it is new. `read` says how many lines were read."""
        told: list[int] = []
        stream = None if stdin is None else io.BytesIO(stdin)
        source = takeup.Source(None if stream else self.input, stream, limit=limit, max_line=max_line)
        this = takeup.take_up(
            self.store,
            self.tenure,
            replace(self.job, **fields),
            source,
            stopping=lambda: stopping,
            told=told.append,
        )
        self.read = told[-1] if told else 0
        if this.state is RunState.INGESTING:
            to = RunState.REJECTED if this.rows_invalid else RunState.ACTIVE
            with self.store.write() as connection:
                runs.move(connection, this.id, to)
        return this

    def runs(self) -> list[Run]:
        with self.store.read() as connection:
            return runs.of_series(connection, self.tenure.series_id)

    def count(self, table: str) -> int:
        with self.store.read() as connection:
            return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())


@pytest.fixture
def a_series(store: Store, tmp_path: Path) -> Series:
    made = Series(store, tmp_path)
    made.write("a", "b", "c")
    return made


def test_the_same_command_again_goes_on_with_the_same_run_and_reads_nothing(a_series: Series) -> None:
    first = a_series.start()
    assert (a_series.read, first.rows_in) == (3, 3)
    assert a_series.start().id == first.id
    assert a_series.read == 0


MEANING = {
    "endpoint": {"endpoint": "responses", "request": freeze({"input": "{{ text }}"})},
    "model": {"model": "other"},
    "request": {"request": freeze({**REQUEST, "temperature": 0})},
    "seed": {"request": freeze({**REQUEST, "seed": 7})},
    "schema": {"schema": freeze({"type": "object"}), "schema_name": "s"},
    "key": {"key": "id"},
    "dedupe": {"dedupe": True},
}
HANDLING = {
    "mode": {"mode": "batch"},
    "limits": {"limits": Limits(10, 10, 1)},
    "retry": {"retry": Retry(2, 5.0)},
    "budget": {"budget": Decimal("0.01")},
    "output": {"output": Path("/elsewhere.jsonl")},
    "on_length": {"on_length": "accept"},
    "keep": {"keep": ("id",)},
    "output_field": {"output_field": "answer"},
}


@pytest.mark.parametrize("field", MEANING)
def test_a_field_that_gives_the_job_its_meaning_starts_a_new_run(a_series: Series, field: str) -> None:
    first = a_series.start()
    assert a_series.start(**MEANING[field]).id != first.id
    # The run of before is still there, and the old job finds it.
    assert a_series.start().id == first.id


@pytest.mark.parametrize("field", HANDLING)
def test_a_field_of_handling_starts_none(a_series: Series, field: str) -> None:
    first = a_series.start()
    assert a_series.start(**HANDLING[field]).id == first.id
    assert a_series.read == 0


def test_the_same_bytes_at_another_time_are_the_same_input(a_series: Series) -> None:
    first = a_series.start()
    os.utime(a_series.input, ns=(1, 1))
    again = a_series.start()
    assert (again.id, a_series.read) == (first.id, 0)
    with a_series.store.read() as connection:
        assert runs.get(connection, first.id).fingerprint.mtime_ns == 1


def test_the_same_bytes_in_another_file_are_the_same_input(a_series: Series) -> None:
    first = a_series.start()
    text = a_series.input.read_bytes()
    copy = a_series.input.with_name("copy")
    copy.write_bytes(text)
    copy.replace(a_series.input)
    assert (a_series.start().id, a_series.read) == (first.id, 0)


@pytest.mark.parametrize("texts", [("a", "b", "C"), ("a", "b", "c", "d"), ("a", "b")])
def test_other_bytes_are_another_run(a_series: Series, texts: tuple[str, ...]) -> None:
    first = a_series.start()
    a_series.write(*texts)
    os.utime(a_series.input, ns=(1, 1))
    second = a_series.start()
    assert second.id != first.id
    assert second.rows_in == len(texts)
    assert [one.id for one in a_series.runs()] == [second.id, first.id]


def test_an_input_that_came_back_finds_its_run_of_before(a_series: Series) -> None:
    first = a_series.start()
    a_series.write("x", "y", "z")
    a_series.start()
    a_series.write("a", "b", "c")
    assert a_series.start().id == first.id
    assert len(a_series.runs()) == 2


def test_standard_input_that_holds_the_same_is_the_same_run_and_kept_once(a_series: Series) -> None:
    text = a_series.input.read_bytes()
    first = a_series.start(stdin=text)
    again = a_series.start(stdin=text)
    assert (again.id, a_series.read) == (first.id, 3)
    assert (len(a_series.runs()), a_series.count("row")) == (1, 3)
    assert a_series.start(stdin=text + b'{"id": 9, "text": "d"}\n').id != first.id


def test_a_limit_is_another_run_over_the_first_rows(a_series: Series) -> None:
    two = a_series.start(limit=2)
    assert two.rows_in == 2
    assert a_series.start(limit=2).id == two.id
    assert a_series.read == 0
    whole = a_series.start()
    assert (whole.rows_in, whole.id == two.id) == (3, False)
    assert a_series.start(limit=1).rows_in == 1


def test_a_limit_below_what_grew_is_the_same_run(a_series: Series) -> None:
    two = a_series.start(limit=2)
    a_series.write("a", "b", "c", "d")
    assert a_series.start(limit=2).id == two.id
    assert len(a_series.runs()) == 1


def test_a_limit_above_what_changed_is_another(a_series: Series) -> None:
    two = a_series.start(limit=2)
    a_series.write("a", "B", "c")
    assert a_series.start(limit=2).id != two.id


def test_a_run_whose_reading_was_stopped_is_read_anew_and_leaves_nothing(
    a_series: Series, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.ingest.CHUNK_ROWS", 1)
    with pytest.raises(Interrupted, match="Nothing was sent"):
        a_series.start(stopping=True)
    [half] = a_series.runs()
    assert (half.state, a_series.count("row")) == (RunState.INGESTING, 1)
    whole = a_series.start()
    assert whole.rows_in == 3
    assert [one.id for one in a_series.runs()] == [whole.id]
    assert a_series.count("row") == 3


def test_a_rejected_run_makes_room_for_the_mended_input(a_series: Series) -> None:
    a_series.input.write_text('{"id": 1}\n{"id": 2, "text": "b"}\n')
    bad = a_series.start()
    assert bad.rows_invalid == 1
    a_series.write("a", "b")
    good = a_series.start()
    assert (good.rows_invalid, good.rows_in) == (0, 2)
    assert [one.id for one in a_series.runs()] == [good.id]
    assert a_series.count("row") == 2


def test_a_rejected_input_keeps_its_faults_until_it_changes(a_series: Series) -> None:
    a_series.input.write_text('{"id": 1}\n')
    a_series.start()
    again = a_series.start()
    assert again.rows_invalid == 1
    with a_series.store.read() as connection:
        assert [fault.code for fault in rows.faults(connection, again.id)] == ["missing_field"]
    assert len(a_series.runs()) == 1


def test_a_line_that_was_too_long_is_read_once_the_limit_is_raised(a_series: Series) -> None:
    a_series.write("a" * 500)
    assert a_series.start(max_line=100).rows_invalid == 1
    assert a_series.start(max_line=1000).rows_invalid == 0


def test_a_field_that_was_taken_is_free_once_the_output_goes_elsewhere(a_series: Series) -> None:
    a_series.input.write_text('{"id": 1, "text": "a", "result": 2}\n')
    assert a_series.start().rows_invalid == 1
    assert a_series.start(output_field="answer").rows_invalid == 0


def test_a_field_that_was_free_may_be_taken_once_the_output_goes_elsewhere(a_series: Series) -> None:
    a_series.input.write_text('{"id": 1, "text": "a"}\n{"id": 2, "text": "b", "answer": 2}\n')
    first = a_series.start()
    with pytest.raises(BadInput, match="output_field") as refused:
        a_series.start(output_field="answer")
    assert [(one.line, one.code) for one in refused.value.faults] == [(2, "field_taken")]
    assert a_series.start(output_field="answer", keep=("id",)).id == first.id


def test_a_run_stays_while_another_jobs_reading_is_cleaned_up(
    a_series: Series, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = a_series.start()
    monkeypatch.setattr("runner.ingest.CHUNK_ROWS", 1)
    with pytest.raises(Interrupted):
        a_series.start(model="other", stopping=True)
    third = a_series.start(model="third")
    assert [one.id for one in a_series.runs()] == [third.id, first.id]
    assert a_series.count("row") == 6


def test_an_input_that_keeps_changing_is_given_up_after_three_readings(
    a_series: Series, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = []
    monkeypatch.setattr(LineReader, "changed", lambda self: not readings.append(1))
    with pytest.raises(InputChanged, match="Nothing was sent"):
        a_series.start()
    assert len(readings) == takeup.TRIES
    monkeypatch.undo()
    assert a_series.start().rows_in == 3
    assert len(a_series.runs()) == 1


def test_an_input_that_changed_once_while_it_was_read_is_read_again(
    a_series: Series, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [True]
    monkeypatch.setattr(LineReader, "changed", lambda self: bool(changes and changes.pop()))
    assert a_series.start().rows_in == 3
    assert a_series.count("row") == 3


def test_an_input_that_is_gone_is_named(a_series: Series) -> None:
    a_series.start()
    a_series.input.unlink()
    with pytest.raises(BadInput, match=r"rows\.jsonl cannot be read: No such file"):
        a_series.start()


def answer_all(a_series: Series, this: Run) -> int:
    """Answer every task of the run; how many there were."""
    while expand(a_series.store, a_series.tenure, this.id) is not None:
        pass
    with a_series.store.write() as connection:
        found = tasks.ready(connection, run_id=this.id, limit=100, max_bytes=10**6)
        for one in found:
            [call] = tasks.claim(connection, [Claim(this.id, a_series.tenure.epoch, (one.task_id,), 1)])
            body = chat_body()
            kept = NewAnswer(200, "req", body, checksum(body), "m", None, None, None)
            settled = Settlement(
                call_id=call,
                task_id=one.task_id,
                outcome=Outcome.OK,
                kind="answered",
                status=200,
                code="",
                request_id="req",
                to=TaskState.ANSWERED,
                due_at=0,
                attempts=1,
                finish_reason="stop",
                answer=kept,
            )
            tasks.settle(connection, [settled])
    return len(found)


def test_a_changed_input_pays_only_for_what_is_new(a_series: Series) -> None:
    assert answer_all(a_series, a_series.start(limit=2)) == 2
    assert answer_all(a_series, a_series.start()) == 1
    a_series.write("new", "c", "a", "a")
    # The second `a` is another occurrence: it was never asked.
    assert answer_all(a_series, a_series.start()) == 2


def test_forgotten_answers_are_asked_again(a_series: Series) -> None:
    this = a_series.start()
    answer_all(a_series, this)
    assert takeup.forget_answers(a_series.store, a_series.tenure) == 3
    assert [a_series.count(name) for name in ("task", "call", "attempt", "answer", "row")] == [0, 0, 0, 0, 3]
    assert answer_all(a_series, a_series.start()) == 3


def test_a_forgotten_run_leaves_nothing_of_itself_and_the_others_without_answers(a_series: Series) -> None:
    first = a_series.start(limit=1)
    answer_all(a_series, first)
    second = a_series.start()
    answer_all(a_series, second)
    takeup.forget_run(a_series.store, a_series.tenure, first)
    assert [one.id for one in a_series.runs()] == [second.id]
    assert [a_series.count(name) for name in ("task", "call", "attempt", "answer", "row")] == [0, 0, 0, 0, 3]
    assert b"question" not in a_series.store.path.read_bytes()


def test_a_requests_file_is_taken_up_likewise(store: Store, tmp_path: Path) -> None:
    a_series = Series(store, tmp_path)
    a_series.input.write_bytes(request_line("a") + b"\n" + request_line("b"))
    first = a_series.start(endpoint=None, model=None, request=freeze({}), key="custom_id")
    assert (first.rows_in, first.rows_invalid) == (2, 0)
