"""What one call costs, all in: the store, the limits and the output; beside bare clients and the official SDK.

    python tests/bench/calls.py bare|lean|sdk URL REQUESTS COUNT

asks the first COUNT requests of a file in a process of its own.

What is told is what a further call costs: the difference between many calls and few, each in a whole process, for the
runner and the others alike.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
from inputs import write
from measuring import BENCH, Cost, Figure, runner, serving, work

CALLS = 20_000
FEW_CALLS = 200
SDK_CALLS = 700
CONCURRENCY = 64
TIMES = 5


@dataclass(frozen=True, slots=True)
class Further:
    """What each further call takes: seconds of CPU and of wall clock."""

    cpu: float
    wall: float

    @classmethod
    def between(cls, few: Cost, many: Cost, calls: int) -> Further:
        return cls((many.cpu - few.cpu) / calls, (many.wall - few.wall) / calls)

    def __str__(self) -> str:
        return f"{self.cpu * 1e6:.0f} us of CPU a call, {1 / self.wall:,.0f}/s"


def figures(folder: Path, *, calls: int = CALLS) -> Iterator[Figure]:
    """A run of small chat calls, beside the same calls by others: each a few times in turn, as the machine's speed
    drifts, and with a core that is not the server's."""
    requests, few = folder / "short.jsonl", folder / "few.jsonl"
    write("short", calls, requests)
    write("short", FEW_CALLS, few)
    starts: list[Cost] = []
    wholes: list[Cost] = []
    found: dict[str, list[Further]] = {"runner": [], "bare": [], "lean": [], "sdk": []}
    with serving([str(BENCH / "lean_server.py"), "chat"], folder, apart=True) as url:
        for _ in range(TIMES):
            for name, count in (("bare", calls), ("lean", calls), ("sdk", SDK_CALLS)):
                short, long = (work("calls", [name, url, requests, n], folder) for n in (FEW_CALLS, count))
                found[name].append(Further.between(short, long, count - FEW_CALLS))
            starts.append(_run(folder, few, url))
            wholes.append(_run(folder, requests, url))
            found["runner"].append(Further.between(starts[-1], wholes[-1], calls - FEW_CALLS))
    ours, bare, lean, sdk = (_middle(found[name]) for name in ("runner", "bare", "lean", "sdk"))
    ratios = [one.cpu / other.cpu for one, other in zip(found["runner"], found["bare"], strict=True)]
    yield Figure(
        "calls",
        f"{calls:,} small chat calls, {CONCURRENCY} at once",
        str(ours),
        "",
        f"{statistics.median(ratios):.2f} x bare aiohttp with uvloop ({bare})",
    )
    yield Figure(
        "calls",
        "the same by runner's transport alone",
        str(lean),
        "",
        f"{lean.cpu / bare.cpu:.2f} x bare aiohttp with uvloop",
    )
    yield Figure(
        "calls",
        "the same by the official SDK's typed calls",
        str(sdk),
        "",
        f"{sdk.cpu / ours.cpu:.1f} x runner's",
    )
    start, whole = (sorted(costs, key=lambda cost: cost.cpu)[TIMES // 2] for costs in (starts, wholes))
    yield Figure(
        "calls",
        f"the whole run of {FEW_CALLS} calls, imports included",
        f"{start.wall:.2f} s, {start.cpu:.2f} s of CPU",
        "",
        f"the run of {calls:,}: {whole.wall:.2f} s, {whole.cpu:.2f} s of CPU",
    )
    yield Figure(
        "calls",
        f"peak memory of the run of {calls:,}",
        f"{whole.rss:.0f} MB",
        "150 MB",
        f"{start.rss:.0f} MB for {FEW_CALLS}",
    )


def _middle(found: Sequence[Further]) -> Further:
    return sorted(found, key=lambda one: one.cpu)[len(found) // 2]


def _run(folder: Path, requests: Path, url: str) -> Cost:
    """A run with a store of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as kept:
        command = ["run", str(requests), "-o", f"{kept}/out.jsonl", "--base-url", url, "--quiet"]
        command += ["--store", f"sqlite:///{kept}/store.db", "--concurrency", str(CONCURRENCY)]
        return runner(command, folder)


async def bare(url: str, bodies: list[bytes]) -> None:
    """Post each body and read its answer; nothing is kept."""
    import aiohttp

    headers = {"content-type": "application/json", "authorization": "Bearer none"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:

        async def one(body: bytes) -> None:
            async with session.post(f"{url}/chat/completions", data=body) as response:
                assert response.status == 200
                orjson.loads(await response.read())

        await _side_by_side(one, bodies)


async def lean(url: str, bodies: list[bytes]) -> None:
    """The same by the transport that the runs use."""
    from runner.api.transport import Transport
    from runner.api.wire import Wire
    from runner.model import Reply

    left, all_came = iter(bodies), asyncio.get_running_loop().create_future()
    missing = len(bodies)
    async with Transport(Wire(url), concurrency=CONCURRENCY) as transport:

        def ask_next() -> None:
            for body in itertools.islice(left, 1):
                transport.start("/chat/completions", "m", body, landed)

        def landed(reply: Reply | BaseException) -> None:
            nonlocal missing
            assert isinstance(reply, Reply)
            assert reply.status == 200
            orjson.loads(reply.body)
            missing -= 1
            if not missing:
                all_came.set_result(None)
            ask_next()

        for _ in range(CONCURRENCY):
            ask_next()
        await all_came


async def sdk(url: str, bodies: list[bytes]) -> None:
    """The official SDK's typed calls, as its documentation shows them."""
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

        async def one(body: bytes) -> None:
            made = await client.chat.completions.create(**orjson.loads(body))
            assert made.choices

        await _side_by_side(one, bodies)


async def _side_by_side(one: Callable[[bytes], Awaitable[None]], bodies: list[bytes]) -> None:
    left = iter(bodies)

    async def worker() -> None:
        for body in left:
            await one(body)

    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))


def main(arguments: list[str]) -> None:
    import uvloop

    name, url, path, count = arguments
    with Path(path).open("rb") as lines:
        bodies = [orjson.dumps(orjson.loads(line)["body"]) for line in itertools.islice(lines, int(count))]
    uvloop.run({"bare": bare, "lean": lean, "sdk": sdk}[name](url, bodies))


if __name__ == "__main__":
    main(sys.argv[1:])
