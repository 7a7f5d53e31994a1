"""The simulator as a thread and as a process: starting, stopping, and what goes wrong with that."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import urllib.request

import pytest

from runner.simulator import BadFaults, Settings, Simulator

SERVE = """
from runner.simulator import Settings, serve_forever
serve_forever(Settings(), lambda url: print(url, flush=True))
print("ended", flush=True)
"""
LIGHT = """
import sys
import runner.simulator
print(sorted({"aiohttp", "orjson", "openai", "uvloop"} & set(sys.modules)))
"""


def test_importing_the_simulator_loads_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_simulator_can_be_stopped_while_calls_hang() -> None:
    running = Simulator(Settings(faults="hang=1"))
    running.start()
    address = running.url.removeprefix("http://").removesuffix("/v1").split(":")
    with socket.create_connection((address[0], int(address[1]))) as call:
        body = b'{"model":"sim-a","input":"x"}'
        call.sendall(
            b"POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        )
        # A second call on a connection of its own shows that the first has been taken up.
        with urllib.request.urlopen(running.url + "/models", timeout=5) as answer:
            assert answer.status == 200
        running.stop()
        call.settimeout(5)
        assert call.recv(1) == b""
    assert running.ledger()["executed"] == 1
    assert "simulator" not in {thread.name for thread in threading.enumerate()}
    running.stop()


def test_a_taken_port_is_named() -> None:
    with Simulator(Settings()) as running:
        port = int(running.url.rsplit(":", 1)[1].removesuffix("/v1"))
        with pytest.raises(OSError, match=rf"port {port} of 127\.0\.0\.1: another process.*--port 0"):
            Simulator(Settings(port=port)).start()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("429=2", "a rate goes from 0 to 1"),
        ("429=nan", "a rate goes from 0 to 1"),
        ("429=x", "'x' is not a number"),
        ("429", "it gives no rate"),
        ("truncate=0.1", "Did you mean 'truncated'"),
        ("429=0.1@last", "first or always"),
        ("429=0.6,500=0.6", "add up to more than 1"),
    ],
)
def test_faults_that_cannot_be_read_are_explained(text: str, reason: str) -> None:
    with pytest.raises(BadFaults, match=reason) as refused:
        Simulator(Settings(faults=text))
    assert "chunk-cut" in str(refused.value)


def test_the_command_serves_until_it_is_told_to_stop() -> None:
    with subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with urllib.request.urlopen(url + "/models", timeout=5) as answer:
            assert b"gpt-6-luna" in answer.read()
        process.terminate()
        assert process.stdout.readline() == "ended\n"
        assert process.wait() == 0
