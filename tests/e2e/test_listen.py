"""`runner listen` as a process: a rehearsal with the simulator, deliveries by hand, and how it ends."""

from __future__ import annotations

import signal
import socket
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
from scene import Scene, request_lines
from simulated_batches import create, line, until

from runner.simulator.webhooks import signed
from runner.store import batches, webhooks
from runner.store.batches import NewBatch, NewLine
from runner.store.database import Store
from runner.store.identity import Identity
from runner.submission import Stage, Submission

RAW = b"a secret that nobody may see"
SECRET = "whsec_" + b64encode(RAW).decode()


def make_batch(store_file: Path, batch_id: str, *, provider: str, origin: str) -> str:
    """A run in the store whose rows are out in a batch of this id; the run's id."""
    identity = Identity("requests", "", "/in/requests.jsonl", provider, origin, "", "")
    with Store.open(str(store_file)) as store:
        scene = Scene(store, request_lines(2), identity=identity)
        scene.expand()
        planned = Submission("shard", "0" * 64, run=scene.run.name)
        lines = [NewLine(call.task_id, 100) for call in scene.calls()]
        with store.write() as connection:
            new = NewBatch(
                run_id=scene.run.id,
                series_id=scene.tenure.series_id,
                epoch=scene.tenure.epoch,
                account=identity.account,
                endpoint="chat",
                model="m",
                lines=len(lines),
                size=100,
                tokens=100,
                submission=planned,
            )
            [number] = batches.plan(connection, [(new, lines)])
            batches.keep(connection, [(number, planned._replace(stage=Stage.SUBMITTED, batch_id=batch_id))])
        return scene.run.name


@pytest.fixture
def secretive(cli, tmp_path) -> Iterator[Any]:
    """The command with the secret in its environment, and nowhere else when the test has ended."""
    cli.env["OPENAI_WEBHOOK_SECRET"] = SECRET
    yield cli
    cli.close()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert RAW not in path.read_bytes()
            assert SECRET.encode() not in path.read_bytes()


def ended(running: Any, number: signal.Signals) -> str:
    """Everything that a listener said, once it has been told to end, which it does at once."""
    running.send(number)
    before = time.monotonic()
    done = running.wait(10)
    assert time.monotonic() - before < 1.5
    assert (done.code, done.out) == (0, b"")
    assert SECRET not in done.err
    return done.err


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def test_a_rehearsal_with_the_simulator(secretive, store) -> None:
    port = free_port()
    simulator = secretive.start(
        *("simulate", "--port", 0, "--batch-time", 0, "--faults", "batch-slow-in_progress:600=1"),
        *("--queue-tokens", 1000, "--webhook", f"http://127.0.0.1:{port}/hook"),
    )
    url = simulator.process.stdout.readline().decode().split()[2]
    listener = secretive.start("listen", "--port", port, "--provider", "sim", "--base-url", url)
    listener.line(f"Listening at http://127.0.0.1:{port}/")
    with openai.OpenAI(api_key="x", base_url=url, max_retries=0) as client:
        batch, _ = until(client, create(client, [line(1), line(2)]), {"in_progress"})
        run = make_batch(store, batch.id, provider="sim", origin="sim")
        client.batches.cancel(batch.id)
        said = listener.line(batch.id)
        too_much = create(client, [line(n, max_output_tokens=50) for n in range(200)])
        assert f"Batch {too_much.id} is of no run" in listener.line(too_much.id)
        assert until(client, too_much, {"failed"})[0].errors.data[0].code == "token_limit_exceeded"
    assert said.startswith(f"Batch {batch.id} of run {run} (requests): cancelled, 2 of 2 lines done. ")
    assert f"`runner resume {run}`" in said
    ended(listener, signal.SIGTERM)
    simulator.send(signal.SIGTERM)
    assert SECRET not in simulator.wait(10).err


