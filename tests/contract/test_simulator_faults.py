"""Every fault of the simulator's script, as a bare HTTP client meets it."""

from __future__ import annotations

import email.utils
import gzip
import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from runner.simulator import Settings, Simulator
from runner.simulator.faults import ANSWER, ERROR, FAULTS, WIRE, Script

CHAT = {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "Where is my parcel? It is late."}]}
RESPONSE = {"model": "gpt-6-luna", "input": "Where is my parcel? It is late."}
VECTOR = {"model": "text-embedding-3-small", "input": "parcel"}
PATHS = {"chat": "/chat/completions", "responses": "/responses", "embeddings": "/embeddings"}
ERRORS = {
    "400": (400, "invalid_value"),
    "401": (401, "invalid_api_key"),
    "403": (403, "unsupported_country_region_territory"),
    "404": (404, "model_not_found"),
    "408": (408, "request_timeout"),
    "409": (409, "conflict"),
    "413": (413, "request_too_large"),
    "422": (422, "unprocessable_entity"),
    "429": (429, "rate_limit_exceeded"),
    "429-date": (429, "rate_limit_exceeded"),
    "slow_down": (429, "slow_down"),
    "resource_unavailable": (429, "resource_unavailable"),
    "money": (429, "insufficient_quota"),
    "insufficient_quota": (429, "insufficient_quota"),
    "credit_balance_exhausted": (429, "credit_balance_exhausted"),
    "organization_spend_limit_exceeded": (429, "organization_spend_limit_exceeded"),
    "project_spend_limit_exceeded": (429, "project_spend_limit_exceeded"),
    "organization_usage_limit_exceeded": (429, "organization_usage_limit_exceeded"),
    "billing_hard_limit_reached": (429, "billing_hard_limit_reached"),
    "500": (500, None),
    "503": (503, None),
    "overloaded": (503, "server_is_overloaded"),
    "504": (504, "gateway_timeout"),
    "529": (529, "overloaded"),
}
BROKEN: dict[str, type[Exception]] = {
    "reset": ConnectionResetError,
    "lost": ConnectionResetError,
    "truncated": http.client.IncompleteRead,
    "chunk-cut": http.client.IncompleteRead,
    "slow": TimeoutError,
    "hang": TimeoutError,
}
PAGES = {"502-html": 502, "503-html": 503, "524-html": 524, "html": 200}


