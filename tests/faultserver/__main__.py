"""The fault server as a process: its URL on the first line of standard output, its ledger in a file."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

from .batches import DEFAULT_TIME
from .batchfaults import named_batches
from .ledger import Ledger
from .scripts import named_script
from .server import Service


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="faultserver", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--script", default="ok", help="see faultserver/scripts.py")
    parser.add_argument("--batches", default="plain", help="see faultserver/batchfaults.py")
    parser.add_argument(
        "--batch-time",
        type=float,
        default=DEFAULT_TIME,
        help="seconds that a batch takes if nothing hinders it",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds added to every answer")
    parser.add_argument("--ledger", type=Path, help="a file that takes one JSON line for each event")
    parser.add_argument("--fsync", action="store_true", help="make each line of it survive a power cut")
    return parser.parse_args()


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    ledger = Ledger(file=options.ledger, fsync=options.fsync, keep=False)
    service = Service(
        named_script(options.script, options.seed),
        ledger,
        latency=options.latency,
        batches=named_batches(options.batches, options.seed),
        batch_time=options.batch_time,
    )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await service.start(options.port)
    url = f"http://127.0.0.1:{service.port}/v1"
    ledger.started(url=url, script=options.script, batches=options.batches, seed=options.seed)
    print(url, flush=True)
    await stopping.wait()
    await service.stop()
    ledger.close()
    if service.failures:
        raise service.failures[0]


if __name__ == "__main__":
    asyncio.run(serve(arguments()))
