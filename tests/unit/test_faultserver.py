"""The fault server says what it is told to say, byte by byte, and its ledger is right about it."""

import base64
import gzip
import hashlib
import http.client
import json
import math
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from pathlib import Path

import faultserver
import pytest
from faultserver import Arrival, Behaviour, End, FaultServer, Gate, Ledger, Script, named_script
from faultserver.scripts import mixed, outage, refuse_rate

CHAT = "/v1/chat/completions"
LONG_INPUT = b'{"model": "m", "input": "%b"}' % (b"x" * 40_000)


def chat_body(text: str = "hello", **more: object) -> bytes:
    return json.dumps(
        {"model": "gpt-6-luna", "messages": [{"role": "user", "content": text}], **more}
    ).encode()


def message(body: bytes, path: str = CHAT, extra: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


def dial(server: FaultServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=5)


def read_all(sock: socket.socket) -> bytes:
    """Everything until the server ends the connection; a reset raises ConnectionResetError."""
    pieces = []
    while piece := sock.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def ask(
    server: FaultServer, body: bytes, path: str = CHAT, method: str = "POST"
) -> tuple[int, dict[str, str], bytes]:
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        client.request(method, path, body, {"Content-Type": "application/json"})
        got = client.getresponse()
        return got.status, {name.lower(): value for name, value in got.getheaders()}, got.read()
    finally:
        client.close()


def always(fate: Behaviour) -> Script:
    return lambda arrival: fate


def arrival(n: int = 1, *, nth: int = 1, when: float = 0.0, body: bytes = b"{}", path: str = CHAT) -> Arrival:
    sha = hashlib.sha256(body).hexdigest()
    return Arrival(n, nth, "POST", path, time=when, sha=sha, body=body, marker=None, headers={})


# The answers of an API in perfect health


def test_the_sdk_parses_every_endpoint() -> None:
    import openai

    with FaultServer() as server, openai.OpenAI(base_url=server.url, api_key="sk-x", max_retries=0) as client:
        text = "classify row=t-17 now"
        chat = client.chat.completions.create(
            model="gpt-6-luna", messages=[{"role": "user", "content": text}], service_tier="flex"
        )
        sha8 = hashlib.sha256(text.encode()).hexdigest()[:8]
        assert chat.choices[0].message.content == f"answer to {sha8} row=t-17"
        assert (chat.choices[0].finish_reason, chat.service_tier) == ("stop", "flex")
        assert chat.usage is not None
        assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens
        assert chat._request_id is not None

        response = client.responses.create(model="gpt-6-luna", input=text, store=False)
        assert response.output_text == chat.choices[0].message.content
        assert (response.status, response.service_tier) == ("completed", "default")
        assert response.usage is not None
        assert response.usage.input_tokens == chat.usage.prompt_tokens
        assert response.usage.input_tokens_details.cache_write_tokens == 0

        vectors = client.embeddings.create(model="text-embedding-3-small", input=["a", "b", "a"])
        assert [one.index for one in vectors.data] == [0, 1, 2]
        assert vectors.data[0].embedding == vectors.data[2].embedding != vectors.data[1].embedding
        assert len(vectors.data[0].embedding) == 1536

        assert "gpt-6-luna" in [model.id for model in client.models.list()]
        assert server.ledger.calls() == sum(server.ledger.executed.values()) == 3
        assert server.ledger.calls("/v1/models") == 1
        total = chat.usage.total_tokens + response.usage.total_tokens + vectors.usage.total_tokens
        assert server.ledger.usage["total"] == total


def test_equal_bodies_get_equal_content_and_unequal_ids() -> None:
    with FaultServer() as server:
        one, two = (json.loads(ask(server, chat_body())[2]) for _ in range(2))
        assert one["choices"] == two["choices"]
        assert one["id"] != two["id"]
        assert one["system_fingerprint"] is None
        assert [seen.nth for seen in server.ledger.arrivals] == [1, 2]


def test_embeddings_agree_between_float_and_base64_and_have_length_one() -> None:
    with FaultServer() as server:
        asked = {"model": "text-embedding-3-large", "input": ["x", "y"], "dimensions": 100}
        floats = json.loads(ask(server, json.dumps(asked).encode(), "/v1/embeddings")[2])
        asked["encoding_format"] = "base64"
        packed = json.loads(ask(server, json.dumps(asked).encode(), "/v1/embeddings")[2])
    for one, two in zip(floats["data"], packed["data"], strict=True):
        assert one["embedding"] == list(struct.unpack("<100f", base64.b64decode(two["embedding"])))
        assert math.hypot(*one["embedding"]) == pytest.approx(1, abs=1e-6)


def test_a_schema_is_satisfied_and_a_forced_function_called() -> None:
    schema = {
        "type": "object",
        "properties": {
            "label": {"enum": ["red", "blue"]},
            "score": {"type": "number", "minimum": 2},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "minItems": 2},
            "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        },
        "$defs": {"tag": {"type": ["null", "string"], "maxLength": 3}},
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    tools = [{"type": "function", "name": "mark", "parameters": schema}]
    forced = {"tools": tools, "tool_choice": {"type": "function", "name": "mark"}}
    asked = {"model": "m", "input": [{"role": "user", "content": "hello"}], **forced}
    with FaultServer() as server:
        chat = json.loads(ask(server, chat_body(response_format=wanted))[2])
        response = json.loads(ask(server, json.dumps(asked).encode(), "/v1/responses")[2])
    value = json.loads(chat["choices"][0]["message"]["content"])
    assert value["label"] in {"red", "blue"}
    assert (value["score"], value["tags"]) == (2, ["ans", "ans"])
    assert set(value["next"]) == set(schema["properties"])
    assert response["output"][0]["name"] == "mark"
    assert json.loads(response["output"][0]["arguments"]) == value


def test_a_short_limit_cuts_the_answer_and_says_so() -> None:
    with FaultServer() as server:
        chat = json.loads(ask(server, chat_body(max_completion_tokens=2, n=3))[2])
        asked = json.dumps({"model": "m", "input": "hello", "max_output_tokens": 2}).encode()
        response = json.loads(ask(server, asked, "/v1/responses")[2])
    assert [one["finish_reason"] for one in chat["choices"]] == ["length"] * 3
    assert chat["usage"]["completion_tokens"] == 6
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["content"][0]["text"] == "answer t"


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        (CHAT, b"not json", 400, None),
        (CHAT, b'{"messages": []}', 400, "missing_required_parameter"),
        (CHAT, b'{"model": "m", "messages": []}', 400, "missing_required_parameter"),
        ("/v1/responses", b'{"model": "m"}', 400, "missing_required_parameter"),
        ("/v1/embeddings", b'{"model": "m", "input": ["a", ""]}', 400, "invalid_value"),
        (
            "/v1/embeddings",
            LONG_INPUT,
            400,
            "context_length_exceeded",
        ),
        ("/v1/nothing", b"{}", 404, None),
        ("/v1/models", b"{}", 405, None),
    ],
)
def test_what_is_no_request_is_refused_and_not_charged(
    path: str, body: bytes, status: int, code: str | None
) -> None:
    with FaultServer() as server:
        got, headers, answer = ask(server, body, path)
        assert not server.ledger.executed
        assert server.ledger.refused.total() == server.ledger.calls()
    error = json.loads(answer)["error"]
    assert (got, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert headers["content-type"] == "application/json"


# Requests as they come over the wire


def test_one_connection_takes_pipelined_fragmented_and_chunked_requests() -> None:
    first, second = chat_body("row=1"), chat_body("row=2")
    chunks = b"".join(b"%x;x=y\r\n%b\r\n" % (len(part), part) for part in (second[:5], second[5:]))
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    last = message(chat_body("row=3"), extra="Connection: close\r\nX-One: 1\r\nX-One: 2\r\n")
    stream = message(first) + head + chunks + b"0\r\nTrailer: x\r\n\r\n" + last
    with FaultServer() as server, dial(server) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(stream), 7):
            sock.sendall(stream[start : start + 7])
        assert read_all(sock).count(b"HTTP/1.1 200 OK\r\n") == 3
        seen = server.ledger.arrivals
        assert [one.marker for one in seen] == ["1", "2", "3"]
        assert [one.body for one in seen[:2]] == [first, second]
        assert seen[2].headers["x-one"] == "1, 2"
        assert seen[1].sha == hashlib.sha256(second).hexdigest()


