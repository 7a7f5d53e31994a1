"""Bulk embeddings through the real command: packed, each vector in its own row, each text paid for once."""

from __future__ import annotations

import base64
import json
import signal
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from e2e.conftest import Cli, read_jsonl
from faultserver import Arrival, Behaviour, FaultServer, Gate, Script, error, ok, server_error
from faultserver.embeddings import vector

JobFile = Callable[..., Path]
DIMENSIONS = 8
OK = ok()


def inputs_of(arrival: Arrival) -> list[str]:
    """The texts that a call asked for."""
    given = arrival.parsed["input"]
    return [given] if isinstance(given, str) else list(given)


def asked(server: FaultServer) -> Counter[str]:
    """How often each text was in a call that the server carried out."""
    done = server.ledger.executed
    # By body: one that was refused before it was carried out has arrived twice.
    calls = {arrival.sha: arrival for arrival in server.ledger.arrivals if arrival.paid and done[arrival.sha]}
    return Counter(text for sha, one in calls.items() for text in inputs_of(one) * done[sha])


def summary_of(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output.with_name(f"{output.name}.summary.json").read_bytes())
    return found


def is_vector_of(row: dict[str, Any], text: str) -> bool:
    """Whether a row's decimals give exactly the 32-bit floats that the server has for this text."""
    return struct.pack(f"<{DIMENSIONS}f", *row["result"]["output"]) == vector(text, DIMENSIONS)


def refusing(wrong: Callable[[list[str]], bool], fate: Behaviour) -> Script:
    """Calls whose texts are wrong meet this fate, all others are answered."""
    return lambda arrival: fate if arrival.paid and wrong(inputs_of(arrival)) else OK


BAD = error(400, "invalid_value", "one of the inputs is not acceptable")


def test_20000_short_texts_take_ten_calls(
    cli: Cli, embed: Callable[..., Path], server: FaultServer, tmp_path: Path
) -> None:
    texts = [f"ticket {n}" for n in range(20_000)]
    ended = cli("run", embed(texts))
    assert ended.code == 0, ended.err
    assert server.ledger.calls() <= 12

    rows = read_jsonl(tmp_path / "out.jsonl")
    assert [row["id"] for row in rows] == list(range(20_000))
    assert all(is_vector_of(row, text) for row, text in zip(rows, texts, strict=True))
    summary = summary_of(tmp_path / "out.jsonl")
    assert summary["requests"] == server.ledger.calls()
    assert summary["retries"] == 0
    shares = [row["result"]["usage"] for row in rows]
    assert sum(share["input"] for share in shares) == server.ledger.usage["input"]
    assert summary["tokens"]["input"] == server.ledger.usage["input"]


def test_a_refused_pack_is_halved_until_only_the_guilty_text_fails(
    cli: Cli, embed: Callable[..., Path], server: FaultServer, tmp_path: Path
) -> None:
    texts = [f"text {n}" for n in range(300)]
    texts[123] = "guilty"
    server.script = refusing(lambda given: "guilty" in given, BAD)
    ended = cli("run", embed(texts))
    assert ended.code == 3, ended.err

    rows = read_jsonl(tmp_path / "out.jsonl")
    assert [row["id"] for row in rows if row["result"] is None] == [123]
    assert rows[123]["error"]["code"] == "invalid_value"
    assert rows[123]["error"]["status"] == 400
    assert all(is_vector_of(row, text) for row, text in zip(rows, texts, strict=True) if text != "guilty")
    assert set(asked(server).values()) == {1}
    assert server.ledger.calls() < 40


def test_a_server_that_takes_fewer_texts_a_call_is_soon_known(
    cli: Cli, embed: Callable[..., Path], server: FaultServer, tmp_path: Path
) -> None:
    server.script = refusing(lambda given: len(given) > 100, error(413, None, "batch size too large"))
    texts = [f"text {n}" for n in range(9_000)]
    ended = cli("run", embed(texts), "--concurrency", 1)
    assert ended.code == 0, ended.err

    assert set(asked(server).values()) == {1}
    assert len(asked(server)) == 9_000
    refused = server.ledger.calls() - len(server.ledger.executed)
    assert refused < 70
    assert all(
        is_vector_of(row, text) for row, text in zip(read_jsonl(tmp_path / "out.jsonl"), texts, strict=True)
    )


