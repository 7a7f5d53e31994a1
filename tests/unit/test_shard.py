"""The writer of shards: exact bytes, one endpoint and model a file, what is refused, order, memory, and again."""

import errno
import hashlib
import json
import os
import stat
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from packed_answers import embedding_job
from scene import PRICES, Scene, request_line, request_lines

from runner.dispatch import shard as writing
from runner.dispatch.shard import Group, Nothing, Shards, Written
from runner.job import Job
from runner.pricing import Prices
from runner.question import Questions
from runner.record.line_id import key_of
from runner.shards import Bound, Bounds
from runner.store import batches, series
from runner.store.batches import Kept, NewBatch
from runner.store.clock import now
from runner.store.database import Store
from runner.store.faults import DiskFull
from runner.submission import Submission
from runner.tokens import Estimates

URLS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "embeddings": "/v1/embeddings",
}
CHAT = Group("chat", "m")
LONG = "Classify the ticket by its subject. " * 150


def packing(scene: Scene, *, prices: Prices = PRICES, urls: dict[str, str] = URLS) -> Shards:
    """The writer of the run's shards, all its rows made into tasks."""
    scene.expand()
    return Shards(
        scene.store,
        scene.run.id,
        Questions(scene.job),
        prices,
        urls=urls,
        folder=scene.store.path.parent / "spool",
        estimates=Estimates(),
    )


def written(shards: Shards, bounds: Bounds | None = None, **more: Any) -> Written:
    found = shards.write(bounds or Bounds(), **more)
    assert isinstance(found, Written), found
    return found


def plan(scene: Scene, one: Written) -> Kept:
    """Keep a shard in the store, its tasks in a batch."""
    submission = Submission(shard="run_00001", sha256=one.sha256)
    new = NewBatch(
        run_id=scene.run.id,
        series_id=scene.tenure.series_id,
        epoch=scene.tenure.epoch,
        account="openai https://api.example",
        endpoint=one.group.endpoint,
        model=one.group.model,
        lines=len(one.lines),
        size=one.size,
        tokens=one.tokens,
        submission=submission,
    )
    with scene.store.write() as connection:
        series.fence(connection, scene.tenure)
        [batch_id] = batches.plan(connection, [(new, one.lines)])
    with scene.store.read() as connection:
        return batches.get(connection, batch_id)


def lines_of(path: Path) -> list[dict[str, Any]]:
    text = path.read_bytes()
    assert text.endswith(b"\n")
    return [json.loads(line) for line in text.split(b"\n")[:-1]]


def body_of(line: bytes) -> bytes:
    """The exact bytes that stand after "body": in a line of a shard."""
    return line[line.index(b'"body":') + 7 : -1]


def other_line(url: str, key: str, **body: Any) -> bytes:
    return json.dumps({"custom_id": key, "method": "POST", "url": url, "body": body}).encode()


# --- what stands in the file ------------------------------------------------------------------------


def test_a_shard_holds_each_row_with_its_exact_body_and_an_id_of_our_own(store: Store) -> None:
    bodies = [
        b'{ "model":"m",\t"messages":[{"role":"user","content":"caf\xc3\xa9 \\u00e9 1.0"}], "seed":1e2 }',
        b'{"model":"m","messages":[{"role":"user","content":"\xe2\x80\xa8 \\ud800"}],"seed":2}',
    ]
    lines = [
        b'{"custom_id":"mine-%d","body":%b,"method":"POST","url":"/v1/chat/completions"}' % pair
        for pair in enumerate(bodies)
    ]
    scene = Scene(store, lines)
    one = written(packing(scene))

    text = one.path.read_bytes()
    assert [body_of(line) for line in text.split(b"\n")[:-1]] == bodies
    keys = scene.query("SELECT hash, occurrence FROM task ORDER BY row_id")
    found = lines_of(one.path)
    assert [key_of(line["custom_id"]) for line in found] == keys
    assert [(line["method"], line["url"]) for line in found] == [("POST", "/v1/chat/completions")] * 2
    assert (one.size, one.sha256) == (len(text), hashlib.sha256(text).hexdigest())
    assert (one.group, one.stopped_by, one.refused) == (CHAT, None, [])
    assert [(line.task_id,) for line in one.lines] == scene.query("SELECT id FROM task ORDER BY row_id")