class Sender:
    """Delivers to a listener by hand."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/"

    def __call__(
        self,
        webhook_id: str,
        batch_id: str = "batch_1",
        *,
        secret: str = SECRET,
        late: int = 0,
        then: bytes = b"",
        kind: str = "batch.completed",
    ) -> int:
        """Send an event about a batch; the status of the answer. `then` follows what was signed."""
        body = orjson.dumps({"object": "event", "type": kind, "data": {"id": batch_id}})
        return self.post(body + then, signed(secret, webhook_id, int(time.time()) - late, body))

    def post(self, body: bytes, sent: Mapping[str, str]) -> int:
        request = urllib.request.Request(self._url, body, dict(sent), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code


@pytest.fixture
def listener(secretive, store) -> Any:
    """A listener for an API that cannot be reached, with one batch in its store, and a way to deliver to it."""
    secretive.run = make_batch(store, "batch_1", provider="openai", origin="http://127.0.0.1:9")
    running = secretive.start("listen", "--port", 0, "--json")
    running.deliver = Sender(orjson.loads(running.line('"listening"'))["port"])
    return running


def test_deliveries_by_hand(listener, secretive, store) -> None:
    deliver = listener.deliver
    assert deliver("wh_1") == 200
    assert orjson.loads(listener.line('"told"'))["run"] == secretive.run
    assert deliver("wh_1") == 200
    assert deliver("wh_2", secret="whsec_b3RoZXI=") == 400
    assert deliver("wh_3", late=310) == 400
    assert deliver("wh_4", then=b" ") == 400
    assert deliver.post(b"x" * (2**20 + 1), {}) == 413
    assert deliver("wh_5", kind="response.completed") == 200
    assert deliver("wh_6", "batch_of_others") == 200
    listener.line("batch_of_others")
    with ThreadPoolExecutor(2) as both:
        assert list(both.map(deliver, ["wh_7", "wh_8"])) == [200, 200]
    listener.line('"event":"told"')
    listener.line('"event":"told"')

    events = [orjson.loads(said) for said in ended(listener, signal.SIGINT).split("\n")[:-1]]
    assert [event["event"] for event in events] == [
        *("listening", "told", "repeated", "refused", "refused", "refused", "other", "unknown"),
        *("told", "told"),
    ]
    looked = [event for event in events if event["event"] == "told"]
    assert {event["state"] for event in looked} == {None}
    assert all("could not be looked at" in event["why"] for event in looked)
    with Store.read_only(str(store)) as opened, opened.read() as connection:
        assert webhooks.hints(connection, 0) == (4, ["batch_1", "batch_of_others"])


def test_deliveries_and_a_run_write_side_by_side(listener, store) -> None:
    longest = 0.0
    with Store.open(str(store)) as running, ThreadPoolExecutor(2) as both:
        statuses = [both.submit(listener.deliver, f"wh_{n}", "batch_of_others") for n in range(20)]
        while not all(one.done() for one in statuses):
            before = time.monotonic()
            with running.write() as connection:
                connection.exec_driver_sql("UPDATE series SET name = name")
            longest = max(longest, time.monotonic() - before)
    assert [one.result() for one in statuses] == [200] * 20
    assert 0 < longest < 2
    # What is said of a delivery is said after it was answered, and broken off at the end.
    for _ in statuses:
        listener.line('"unknown"')
    assert ended(listener, signal.SIGTERM).count('"unknown"') == 20


def test_it_ends_at_once_while_the_api_is_silent(secretive, store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as api:
        origin = f"http://127.0.0.1:{api.getsockname()[1]}"
        make_batch(store, "batch_1", provider="openai", origin=origin)
        running = secretive.start("listen", "--port", 0, "--base-url", f"{origin}/v1")
        port = int(running.line("Listening").split(":")[2].split("/")[0])
        assert Sender(port)("wh_1") == 200
        api.settimeout(20)
        connection, _ = api.accept()
        with connection:
            assert connection.recv(1) == b"G"
            ended(running, signal.SIGTERM)


@pytest.mark.parametrize(
    ("secret", "more", "code", "says"),
    [
        (None, (), 77, "Set OPENAI_WEBHOOK_SECRET"),
        ("  ", (), 77, "Set OPENAI_WEBHOOK_SECRET"),
        ("whsec_hidde", (), 78, "OPENAI_WEBHOOK_SECRET is no webhook secret"),
        (SECRET, ("--provider", "sim"), 2, "--provider sim needs --base-url"),
        # An address that documentation uses, and no machine has.
        (SECRET, ("--host", "192.0.2.1"), 2, "of 192.0.2.1 cannot be listened on"),
    ],
)
def test_what_it_cannot_start_with_is_said(cli, secret, more, code, says) -> None:
    done = cli("listen", "--port", 0, *more, env={"OPENAI_WEBHOOK_SECRET": secret})
    assert done.code == code, done.err
    assert says in done.err
    assert "hidde" not in done.err


def test_a_port_that_is_taken_is_named_and_plain_http_is_warned_of_once(secretive) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        done = secretive("listen", "--port", port, "--host", "0.0.0.0")
    assert done.code == 2
    assert f"Port {port} of 0.0.0.0 cannot be listened on: Address already in use." in done.err
    assert done.err.count("Warning: 0.0.0.0 is not loopback") == 1


@pytest.mark.parametrize("url", ["127.0.0.1:8322", "http://x:999999/"])
def test_the_simulator_wants_a_whole_address_and_a_secret_for_its_webhooks(cli, secretive, url) -> None:
    done = cli("simulate", "--port", 0, "--webhook", url)
    assert (done.code, "give a whole address" in done.err) == (2, True)


def test_the_simulator_sends_no_webhook_without_a_secret(cli) -> None:
    done = cli("simulate", "--port", 0, "--webhook", "http://127.0.0.1:1/")
    assert (done.code, "Set OPENAI_WEBHOOK_SECRET" in done.err) == (77, True)