def post(
    url: str, path: str, body: Any, *, timeout: float = 10
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout)
    try:
        connection.request("POST", "/v1" + path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def meet(name: str, endpoint: str = "chat") -> tuple[int, http.client.HTTPMessage, bytes]:
    """One call that meets the fault; the ledger must agree with the table about whether it was executed."""
    body = {"chat": CHAT, "responses": RESPONSE, "embeddings": VECTOR}[endpoint]
    with Simulator(Settings(faults=f"{name}=1")) as running:
        try:
            return post(running.url, PATHS[endpoint], body, timeout=0.5 if name in ("slow", "hang") else 10)
        finally:
            book = running.ledger()
            assert book["faults"] == {name: 1}
            assert book["executed"] == int(FAULTS[name].executed)
            assert book["arrived"] == 1


def test_every_fault_is_tried_here() -> None:
    answers = {name for name, fault in FAULTS.items() if fault.form == ANSWER}
    assert {name for name, fault in FAULTS.items() if fault.form == ERROR} == ERRORS.keys()
    odd = {"empty", "204", "wrong-type", "gzip-garbage", "redirect"}
    assert {
        name for name, fault in FAULTS.items() if fault.form == WIRE
    } == BROKEN.keys() | PAGES.keys() | odd
    assert answers == {
        "no-choices", "null-choices", "no-usage", "bad-usage", "length", "content_filter", "refusal",
        "incomplete", "failed-200", "error-200",
    }  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors_have_their_status_and_code(name: str) -> None:
    status, headers, body = meet(name)
    error = json.loads(body)["error"]
    assert (status, error["code"]) == ERRORS[name]
    assert error["message"]
    assert error["type"]
    assert headers["x-request-id"].startswith("req_")
    if name == "429":
        assert (headers["retry-after"], headers["retry-after-ms"]) == ("1", "100")
    if name == "429-date":
        assert email.utils.parsedate_to_datetime(headers["retry-after"]).utcoffset() is not None
    if ERRORS[name][1] in ("insufficient_quota", "project_spend_limit_exceeded"):
        assert error["type"] == "insufficient_quota"
        assert headers["retry-after"] is None


@pytest.mark.parametrize("name", BROKEN)
def test_broken_connections_break(name: str) -> None:
    with pytest.raises(BROKEN[name]):
        meet(name)


@pytest.mark.parametrize("name", PAGES)
def test_gateways_send_pages(name: str) -> None:
    status, headers, body = meet(name)
    assert status == PAGES[name]
    assert headers.get_content_type() == "text/html"
    assert body.startswith(b"<!DOCTYPE html>")


def test_odd_answers_on_the_wire() -> None:
    assert meet("empty")[::2] == (200, b"")
    assert meet("204")[::2] == (204, b"")
    status, headers, _ = meet("redirect")
    assert (status, headers["location"]) == (302, "/sim/loop")
    status, headers, body = meet("wrong-type")
    assert (status, headers.get_content_type()) == (200, "text/html")
    assert json.loads(body)["choices"]
    status, headers, body = meet("gzip-garbage")
    assert headers["content-encoding"] == "gzip"
    with pytest.raises(gzip.BadGzipFile):
        gzip.decompress(body)


def test_odd_chat_answers() -> None:
    def choice(name: str) -> tuple[str, Any, Any]:
        answer = json.loads(meet(name)[2])["choices"][0]
        return answer["finish_reason"], answer["message"]["content"], answer["message"]["refusal"]

    reason, content, refusal = choice("length")
    assert reason == "length"
    assert content.startswith("[simulated]")
    assert refusal is None
    assert choice("content_filter") == ("content_filter", None, None)
    assert choice("incomplete") == ("length", "", None)
    reason, content, refusal = choice("refusal")
    assert (reason, content) == ("stop", None)
    assert refusal.startswith("[simulated]")
    assert json.loads(meet("no-choices")[2])["choices"] == []
    assert json.loads(meet("null-choices")[2])["choices"] is None
    assert "usage" not in json.loads(meet("no-usage")[2])
    assert json.loads(meet("bad-usage")[2])["usage"]["total_tokens"] < 0
    assert meet("error-200")[0] == 200
    assert json.loads(meet("error-200")[2])["error"]["type"] == "server_error"


def test_odd_responses_and_embeddings() -> None:
    def response(name: str) -> Any:
        return json.loads(meet(name, "responses")[2])

    assert response("no-choices")["output"] == []
    assert response("null-choices")["output"] is None
    assert response("failed-200")["status"] == "failed"
    assert response("failed-200")["error"]["code"] == "server_error"
    cut = response("length")
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert cut["output"][0]["content"][0]["text"].startswith("[simulated]")
    assert response("incomplete")["output"] == []
    assert response("content_filter")["incomplete_details"] == {"reason": "content_filter"}
    assert response("refusal")["output"][0]["content"][0]["type"] == "refusal"
    assert json.loads(meet("no-choices", "embeddings")[2])["data"] == []
    assert json.loads(meet("bad-usage", "embeddings")[2])["usage"]["prompt_tokens"] < 0
    assert json.loads(meet("length", "embeddings")[2])["error"]


def test_faults_meet_their_share_of_calls_and_always_the_same_ones() -> None:
    script = Script("429=0.2,500=0.1", seed=3)
    bodies = [str(number).encode() for number in range(2000)]
    met = [script.choose(body, 1) for body in bodies]
    names = [fault.name if fault else "" for fault in met]
    assert 340 < names.count("429") < 460
    assert 150 < names.count("500") < 250
    assert met == [Script("429=0.2,500=0.1", seed=3).choose(body, 1) for body in bodies]
    assert met != [Script("429=0.2,500=0.1", seed=4).choose(body, 1) for body in bodies]
    assert met != [script.choose(body, 2) for body in bodies]


def test_first_meets_only_the_first_coming_and_always_every_one() -> None:
    bodies = [str(number).encode() for number in range(300)]
    first = Script("lost=0.5@first", seed=0)
    assert 100 < sum(first.choose(body, 1) is not None for body in bodies) < 200
    assert not any(first.choose(body, coming) for body in bodies for coming in (2, 3))
    always = Script("400=0.5@always", seed=0)
    for body in bodies:
        assert len({always.choose(body, coming) for coming in range(1, 6)}) == 1
    assert 100 < sum(always.choose(body, 1) is not None for body in bodies) < 200


def test_asking_again_helps_after_a_first_fault() -> None:
    with Simulator(Settings(faults="500=1@first")) as running:
        assert [post(running.url, PATHS["chat"], CHAT)[0] for _ in range(3)] == [500, 200, 200]
        assert list(running.ledger()["executions"].values()) == [2]
