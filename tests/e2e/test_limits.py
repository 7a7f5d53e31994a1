"""A server that enforces its limit: it is kept without being told to the runner, and no row is lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from faultserver import FaultServer


def test_a_limit_that_the_headers_speak_of_is_kept(
    cli: Callable[..., Any], server: FaultServer, requests_file: Callable[..., Path]
) -> None:
    server.script = "refuse-rate:3000"

    ended = cli("run", requests_file(200), "-o", "out.jsonl")

    assert ended.code == 0, ended
    assert set(server.ledger.executed.values()) == {1}
    assert len(server.ledger.executed) == 200
    assert server.ledger.calls() <= 210