def test_a_large_body_is_waited_for_once_it_may_come() -> None:
    body = chat_body("x" * 3_000_000)
    request = message(body, extra="Expect: 100-continue\r\nConnection: close\r\n")
    with FaultServer() as server, dial(server) as sock:
        sock.sendall(request[: -len(body)])
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert read_all(sock).startswith(b"HTTP/1.1 200")
        assert server.ledger.arrivals[0].body == body


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"POST / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
    ],
)
def test_what_is_not_http_is_answered_400_and_closed(sent: bytes) -> None:
    with FaultServer() as server, dial(server) as sock:
        sock.sendall(sent)
        assert read_all(sock).startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert (server.ledger.broken, server.ledger.arrivals) == (1, [])


def test_a_client_that_leaves_in_the_middle_is_no_arrival() -> None:
    with FaultServer() as server:
        with dial(server) as sock:
            sock.sendall(message(chat_body())[:-3])
        server.ledger.wait_until(lambda ledger: ledger.broken == 1)
        assert server.ledger.calls() == 0


# Behaviours


def exchange(fate: Behaviour) -> tuple[bytes, FaultServer]:
    with FaultServer(always(fate)) as server, dial(server) as sock:
        sock.sendall(message(chat_body(), extra="Connection: close\r\n"))
        return read_all(sock), server


