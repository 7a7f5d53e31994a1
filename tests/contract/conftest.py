"""What the transport is tried on: both event loops, and both of its kinds."""

from __future__ import annotations

import asyncio
import gc
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[..., object]]:
    """Runs a coroutine on each of the event loops that the product may run on."""
    yield request.param
    # Whoever leaves something open is warned about in the test that left it.
    gc.collect(1)


@pytest.fixture(params=["lean", "sdk"])
def plane(request: pytest.FixtureRequest) -> Callable[..., object]:
    """Makes a transport: the lean one, and the one over the SDK."""
    import wire_server

    return getattr(wire_server, request.param)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 and api.example.com that nobody has signed but itself."""
    folder = tmp_path_factory.mktemp("tls")
    pem, key = folder / "server.pem", folder / "server.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1,DNS:api.example.com"]
    command += ["-keyout", str(key), "-out", str(pem)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    return pem, context
