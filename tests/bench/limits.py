"""How much of a limit is used: `runner run` against a server that enforces one, in another process.

    python tests/bench/limits.py CASE

serves one case and prints its address first. Each figure is the time from the first arrival to the last answer,
as the server saw it, and that of the whole command, from its start to its exit.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from faultserver.ledger import Ledger
from faultserver.server import Service
from limited_servers import FIGURES, Enforced, Server, own_bound
from measuring import Figure, runner, serving

LATENCY = 0.3
RPM = 6_000
TPM = 2_000_000
ROWS = 2_000


@dataclass(frozen=True)
class Case:
    """A server's limits, what it is asked, and what is required: seconds, and the share of refusals."""

    what: str
    server: Server
    sizes: Sequence[int]
    possible: float
    within: float
    refusals: float = 0.01
    changes: Sequence[tuple[float, int]] = ()
    names_wait: bool = True


def cases() -> dict[str, Case]:
    """The cases by name; servers are made anew, for they keep count."""
    rows, by_tokens, mixed = [50] * ROWS, [1_000] * 600, _mixed()
    silent = Server(RPM, says=False)
    at = 8.0
    return {
        "requests": Case("6,000 requests/min in 1 s slices", Server(RPM), rows, 19.0, 0.05),
        "tokens": _by_tokens("2,000,000 tokens/min, 1,000 each", by_tokens),
        "mixed": _by_tokens("2,000,000 tokens/min, 100 to 50,000 each", mixed),
        "silent": Case("6,000 requests/min, no headers", silent, rows, 19.0, 0.25, 0.05),
        "mute": Case("the same, refusals name no time", silent, rows, 19.0, 0.25, 0.05, (), names_wait=False),
        "halved": Case("halved after 8 s", Server(RPM), rows, at + 24.0, 0.1, 0.1, [(at, RPM // 2)]),
        "doubled": Case("3,000/min, doubled after 8 s", Server(RPM // 2), rows, at + 16.0, 0.1, 0.1, [(at, RPM)]),
        "bucket": Case("6,000/min, a bucket of a minute", Server(RPM, sliced=False), rows, 19.0, 0.05),
    }  # fmt: skip


def figures(folder: Path, *, names: Sequence[str] = ()) -> Iterator[Figure]:
    """Each case once."""
    for name, case in cases().items():
        if not names or name in names:
            yield _measured(folder, name, case)


def _by_tokens(what: str, sizes: Sequence[int]) -> Case:
    return Case(what, Server(None, TPM), sizes, own_bound(Server(None, TPM), sizes, LATENCY), 0.07)


def _mixed() -> list[int]:
    chance = random.Random(2)
    return [int(100 * 500 ** chance.random()) for _ in range(100)]


def _measured(folder: Path, name: str, case: Case) -> Figure:
    requests = folder / f"{name}.jsonl"
    with requests.open("wb") as file:
        for number, size in enumerate(case.sizes):
            file.write(_line(number, size))
    with serving([str(Path(__file__)), name], folder) as url, tempfile.TemporaryDirectory(dir=folder) as kept:
        command = ["run", str(requests), "-o", f"{kept}/out.jsonl", "--base-url", url, "--json"]
        cost = runner([*command, "--store", f"sqlite:///{kept}/store.db"], folder)
        with urllib.request.urlopen(url.removesuffix("/v1") + FIGURES) as said:
            seen: dict[str, Any] = json.load(said)
    summary = json.loads(Path(f"{folder}/stderr").read_text().strip().split("\n")[-1])
    assert len(seen["passed"]) == len(case.sizes), summary
    asked = len(seen["passed"]) + len(seen["refused"])
    share = len(seen["refused"]) / asked
    last = max(seen["passed"]) + LATENCY
    return Figure(
        "limits",
        case.what,
        f"{last:.2f} s, {len(seen['refused'])} refused ({100 * share:.2f} %)",
        f"{case.possible * (1 + case.within):.2f} s, {100 * case.refusals:.0f} %",
        f"{case.possible:.2f} s possible; the whole command {cost.wall:.2f} s, {cost.cpu:.1f} s of CPU",
    )


def _line(number: int, size: int) -> bytes:
    body = {
        "model": "gpt-6-luna",
        "messages": [{"role": "user", "content": f"row=r{number} say something"}],
        "max_completion_tokens": size,
    }
    line = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return orjson.dumps(line) + b"\n"


async def serve(case: Case) -> None:
    """Serve one case until the process is ended."""
    script = Enforced(case.server, changes=case.changes, names_wait=case.names_wait)
    service = Service(script, Ledger(keep=False), latency=LATENCY)
    await service.start()
    print(f"http://127.0.0.1:{service.port}/v1", flush=True)
    await asyncio.sleep(math.inf)


if __name__ == "__main__":
    asyncio.run(serve(cases()[sys.argv[1]]))