def test_an_answer_is_cut_at_every_byte() -> None:
    body = b'{"answer": "forty-two", "rest": "' + b"x" * 60 + b'"}'
    whole, _ = exchange(faultserver.answer(200, [("X-A", "b")], body))
    assert b"\r\nX-A: b\r\n" in whole
    assert whole.endswith(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    length = len(exchange(faultserver.answer(200, body=body))[0])
    with FaultServer(lambda seen: faultserver.cut_message(seen.n - 1, body=body)) as server:
        for kept in range(length + 1):
            with dial(server) as sock:
                sock.sendall(message(chat_body()))
                assert len(read_all(sock)) == kept
        assert server.ledger.executed.total() == server.ledger.calls()


def test_a_body_is_cut_from_either_end() -> None:
    early, _ = exchange(faultserver.cut(5, body=b"0123456789"))
    late, server = exchange(faultserver.cut(-1, body=b"0123456789"))
    assert early.endswith(b"Content-Length: 10\r\n\r\n01234")
    assert late.endswith(b"Content-Length: 10\r\n\r\n012345678")
    assert server.ledger.executed.total() == 1


def test_the_length_lies_both_ways() -> None:
    more, _ = exchange(faultserver.wrong_length(3, body=b"abc"))
    less, _ = exchange(faultserver.wrong_length(-2, body=b"abc"))
    assert more.endswith(b"Content-Length: 6\r\n\r\nabc")
    assert less.endswith(b"Content-Length: 1\r\n\r\nabc")


def test_chunks_are_whole_or_cut() -> None:
    whole, _ = exchange(faultserver.chunked(4, body=b"abcdefg"))
    short, server = exchange(faultserver.chunked(4, cut_at=-5, body=b"abcdefg"))
    assert whole.endswith(b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n3\r\nefg\r\n0\r\n\r\n")
    assert short.endswith(b"\r\n\r\n4\r\nabcd\r\n3\r\nefg\r\n")
    assert server.ledger.executed.total() == 1


@pytest.mark.parametrize(
    ("fate", "executed"),
    [
        (faultserver.reset(), 0),
        (faultserver.lost(), 1),
        (faultserver.cut(3, with_reset=True), 1),
    ],
)
def test_a_reset_is_a_reset(fate: Behaviour, executed: int) -> None:
    with FaultServer(always(fate)) as server, dial(server) as sock:
        sock.sendall(message(chat_body()))
        with pytest.raises(ConnectionResetError):
            read_all(sock)
        server.ledger.wait_until(lambda ledger: ledger.answered == 1)
        assert server.ledger.executed.total() == executed
        assert server.ledger.refused.total() == 1 - executed
        assert server.ledger.behaviours == {fate.name: 1}


def test_the_door_acts_before_a_byte_is_read() -> None:
    doors = {1: faultserver.reset(), 2: faultserver.raw(b"HTTP/1.1 4", executed=False)}
    with FaultServer(door=doors.get) as server:
        # The reset may be quicker than connect() is to return.
        with pytest.raises(ConnectionResetError), dial(server) as sock:
            read_all(sock)
        with dial(server) as sock:
            assert read_all(sock) == b"HTTP/1.1 4"
        assert server.ledger.calls() == 0
        assert ask(server, chat_body())[0] == 200


def test_a_drip_is_the_same_answer_in_pieces() -> None:
    body = b'{"slow": true}'
    dripped, _ = exchange(faultserver.drip(50, 0.0, body=body))
    assert dripped.endswith(b"Content-Length: 14\r\n\r\n" + body)


def test_bodies_that_are_none() -> None:
    with FaultServer(always(faultserver.gzip_garbage())) as server:
        status, headers, body = ask(server, chat_body())
        assert (status, headers["content-encoding"]) == (200, "gzip")
        with pytest.raises(zlib.error):
            gzip.decompress(body)
        server.script = always(faultserver.no_content())
        status, headers, body = ask(server, chat_body())
        assert (status, body, "content-length" in headers) == (204, b"", False)
        server.script = always(faultserver.redirect("http://127.0.0.1:9/v1"))
        status, headers, _ = ask(server, chat_body())
        assert (status, headers["location"]) == (302, "http://127.0.0.1:9/v1")
        server.script = always(faultserver.error_in_200())
        status, _, body = ask(server, chat_body())
        assert (status, list(json.loads(body))) == (200, ["error"])
        assert server.ledger.executed.total() == 2


def test_a_flood_is_as_long_as_announced() -> None:
    with FaultServer(always(faultserver.flood(1_000_000))) as server:
        _, headers, body = ask(server, chat_body())
    assert len(body) == int(headers["content-length"]) > 1_000_000
    assert json.loads(body)["object"] == "chat.completion"


def test_a_kept_connection_closes_unannounced_after_its_answer() -> None:
    with FaultServer(always(faultserver.closing())) as server, dial(server) as sock:
        sock.sendall(message(chat_body()))
        got = read_all(sock)
    assert got.startswith(b"HTTP/1.1 200")
    assert b"connection" not in got.lower()


def test_silence_ends_with_the_client_or_the_server() -> None:
    with FaultServer(always(faultserver.silence(first=b"HTTP/1.1 200 OK\r\n"))) as server:
        with dial(server) as sock:
            sock.sendall(message(chat_body()))
            assert sock.recv(100) == b"HTTP/1.1 200 OK\r\n"
            assert (server.ledger.in_flight, server.ledger.executed.total()) == (1, 1)
        server.ledger.wait_until(lambda ledger: ledger.in_flight == 0)
        left = dial(server)
        left.sendall(message(chat_body()))
        server.ledger.wait_until(lambda ledger: ledger.in_flight == 1)
    with left:
        assert read_all(left) == b"HTTP/1.1 200 OK\r\n"
    assert server.ledger.in_flight == 0


def test_a_long_latency_does_not_hold_up_the_end() -> None:
    start = time.monotonic()
    with FaultServer(always(faultserver.ok().after(600))) as server, dial(server) as sock:
        sock.sendall(message(chat_body()))
        server.ledger.wait_until(lambda ledger: ledger.in_flight == 1)
    assert time.monotonic() - start < 5


def test_a_gate_holds_answers_until_it_is_opened() -> None:
    gate = Gate()
    with FaultServer(always(faultserver.ok().held(gate))) as server:
        got: list[int] = []
        threads = [
            threading.Thread(target=lambda n=n: got.append(ask(server, chat_body(f"row={n}"))[0]))
            for n in range(3)
        ]
        for thread in threads:
            thread.start()
        server.ledger.wait_until(lambda ledger: ledger.in_flight == 3)
        assert got == []
        gate.open()
        for thread in threads:
            thread.join()
        assert got == [200] * 3
        assert server.ledger.max_in_flight == 3
        assert ask(server, chat_body())[0] == 200


def test_a_script_that_raises_is_heard_of() -> None:
    def broken(arrival: Arrival) -> Behaviour:
        raise ZeroDivisionError(arrival.path)

    server = FaultServer(broken).__enter__()
    with dial(server) as sock:
        sock.sendall(message(chat_body()))
        assert read_all(sock) == b""
    with pytest.raises(ZeroDivisionError, match=CHAT):
        server.__exit__(None, None, None)
    assert server.ledger.behaviours == {"script-failed": 1}


def test_a_refusal_cannot_send_the_apis_own_answer() -> None:
    with pytest.raises(ValueError, match="not executed"):
        Behaviour(name="wrong", executed=False)


def test_a_port_in_use_is_an_error_at_once() -> None:
    with FaultServer() as server, pytest.raises(OSError, match=str(server.port)):
        FaultServer(port=server.port).__enter__()


# Scripts


def test_mixed_fails_each_kind_once_in_a_hundred_and_nothing_twice() -> None:
    script = mixed(3)
    names = Counter(script(arrival(n)).name for n in range(1, 201))
    assert names.pop("ok") == 180
    assert set(names.values()) == {2}
    assert len(names) == len(faultserver.FIRST_FAULTS)
    assert {script(arrival(n, nth=2)).name for n in range(300)} == {"ok"}
    deals = (mixed(3), mixed(3), mixed(4))
    decks = [[deal(arrival(n)).name for n in range(100)] for deal in deals]
    assert decks[0] == decks[1] != decks[2]


def test_mixed_serves_every_body_by_its_second_arrival() -> None:
    with FaultServer("mixed", seed=1) as server:
        for n in range(100):
            body = chat_body(f"row={n}")
            for _ in range(2):
                try:
                    status, _, answer = ask(server, body)
                    if status == 200 and json.loads(answer).get("choices"):
                        break
                except (OSError, http.client.HTTPException, ValueError):
                    continue
            else:
                pytest.fail(f"row {n} was not answered")
        executed = server.ledger.executed
        assert len(executed) == 100
        assert Counter(executed.values()) == {1: 98, 2: 2}
        assert server.ledger.calls() == 110


def test_an_outage_begins_at_its_call_and_ends_by_the_clock() -> None:
    script = outage(3, 10)
    times = [0, 5, 6, 15.9, 16, 17]
    fates = [script(arrival(n, when=when)) for n, when in enumerate(times, 1)]
    assert [fate.status for fate in fates] == [200, 200, 503, 503, 200, 200]
    assert fates[2].body is not None
    assert fates[2].body.startswith(b"<!DOCTYPE html>")


def test_the_rate_is_refused_in_slices_of_a_second() -> None:
    script = refuse_rate(90)
    fates = [script(arrival(n, when=100 + n / 10)) for n in range(40)]
    passed = [n for n, fate in enumerate(fates) if fate.executed]
    assert passed == [0, 10, 11, 20, 30, 31]
    headers = dict(fates[1].headers)
    assert headers["Retry-After"] == "1"
    assert headers["x-ratelimit-limit-requests"] == "90"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert dict(fates[0].headers)["x-ratelimit-remaining-requests"] == "89"


@pytest.mark.parametrize(
    ("name", "body", "n", "status", "code"),
    [
        ("ok", b"{}", 1, 200, None),
        ("always:429", b"{}", 1, 429, "rate_limit_exceeded"),
        ("always:413", b"{}", 1, 413, None),
        ("money:credit_balance_exhausted:2", b"{}", 3, 429, "credit_balance_exhausted"),
        ("money:credit_balance_exhausted:2", b"{}", 2, 200, None),
        ("auth:0", b"{}", 1, 401, "invalid_api_key"),
        ("model-gone:old", b'{"model": "old"}', 1, 404, "model_not_found"),
        ("model-gone:old", b'{"model": "new"}', 1, 200, None),
        ("poison:row=7", b'"row=7"', 9, 500, "server_error"),
        ("poison:row=7", b'"row=6"', 9, 200, None),
        ("context:long", b'"long"', 1, 400, "context_length_exceeded"),
        ("first:overloaded", b"{}", 1, 503, "server_is_overloaded"),
        ("poison:a+context:b", b'"b"', 1, 400, "context_length_exceeded"),
    ],
)
def test_named_scripts(name: str, body: bytes, n: int, status: int, code: str | None) -> None:
    fate = named_script(name)(arrival(n, body=body))
    assert fate.status == status
    assert fate.executed == (status == 200)
    if status != 200:
        assert fate.body is not None
        assert json.loads(fate.body)["error"]["code"] == code


@pytest.mark.parametrize("name", ["nothing", "poison:", "auth:x", "first:nothing", "outage:1", "always:7"])
def test_a_script_that_is_not_there_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        named_script(name)


def test_a_date_for_retry_after_lies_ahead() -> None:
    headers = dict(faultserver.rate_limited_until(1.0, now=1_795_000_000.2).headers)
    assert headers["Retry-After"] == "Wed, 18 Nov 2026 11:06:42 GMT"


# The ledger, and the process


def test_waiting_for_what_never_comes_is_an_error() -> None:
    with pytest.raises(TimeoutError, match="0 arrived"):
        Ledger().wait_until(lambda ledger: ledger.calls() > 0, timeout=0.01)


def test_a_process_judges_from_outside(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    tests = Path(faultserver.__file__).parent.parent
    command = [sys.executable, "-m", "faultserver", "--script", "first:lost", "--seed", "2", "--fsync"]
    environment = {**os.environ, "PYTHONPATH": str(tests)}
    with subprocess.Popen(
        [*command, "--ledger", str(file)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2].removesuffix("/v1\n"))
        body = chat_body("row=9")
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
            sock.sendall(message(body))
            with pytest.raises(ConnectionResetError):
                read_all(sock)
        assert faultserver.executions(file) == {hashlib.sha256(body).hexdigest(): 1}
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
            sock.sendall(message(body, extra="Connection: close\r\n"))
            assert b"row=9" in read_all(sock)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    events = faultserver.read_ledger(file)
    assert [event["event"] for event in events] == [
        "started",
        *["arrived", "executed", "answered"] * 2,
    ]
    assert [event["nth"] for event in events if event["event"] == "arrived"] == [1, 2]
    assert [event["behaviour"] for event in events if event["event"] == "answered"] == ["lost", "ok"]
    assert {event["marker"] for event in events if event["event"] == "executed"} == {"9"}


def test_a_line_still_being_written_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    file.write_bytes(b'{"event":"executed","sha":"a"}\n{"event":"exec')
    assert faultserver.executions(file) == {"a": 1}


def test_the_connection_is_kept_only_where_the_behaviour_keeps_it() -> None:
    assert faultserver.ok().end is End.KEEP
    with FaultServer() as server:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        ports = set()
        for _ in range(3):
            client.request("POST", CHAT, chat_body())
            assert client.getresponse().read()
            assert client.sock is not None
            ports.add(client.sock.getsockname())
        client.close()
        assert len(ports) == 1
