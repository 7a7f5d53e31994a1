"""Collecting the results of a batch: every way in which the lines of its two files can come, against a real store."""

import asyncio
import itertools
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from scene import PRICES, Scene, chat_body, request_line, request_lines

from runner.budget import Budget
from runner.dispatch import collecting
from runner.dispatch.collecting import Collecting, Collection, forced_tool_of
from runner.errors import RunnerError, StoreUnusable
from runner.job import Job, Retry, requests_job
from runner.model import Call, Reply, Usage
from runner.record.line_id import line_id
from runner.settle import Policy, Settler
from runner.store import batches, series, tasks
from runner.store.batches import NewBatch, NewLine
from runner.store.database import Store
from runner.store.tasks import Settlement
from runner.store.writer import GroupWriter
from runner.submission import Stage, Submission
from runner.tokens import Estimates

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
STRANGER = line_id(bytes(32), 0)
EXPIRED = {"code": "batch_expired", "message": "This request could not be executed in time."}


class Died(RunnerError):
    """The process ended here."""


def answered(custom_id: object, body: bytes | None = None, *, status: int = 200) -> bytes:
    shown = json.dumps(custom_id).encode()
    return (
        b'{"id":"r","custom_id":%b,"response":{"status_code":%d,"request_id":"req_7","body":%b},"error":null}'
        % (
            shown,
            status,
            chat_body() if body is None else body,
        )
    )


def refused(custom_id: object, status: int = 500, code: str = "server_error") -> bytes:
    return answered(custom_id, json.dumps({"error": {"message": "no", "code": code}}).encode(), status=status)


def failed(custom_id: object, error: object) -> bytes:
    return json.dumps({"custom_id": custom_id, "response": None, "error": error}).encode()


class Desk:
    """A run all of whose rows are out in one batch, and what becomes of them."""

    def __init__(
        self, store: Store, folder: Path, lines: Sequence[bytes] | None = None, **policy: Any
    ) -> None:
        lines = request_lines(6) if lines is None else lines
        self.scene = Scene(store, lines)
        self.scene.expand()
        self.store = store
        self.folder = folder
        self.spool = folder / "batches"
        self.policy = policy
        self.settler = self._settler()
        self.chunks: list[int] = []
        self.dies_at: int | None = None
        ids = [one for (one,) in self.scene.query("SELECT id FROM task ORDER BY row_id")]
        run = self.scene.run
        submission = Submission("s1", "0" * 64, Stage.SUBMITTED, batch_id="batch_1")
        new = NewBatch(
            run.id,
            self.scene.tenure.series_id,
            self.scene.tenure.epoch,
            "acc",
            "chat",
            "m",
            len(lines),
            100,
            100,
            submission,
        )
        with store.write() as connection:
            series.fence(connection, self.scene.tenure)
            [self.batch_id] = batches.plan(connection, [(new, [NewLine(one, 1_000_000) for one in ids])])
        self.ids = [
            line_id(hash_, occurrence)
            for hash_, occurrence in self.scene.query("SELECT hash, occurrence FROM task ORDER BY row_id")
        ]

    def _settler(self) -> Settler:
        policy = {"retry": Retry(), "accepted": frozenset({"stop"})} | self.policy
        budget = Budget(10**15)
        budget.reserve(10**12)
        return Settler(
            Policy(**policy),
            PRICES,
            budget,
            random=lambda: 0.5,
            remaining=lambda: 10,
            estimates=Estimates(),
            utc=lambda: NOW,
        )

    def settle(self, ended: Sequence[tuple[Call, Reply]]) -> tuple[Sequence[Settlement], Awaitable[object]]:
        _, settlements = self.settler.settle(ended)
        self.chunks.append(len(settlements))
        number = len(self.chunks)

        async def write() -> None:
            if self.dies_at is not None and number >= self.dies_at:
                raise Died
            with self.store.write() as connection:
                tasks.settle(connection, settlements)

        return settlements, write()

    def file(self, name: str, *lines: bytes, end: bytes = b"\n") -> Path:
        path = self.folder / name
        path.write_bytes(b"\n".join(lines) + (end if lines else b""))
        return path

    def collecting(self, **more: Any) -> Collecting:
        with self.store.read() as connection:
            batch = batches.get(connection, self.batch_id)
        return Collecting(
            self.store,
            batch,
            folder=self.spool,
            **{"settle": self.settle, "forced_tool": forced_tool_of(self.scene.job), **more},
        )

    def read(
        self, output: Sequence[bytes] | None, error: Sequence[bytes] | None = None, **more: Any
    ) -> Collection:
        paths = [
            None if lines is None else self.file(name, *lines)
            for name, lines in (("out", output), ("error", error))
        ]
        return asyncio.run(self.collecting(**more).read(*paths))

    def settle_left(self, word: str) -> int:
        return asyncio.run(self.collecting().settle_left(word))

    @property
    def states(self) -> str:
        """The states of the tasks in the order of their rows, by their first letters."""
        letters = {"answered": "A", "ready": "R", "failed": "F", "held": "H", "batched": "b"}
        return "".join(letters[one] for (one,) in self.scene.query("SELECT state FROM task ORDER BY row_id"))

    @property
    def attempts(self) -> list[int]:
        return [one for (one,) in self.scene.query("SELECT attempts FROM task ORDER BY row_id")]

    @property
    def bodies(self) -> list[bytes | None]:
        """The answer of each row."""
        return [
            one
            for (one,) in self.scene.query(
                "SELECT answer.body FROM task LEFT JOIN answer ON answer.id = task.answer_id ORDER BY task.row_id"
            )
        ]

    @property
    def unmatched(self) -> list[bytes]:
        path = self.spool / "batch_1.unmatched.jsonl"
        return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


