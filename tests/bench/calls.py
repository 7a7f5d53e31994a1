"""What one call costs, all in: the store, the limits and the output; beside bare clients and the official SDK.

    python tests/bench/calls.py bare|lean|sdk URL REQUESTS COUNT

asks the first COUNT requests of a file in a process of its own and prints the CPU seconds of the loop.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import orjson
from inputs import write
from measuring import Cost, Figure, fault_server, median, rate, runner, work

CALLS = 5_000
FEW_CALLS = 200
SDK_CALLS = 500
CONCURRENCY = 64
TIMES = 3


def figures(folder: Path, *, calls: int = CALLS) -> Iterator[Figure]:
    """A run of small chat calls, and the same of few: the difference is what a further call costs."""
    requests, few = folder / "short.jsonl", folder / "few.jsonl"
    write("short", calls, requests)
    write("short", FEW_CALLS, few)
    with fault_server(folder) as url:
        bare = median(lambda: work("calls", ["bare", url, requests, calls], folder), TIMES).said
        lean = median(lambda: work("calls", ["lean", url, requests, calls], folder), TIMES).said
        sdk = work("calls", ["sdk", url, requests, SDK_CALLS], folder).said
        start, whole = _run(folder, few, url), _run(folder, requests, url)
    further = calls - FEW_CALLS
    cost, plain = (whole.cpu - start.cpu) / further, bare["cpu"] / calls
    yield Figure(
        "calls",
        f"{calls:,} small chat calls, {CONCURRENCY} at once",
        f"{cost * 1e6:.0f} us of CPU a call, {rate(further, whole.wall - start.wall)}",
        "",
        f"{cost / plain:.1f} x bare aiohttp with uvloop ({plain * 1e6:.0f} us, {rate(calls, bare['wall'])})",
    )
    yield Figure(
        "calls",
        "the same by runner's transport alone",
        f"{lean['cpu'] / calls * 1e6:.0f} us of CPU a call, {rate(calls, lean['wall'])}",
        "",
        f"{lean['cpu'] / bare['cpu']:.2f} x bare aiohttp with uvloop",
    )
    typed = sdk["cpu"] / SDK_CALLS
    yield Figure(
        "calls",
        "the same by the official SDK's typed calls",
        f"{typed * 1e6:.0f} us of CPU a call, {rate(SDK_CALLS, sdk['wall'])}",
        "",
        f"{typed / cost:.1f} x runner's",
    )
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


def _run(folder: Path, requests: Path, url: str) -> Cost:
    """The run of median CPU time among several, each with a store of its own."""

    def once() -> Cost:
        with tempfile.TemporaryDirectory(dir=folder) as kept:
            command = ["run", str(requests), "-o", f"{kept}/out.jsonl", "--base-url", url, "--quiet"]
            command += ["--store", f"sqlite:///{kept}/store.db", "--concurrency", str(CONCURRENCY)]
            return runner(command, folder)

    return median(once, TIMES)


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
    cpu, wall = time.process_time(), time.perf_counter()
    uvloop.run({"bare": bare, "lean": lean, "sdk": sdk}[name](url, bodies))
    print(json.dumps({"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}))


if __name__ == "__main__":
    main(sys.argv[1:])
