"""Batches as the official SDK makes them at a simulator, for the tests of its files and batches."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import openai

from runner.simulator import Settings, Simulator

TERMINAL = {"completed", "failed", "cancelled", "expired"}


class Clock:
    """A clock that goes on only when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@contextlib.contextmanager
def simulated(
    faults: str = "", *, batch_time: float = 0.05, clock: Clock | None = None, **settings: Any
) -> Iterator[tuple[Simulator, Any]]:
    """A simulator with these faults, and a client of it that tries nothing twice."""
    more = {} if clock is None else {"clock": clock}
    chosen = Settings(batch_time=batch_time, faults=faults, **settings)
    with (
        Simulator(chosen, **more) as running,
        openai.OpenAI(api_key="x", base_url=running.url, max_retries=0, timeout=30) as client,
    ):
        yield running, client


def line(number: int, **more: Any) -> dict[str, Any]:
    body = {"model": "gpt-6-luna", "input": f"Ticket {number}: the parcel is late.", **more}
    return {"custom_id": f"row-{number}", "method": "POST", "url": "/v1/responses", "body": body}


def upload(client: Any, lines: list[Any], name: str = "in.jsonl") -> Any:
    data = b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in lines)
    return client.files.create(file=(name, data), purpose="batch").id


def create(client: Any, lines: list[Any], **more: Any) -> Any:
    return client.batches.create(
        input_file_id=upload(client, lines), endpoint="/v1/responses", completion_window="24h", **more
    )


def until(client: Any, batch: Any, states: set[str]) -> tuple[Any, list[str]]:
    """The batch once it is in one of these states, and the states seen on the way."""
    seen = [batch.status]
    pause = threading.Event()
    for _ in range(2000):
        batch = client.batches.retrieve(batch.id)
        if batch.status != seen[-1]:
            seen.append(batch.status)
        if batch.status in states:
            return batch, seen
        pause.wait(0.005)
    raise AssertionError(f"still {batch.status}")


def lines_of(client: Any, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(one) for one in client.files.content(file_id).read().split(b"\n") if one]