def test_equal_questions_have_ids_of_their_own(store: Store) -> None:
    found = lines_of(written(packing(Scene(store, [request_line(key) for key in "abc"]))).path)

    assert len({line["custom_id"] for line in found}) == 3
    assert [key[1] for line in found if (key := key_of(line["custom_id"]))] == [0, 1, 2]


def test_white_space_that_ends_a_line_elsewhere_does_not_stand_in_a_body(store: Store) -> None:
    line = request_line("a").replace(b'"messages": ', b'\r"messages":\r ')
    text = written(packing(Scene(store, [line]))).path.read_bytes()

    assert b"\r" not in text
    assert lines_of(written(packing(Scene(store, [line]))).path)[0]["body"] == json.loads(line)["body"]


def test_only_its_owner_can_read_it(store: Store) -> None:
    path = written(packing(Scene(store, request_lines(1)))).path

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_template_is_rendered_as_it_was_when_it_was_read(store: Store) -> None:
    job = Job(
        name="t",
        path=Path("/t.yaml"),
        endpoint="responses",
        model="m",
        input=None,
        output=None,
        request={"input": "{{ subject }}\n{{ n }}", "max_output_tokens": 9},
    )
    scene = Scene(store, [b'{"subject":"a\\nb","n":1.50}', b'{"subject":"c","n":2}'], job=job)
    text = written(packing(scene)).path.read_bytes()

    hashes = [hash_ for (hash_,) in scene.query("SELECT hash FROM row ORDER BY id")]
    bodies = [body_of(line) for line in text.split(b"\n")[:-1]]
    assert [hashlib.sha256(b"responses\n" + body).digest() for body in bodies] == hashes


@pytest.mark.parametrize(("base64", "form"), [(True, "base64"), (False, None)])
def test_a_jobs_vectors_come_as_base64_one_text_a_line(store: Store, base64: bool, form: str | None) -> None:
    scene = Scene(store, [b'{"t":"one"}', b'{"t":"two"}'], job=embedding_job())
    found = [line["body"] for line in lines_of(written(packing(scene), base64=base64).path)]

    assert [body["input"] for body in found] == ["one", "two"]
    assert [body.get("encoding_format") for body in found] == [form, form]


def test_what_a_body_says_itself_of_its_form_stays(store: Store) -> None:
    job = embedding_job(request={"input": "{{ t }}", "encoding_format": "float"})
    [line] = lines_of(written(packing(Scene(store, [b'{"t":"one"}'], job=job))).path)
    assert line["body"]["encoding_format"] == "float"

    asked = other_line("/v1/embeddings", "a", model="e", input="text")
    [line] = lines_of(written(packing(Scene(store, [asked]))).path)
    assert line["body"] == {"model": "e", "input": "text"}


# --- the sums ---------------------------------------------------------------------------------------


def test_the_worst_case_is_that_of_a_batch(store: Store) -> None:
    prices = Prices.parse(
        b'{"as_of": "2026-11-01", "models": {"m": {"input": "2", "output": "4",'
        b' "batch": {"input": "1", "output": "2"}}}}',
        "test prices",
    )
    scene = Scene(store, request_lines(3, max_completion_tokens=10))
    one = written(packing(scene, prices=prices))

    bodies = [len(body_of(line)) for line in one.path.read_bytes().split(b"\n")[:-1]]
    wanted = [size * 1_000_000 + 10 * 2_000_000 for size in bodies]
    assert [line.reserved for line in one.lines] == wanted
    assert one.worst_case == sum(wanted)
    assert one.tokens == sum(call.demand.input_tokens for call in scene.calls())


