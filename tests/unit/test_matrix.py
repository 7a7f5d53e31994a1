"""A .npy output: row i of the matrix, line i of its keys and line i of the input are the same."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packed_answers import answer_packed, embedding_job, f32, float_body, packed_body, tasks_of
from scene import Scene, chat_body, request_line

from runner.errors import OutputUnwritable, StoreUnusable, UsageError
from runner.export import Outputs, export, refuse_matrix, refuse_other_rows
from runner.job import requests_job
from runner.store.database import Store
from runner.sums import RowTotals

FAILED = {"code": "bad", "message": "no", "status": 400, "attempts": 1}


def records(count: int) -> list[bytes]:
    return [b'{"id":"k%d","t":"text %d"}' % (n, n) for n in range(count)]


def vector_of(number: int) -> bytes:
    return f32(float(number), number / 7)


def embedding_request(key: str, given: object = "x", **body: Any) -> bytes:
    line = {"custom_id": key, "method": "POST", "url": "/v1/embeddings"}
    return json.dumps({**line, "body": {"model": "m", "input": given, **body}}).encode()


def exported(scene: Scene, folder: Path) -> tuple[np.ndarray, list[dict[str, Any]], RowTotals]:
    output = folder / "out.npy"
    totals = export(scene.store, scene.run, scene.job, Outputs(scene.store, scene.tenure, output))
    keys = (folder / "out.npy.keys.jsonl").read_bytes().split(b"\n")
    assert keys.pop() == b""
    return np.load(output, allow_pickle=False), [json.loads(key) for key in keys], totals


def test_a_matrix_holds_the_vectors_bit_for_bit(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, records(4), job=embedding_job(key="id"))
    task_ids = tasks_of(scene)
    answer_packed(scene, packed_body([vector_of(n) for n in (3, 1)]), [task_ids[3], task_ids[1]])
    answer_packed(scene, packed_body([vector_of(n) for n in (0, 2)]), [task_ids[0], task_ids[2]], keep=False)
    matrix, keys, totals = exported(scene, tmp_path)

    assert (matrix.shape, matrix.dtype) == ((4, 2), np.dtype("<f4"))
    assert matrix.tobytes() == b"".join(vector_of(n) for n in range(4))
    assert keys == [{"key": f"k{n}", "line": n + 1} for n in range(4)]
    assert (totals.ok, totals.paid.rows) == (4, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npy", "out.npy.keys.jsonl"]


def test_lines_without_a_vector_are_rows_of_nan_with_their_errors(store: Store, tmp_path: Path) -> None:
    lines = [b'{"id":1,"t":"a"}', b'{"id":2', b'{"id":3,"t":"b"}', b"", b'{"id":4}', b'{"id":5,"t":"c"}']
    scene = Scene(store, lines, job=embedding_job(key="id"))
    first, second, _ = tasks_of(scene)
    with store.write() as connection:
        connection.exec_driver_sql(
            "UPDATE task SET state = 'failed', error = ? WHERE id = ?", (json.dumps(FAILED), first)
        )
    answer_packed(scene, packed_body([f32(1.5, -2.5)]), [second])
    matrix, keys, totals = exported(scene, tmp_path)

    assert matrix.shape == (5, 2)
    assert matrix[2].tolist() == [1.5, -2.5]
    assert np.isnan(matrix[[0, 1, 3, 4]]).all()
    assert [(one["key"], one["line"], one.get("error", {}).get("code")) for one in keys] == [
        (1, 1, "bad"),
        (None, 2, "invalid_json"),
        (3, 3, None),
        (4, 5, "missing_field"),
        (5, 6, "skipped"),
    ]
    assert keys[0]["error"] == FAILED
    assert (totals.ok, totals.failed, totals.invalid, totals.skipped) == (1, 1, 2, 1)
    errors = (tmp_path / "out.npy.errors.jsonl").read_bytes().split(b"\n")
    assert [json.loads(line)["error"]["code"] for line in errors[:-1]] == [
        "bad",
        "invalid_json",
        "missing_field",
    ]


def test_a_matrix_without_any_vector_has_no_dimensions(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, records(3), job=embedding_job())
    matrix, keys, _ = exported(scene, tmp_path)

    assert matrix.shape == (3, 0)
    assert [(one["key"], one["line"]) for one in keys] == [(1, 1), (2, 2), (3, 3)]
    assert {one["error"]["code"] for one in keys} == {"skipped"}


def test_a_matrix_is_the_same_each_time(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, records(3), job=embedding_job())
    answer_packed(scene, packed_body([vector_of(n) for n in range(2)]), tasks_of(scene)[:2])
    exported(scene, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    exported(scene, tmp_path)

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_keys_have_their_own_bytes(store: Store, tmp_path: Path) -> None:
    job = embedding_job(key="i d", request={"input": "{{ t }}"})
    lines = [
        b'{"i d" : 12345678901234567890123,"t":"a"}',
        b'{"i\\u0020d":"\\u00e9\\/","t":"a"}',
        b'{"i d":"x","i d":"last","t":"a"}',
    ]
    scene = Scene(store, lines, job=job)
    exported(scene, tmp_path)

    written = (tmp_path / "out.npy.keys.jsonl").read_bytes()
    assert b'{"key":12345678901234567890123,"line":1,' in written
    assert b'{"key":"\\u00e9\\/","line":2,' in written
    assert b'{"key":"last","line":3,' in written


def test_vectors_of_several_lengths_are_refused_with_both_lines(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, records(3), job=embedding_job())
    task_ids = tasks_of(scene)
    answer_packed(scene, packed_body([vector_of(n) for n in range(2)]), task_ids[:2])
    answer_packed(scene, packed_body([f32(1.0, 2.0, 3.0)]), task_ids[2:])

    with pytest.raises(OutputUnwritable, match=r"line 3 has 3 dimensions, that of line 1 has 2"):
        exported(scene, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_decimals_are_rounded_to_32_bits(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, records(1), job=embedding_job())
    scene.answer(float_body(["[0.1, 1e-50, 3,\n-2.5]"]))
    matrix, _, _ = exported(scene, tmp_path)

    assert matrix.tobytes() == f32(0.1, 0.0, 3.0, -2.5)


@pytest.mark.parametrize("vector", ["[1e39]", "[1e400]", "[1],[2]"])
def test_what_makes_no_row_of_a_matrix_is_refused(store: Store, tmp_path: Path, vector: str) -> None:
    scene = Scene(store, records(1), job=embedding_job())
    scene.answer(float_body(vector.split(",")))

    with pytest.raises(OutputUnwritable, match=r"line 1: .*(too large|2 vectors)"):
        exported(scene, tmp_path)


def test_requests_that_embed_make_a_matrix(store: Store, tmp_path: Path) -> None:
    lines = [
        embedding_request("a", encoding_format="base64"),
        embedding_request("b", ["y"]),
        embedding_request("c", [1, 2, 3]),
    ]
    scene = Scene(store, lines, job=requests_job("/in/requests.jsonl"))
    refuse_matrix(scene.job, tmp_path / "out.npy")
    refuse_other_rows(store, scene.run, scene.job, tmp_path / "out.npy")
    scene.answer(packed_body([f32(1.0, 2.0)]))
    scene.answer(float_body(["[3, 4]"]))
    matrix, keys, _ = exported(scene, tmp_path)

    assert matrix[:2].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert math.isnan(matrix[2, 0])
    assert [(one["key"], one["line"]) for one in keys] == [("a", 1), ("b", 2), ("c", 3)]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (request_line("b"), "line 2 asks /v1/chat/completions"),
        (embedding_request("b", ["x", "y"]), "line 2 asks for 2 vectors"),
        (embedding_request("b", [[1, 2], [3]]), "line 2 asks for 2 vectors"),
    ],
)
def test_requests_that_give_no_vector_are_refused(
    store: Store, tmp_path: Path, line: bytes, why: str
) -> None:
    scene = Scene(store, [embedding_request("a"), line])
    refuse_other_rows(store, scene.run, scene.job, tmp_path / "out.jsonl")
    with pytest.raises(UsageError, match=why):
        refuse_other_rows(store, scene.run, scene.job, tmp_path / "out.npy")


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_a_job_that_embeds_nothing_is_refused(tmp_path: Path, endpoint: str) -> None:
    job = embedding_job(endpoint=endpoint)
    refuse_matrix(job, tmp_path / "out.jsonl")
    with pytest.raises(UsageError, match=f"asks the endpoint {endpoint}"):
        refuse_matrix(job, tmp_path / "OUT.NPY")


def test_somebody_elses_keys_are_not_replaced(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, records(1), job=embedding_job())
    outputs = Outputs(store, scene.tenure, tmp_path / "out.npy")
    (tmp_path / "out.npy.keys.jsonl").write_text("mine")

    with pytest.raises(OutputUnwritable, match=r"out\.npy\.keys\.jsonl exists"):
        outputs.check(overwrite=False)
    outputs.check(overwrite=True)


def test_a_matrix_without_its_keys_is_not_whole(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, records(1), job=embedding_job())
    answer_packed(scene, packed_body([vector_of(1)]), tasks_of(scene))
    exported(scene, tmp_path)
    outputs = Outputs(store, scene.tenure, tmp_path / "out.npy")
    outputs.write_summary({})
    assert outputs.is_whole(with_errors=False)

    (tmp_path / "out.npy.keys.jsonl").unlink()
    assert not outputs.is_whole(with_errors=False)


def test_a_row_that_went_missing_is_told_and_nothing_is_written(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, records(3), job=embedding_job())
    answer_packed(scene, packed_body([vector_of(n) for n in range(3)]), tasks_of(scene))
    with store.write() as connection:
        connection.exec_driver_sql("DELETE FROM row WHERE id = (SELECT max(id) FROM row)")

    with pytest.raises(StoreUnusable, match="3 lines came in, 2 are accounted for"):
        exported(scene, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_chat_answer_in_place_of_a_vector_is_told(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, records(1), job=embedding_job())
    scene.answer(chat_body())

    with pytest.raises(OutputUnwritable, match="line 1: "):
        exported(scene, tmp_path)
