"""Packed answers: each row draws its own vector and its own share, whatever order and whatever packs they lie in."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from packed_answers import answer_packed, embedding_job, f32, float_body, packed_body, tasks_of
from scene import Scene

from runner.endpoints import embeddings
from runner.errors import StoreUnusable
from runner.export import Outputs, export, packs
from runner.model import Usage
from runner.store.database import Store
from runner.sums import RowTotals


def scene_of(store: Store, count: int, **fields: Any) -> Scene:
    return Scene(
        store, [b'{"id":%d,"t":"text %d"}' % (n, n) for n in range(count)], job=embedding_job(**fields)
    )


def exported(scene: Scene, folder: Path) -> tuple[list[dict[str, Any]], RowTotals]:
    totals = export(scene.store, scene.run, scene.job, Outputs(scene.store, scene.tenure, folder / "o.jsonl"))
    return [json.loads(line) for line in (folder / "o.jsonl").read_bytes().splitlines()], totals


def vector_of(number: int) -> bytes:
    return f32(float(number), number / 7, -0.1)


def test_each_row_has_its_own_vector_and_its_own_share(store: Store, tmp_path: Path) -> None:
    scene = scene_of(store, 5)
    body = packed_body([vector_of(n) for n in range(5)])
    usage = Usage(input=103, cached_input=7, total=103)
    answer_packed(scene, body, tasks_of(scene), usage=usage, cost=1_000_001, weights=[1, 2, 3, 4, 0])
    lines, totals = exported(scene, tmp_path)

    results = [line["result"] for line in lines]
    assert [f32(*one["output"]) for one in results] == [vector_of(n) for n in range(5)]
    assert [one["usage"]["input"] for one in results] == [10, 21, 31, 41, 0]
    assert [one["usage"]["cached_input"] for one in results] == [1, 1, 2, 3, 0]
    picos = [int(Decimal(one["cost_usd"]).scaleb(12)) for one in results]
    assert picos == [100_000, 200_000, 300_000, 400_001, 0]
    assert {one["model"] for one in results} == {"e5"}
    assert {one["request_id"] for one in results} == {"req_p"}
    assert totals.paid.input == 103
    assert (totals.paid.total, totals.paid.cached_input, totals.paid.cost) == (103, 7, 1_000_001)
    assert (totals.paid.rows, totals.paid.priced, totals.ok) == (5, 5, 5)


def test_unknown_usage_is_unknown_for_each(store: Store, tmp_path: Path) -> None:
    scene = scene_of(store, 2)
    answer_packed(scene, packed_body([vector_of(1), vector_of(2)]), tasks_of(scene))
    lines, totals = exported(scene, tmp_path)

    assert [(line["result"]["usage"], line["result"]["cost_usd"]) for line in lines] == [(None, None)] * 2
    assert (totals.paid.unpriced, totals.paid.input) == (2, 0)


@pytest.mark.parametrize("keep", [True, False])
def test_rows_find_their_vectors_in_scattered_packs(
    store: Store, tmp_path: Path, keep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "OPEN_AT_ONCE", 3)
    scene = scene_of(store, 300)
    task_ids = tasks_of(scene)
    numbers = list(range(300))
    random.Random(3).shuffle(numbers)
    parts = [numbers[at : at + 29] for at in range(0, 300, 29)]
    for part in parts:
        order = random.Random(part[0]).sample(range(len(part)), len(part))
        body = packed_body([vector_of(n) for n in part], order=order)
        usage = Usage(input=1000 + part[0], total=1000 + part[0])
        answer_packed(scene, body, [task_ids[n] for n in part], usage=usage, cost=77, keep=keep)
    lines, totals = exported(scene, tmp_path)

    assert [f32(*line["result"]["output"]) for line in lines] == [vector_of(n) for n in range(300)]
    assert totals.paid.input == sum(1000 + part[0] for part in parts)
    assert totals.paid.cost == 77 * len(parts)
    assert {line["result"]["output"][2] for line in lines} == {-0.1}


def test_kept_and_raw_bodies_are_drawn_alike(store: Store, tmp_path: Path) -> None:
    scene = scene_of(store, 6)
    task_ids = tasks_of(scene)
    body = packed_body([vector_of(n) for n in range(3)])
    answer_packed(scene, body, task_ids[:3], usage=Usage(input=8, total=8), cost=8)
    answer_packed(scene, body, task_ids[3:], usage=Usage(input=8, total=8), cost=8, keep=False)
    lines, _ = exported(scene, tmp_path)

    assert [line["result"] for line in lines[:3]] == [line["result"] for line in lines[3:]]


def test_a_server_that_sends_decimals_keeps_its_digits(store: Store, tmp_path: Path) -> None:
    scene = scene_of(store, 3)
    texts = ["[0.10,-1.50e-05, 3]", "[0.10,-1.50e-05, 3]", "[1,2,\n3.0]"]
    answer_packed(scene, float_body(texts), tasks_of(scene), keep=True)
    exported(scene, tmp_path)

    drawn = (tmp_path / "o.jsonl").read_bytes().split(b"\n")
    assert b'"output":[0.10,-1.50e-05, 3],' in drawn[0]
    assert b'"output":[0.10,-1.50e-05, 3],' in drawn[1]
    assert b'"output":[1,2,3.0],' in drawn[2]


def test_what_came_without_a_vector_has_no_share(store: Store, tmp_path: Path) -> None:
    scene = scene_of(store, 3)
    task_ids = tasks_of(scene)
    usage = Usage(input=11, total=11)
    answer_packed(scene, float_body(["[1]", "null", "[3]"]), task_ids, usage=usage, cost=10)
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE task SET state = 'ready', answer_id = NULL WHERE item = 1")
    lines, totals = exported(scene, tmp_path)

    assert lines[1]["error"]["code"] == "skipped"
    assert [lines[n]["result"]["usage"]["input"] for n in (0, 2)] == [6, 5]
    assert (totals.paid.input, totals.paid.cost) == (11, 10)


def test_one_text_left_over_is_kept_too(store: Store, tmp_path: Path) -> None:
    scene = scene_of(store, 1)
    answer_packed(scene, packed_body([vector_of(4)]), tasks_of(scene), usage=Usage(input=3, total=3), cost=5)
    [line], totals = exported(scene, tmp_path)

    assert f32(*line["result"]["output"]) == vector_of(4)
    assert (line["result"]["usage"]["input"], totals.paid.cost) == (3, 5)


def test_rows_that_another_run_paid_for_have_their_shares_as_reused(store: Store, tmp_path: Path) -> None:
    scene = scene_of(store, 3)
    answer_packed(
        scene,
        packed_body([vector_of(n) for n in range(3)]),
        tasks_of(scene),
        usage=Usage(input=10, total=10),
        cost=10,
    )
    scene.new_run([b'{"id":%d,"t":"text %d"}' % (n, n) for n in (1, 7, 0)])
    answer_packed(scene, packed_body([vector_of(7)]), tasks_of(scene), usage=Usage(input=5, total=5), cost=6)
    lines, totals = exported(scene, tmp_path)

    assert [f32(*line["result"]["output"]) for line in lines] == [vector_of(n) for n in (1, 7, 0)]
    assert [line["result"].get("reused") for line in lines] == [True, None, True]
    assert (totals.reused.input, totals.reused.cost, totals.reused.rows) == (7, 7, 2)
    assert (totals.paid.input, totals.paid.cost, totals.paid.rows) == (5, 6, 1)


def test_a_share_counts_once_however_many_rows_show_it(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [], job=embedding_job())
    scene.new_run([b'{"id":1,"t":"a"}', b'{"id":2,"t":"b"}', b'{"id":3,"t":"a"}'], dedupe=True)
    answer_packed(
        scene,
        packed_body([vector_of(1), vector_of(2)]),
        tasks_of(scene),
        usage=Usage(input=9, total=9),
        cost=9,
    )
    lines, totals = exported(scene, tmp_path)

    assert [line["result"].get("reused") for line in lines] == [None, None, True]
    assert lines[0]["result"]["output"] == lines[2]["result"]["output"]
    assert (totals.paid.input, totals.paid.cost, totals.reused.cost) == (9, 9, 5)


def test_a_damaged_pack_is_told_with_the_line_and_nothing_is_written(store: Store, tmp_path: Path) -> None:
    scene = scene_of(store, 3)
    task_ids = tasks_of(scene)
    answer_packed(scene, packed_body([vector_of(0)]), task_ids[:1])
    number = answer_packed(scene, packed_body([vector_of(1), vector_of(2)]), task_ids[1:])
    [(body,)] = scene.query("SELECT body FROM answer WHERE id = ?", number)
    with store.write() as connection:
        harmed = body[:-40] + bytes([body[-40] ^ 1]) + body[-39:]
        connection.exec_driver_sql("UPDATE answer SET body = ? WHERE id = ?", (harmed, number))

    with pytest.raises(StoreUnusable, match=r"line 2 of run .* is damaged"):
        exported(scene, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_points_beside_its_pack_is_told(store: Store, tmp_path: Path) -> None:
    scene = scene_of(store, 2)
    answer_packed(scene, packed_body([vector_of(1), vector_of(2)]), tasks_of(scene))
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE task SET item = 2 WHERE item = 1")

    with pytest.raises(StoreUnusable, match=r"line 2 of run .* is damaged"):
        exported(scene, tmp_path)


def test_a_body_is_checked_once_however_often_it_is_opened(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "OPEN_AT_ONCE", 1)
    checked: list[int] = []
    sum_of = packs.SharedBody.checksum
    monkeypatch.setattr(packs.SharedBody, "checksum", lambda body: checked.append(body.size) or sum_of(body))
    scene = scene_of(store, 20)
    task_ids = tasks_of(scene)
    for part in (task_ids[::2], task_ids[1::2]):
        answer_packed(scene, packed_body([vector_of(n) for n in part]), part)
    exported(scene, tmp_path)

    assert len(checked) == 2


def test_several_texts_of_one_row_are_a_list_of_vectors(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, [b'{"t":["a","b"]}'], job=embedding_job())
    scene.answer(float_body(["[1,2]", "[3]"]), usage=None, cost=None)
    [line], _ = exported(scene, tmp_path)

    assert line["result"]["output"] == [[1, 2], [3]]


def test_where_vectors_stand_in_a_raw_body() -> None:
    body = b'{"data":[{"x":"[1]","index":1,"embedding":[1]},{"index":0,"embedding":[2, 3]}]}'
    assert [body[start : start + length] for start, length in embeddings.places(body)] == [b"[2, 3]", b"[1]"]