def test_an_unknown_price_is_not_zero(store: Store) -> None:
    one = written(packing(Scene(store, request_lines(2)), prices=Prices.none()))

    assert one.worst_case is None
    assert [line.reserved for line in one.lines] == [None, None]


# --- bounds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("beyond", "count"), [(-1, 3), (0, 4), (1, 4)])
def test_the_file_is_full_to_the_byte(store: Store, beyond: int, count: int) -> None:
    shards = packing(Scene(store, request_lines(6)))
    whole = written(shards).path.read_bytes()
    most = sum(len(line) + 1 for line in whole.split(b"\n")[:4]) + beyond

    one = written(shards, Bounds(bytes=most))
    assert (len(one.lines), one.stopped_by) == (count, Bound.BYTES)
    assert one.path.read_bytes() == b"".join(line + b"\n" for line in whole.split(b"\n")[:count])


def test_what_did_not_fit_is_in_the_next_shard(store: Store) -> None:
    scene = Scene(store, request_lines(7))
    shards = packing(scene)
    sizes, seen = [], []
    while isinstance(one := shards.write(Bounds(requests=3)), Written):
        plan(scene, one)
        sizes.append(len(one.lines))
        seen += [line["custom_id"] for line in lines_of(one.path)]

    assert sizes == [3, 3, 1]
    assert len(set(seen)) == 7
    assert one == Nothing()


def test_texts_of_a_list_count_each_against_the_inputs(store: Store) -> None:
    lines = [other_line("/v1/embeddings", f"r{n}", model="e", input=["a", "b", "c"]) for n in range(4)]
    one = written(packing(Scene(store, lines)), Bounds(inputs=7))

    assert (len(one.lines), one.stopped_by) == (2, Bound.INPUTS)


def test_room_for_tokens_or_cost_that_takes_not_even_one_line(store: Store) -> None:
    shards = packing(Scene(store, request_lines(2)))

    assert shards.write(Bounds(tokens=1)) == Nothing(group=CHAT, stopped_by=Bound.TOKENS)
    assert shards.write(Bounds(cost=1)) == Nothing(group=CHAT, stopped_by=Bound.COST)
    assert list((shards._folder).iterdir()) == []


