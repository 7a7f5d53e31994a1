"""How fast requests are packed into the files of batches, and the results of batches merged into the store.

    python tests/bench/batches.py pack JOB_OR_REQUESTS FOLDER
    python tests/bench/batches.py answer FOLDER
    python tests/bench/batches.py merge JOB_OR_REQUESTS FOLDER

are processes of their own, that memory may be told apart: `pack` writes the shards of all rows of FOLDER/store.db
and plans them there, `answer` makes the first few shards' results, in another order, and those of as many more in
their own, and `merge` collects the few that are next.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Iterator, Sequence
from pathlib import Path

import orjson
from inputs import record_job
from measuring import Cost, Figure, rate, work

from runner.dispatch.shard import Shards, Written
from runner.expand import expand
from runner.job import Job
from runner.model import Call, Reply, RunState
from runner.pricing import Prices
from runner.question import Questions
from runner.shards import Bounds
from runner.store import batches, runs, series, tasks
from runner.store.batches import NewBatch
from runner.store.database import Store
from runner.store.runs import Run
from runner.store.series import Tenure
from runner.store.tasks import Settlement
from runner.submission import Submission
from runner.tokens import Estimates

ROWS, FEW, RECORDS = 1_000_000, 100_000, 100_000
MERGED_SHARDS = 4
TEXT = (
    "The customer reports that the router restarts every evening since the update of 3 March; a replacement was "
    "promised for Thursday and has not come. She asks for a call back before noon."
)


def figures(folder: Path, *, rows: int = ROWS, few: int = FEW, records: int = RECORDS) -> Iterator[Figure]:
    """Short chat requests, few and many, then a templated job; then the results of some shards."""
    rss_few = _pack(folder / "few", "short", few)[0].rss
    packed, source = _pack(folder / "many", "short", rows)
    said = packed.said
    yield _packing(
        f"{rows:,} chat requests in {said['shards']} shards, {said['size'] / 1e6:.0f} MB", said, "40,000/s"
    )
    yield Figure(
        "batches", "packing, peak memory", f"{packed.rss:.0f} MB", "200 MB", f"{rss_few:.0f} MB for {few:,}"
    )
    yield _packing(
        f"{records:,} rows of 1 kB, rendered", _pack(folder / "records", "records", records)[0].said
    )
    work("batches", ["answer", folder / "many"], folder)
    most = 0.0
    for order in ("shuffled", "in order"):
        merged = work("batches", ["merge", source, folder / "many"], folder)
        said, most = merged.said, max(most, merged.rss)
        yield Figure(
            "batches",
            f"results of {said['lines']:,} lines merged, {order}, {said['size'] / 1e6:.0f} MB",
            f"{rate(said['lines'], said['cpu'])} of CPU, {rate(said['lines'], said['wall'])} of wall time",
            "20,000/s",
        )
    yield Figure("batches", "merging, peak memory", f"{most:.0f} MB", "200 MB")


def _pack(folder: Path, kind: str, rows: int) -> tuple[Cost, Path]:
    folder.mkdir()
    data = folder / "in.jsonl"
    work("inputs", [kind, rows, data], folder)
    source = record_job(folder, data) if kind == "records" else data
    work("filling", [source, folder / "store.db", 0], folder)
    return work("batches", ["pack", source, folder], folder), source


def _packing(what: str, said: dict[str, float], target: str = "") -> Figure:
    return Figure(
        "batches",
        f"packed: {what}",
        f"{rate(said['lines'], said['cpu'])} of CPU, {rate(said['lines'], said['wall'])} of wall time",
        target,
        f"of it the store's part {said['plan_cpu'] / said['lines'] * 1e6:.1f} us a row; rows into tasks, before: "
        f"{rate(said['lines'], said['expand_cpu'])}",
    )


def pack(source: str, folder: Path) -> dict[str, float]:
    """Write and plan the shards of all rows; seconds of CPU and wall time."""
    store, tenure, this, job = _taken_up(source, folder)
    with store:
        with store.write() as connection:
            runs.move(connection, this.id, RunState.ACTIVE)
        before = time.process_time()
        while expand(store, tenure, this.id) is not None:
            pass
        start, wall, plan_cpu = time.process_time(), time.perf_counter(), 0.0
        shards = Shards(
            store,
            this.id,
            Questions(job),
            Prices.shipped(),
            urls={"chat": "/v1/chat/completions"},
            folder=folder / "shards",
            estimates=Estimates(),
        )
        count = lines = size = 0
        while isinstance(one := shards.write(Bounds()), Written):
            cpu = time.process_time()
            _plan(store, tenure, this.id, one, count)
            plan_cpu += time.process_time() - cpu
            one.path.rename(folder / "shards" / f"{count:05}.jsonl")
            count, lines, size = count + 1, lines + len(one.lines), size + one.size
        return {
            "cpu": time.process_time() - start,
            "wall": time.perf_counter() - wall,
            "plan_cpu": plan_cpu,
            "expand_cpu": start - before,
            "shards": count,
            "lines": lines,
            "size": size,
        }


def answer(folder: Path) -> dict[str, int]:
    """Make the results of the first shards, each in another order, and of as many more in theirs; one line in a
    hundred is an error."""
    chance = random.Random(11)
    for place, path in enumerate(sorted((folder / "shards").glob("?????.jsonl"))[: 2 * MERGED_SHARDS]):
        ids = [orjson.loads(line)["custom_id"] for line in path.read_bytes().split(b"\n")[:-1]]
        if place < MERGED_SHARDS:
            chance.shuffle(ids)
        with (
            path.with_suffix(".output").open("wb") as output,
            path.with_suffix(".error").open("wb") as errors,
        ):
            for number, line_id in enumerate(ids):
                failed = number % 100 == 99
                (errors if failed else output).write(_result(line_id, number, failed=failed))
    return {}


def merge(source: str, folder: Path) -> dict[str, float]:
    """Collect the results of the next shards; seconds of CPU and wall time."""
    store, tenure, _, job = _taken_up(source, folder)
    with store:
        start, wall = time.process_time(), time.perf_counter()
        lines, size = asyncio.run(_merge(store, tenure, job, folder))
        return {
            "cpu": time.process_time() - start,
            "wall": time.perf_counter() - wall,
            "lines": lines,
            "size": size,
        }


async def _merge(store: Store, tenure: Tenure, job: Job, folder: Path) -> tuple[int, int]:
    from runner.budget import Budget
    from runner.dispatch.collecting import Collecting, forced_tool_of
    from runner.settle import Policy, Settler
    from runner.store.writer import GroupWriter

    with store.read() as connection:
        out = batches.out(connection, tenure.series_id)
    budget = Budget(None)
    budget.reserve(10**18)
    settler = Settler(
        Policy(job.retry, job.accepts),
        Prices.shipped(),
        budget,
        random=lambda: 0.5,
        remaining=lambda: 1,
        estimates=Estimates(),
    )
    writer = GroupWriter(store, tenure, lambda: None)

    def settle(ended: Sequence[tuple[Call, Reply]]) -> tuple[Sequence[Settlement], Awaitable[object]]:
        _, settlements = settler.settle(ended)
        return settlements, writer.submit(tasks.settle, settlements)

    settled = size = 0
    for kept in out[:MERGED_SHARDS]:
        collecting = Collecting(
            store, kept, settle=settle, forced_tool=forced_tool_of(job), folder=folder / "unmatched"
        )
        paths = [folder / "shards" / f"{kept.submission.shard}.{kind}" for kind in ("output", "error")]
        found = await collecting.read(*paths)
        assert (found.left, found.unknown, found.unreadable) == (0, 0, 0), found
        await writer.submit(batches.end, [(kept.id, "collected")])
        settled += found.settled
        size += sum(path.stat().st_size for path in paths)
    await writer.close()
    return settled, size


def _taken_up(source: str, folder: Path) -> tuple[Store, Tenure, Run, Job]:
    from filling import NOWHERE, account

    from runner.cli.account import identity_of
    from runner.cli.options import job_of

    job = job_of(source, None)
    store = Store.open(f"sqlite:///{folder / 'store.db'}")
    with store.write() as connection:
        tenure = series.take(connection, identity_of(job, account(NOWHERE)))
    with store.read() as connection:
        return store, tenure, runs.find(connection, "last"), job


def _plan(store: Store, tenure: Tenure, run_id: int, one: Written, number: int) -> None:

    new = NewBatch(
        run_id,
        tenure.series_id,
        tenure.epoch,
        "an account",
        one.group.endpoint,
        one.group.model,
        len(one.lines),
        one.size,
        one.tokens,
        Submission(shard=f"{number:05}", sha256=one.sha256),
    )
    with store.write() as connection:
        series.fence(connection, tenure)
        batches.plan(connection, [(new, one.lines)])


def _result(line_id: str, number: int, *, failed: bool) -> bytes:
    body: dict[str, object] = {
        "id": f"chatcmpl-{number:029}",
        "object": "chat.completion",
        "created": 1_793_000_000 + number,
        "model": "gpt-6-luna-2026-08-01",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": f"{number}: {TEXT}", "refusal": None},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {"prompt_tokens": 40, "completion_tokens": 45, "total_tokens": 85},
        "service_tier": "default",
    }
    if failed:
        body = {"error": {"message": "The server had an error.", "type": "server_error", "code": None}}
    response = {"status_code": 500 if failed else 200, "request_id": f"req_{number:032}", "body": body}
    line = {"id": f"batch_req_{number:024}", "custom_id": line_id, "response": response, "error": None}
    return orjson.dumps(line) + b"\n"


def main(arguments: list[str]) -> None:
    part, rest = arguments[0], arguments[1:]
    folder = Path(rest[-1])
    found = answer(folder) if part == "answer" else {"pack": pack, "merge": merge}[part](rest[0], folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
