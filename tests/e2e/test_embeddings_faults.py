"""Packs that a server cannot take, in each way in which it may say so, or not say it: no run goes on asking in vain."""

from __future__ import annotations

import base64
import gzip
import json
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from e2e.conftest import Cli, read_jsonl
from e2e.test_embeddings import DIMENSIONS, OK, asked, inputs_of, is_vector_of, summary_of
from faultserver import Arrival, Behaviour, FaultServer, answer, error, html
from faultserver.embeddings import embeddings
from faultserver.prompt import tokens

JobFile = Callable[..., Path]
TEXTS = [f"text {n}" for n in range(3_000)]


@pytest.fixture
def embed(job_file: JobFile) -> Callable[..., Path]:
    """`embed(texts, **fields)` writes a job that embeds these texts in eight dimensions."""

    def write(texts: Iterable[object], **fields: object) -> Path:
        rows = [{"id": n, "text": text} for n, text in enumerate(texts)]
        job = {
            "endpoint": "embeddings",
            "model": "text-embedding-3-small",
            "keep": ["id"],
            "request": {"input": "{{ text }}", "dimensions": DIMENSIONS},
        }
        return job_file(rows, **job | fields)

    return write


def all_are_there(output: Path, texts: Sequence[Any]) -> bool:
    rows = read_jsonl(output)
    return len(rows) == len(texts) and all(
        is_vector_of(row, text) for row, text in zip(rows, texts, strict=True)
    )


def larger_than(texts: int, fate: Behaviour) -> Callable[[Arrival], Behaviour]:
    """A server with which a call of more than so many texts meets this fate, and every other one is answered."""
    return lambda arrival: fate if arrival.paid and len(inputs_of(arrival)) > texts else OK


SPEED = error(429, "rate_limit_exceeded", "Rate limit reached.")
BUSY = error(503, None, "overloaded")


@pytest.mark.parametrize("fate", [SPEED, BUSY, html(504), error(500, None)], ids=lambda one: one.name)
def test_a_pack_that_is_always_refused_gets_smaller(
    cli: Cli, embed: Callable[..., Path], server: FaultServer, tmp_path: Path, fate: Behaviour
) -> None:
    server.script = larger_than(200, fate)
    ended = cli("run", embed(TEXTS, retry={"attempts": 6, "max_wait": "1s"}))
    assert ended.code == 0, ended.err
    assert set(asked(server).values()) == {1}
    assert all_are_there(tmp_path / "out.jsonl", TEXTS)
    assert server.ledger.calls() < 250


def test_a_server_that_answers_a_pack_with_one_vector_is_asked_text_by_text(
    cli: Cli, embed: Callable[..., Path], server: FaultServer, tmp_path: Path
) -> None:
    texts = [f"{n} " + "word " * 6_000 for n in range(200)]

    def script(arrival: Arrival) -> Behaviour:
        if not arrival.paid or len(inputs_of(arrival)) == 1:
            return OK
        return answer(body=embeddings({**arrival.parsed, "input": inputs_of(arrival)[0]}).body)

    server.script = script
    ended = cli("run", embed(texts, retry={"attempts": 6, "max_wait": "1s"}))
    assert ended.code == 0, ended.err
    assert all_are_there(tmp_path / "out.jsonl", texts)
    assert max(asked(server).values()) <= 6
    assert summary_of(tmp_path / "out.jsonl")["ambiguous"] == server.ledger.calls() - len(texts)


@pytest.mark.parametrize("alone", [True, False])
def test_half_a_surrogate_pair_is_one_rows_own_trouble(
    cli: Cli, embed: Callable[..., Path], server: FaultServer, tmp_path: Path, alone: bool
) -> None:
    texts = ["half \ud800 a pair", *TEXTS[: 0 if alone else 99]]
    job = embed([])
    rows = "".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts))
    (tmp_path / "rows.jsonl").write_text(rows)
    server.script = lambda arrival: (
        error(400, "invalid_value", "no text") if b"\\ud800" in arrival.body else OK
    )
    ended = cli("run", job)
    assert ended.code == 3, ended.err
    found = read_jsonl_leniently(tmp_path / "out.jsonl")
    assert [row["id"] for row in found if row["result"] is None] == [0]