def test_pages_join_without_gap_or_repeat(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = packing(Scene(store, request_lines(50)))
    whole = written(shards).path.read_bytes()
    for rows, size in ((7, 2**20), (2_000, 1)):
        monkeypatch.setattr(writing, "PAGE_ROWS", rows)
        monkeypatch.setattr(writing, "PAGE_BYTES", size)
        assert written(shards).path.read_bytes() == whole


def test_a_task_whose_time_is_hours_away_waits_and_one_of_minutes_does_not(store: Store) -> None:
    scene = Scene(store, request_lines(3))
    shards = packing(scene)
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE task SET due_at = ? WHERE id = 2", (now() + 600_000_000,))
        connection.exec_driver_sql("UPDATE task SET due_at = ? WHERE id = 3", (now() + 7_200_000_000,))
    one = written(shards)
    assert [line.task_id for line in one.lines] == [1, 2]
    plan(scene, one)

    nothing = shards.write(Bounds())
    assert isinstance(nothing, Nothing)
    assert nothing.due_in is not None
    assert 7_100 < nothing.due_in <= 7_200


# --- one endpoint and model a file ------------------------------------------------------------------


def mixed(count: int) -> list[bytes]:
    lines = []
    for n in range(count):
        lines.append(request_line(f"a{n}", f"question {n}"))
        lines.append(request_line(f"b{n}", f"question {n}", model="other"))
        lines.append(other_line("/v1/responses", f"c{n}", model="m", input=f"question {n}"))
    return lines


def test_models_and_endpoints_have_shards_of_their_own(store: Store) -> None:
    scene = Scene(store, mixed(4))
    shards = packing(scene)
    found = []
    while isinstance(one := shards.write(Bounds()), Written):
        plan(scene, one)
        lines = lines_of(one.path)
        assert {(line["url"], line["body"]["model"]) for line in lines} == {
            (URLS[one.group.endpoint], one.group.model)
        }
        found.append((one.group, len(lines)))

    assert found == [(CHAT, 4), (Group("chat", "other"), 4), (Group("responses", "m"), 4)]


def test_a_group_can_be_chosen_and_left_out(store: Store) -> None:
    scene = Scene(store, mixed(2))
    shards = packing(scene)
    other, third = Group("chat", "other"), Group("responses", "m")

    assert shards.first() == CHAT
    assert shards.first({CHAT}) == other
    assert shards.first({CHAT, other}) == third
    assert shards.first({CHAT, other, third}) is None
    assert written(shards, of=third).group == third
    assert shards.write(Bounds(), of=Group("chat", "none")) == Nothing(due_in=0.001)


def test_a_job_has_one_group(store: Store) -> None:
    shards = packing(Scene(store, [b'{"t":"one"}'], job=embedding_job()))
    group = Group("embeddings", "e5")

    assert shards.first() == group
    assert shards.first({CHAT}) == group
    assert shards.first({group}) is None


def test_what_became_ready_since_a_look_in_vain_is_found(store: Store) -> None:
    scene = Scene(store, [request_line("a"), request_line("b", model="other")])
    shards = packing(scene)
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE task SET state = 'held' WHERE id = 2")
    assert shards.first({CHAT}) is None
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE task SET state = 'ready', due_at = ? WHERE id = 2", (now(),))

    assert shards.first({CHAT}) == Group("chat", "other")


def test_a_clock_that_was_set_back_hides_no_task(store: Store) -> None:
    scene = Scene(store, [request_line("a"), request_line("b", model="other")])
    shards = packing(scene)
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE task SET state = 'held'")
    assert shards.first() is None
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE task SET state = 'ready', due_at = ?", (now() - 3_600_000_000,))

    assert shards.first() == CHAT


# --- what no batch takes ----------------------------------------------------------------------------


def test_what_a_batch_would_be_refused_for_is_told_and_left_out(store: Store) -> None:
    lines = [other_line("/v1/embeddings", f"r{n}", model="e", input="text") for n in range(2)]
    lines.insert(1, other_line("/v1/embeddings", "s", model="e", input="text", stream=True))
    lines.append(other_line("/v1/embeddings", "x", model="e", input=["t"] * 11))
    lines.append(other_line("/v1/embeddings", "y", model="e", input="t" * 2_000))
    one = written(packing(Scene(store, lines)), Bounds(bytes=1_000, inputs=10))

    assert [line.task_id for line in one.lines] == [1, 3]
    assert [(bad.task_id, bad.row_id & 0xFF, bad.code) for bad in one.refused] == [
        (2, 2, "stream_unsupported"),
        (4, 4, "too_many_inputs"),
        (5, 5, "line_too_large"),
    ]
    assert all(bad.message for bad in one.refused)


def test_an_endpoint_that_the_providers_batches_do_not_take(store: Store) -> None:
    lines = [other_line("/v1/embeddings", "e", model="m", input="text"), request_line("a")]
    shards = packing(Scene(store, lines), urls={"chat": "/chat/completions"})

    nothing = shards.write(Bounds())
    assert isinstance(nothing, Nothing)
    assert [bad.code for bad in nothing.refused] == ["batch_unsupported"]
    assert "--mode online" in nothing.refused[0].message
    [line] = lines_of(written(shards, of=CHAT).path)
    assert line["url"] == "/chat/completions"


def test_a_row_that_can_be_asked_no_more_is_refused(store: Store) -> None:
    scene = Scene(store, request_lines(2))
    shards = packing(scene)
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE row SET record = replace(record, 'completions', 'gone')")

    nothing = shards.write(Bounds(), of=shards.first())
    assert isinstance(nothing, Nothing)
    assert [(bad.task_id, bad.code) for bad in nothing.refused] == [(1, "unknown_url"), (2, "unknown_url")]


def test_the_refused_are_told_some_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "MOST_REFUSED", 3)
    nothing = packing(Scene(store, request_lines(5)), urls={}).write(Bounds())

    assert isinstance(nothing, Nothing)
    assert len(nothing.refused) == 3


