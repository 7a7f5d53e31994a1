"""Answers that carry many tasks, put into a store by plain SQL: their bodies, and the tasks that point into them."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scene import Scene

from runner import vectors
from runner.job import Job
from runner.model import Usage
from runner.store.answers import checksum

EMBEDDING = {"input": "{{ t }}"}


def embedding_job(**fields: Any) -> Job:
    """A job that embeds the field `t` of each record."""
    given: dict[str, Any] = {
        "name": "e",
        "path": Path("/e.yaml"),
        "endpoint": "embeddings",
        "model": "e5",
        "input": None,
        "output": None,
        "request": EMBEDDING,
    }
    return Job(**given | fields)


def f32(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def packed_body(given: Sequence[bytes], *, order: Sequence[int] | None = None, **more: Any) -> bytes:
    """The body of a packed 200 as the API sends it, its vectors (32-bit floats) in base64."""
    items = [
        {"object": "embedding", "index": n, "embedding": base64.b64encode(given[n]).decode()}
        for n in (order or range(len(given)))
    ]
    usage = {"prompt_tokens": 10 * len(given), "total_tokens": 10 * len(given)}
    return json.dumps({"object": "list", "data": items, "model": "e5", "usage": usage, **more}).encode()


def float_body(given: Sequence[str]) -> bytes:
    """The same from a server that sends lists of decimals, whatever it was asked for."""
    items = ",".join(f'{{"index": {n}, "embedding": {vector}}}' for n, vector in enumerate(given))
    return f'{{"object": "list", "data": [{items}], "model": "e5"}}'.encode()


def answer_packed(
    scene: Scene,
    body: bytes,
    task_ids: Sequence[int],
    *,
    usage: Usage | None = None,
    cost: int | None = None,
    weights: Sequence[int] | None = None,
    keep: bool = True,
) -> int:
    """Answer tasks, item by item, with one body, in the kept form where it can have it; the answer's number."""
    kept = vectors.keep(body, len(task_ids), weights or [1] * len(task_ids)) if keep else None
    stored = body if kept is None else kept
    tokens = [None] * 6 if usage is None else [usage.input, usage.cached_input, usage.cache_write]
    tokens += [] if usage is None else [usage.output, usage.reasoning, usage.total]
    with scene.store.write() as connection:
        call_id, answer_id = (
            int(connection.exec_driver_sql(f"SELECT coalesce(max(id), 0) + 1 FROM {table}").scalar_one())
            for table in ("call", "answer")
        )
        connection.exec_driver_sql(
            "INSERT INTO call (id, run_id, epoch, sent_at, reserved) VALUES (?, ?, ?, 1, 100)",
            (call_id, scene.run.id, scene.tenure.epoch),
        )
        connection.exec_driver_sql(
            "INSERT INTO answer (id, call_id, status, request_id, body, checksum, model, input_tokens,"
            " cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, total_tokens, cost,"
            " received_at, items) VALUES (?, ?, 200, 'req_p', ?, ?, 'e5', ?, ?, ?, ?, ?, ?, ?, 1, ?)",
            (answer_id, call_id, stored, checksum(stored), *tokens, cost, len(task_ids)),
        )
        connection.exec_driver_sql(
            "UPDATE task SET state = 'answered', call_id = ?, answer_id = ?, item = ?, attempts = 1,"
            " finish_reason = 'stop' WHERE id = ?",
            [(call_id, answer_id, item, task_id) for item, task_id in enumerate(task_ids)],
        )
    return answer_id


def tasks_of(scene: Scene) -> list[int]:
    """The tasks of the run, all expanded, in input order."""
    scene.expand()
    return [
        task_id
        for (task_id,) in scene.query("SELECT id FROM task WHERE run_id = ? ORDER BY row_id", scene.run.id)
    ]