def read_jsonl_leniently(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def test_a_budget_that_does_not_hold_a_refused_pack_twice_holds_its_halves(
    cli: Cli, embed: Callable[..., Path], server: FaultServer, tmp_path: Path
) -> None:
    """The worst case of a text is 100 bytes or so, a millionth of a dollar each: the whole is half of the budget."""
    prices = tmp_path / "prices.json"
    one = {"as_of": "2026-11-01", "models": {"text-embedding-3-small": {"input": "1", "output": "0"}}}
    prices.write_text(json.dumps(one))
    texts = ["word " * 200 + str(n) for n in range(100)]
    server.script = larger_than(50, error(400, None, "batch size too large"))
    ended = cli("run", embed(texts), "--prices", prices, "--budget", "0.11")
    assert ended.code == 0, ended.err
    assert all_are_there(tmp_path / "out.jsonl", texts)


def test_what_an_answer_lacks_is_asked_again_and_nothing_else(
    cli: Cli, embed: Callable[..., Path], server: FaultServer, tmp_path: Path
) -> None:
    """Vectors that are no numbers, at two places of the first answer; the summary counts what was paid."""
    texts = TEXTS[:500]

    def script(arrival: Arrival) -> Behaviour:
        if not arrival.paid or arrival.n > 2 or len(inputs_of(arrival)) < 10:
            return OK
        body = json.loads(embeddings(arrival.parsed).body)
        body["data"][7]["embedding"] = base64.b64encode(struct.pack("<8f", *[float("nan")] * 8)).decode()
        body["data"][9]["embedding"] = None
        return answer(body=json.dumps(body).encode())

    server.script = script
    ended = cli("run", embed(texts))
    assert ended.code == 0, ended.err
    assert all_are_there(tmp_path / "out.jsonl", texts)
    assert {text for text, times in asked(server).items() if times > 1} == {"text 7", "text 9"}
    summary = summary_of(tmp_path / "out.jsonl")
    assert summary["tokens"]["input"] == server.ledger.usage["input"]


class Slices:
    """A server that takes so many tokens in each second and no call with more, and says nothing but 429."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._second, self._left = 0, most

    def __call__(self, arrival: Arrival) -> Behaviour:
        if not arrival.paid:
            return OK
        if int(arrival.time) != self._second:
            self._second, self._left = int(arrival.time), self.most
        asked_for = sum(map(tokens, inputs_of(arrival)))
        told = ("x-ratelimit-limit-tokens", str(60 * self.most))
        if asked_for > self._left:
            return error(429, None, "too many", headers=[told])
        self._left -= asked_for
        return OK.with_headers(told)


def test_packs_larger_than_a_slice_of_the_server_are_cut_to_it(
    cli: Cli, embed: Callable[..., Path], server: FaultServer, tmp_path: Path
) -> None:
    server.script = Slices(10_000)
    texts = ["word " * 200 + str(n) for n in range(500)]
    ended = cli("run", embed(texts, retry={"attempts": 6, "max_wait": "2s"}))
    assert ended.code == 0, ended.err
    assert set(asked(server).values()) == {1}
    # 125,000 tokens at 10,000 a second.
    assert ended.seconds < 40
    assert server.ledger.calls() < 120


@pytest.mark.parametrize("way", ["hold", "fail"])
def test_a_pack_of_unknown_fate_is_held_or_failed_whole_and_retried_by_hand(
    cli: Cli, embed: Callable[..., Path], server: FaultServer, tmp_path: Path, way: str
) -> None:
    texts = TEXTS[:100]
    server.script = lambda arrival: html(504, executed=True) if arrival.paid else OK
    ended = cli("run", embed(texts), "--on-ambiguous", way)
    assert ended.code == (4 if way == "hold" else 3), ended.err
    assert sum(asked(server).values()) == 100
    if way == "fail":
        assert summary_of(tmp_path / "out.jsonl")["rows"]["failed"] == 100
        assert summary_of(tmp_path / "out.jsonl")["ambiguous"] == 1
    server.script = lambda arrival: OK
    assert cli("retry", "last").code == 0
    assert all_are_there(tmp_path / "out.jsonl", texts)
    assert set(asked(server).values()) == {2}


def test_retry_asks_the_one_text_that_failed(
    cli: Cli, embed: Callable[..., Path], server: FaultServer, tmp_path: Path
) -> None:
    texts = [*TEXTS[:50], "", *TEXTS[50:99]]
    assert cli("run", embed(texts)).code == 3
    calls = server.ledger.calls()
    assert summary_of(tmp_path / "out.jsonl")["rows"]["failed"] == 1
    assert cli("retry", "last").code == 3
    assert server.ledger.calls() == calls + 1
    assert set(asked(server).values()) == {1}


@pytest.mark.parametrize("form", ["gzip", "numbers"])
def test_answers_in_another_form(
    cli: Cli, embed: Callable[..., Path], server: FaultServer, tmp_path: Path, form: str
) -> None:
    def script(arrival: Arrival) -> Behaviour:
        if not arrival.paid:
            return OK
        if form == "numbers":
            return answer(body=embeddings({**arrival.parsed, "encoding_format": "float"}).body)
        body = gzip.compress(embeddings(arrival.parsed).body)
        return answer(headers=[("Content-Encoding", "gzip")], body=body)

    server.script = script
    ended = cli("run", embed(TEXTS, limits={"concurrency": 1}), "--limit", 2_500)
    assert ended.code == 0, ended.err
    assert all_are_there(tmp_path / "out.jsonl", TEXTS[:2_500])
    assert asked(server) == Counter(TEXTS[:2_500])


def test_tokens_texts_and_odd_characters_each_find_their_vector(
    cli: Cli, embed: Callable[..., Path], server: FaultServer, tmp_path: Path
) -> None:
    given = [[1, 2, 3], "\u2028 \x00 \U0001f600", [4], "x" * 30_000, "\u00e4" * 1_000, [5, 6], "a"]
    ended = cli("run", embed(given, limits={"concurrency": 1}))
    assert ended.code == 0, ended.err
    assert server.ledger.calls() == 2
    assert all_are_there(tmp_path / "out.jsonl", given)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda data: data[:-1],
        lambda data: [*data, data[0]],
        lambda data: [*data[:-1], {**data[-1], "index": 0}],
        lambda data: [],
        lambda data: None,
    ],
    ids=["one too few", "one too many", "an index twice", "none", "no data"],
)
def test_a_wrong_number_of_vectors_is_no_answer_and_is_kept(
    cli: Cli, embed: Callable[..., Path], server: FaultServer, tmp_path: Path, wrong: Callable[[Any], Any]
) -> None:
    def script(arrival: Arrival) -> Behaviour:
        if not arrival.paid or any(
            "text 5" in inputs_of(one) for one in server.ledger.arrivals[:-1] if one.paid
        ):
            return OK
        body = json.loads(embeddings(arrival.parsed).body)
        return answer(body=json.dumps({**body, "data": wrong(body["data"])}).encode())

    server.script = script
    ended = cli("run", embed(TEXTS[:64]))
    assert ended.code == 0, ended.err
    assert all_are_there(tmp_path / "out.jsonl", TEXTS[:64])
    assert max(asked(server).values()) == 2
    summary = summary_of(tmp_path / "out.jsonl")
    assert summary["ambiguous"] == 1
    assert summary["requests"] == server.ledger.calls()