# --- order ------------------------------------------------------------------------------------------


def prompts(*beginnings: str) -> list[bytes]:
    lines = []
    for n, beginning in enumerate(beginnings):
        messages = [
            {"role": "system", "content": {"-": "short"}.get(beginning, beginning + LONG)},
            {"role": "user", "content": f"question {n}"},
        ]
        lines.append(request_line(f"r{n}", messages=messages))
    return lines


def order_of(one: Written) -> list[int]:
    return [int(line["body"]["messages"][1]["content"].split()[1]) for line in lines_of(one.path)]


def test_prompts_that_begin_alike_are_neighbours(store: Store) -> None:
    scene = Scene(store, prompts("a", "b", "-", "a", "b", "-", "a"))
    one = written(packing(scene))

    assert order_of(one) == [0, 3, 6, 1, 4, 2, 5]
    assert [line.task_id for line in one.lines] == [1, 4, 7, 2, 5, 3, 6]
    text = one.path.read_bytes()
    assert (one.size, one.sha256) == (len(text), hashlib.sha256(text).hexdigest())
    assert [path.name for path in one.path.parent.iterdir()] == [one.path.name]


@pytest.mark.parametrize("beginnings", ["aabb", "a-a-a", "abcd", "----"])
def test_what_does_not_mix_stays_in_input_order(store: Store, beginnings: str) -> None:
    one = written(packing(Scene(store, prompts(*beginnings))))

    assert order_of(one) == list(range(len(beginnings)))


# --- again ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beginnings", ["ab-ab-a", "----"])
def test_a_file_is_written_again_byte_for_byte(store: Store, beginnings: str) -> None:
    scene = Scene(store, prompts(*beginnings))
    one = written(packing(scene))
    batch = plan(scene, one)
    before = one.path.read_bytes()
    one.path.unlink()

    path = packing(scene).again(batch)
    assert path is not None
    assert path.read_bytes() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("base64", [True, False])
def test_vectors_are_asked_for_again_in_the_same_form(store: Store, base64: bool) -> None:
    scene = Scene(store, [b'{"t":"text %d"}' % n for n in range(5)], job=embedding_job())
    one = written(packing(scene), base64=base64)
    batch = plan(scene, one)

    path = packing(scene).again(batch)
    assert path is not None
    assert path.read_bytes() == one.path.read_bytes()


def test_bytes_that_are_no_longer_those_submitted_are_not_given(store: Store) -> None:
    scene = Scene(store, request_lines(3))
    one = written(packing(scene))
    batch = plan(scene, one)
    before = set(one.path.parent.iterdir())

    changed = batch._replace(submission=batch.submission._replace(sha256="0" * 64))
    assert packing(scene).again(changed) is None
    assert packing(scene, urls={"chat": "/chat/completions"}).again(batch) is None
    assert packing(scene, urls={}).again(batch) is None
    assert set(one.path.parent.iterdir()) == before


# --- memory and disk --------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PAGE_BYTES", 2**20)
    beginnings = ["a", "b"] * 300
    lines = [line.replace(b"question", b"question" + b"." * 20_000) for line in prompts(*beginnings)]
    scene = Scene(store, lines)
    shards = packing(scene)
    written(shards, Bounds(requests=10)).path.unlink()
    tracemalloc.start()
    try:
        one = written(shards)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert one.size > 15_000_000
    assert peak < 4_000_000, f"{peak:,} bytes for a file of {one.size:,}"


def test_a_full_disk_leaves_no_part_behind(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = packing(Scene(store, request_lines(3)))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DiskFull, match=r"spool.* cannot be written"):
        shards.write(Bounds())
    assert list(shards._folder.iterdir()) == []