@pytest.fixture
def desk(store: Store, tmp_path: Path) -> Desk:
    return Desk(store, tmp_path)


def test_answers_come_to_their_rows_in_any_order(desk: Desk) -> None:
    lines = [answered(one, chat_body(f"answer {n}")) for n, one in enumerate(desk.ids)]
    random.Random(7).shuffle(lines)
    found = desk.read(lines)

    assert desk.states == "AAAAAA"
    assert [json.loads(body or b"{}")["choices"][0]["message"]["content"] for body in desk.bodies] == [
        f"answer {n}" for n in range(6)
    ]
    assert found == Collection(6, 0, 0, 0, 0, 0, 0, Usage(60, 0, 0, 30, 0, 90), 0, None)
    assert desk.scene.query("SELECT DISTINCT tier, request_id, status FROM answer") == [
        ("batch", "req_7", 200)
    ]
    assert not list(desk.spool.glob("*"))


def test_a_body_is_stored_byte_for_byte(desk: Desk) -> None:
    bodies = [
        chat_body(text).replace(b'"object"', b'  "object"')
        for text in ("plain", "\u2028\u2029\u0085", "\ud800", 'a "quoted" \\ one', "\x00\t", "日本")
    ]
    bodies[1] = (
        bodies[1]
        .decode()
        .encode()
        .replace(b"\\u2028", "\u2028".encode())
        .replace(b"\\u0085", "\x85".encode())
    )
    desk.read([answered(one, body) for one, body in zip(desk.ids, bodies, strict=True)])

    assert desk.bodies == bodies
    assert desk.states == "AAAAAA"


@pytest.mark.parametrize("order", list(itertools.permutations(["ok", "other", "bad", "expired"])))
def test_an_answer_beats_an_error_wherever_the_two_stand(desk: Desk, order: tuple[str, ...]) -> None:
    mine = desk.ids[0]
    first, second = chat_body("first"), chat_body("second")
    lines = {
        "ok": answered(mine, first),
        "other": answered(mine, second),
        "bad": refused(mine),
        "expired": failed(mine, EXPIRED),
    }
    found = desk.read([lines[one] for one in order[2:]], [lines[one] for one in order[:2]])

    in_order = order[2:] + order[:2]
    winner = first if in_order.index("ok") < in_order.index("other") else second
    assert desk.states == "Abbbbb"
    assert desk.bodies[0] == winner
    assert (found.settled, found.duplicates, found.conflicts, found.left) == (1, 3, 1, 5)
    assert desk.unmatched == [lines["other" if winner == first else "ok"]]