def test_a_server_that_knows_no_base64_is_asked_for_numbers(
    cli: Cli, embed: Callable[..., Path], server: FaultServer, tmp_path: Path
) -> None:
    unknown = error(400, None, "unknown field encoding_format")

    def script(arrival: Arrival) -> Behaviour:
        return unknown if arrival.paid and "encoding_format" in arrival.parsed else OK

    server.script = script
    texts = [f"text {n}" for n in range(50)]
    ended = cli("run", embed(texts))
    assert ended.code == 0, ended.err
    assert server.ledger.calls() == 2
    assert all(
        is_vector_of(row, text) for row, text in zip(read_jsonl(tmp_path / "out.jsonl"), texts, strict=True)
    )


def test_a_text_that_breaks_the_server_fails_alone(
    cli: Cli, embed: Callable[..., Path], server: FaultServer, tmp_path: Path
) -> None:
    texts = [f"text {n}" for n in range(600)]
    texts[77] = "poison"
    server.script = refusing(lambda given: "poison" in given, server_error())
    ended = cli("run", embed(texts, retry={"attempts": 6, "max_wait": "1s"}), "--concurrency", 4)
    assert ended.code == 3, ended.err

    rows = read_jsonl(tmp_path / "out.jsonl")
    assert [row["id"] for row in rows if row["result"] is None] == [77]
    assert rows[77]["error"]["attempts"] == 6
    assert set(asked(server).values()) == {1}


def test_the_same_refusal_of_every_text_stops_the_run(
    cli: Cli, embed: Callable[..., Path], server: FaultServer
) -> None:
    server.script = refusing(lambda given: True, error(400, "unsupported_value", "dimensions must be 1024"))
    ended = cli("run", embed([f"text {n}" for n in range(3_000)]))
    assert ended.code == 78
    assert "dimensions must be 1024" in ended.err
    assert server.ledger.calls() < 400


def test_equal_texts_are_asked_once_where_the_job_says_so(
    cli: Cli, embed: Callable[..., Path], server: FaultServer, tmp_path: Path
) -> None:
    texts = [f"text {n % 10}" for n in range(1_000)]
    assert cli("run", embed(texts, dedupe=True)).code == 0
    assert asked(server) == Counter({f"text {n}": 1 for n in range(10)})
    assert all(
        is_vector_of(row, text) for row, text in zip(read_jsonl(tmp_path / "out.jsonl"), texts, strict=True)
    )


def test_killed_between_two_packs_a_run_goes_on_and_pays_no_text_twice(
    cli: Cli, embed: Callable[..., Path], server: FaultServer, tmp_path: Path
) -> None:
    texts = [f"text {n}" for n in range(6_000)]
    job = embed(texts)
    held = Gate()
    first = f'"{texts[0]}"'.encode()
    server.script = lambda arrival: OK if first in arrival.body or not arrival.paid else OK.held(held)
    running = cli.start("run", job)
    server.ledger.wait_until(lambda ledger: ledger.calls() >= 2, timeout=20)
    running.send(signal.SIGKILL)
    running.process.wait()
    held.open()
    server.script = lambda arrival: OK

    ended = cli("run", job)
    assert ended.code == 0, ended.err
    counted = asked(server)
    assert len(counted) == 6_000
    assert {text for text, times in counted.items() if times > 1} <= set(texts[2_048:])
    assert all(
        is_vector_of(row, text) for row, text in zip(read_jsonl(tmp_path / "out.jsonl"), texts, strict=True)
    )
    assert summary_of(tmp_path / "out.jsonl")["ambiguous"] >= 1


def test_a_requests_file_goes_out_line_by_line_and_keeps_its_encoding(
    cli: Cli, server: FaultServer, tmp_path: Path
) -> None:
    bodies = [
        {"model": "text-embedding-3-small", "dimensions": DIMENSIONS, "input": "a"},
        {
            "model": "text-embedding-3-small",
            "dimensions": DIMENSIONS,
            "input": "a",
            "encoding_format": "base64",
        },
    ]
    path = tmp_path / "requests.jsonl"
    path.write_text(
        "".join(
            json.dumps({"custom_id": f"r{n}", "method": "POST", "url": "/v1/embeddings", "body": body}) + "\n"
            for n, body in enumerate(bodies)
        )
    )
    assert cli("run", path, "-o", "out.jsonl").code == 0
    assert sorted(json.dumps(arrival.parsed) for arrival in server.ledger.arrivals if arrival.paid) == sorted(
        map(json.dumps, bodies)
    )
    plain, packed = (
        row["response"]["body"]["data"][0]["embedding"] for row in read_jsonl(tmp_path / "out.jsonl")
    )
    assert base64.b64decode(packed) == struct.pack(f"<{DIMENSIONS}f", *plain) == vector("a", DIMENSIONS)
