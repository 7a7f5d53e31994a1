"""A server that enforces its limit: it is kept without being told to the runner, and no row is lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from faultserver import FaultServer
from limited_servers import Enforced, Server


def test_a_limit_that_the_headers_speak_of_is_kept(
    cli: Callable[..., Any], server: FaultServer, requests_file: Callable[..., Path]
) -> None:
    server.script = "refuse-rate:3000"

    ended = cli("run", requests_file(200), "-o", "out.jsonl")

    assert ended.code == 0, ended
    assert set(server.ledger.executed.values()) == {1}
    assert len(server.ledger.executed) == 200
    assert server.ledger.calls() <= 210


def test_two_runs_of_one_store_share_their_accounts_limit(
    cli: Any, server: FaultServer, requests_file: Callable[..., Path]
) -> None:
    """One starts while the other is asking; their server lets 50 pass a second."""
    enforced = Enforced(Server(3_000))
    server.script = enforced
    first = cli.start("run", requests_file(200, "first.jsonl"), "-o", "first-out.jsonl", "--json")
    first.line('"answered":5')
    second = cli.start("run", requests_file(100, "second.jsonl"), "-o", "second-out.jsonl", "--json")

    assert (first.wait().code, second.wait().code) == (0, 0)
    seen = enforced.figures()
    arrived = sorted(seen["passed"] + seen["refused"])
    assert len(seen["passed"]) == 300
    assert len(seen["refused"]) <= 3
    # Nine tenths of a second, for calls that leave a second apart arrive a little nearer; and a second probe.
    assert max(sum(at <= one < at + 0.9 for one in arrived) for at in arrived) <= 51
    # Six seconds of calls if one had asked alone.
    assert arrived[-1] < 12