def test_the_same_answer_twice_is_no_conflict(desk: Desk) -> None:
    one = answered(desk.ids[0])
    found = desk.read([one, one], [one])

    assert (found.settled, found.duplicates, found.conflicts, found.unmatched) == (1, 2, 0, None)


def test_of_two_errors_the_first_counts(desk: Desk) -> None:
    found = desk.read([refused(desk.ids[0], 400, "bad"), refused(desk.ids[0])], [refused(desk.ids[0], 404)])

    assert desk.states == "Fbbbbb"
    assert (found.settled, found.duplicates, found.conflicts) == (1, 2, 0)


def test_a_row_that_was_refused_is_settled_by_its_line_in_either_file(desk: Desk) -> None:
    a, b, c, d, e, f = desk.ids
    empty = (
        b'{"custom_id":"%b","response":{"status_code":0,"request_id":"","body":""},"error":null}' % e.encode()
    )
    found = desk.read(
        [refused(a, 400, "bad"), answered(b, b'""')],
        [
            refused(c, 429, "rate_limit_exceeded"),
            failed(d, EXPIRED),
            empty,
            refused(f, 503, "server_is_overloaded"),
        ],
    )

    assert desk.states == "FRRRRR"
    assert desk.attempts == [1, 1, 0, 0, 1, 0]
    assert found.settled == 6
    kinds = desk.scene.query(
        "SELECT kind, outcome FROM attempt JOIN task ON task.id = task_id ORDER BY row_id"
    )
    assert kinds == [
        ("row_error", "refused"),
        ("ambiguous", "ambiguous"),
        ("rate_limited", "refused"),
        ("not_run", "refused"),
        ("ambiguous", "ambiguous"),
        ("overloaded", "refused"),
    ]
    assert desk.scene.query("SELECT body FROM answer") == [(b'""',)]


@pytest.mark.parametrize("files", [(None, None), ([], None), ([], []), (None, [])])
def test_files_that_are_not_there_or_empty_settle_nothing(desk: Desk, files: tuple[Any, Any]) -> None:
    found = desk.read(*files)

    assert desk.states == "bbbbbb"
    assert (found.settled, found.left) == (0, 6)


def test_a_batch_all_of_whose_lines_failed_has_an_error_file_alone(desk: Desk) -> None:
    found = desk.read(None, [refused(one, 400, "bad") for one in desk.ids])

    assert desk.states == "FFFFFF"
    assert (found.settled, found.left) == (6, 0)


