"""The simulator tells the end of a batch by webhook: signed, again until it is taken, and not for ever."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue

import openai
import pytest
from simulated_batches import TERMINAL, create, line, simulated, until

from runner.simulator import webhooks

SECRET = "whsec_c2VjcmV0"


class Arrivals:
    """What arrives at an address that answers with the statuses that it is given, the last of them for ever."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._queue: SimpleQueue[tuple[bytes, dict[str, str]]] = SimpleQueue()

    def put(self, body: bytes, sent: dict[str, str]) -> None:
        self._queue.put((body, sent))

    def next(self) -> tuple[bytes, dict[str, str]]:
        return self._queue.get(timeout=20)

    def is_empty(self) -> bool:
        return self._queue.empty()


@contextmanager
def receiving(*statuses: int) -> Iterator[Arrivals]:
    left = list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            arrivals.put(body, {name.lower(): text for name, text in self.headers.items()})
            self.send_response(left.pop(0) if len(left) > 1 else left[0])
            self.send_header("location", "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            # Whoever follows a redirect finds a welcome there.
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        arrivals = Arrivals(f"http://127.0.0.1:{server.server_port}/hook")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield arrivals
        server.shutdown()


@pytest.mark.parametrize(
    ("faults", "state"), [("", "completed"), ("batch-invalid=1", "failed"), ("batch-expired=1", "expired")]
)
def test_each_end_is_told_once_as_the_sdk_expects_it(faults: str, state: str) -> None:
    with (
        receiving(200) as arrivals,
        simulated(faults, batch_time=0, webhook=arrivals.url, webhook_secret=SECRET) as (simulator, client),
    ):
        batch = create(client, [line(1)])
        body, sent = arrivals.next()
        event = client.webhooks.unwrap(body, sent, secret=SECRET)
        assert (event.type, event.data.id) == (f"batch.{state}", batch.id)
        assert client.batches.retrieve(batch.id).status == state
        with pytest.raises(openai.InvalidWebhookSignatureError):
            client.webhooks.unwrap(body, sent, secret="whsec_b3RoZXI=")
        assert arrivals.is_empty()
    assert simulator.ledger()["control"]["webhooks_sent"] == 1


def test_a_cancelled_batch_is_told_too() -> None:
    with (
        receiving(200) as arrivals,
        simulated("batch-slow-in_progress:60=1", webhook=arrivals.url, webhook_secret=SECRET) as (_, client),
    ):
        batch, _ = until(client, create(client, [line(1)]), {"in_progress"})
        client.batches.cancel(batch.id)
        assert json.loads(arrivals.next()[0])["type"] == "batch.cancelled"


def test_what_is_not_taken_is_delivered_again_under_the_same_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "PAUSES", (0.0, 0.0, 0.0, 0.0))
    with (
        receiving(500, 302, 503, 204) as arrivals,
        simulated(batch_time=0, webhook=arrivals.url, webhook_secret=SECRET) as (_, client),
    ):
        create(client, [line(1)])
        tries = [arrivals.next() for _ in range(4)]
        for body, sent in tries:
            client.webhooks.unwrap(body, sent, secret=SECRET)
        assert len({(body, sent["webhook-id"]) for body, sent in tries}) == 1
        # The fourth was taken: a further batch is the next thing that comes.
        create(client, [line(2)])
        assert arrivals.next()[1]["webhook-id"] != tries[0][1]["webhook-id"]


def test_where_nobody_listens_it_gives_up_and_the_batch_is_none_the_worse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhooks, "PAUSES", (0.0, 0.0))
    with simulated(batch_time=0, webhook="http://127.0.0.1:9/", webhook_secret=SECRET) as (simulator, client):
        batch, _ = until(client, create(client, [line(1)]), TERMINAL)
        assert batch.status == "completed"
        pause = threading.Event()
        for _ in range(1_000):
            if "webhooks_given_up" in simulator.ledger()["control"]:
                break
            pause.wait(0.005)
    assert simulator.ledger()["control"]["webhooks_sent"] == 3
    assert simulator.ledger()["control"]["webhooks_given_up"] == 1


def test_a_simulator_stops_while_it_still_delivers() -> None:
    with (
        receiving(500) as arrivals,
        simulated(batch_time=0, webhook=arrivals.url, webhook_secret=SECRET) as (simulator, client),
    ):
        create(client, [line(1)])
        arrivals.next()
        simulator.stop()
    assert "webhooks_given_up" not in simulator.ledger()["control"]


def test_the_secret_is_not_shown() -> None:
    from runner.simulator import Settings

    assert SECRET not in repr(Settings(webhook="http://127.0.0.1:1/", webhook_secret=SECRET))
