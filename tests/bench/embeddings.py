"""How many texts a second are embedded: packed, received, decoded and stored; then drawn from the store.

    python tests/bench/embeddings.py URL CALLS

is the bare loop: a process of its own that asks for so many whole packs by the same transport and decodes each
answer, keeping none. It prints its seconds of CPU and of wall clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from lean_server import FIGURES
from measuring import BENCH, Cost, Figure, measure, rate, runner, serving, work

FEW, TEXTS, ALL = 20_000, 100_000, 1_000_000
DIMENSIONS = 1_536
MOST_CALLS = 12
PACK = 2_048
BARE_CALLS = 40
SIDE_BY_SIDE = 3
SHARE = 0.8
RATE, NPY_RATE, JSONL_RATE = 20_000, 20_000, 5_000
MODEL = "text-embedding-3-small"
JOB = """\
name: bench-embeddings
endpoint: embeddings
model: %s
key: id
keep: [id]
request: {input: "{{ text }}"}
input: %s
output: %s
"""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A run: what it cost, its calls, and the seconds from its first claim to its last settlement."""

    cost: Cost
    calls: list[int]
    seconds: float


def figures(folder: Path, *, few: int = FEW, texts: int = TEXTS, all_: int = ALL) -> Iterator[Figure]:
    """A job over few short texts, then over ever more; the bare loop in between, for the machine's mood changes."""
    with _served(folder) as url, tempfile.TemporaryDirectory(dir=folder) as kept:
        small = _embed(Path(kept), few, url)
        yield _calls(small, few)
        bare = [_bare(folder, url)]
        peaks = [f"{small.cost.rss:.0f} MB for {few:,}"]
        for count in (texts, all_):
            run = _embed(Path(kept), count, url)
            bare.append(_bare(folder, url))
            yield _stored(run, count, bare[-2:])
            peaks.append(f"{run.cost.rss:.0f} MB for {count:,}")
        peaks.append(f"the bare loop {bare[0].rss:.0f} MB")
        yield Figure("embeddings", "peak memory of these runs", peaks[-2], "", "; ".join(peaks))
        for name, target in (("npy", NPY_RATE), ("jsonl", JSONL_RATE)):
            yield _written(Path(kept), name, texts, target, url)


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[str]:
    with serving([str(BENCH / "lean_server.py"), "vectors", str(DIMENSIONS)], folder) as url:
        # Answers are built when they are first asked for, which is the server's cost and nobody's rate.
        _bare(folder, url, calls=1)
        yield url


def _embed(kept: Path, texts: int, url: str) -> Embedded:
    name = f"of-{texts}"
    data, job, store = kept / f"{name}.jsonl", kept / f"{name}.yaml", kept / f"{name}.db"
    with data.open("wb") as file:
        for number in range(texts):
            text = f"{number}: the parcel has not arrived and nobody answers the telephone"
            file.write(orjson.dumps({"id": f"row-{number:08}", "text": text}) + b"\n")
    job.write_text(JOB % (MODEL, data, kept / f"{name}.npy"))
    before = len(_seen(url)["sizes"])
    cost = runner(["run", str(job), "--base-url", url, "--quiet", "--store", f"sqlite:///{store}"], kept)
    calls = _seen(url)["sizes"][before:]
    assert sum(calls) == texts, f"{sum(calls)} texts asked for, not {texts}"
    return Embedded(cost, calls, _seconds(store))


def _seconds(store: Path) -> float:
    with contextlib.closing(sqlite3.connect(store)) as connection:
        query = "SELECT (SELECT max(received_at) FROM answer) - (SELECT min(sent_at) FROM call)"
        return float(connection.execute(query).fetchone()[0] / 1e6)


def _seen(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url.removesuffix("/v1") + FIGURES) as said:
        found: dict[str, Any] = json.load(said)
        return found


def _bare(folder: Path, url: str, calls: int = BARE_CALLS) -> Cost:
    return measure([str(BENCH / "embeddings.py"), url, str(calls)], folder)


def _stored(run: Embedded, texts: int, bare: Sequence[Cost]) -> Figure:
    paces = sorted(BARE_CALLS * PACK / one.said["wall"] for one in bare)
    found, beside = texts / run.seconds, sum(paces) / len(paces)
    return Figure(
        "embeddings",
        f"{texts:,} texts in {len(run.calls)} calls, {DIMENSIONS:,} dimensions: received and stored",
        f"{found:,.0f}/s ({100 * found / beside:.0f} % of the bare loop), {run.cost.cpu:.1f} s of CPU",
        f"{RATE:,}/s, or {100 * SHARE:.0f} %",
        f"bare loop, received and decoded: {paces[0]:,.0f} and {paces[-1]:,.0f}/s",
    )


def _calls(small: Embedded, few: int) -> Figure:
    sizes = f"packs of {min(small.calls):,} to {max(small.calls):,}"
    return Figure("embeddings", f"{few:,} texts", f"{len(small.calls)} calls", f"{MOST_CALLS} calls", sizes)


def _written(kept: Path, name: str, texts: int, target: int, url: str) -> Figure:
    drawn = work(
        "export", [kept / f"of-{texts}.yaml", kept / f"of-{texts}.db", kept / f"drawn.{name}", url], kept
    )
    size = (kept / f"drawn.{name}").stat().st_size / 2**20
    return Figure(
        "embeddings",
        f"{texts:,} vectors written as .{name}",
        f"{rate(texts, drawn.said['wall'])}, {drawn.rss:.0f} MB of memory",
        f"{target:,}/s",
        f"{size / drawn.said['wall']:,.0f} MB/s, {drawn.said['cpu']:.1f} s of CPU",
    )


async def bare(url: str, calls: int) -> dict[str, float]:
    """Ask for whole packs, a few side by side, and decode each answer to its vectors."""
    from runner.api.transport import Transport
    from runner.api.wire import Wire

    decode = _decoder()
    texts = [f"{n}: the parcel has not arrived and nobody answers the telephone" for n in range(PACK)]
    asked = orjson.dumps({"model": MODEL, "input": texts, "encoding_format": "base64"})
    left = iter(range(calls))
    cpu, wall = time.process_time(), time.perf_counter()
    async with Transport(Wire(url), concurrency=SIDE_BY_SIDE) as transport:

        async def worker() -> None:
            for _ in left:
                reply = await transport.send("/embeddings", MODEL, asked)
                assert len(decode(reply.body).data) == PACK

        await asyncio.gather(*(worker() for _ in range(SIDE_BY_SIDE)))
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def _decoder() -> Callable[[bytes], Any]:
    import msgspec

    item: Any = msgspec.defstruct("Item", [("embedding", bytes)])
    body: Any = msgspec.defstruct("Body", [("data", list[item])])
    return msgspec.json.Decoder(body).decode


if __name__ == "__main__":
    import uvloop

    print(json.dumps(uvloop.run(bare(sys.argv[1], int(sys.argv[2])))))