@pytest.mark.parametrize(
    "custom_id",
    [None, 17, "", "r0", STRANGER, "x" * 10_000, ["a"], "0", f"{STRANGER}-of-nobody", "é.0"],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize("make", [answered, refused])
def test_what_bears_no_id_of_a_line_is_kept_apart_and_matched_to_nothing(
    desk: Desk, custom_id: object, make: Callable[[object], bytes]
) -> None:
    line = make(custom_id)
    found = desk.read([line, *map(answered, desk.ids[1:])])

    assert desk.states == "bAAAAA"
    assert (found.settled, found.unknown, found.duplicates, found.left) == (5, 1, 0, 1)
    assert desk.unmatched == [line]
    assert found.unmatched == desk.spool / "batch_1.unmatched.jsonl"
    assert found.unmatched.stat().st_mode & 0o777 == 0o600


def test_a_whole_file_of_answers_to_nobody_is_kept(desk: Desk) -> None:
    lines = [answered(None, chat_body(f"{n}")) for n in range(6)]
    found = desk.read(lines)

    assert desk.states == "bbbbbb"
    assert (found.unknown, found.left) == (6, 6)
    assert desk.unmatched == lines


@pytest.mark.parametrize(
    "line", [b"{", b"\xff", b'{"custom_id":"\xff"}', b"[]", b"null", b"\x00" * 70, b'{"a":1}{"b":2}']
)
@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_line_that_cannot_be_read_costs_no_other_its_place(desk: Desk, line: bytes, place: int) -> None:
    lines = list(map(answered, desk.ids))
    lines.insert(place, line)
    found = desk.read(lines)

    assert desk.states == "AAAAAA"
    assert (found.settled, found.unreadable) == (6, 1)
    assert desk.unmatched == [line]


@pytest.mark.parametrize("cut", [1, 40, 100, 200])
def test_a_file_that_was_cut_gives_all_but_its_last_line(desk: Desk, cut: int) -> None:
    text = b"\n".join(map(answered, desk.ids)) + b"\n"
    path = desk.file("out", text[: -1 - cut], end=b"")
    found = asyncio.run(desk.collecting().read(path, None))

    assert desk.states == "AAAAAb"
    assert (found.settled, found.unreadable, found.left) == (5, 1, 1)


def test_the_form_of_a_file_does_not_matter(desk: Desk) -> None:
    lines = list(map(answered, desk.ids))
    text = (
        b"\xef\xbb\xbf"
        + lines[0]
        + b"\r\n\n \r\n\t\n"
        + b"\r\n".join(lines[1:5])
        + b"\n\xef\xbb\xbf"
        + lines[5]
    )
    path = desk.file("out", text, end=b"")
    found = asyncio.run(desk.collecting().read(path, None))

    assert desk.states == "AAAAAA"
    assert (found.settled, found.unreadable, found.unmatched) == (6, 0, None)


def test_a_line_beyond_all_bounds_is_kept_apart_whole(desk: Desk) -> None:
    long = answered(desk.ids[2], chat_body("x" * 3_000_000))
    lines = [answered(desk.ids[0]), long, answered(desk.ids[1]), b"y" * 2**17]
    found = desk.read(lines, max_line=2**16)

    assert desk.states == "AAbbbb"
    assert (found.settled, found.unreadable) == (2, 2)
    assert desk.unmatched == [long, b"y" * 2**17]
    desk.read(lines, max_line=2**16)
    assert desk.unmatched == [long, b"y" * 2**17]


def test_collecting_again_settles_nothing_twice(desk: Desk) -> None:
    one, other = chat_body("one"), chat_body("other")
    output = [
        answered(desk.ids[0], one),
        answered(desk.ids[0], other),
        b"{",
        answered(None),
        refused(desk.ids[1], 400),
    ]
    first = desk.read(output, [failed(desk.ids[2], EXPIRED)])
    again = desk.read(output, [failed(desk.ids[2], EXPIRED)])

    assert (first.settled, first.before, first.left) == (3, 0, 3)
    assert (again.settled, again.before, again.left) == (0, 3, 3)
    assert again[3:7] == first[3:7] == (1, 1, 1, 1)
    assert again.usage == Usage()
    assert desk.unmatched == [answered(desk.ids[0], other), b"{", answered(None)]
    assert desk.states == "AFRbbb"
    assert desk.scene.query("SELECT count(*) FROM attempt") == [(3,)]


@pytest.mark.parametrize("dies_at", [1, 2, 3, 4, 5])
def test_a_crash_between_two_chunks_loses_nothing(
    desk: Desk, dies_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "CHUNK_LINES", 2)
    bodies = [chat_body(f"answer {n}") for n in range(4)]
    a, b, c, d, e, f = desk.ids
    output = [answered(one, body) for one, body in zip((d, b, a, c), bodies, strict=True)]
    error = [refused(e, 400, "bad"), refused(a), failed(f, EXPIRED)]
    desk.dies_at = dies_at
    if dies_at <= 3:
        with pytest.raises(Died):
            desk.read(output, error)
        assert "b" in desk.states
    desk.dies_at, desk.settler = None, desk._settler()
    found = desk.read(output, error)

    assert desk.states == "AAAAFR"
    assert desk.bodies[:4] == [bodies[2], bodies[1], bodies[3], bodies[0]]
    assert found.settled + found.before == 6
    assert found.settled == 6 - 2 * (dies_at - 1) or dies_at > 3
    assert (found.duplicates, found.left) == (1, 0)
    assert desk.scene.query("SELECT count(*) FROM attempt") == [(6,)]


def test_a_task_that_is_on_its_way_to_the_disk_is_not_settled_twice(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "CHUNK_LINES", 2)
    one, other = chat_body("one"), chat_body("other")
    ids = [desk.ids[n] for n in (0, 1, 1, 2, 0, 2, 3, 3, 3, 4)]
    path = desk.file("out", *(answered(each, other if n == 4 else one) for n, each in enumerate(ids)))

    async def collect() -> Collection:
        writer = GroupWriter(desk.store, desk.scene.tenure, lambda: None)

        def settle(ended: Sequence[tuple[Call, Reply]]) -> tuple[Sequence[Settlement], Awaitable[object]]:
            _, settlements = desk.settler.settle(ended)
            return settlements, writer.submit(tasks.settle, settlements)

        try:
            return await desk.collecting(settle=settle).read(path, path)
        finally:
            await writer.close()

    found = asyncio.run(collect())

    assert desk.states == "AAAAAb"
    assert desk.bodies[:5] == [one] * 5
    assert (found.settled, found.duplicates, found.conflicts, found.left) == (5, 15, 2, 1)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_told_in_any_order_is_settled_in_that_of_the_batch(
    desk: Desk, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "CHUNK_LINES", 2)
    calls: list[int] = []

    def settle(ended: Sequence[tuple[Call, Reply]]) -> tuple[Sequence[Settlement], Awaitable[object]]:
        calls.extend(call.id for call, _ in ended)
        return desk.settle(ended)

    lines = [*map(answered, desk.ids[:4]), *(refused(one, 400, "bad") for one in desk.ids[4:])]
    random.Random(seed).shuffle(lines)
    found = desk.read(lines[:3], lines[3:], settle=settle)

    assert desk.states == "AAAAFF"
    assert calls == sorted(calls)
    assert desk.chunks == [2, 2, 2]
    assert found.settled == 6


def test_results_that_change_while_they_are_read_are_told(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "CHUNK_LINES", 2)
    path = desk.file("out", *map(answered, desk.ids))

    def settle(ended: Sequence[tuple[Call, Reply]]) -> tuple[Sequence[Settlement], Awaitable[object]]:
        path.write_bytes(b"")
        return desk.settle(ended)

    with pytest.raises(StoreUnusable, match=r"The results .*/out cannot be read: it has changed meanwhile"):
        asyncio.run(desk.collecting(settle=settle).read(path, None))
    assert desk.states == "AAbbbb"
    assert desk.read(list(map(answered, desk.ids))).settled == 4


def test_long_files_leave_the_others_their_turns(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "CHUNK_LINES", 2)
    path = desk.file("out", *[answered(None)] * 20)

    async def collect() -> int:
        collection = asyncio.ensure_future(desk.collecting().read(path, None))
        turns = 0
        while not collection.done():
            await asyncio.sleep(0)
            turns += 1
        return turns

    assert asyncio.run(collect()) >= 10


def test_whether_a_tool_is_forced_is_asked_of_the_record_of_each_line(desk: Desk) -> None:
    forced: list[bool] = []

    def settle(ended: Sequence[tuple[Call, Reply]]) -> tuple[Sequence[Settlement], Awaitable[object]]:
        forced.extend(call.forced_tool for call, _ in ended)
        return desk.settle(ended)

    desk.read([answered(desk.ids[2])], settle=settle, forced_tool=lambda record: b"question 2" in record)
    asyncio.run(
        desk.collecting(settle=settle, forced_tool=lambda record: b"question 4" in record).settle_left(
            "unreported"
        )
    )

    assert forced == [True, False, False, False, True, False]


def test_chunks_are_bounded_by_lines_and_by_bytes(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "CHUNK_LINES", 4)
    desk.read(list(map(answered, desk.ids)))
    assert desk.chunks == [4, 2]


def test_a_chunk_is_full_when_its_bytes_are(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "CHUNK_BYTES", len(answered(desk.ids[0])) + 1)
    desk.read(list(map(answered, desk.ids)))
    assert desk.chunks == [2, 2, 2]


@pytest.mark.parametrize(
    ("word", "policy", "state", "attempts", "outcome"),
    [
        ("unreported", "retry", "R", 1, "ambiguous"),
        ("unreported", "hold", "H", 1, "ambiguous"),
        ("unreported", "fail", "F", 1, "ambiguous"),
        ("results_gone", "retry", "H", 1, "ambiguous"),
        ("results_gone", "fail", "H", 1, "ambiguous"),
        ("batch_expired", "fail", "R", 0, "refused"),
        ("batch_cancelled", "hold", "R", 0, "refused"),
        ("batch_failed", "retry", "R", 0, "refused"),
    ],
)
def test_what_no_file_tells_of_goes_where_the_word_says(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    word: str,
    policy: str,
    state: str,
    attempts: int,
    outcome: str,
) -> None:
    monkeypatch.setattr(collecting, "CHUNK_LINES", 2)
    desk = Desk(store, tmp_path, on_ambiguous=policy)
    desk.read([answered(desk.ids[3])])

    assert desk.settle_left(word) == 5
    assert desk.states == state * 3 + "A" + state * 2
    assert desk.attempts == [attempts] * 3 + [1] + [attempts] * 2
    assert desk.scene.query("SELECT DISTINCT outcome, code FROM attempt WHERE outcome <> 'ok'") == [
        (outcome, word)
    ]
    assert desk.settle_left(word) == 0
    with store.write() as connection:
        batches.end(connection, [(desk.batch_id, "collected")])


def test_equal_rows_have_lines_of_their_own(store: Store, tmp_path: Path) -> None:
    desk = Desk(store, tmp_path, [request_line(f"r{n}") for n in range(3)])
    assert [one.partition(".")[2] for one in desk.ids] == ["0", "1", "2"]
    desk.read([answered(desk.ids[2], chat_body("2")), answered(desk.ids[0], chat_body("0"))])

    assert desk.states == "AbA"
    assert desk.bodies == [chat_body("0"), None, chat_body("2")]


def test_the_usage_sums_all_its_fields_and_counts_what_has_none(desk: Desk) -> None:
    def with_usage(usage: object) -> bytes:
        return json.dumps({**json.loads(chat_body()), "usage": usage}).encode()

    whole = {
        "prompt_tokens": 100,
        "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 5},
        "completion_tokens": 50,
        "completion_tokens_details": {"reasoning_tokens": 20},
        "total_tokens": 150,
    }
    bodies = [
        with_usage(whole),
        with_usage(whole),
        with_usage(None),
        with_usage({"prompt_tokens": -1}),
        b"{}",
    ]
    found = desk.read([answered(one, body) for one, body in zip(desk.ids, bodies, strict=False)])

    assert found.usage == Usage(200, 60, 10, 100, 40, 300)
    assert found.without_usage == 3


def test_the_name_of_the_file_apart_leads_nowhere_else(desk: Desk) -> None:
    with desk.store.read() as connection:
        batch = batches.get(connection, desk.batch_id)
    batch = batch._replace(submission=batch.submission._replace(batch_id="../../etc/x"))
    one = Collecting(desk.store, batch, settle=desk.settle, forced_tool=False, folder=desk.spool)
    found = asyncio.run(one.read(desk.file("out", b"{"), None))

    assert found.unmatched == desk.spool / "______etc_x.unmatched.jsonl"
    assert found.unmatched.read_bytes() == b"{\n"


def test_a_line_that_a_crash_left_half_written_apart_stays_one(desk: Desk) -> None:
    desk.spool.mkdir()
    (desk.spool / "batch_1.unmatched.jsonl").write_bytes(b'{"a"')
    desk.read([b"{", b"["])

    assert desk.unmatched == [b'{"a"', b"{", b"["]


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


@pytest.mark.parametrize(
    ("request_", "record", "expected"),
    [
        ({}, b'{"q":"a"}', False),
        ({"tools": [TOOL], "tool_choice": "required"}, b'{"q":"a"}', True),
        ({"tools": [TOOL], "tool_choice": "auto"}, b'{"q":"a"}', False),
        ({"tools": [TOOL], "tool_choice": "{{ q }}"}, b'{"q":"required"}', True),
        ({"tools": [TOOL], "tool_choice": "{{ q }}"}, b'{"q":"none"}', False),
    ],
)
def test_whether_a_tool_is_forced_is_known_of_each_row(
    request_: dict[str, Any], record: bytes, expected: bool
) -> None:
    job = Job(
        name="j",
        path=None,
        input=None,
        output=None,
        endpoint="chat",
        model="m",
        request={"messages": [{"role": "user", "content": "{{ q }}"}], **request_},
    )

    forced = forced_tool_of(job)
    assert (forced if isinstance(forced, bool) else forced(record)) is expected


def test_a_file_of_requests_forces_no_tool_that_matters() -> None:
    assert forced_tool_of(requests_job("/in.jsonl")) is False
