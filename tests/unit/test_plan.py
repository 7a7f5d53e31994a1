"""The plan: what a run would be, from the very rules that the run goes by, and nothing asked."""

import gzip
import io
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from scene import IDENTITY, PRICES, Scene, chat_body, request_line, request_lines

from runner.cli.plan import _lines
from runner.dispatch.shard import Group, Shards, Written
from runner.errors import BadInput
from runner.job import Job, Limits, parse_deadline, requests_job
from runner.model import RunState, TaskState
from runner.plan import plan
from runner.plan.calls import MOST_TEXTS
from runner.pricing import Prices
from runner.provider import AZURE, OPENAI, Provider
from runner.question import Questions, worst_case
from runner.shards import Bounds
from runner.store import batches, runs
from runner.store.database import Store
from runner.takeup import Source
from runner.tokens import Estimates

NOWHERE = Path("/nowhere/store.db")
NOW = datetime(2026, 11, 21, 20, 0, tzinfo=UTC)


def planned(
    lines: list[bytes],
    *,
    job: Job | None = None,
    prices: Prices = PRICES,
    store_path: Path = NOWHERE,
    skip_invalid: bool = False,
    budget: int | None = None,
    limit: int | None = None,
    provider: Provider = OPENAI,
) -> dict[str, Any]:
    return plan(
        job or requests_job("-"),
        Source(None, io.BytesIO(b"\n".join(lines) + b"\n"), limit=limit, max_line=10**6),
        IDENTITY,
        prices,
        store_path=store_path,
        skip_invalid=skip_invalid,
        budget=budget,
        now=NOW,
        provider=provider,
    )


def test_rows_tasks_and_calls_are_counted() -> None:
    found = planned([*request_lines(3), b"", request_line("x", "question 1")])

    assert found["rows"] == {"in": 4, "good": 4, "invalid": 0, "blank_lines": 1}
    assert found["tasks"] == {
        "to_ask": 4,
        "answered_before": 0,
        "in_batches": 0,
        "repeats": 0,
        "need_retry": 0,
    }
    assert found["calls"] == 4
    assert found["models"] == {"m": 4}


def test_a_limit_counts() -> None:
    assert planned(request_lines(9), limit=4)["rows"]["in"] == 4


def test_deduped_rows_are_asked_once() -> None:
    job = Job(
        name="j",
        path=None,
        endpoint="responses",
        model="m",
        input=None,
        output=None,
        request={"input": "{{ t }}"},
        dedupe=True,
    )
    found = planned([b'{"t": "a"}', b'{"t": "b"}', b'{"t": "a"}'], job=job)
    assert found["tasks"] == {
        "to_ask": 2,
        "answered_before": 0,
        "in_batches": 0,
        "repeats": 1,
        "need_retry": 0,
    }


def test_the_dearest_call_is_what_would_be_reserved() -> None:
    lines = [request_line("a", "x" * n, max_completion_tokens=m) for n, m in ((10, 500), (4000, 5), (50, 50))]
    asking = Questions(requests_job("-"))
    worst = []
    for line in lines:
        question = asking.ask(line)
        worst.append(
            worst_case(question, question.endpoint.demand(question.request, len(question.body)), PRICES)
        )

    found = planned([line.replace(b'"a"', b'"%d"' % n, 1) for n, line in enumerate(lines)], budget=10**13)
    assert found["budget"]["calls_in_flight"] == 10**13 // max(one for one in worst if one is not None)
    assert found["budget"]["usd"] == "10"


def test_the_most_is_more_than_the_least_and_both_are_exact() -> None:
    found = planned([request_line("a", max_completion_tokens=10)])
    tokens = found["tokens"]["input"]
    assert found["tokens"]["output_at_most"] == 10
    assert found["cost_usd"]["online"]["least"] == f"{tokens / 10**6:.6f}".rstrip("0")
    assert found["cost_usd"]["online"]["most"] == f"{(tokens + 20) / 10**6:.6f}".rstrip("0")


def test_unknown_prices_are_unknown_not_zero() -> None:
    found = planned(request_lines(2), prices=Prices.none())
    assert found["cost_usd"] == {way: {"least": None, "most": None} for way in ("online", "flex", "batch")}
    assert found["budget"] == {
        "usd": None,
        "spent_usd": None,
        "dearest_call_usd": None,
        "calls_in_flight": None,
        "if_shorter": None,
    }
    assert found["prices_as_of"] is None


def test_one_unknown_model_makes_the_sum_unknown() -> None:
    found = planned([request_line("a"), request_line("b", model="other")])
    assert found["models"] == {"m": 1, "other": 1}
    assert found["cost_usd"]["online"] == {"least": None, "most": None}


def test_a_way_without_a_price_is_unknown_where_another_is_known() -> None:
    found = planned(request_lines(1))
    assert found["cost_usd"]["online"]["least"] is not None
    assert found["cost_usd"]["batch"] == found["cost_usd"]["flex"] == {"least": None, "most": None}


def test_what_the_series_has_been_answered_is_not_asked_again(store: Store) -> None:
    scene = Scene(store, request_lines(3))
    scene.answer(chat_body())
    found = planned([*request_lines(3), request_line("new", "new")], store_path=store.path)

    assert found["tasks"] == {
        "to_ask": 3,
        "answered_before": 1,
        "in_batches": 0,
        "repeats": 0,
        "need_retry": 0,
    }


def test_a_plan_changes_nothing_in_the_users_store(store: Store) -> None:
    scene = Scene(store, request_lines(3))
    before = scene.dump()
    planned(request_lines(3), store_path=store.path)
    assert scene.dump() == before


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    planned(request_lines(1), store_path=tmp_path / "s.db")
    assert not list(tmp_path.iterdir())


def test_bad_lines_are_told_up_to_twenty() -> None:
    with pytest.raises(BadInput, match=r"30 of 31 lines .*--skip-invalid") as raised:
        planned([request_line("a"), *[b"bad"] * 30])
    assert [fault.line for fault in raised.value.faults] == list(range(2, 22))


def test_bad_lines_can_be_left_out() -> None:
    found = planned([request_line("a"), b"bad", request_line("a")], skip_invalid=True)
    assert found["rows"] == {"in": 3, "good": 1, "invalid": 2, "blank_lines": 0}
    assert found["calls"] == 1


@pytest.mark.parametrize("lines", [[], [b"", b"  "]])
def test_no_row_is_no_plan(lines: list[bytes]) -> None:
    with pytest.raises(BadInput, match="no row"):
        planned(lines)


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        (Limits(), None),
        (Limits(requests_per_minute=60), 10.0),
        (Limits(requests_per_minute=60, tokens_per_minute=1_000_000), 10.0),
    ],
)
def test_how_long_it_takes_at_the_jobs_own_limits(limits: Limits, seconds: float | None) -> None:
    job = Job(
        name="j",
        path=None,
        endpoint="responses",
        model="m",
        input=None,
        output=None,
        request={"input": "{{ t }}", "max_output_tokens": 10},
        limits=limits,
    )
    assert planned([b'{"t": "a%d"}' % n for n in range(10)], job=job)["seconds_at_limits"] == seconds


def test_an_input_that_ends_early_is_no_plan_for_a_run_would_refuse_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join(request_lines(50)))[:-12])
    with pytest.raises(BadInput, match="cannot be read to its end"):
        plan(
            requests_job(str(path)),
            Source(path, None, limit=None, max_line=10**6),
            IDENTITY,
            PRICES,
            store_path=NOWHERE,
            skip_invalid=True,
            budget=None,
            now=NOW,
        )


# What is answered, and what failed before


def finish(scene: Scene) -> None:
    with scene.store.write() as connection:
        runs.move(connection, scene.run.id, RunState.FINISHED)


def test_failed_rows_of_a_finished_run_need_retry_and_are_not_asked(store: Store) -> None:
    scene = Scene(store, request_lines(3))
    scene.answer(chat_body())
    scene.fail({"code": "400"})
    scene.fail({"code": "fate_unknown"}, to=TaskState.HELD)
    for start in range(2):
        found = planned(request_lines(3), store_path=store.path)
        assert found["tasks"] == {
            "to_ask": 0,
            "answered_before": 1,
            "in_batches": 0,
            "repeats": 0,
            "need_retry": 2,
        }
        assert found["run"] == scene.run.name
        assert found["calls"] == 0
        if start == 0:
            finish(scene)
    assert _lines(found)[-1] == (
        f"To ask    nothing; 1 answered before; 2 failed before, which `runner retry {scene.run.name}` asks again"
    )


def test_a_new_run_asks_again_what_failed_in_an_earlier_one(store: Store) -> None:
    scene = Scene(store, request_lines(2))
    scene.answer(chat_body())
    scene.fail({"code": "400"})
    finish(scene)
    found = planned([*request_lines(2), request_line("new", "new")], store_path=store.path)
    assert found["tasks"] == {
        "to_ask": 2,
        "answered_before": 1,
        "in_batches": 0,
        "repeats": 0,
        "need_retry": 0,
    }
    assert found["run"] is None


def test_an_answer_that_the_job_does_not_accept_needs_retry_too(store: Store) -> None:
    lines = [b'{"t": "a"}', b'{"t": "b"}', b'{"t": "c"}']
    job = text_job("chat", messages=[{"role": "user", "content": "{{ t }}"}])
    scene = Scene(store, lines, job=job)
    scene.answer(chat_body(), reason="length")
    scene.answer(chat_body(), fault="schema_mismatch")
    scene.answer(chat_body())
    found = planned(lines, job=job, store_path=store.path)
    assert found["tasks"] == {
        "to_ask": 0,
        "answered_before": 1,
        "in_batches": 0,
        "repeats": 0,
        "need_retry": 2,
    }


def test_what_the_run_has_spent_is_gone_from_its_budget(store: Store) -> None:
    scene = Scene(store, request_lines(2))
    scene.answer(chat_body(), cost=4 * 10**9)
    found = planned(request_lines(2), store_path=store.path, budget=10**10)
    assert found["budget"]["spent_usd"] == "0.004"
    dearest = Decimal(found["budget"]["dearest_call_usd"])
    assert found["budget"]["calls_in_flight"] == int(Decimal("0.006") / dearest)
    anew = planned([*request_lines(2), request_line("new")], store_path=store.path, budget=10**10)
    assert anew["budget"]["spent_usd"] == "0"


# Packed texts


def text_job(
    endpoint: str = "embeddings", *, dedupe: bool = False, limits: Limits | None = None, **request: Any
) -> Job:
    return Job(
        name="j",
        path=None,
        endpoint=endpoint,
        model="m",
        input=None,
        output=None,
        request=request or {"input": "{{ t }}"},
        dedupe=dedupe,
        limits=limits or Limits(),
    )


def texts(count: int, words: int = 1) -> list[bytes]:
    return [json.dumps({"t": f"{n} " + "word " * words, "d": n % 2}).encode() for n in range(count)]


def test_texts_to_embed_are_packed() -> None:
    found = planned(texts(2 * MOST_TEXTS + 1), job=text_job())
    assert found["tasks"]["to_ask"] == 2 * MOST_TEXTS + 1
    assert found["calls"] == 3


def test_a_pack_holds_no_more_tokens_than_a_call_may_carry() -> None:
    # "word " is five bytes, so that a text is estimated at 10,001 tokens: 29 of them fit.
    assert planned(texts(100, words=8_000), job=text_job())["calls"] == 4


def test_a_pack_holds_no_more_tokens_than_a_minute_lets_through() -> None:
    found = planned(texts(100, words=100), job=text_job(limits=Limits(tokens_per_minute=2_000)))
    assert 5 <= found["calls"] <= 7
    assert found["seconds_at_limits"] == pytest.approx(found["tokens"]["input"] / 2_000 * 60, abs=0.1)


def test_texts_that_are_asked_differently_are_not_packed_together() -> None:
    found = planned(texts(10), job=text_job(input="{{ t }}", dimensions="{{ 256 * (d + 1) }}"))
    assert found["calls"] == 2


def test_equal_texts_are_asked_once_only_where_the_job_says_so() -> None:
    lines = [b'{"t": "same"}'] * 3
    assert planned(lines, job=text_job())["tasks"]["to_ask"] == 3
    assert planned(lines, job=text_job(dedupe=True))["tasks"] == {
        "to_ask": 1,
        "answered_before": 0,
        "in_batches": 0,
        "repeats": 2,
        "need_retry": 0,
    }


def test_requests_for_embeddings_go_as_they_are() -> None:
    lines = [
        json.dumps(
            {
                "custom_id": f"{n}",
                "method": "POST",
                "url": "/v1/embeddings",
                "body": {"model": "m", "input": f"t{n}"},
            }
        ).encode()
        for n in range(5)
    ]
    assert planned(lines)["calls"] == 5


def test_the_dearest_pack_costs_as_much_as_its_texts_together() -> None:
    few, many = (planned(texts(count), job=text_job(), budget=10**12)["budget"] for count in (1, 10))
    one, ten = Decimal(few["dearest_call_usd"]), Decimal(many["dearest_call_usd"])
    assert ten == 10 * one
    assert many["calls_in_flight"] == int(1 / ten)


def test_texts_may_come_as_tokens_and_lists_of_texts_go_alone() -> None:
    lines = [json.dumps({"t": given}).encode() for given in ([1, 2], [3], ["a", "b"], "c", "d")]
    assert planned(lines, job=text_job())["calls"] == 3


# Batches


def batch_job() -> Job:
    return replace(requests_job("-"), mode="batch")


def test_a_plan_counts_batches_as_a_run_would_write_them(store: Store, tmp_path: Path) -> None:
    lines = [
        *request_lines(5),
        request_line("o", "other", model="n"),
        request_line("b", "behind", background=True),
    ]
    found = planned(lines, job=batch_job())
    scene = Scene(store, lines)
    scene.expand()
    shards = Shards(
        store,
        scene.run.id,
        Questions(scene.job),
        PRICES,
        urls=OPENAI.endpoints,
        folder=tmp_path / "spool",
        estimates=Estimates(),
    )
    written = [shards.write(Bounds(), of=Group("chat", model)) for model in ("m", "n")]
    assert all(isinstance(one, Written) for one in written)
    assert found["batches"]["count"] == 2
    assert found["batches"]["bytes"] == sum(one.size for one in written)  # type: ignore[union-attr]
    assert found["batches"]["tokens"] == {"m": written[0].tokens, "n": written[1].tokens}  # type: ignore[union-attr]
    assert [(one["code"], one["rows"]) for one in found["batches"]["unfit"]] == [
        ("background_unsupported", 1)
    ]
    assert "To ask    7 rows in 2 batches" in _lines(found)


@pytest.mark.parametrize(
    ("bound", "count"), [("most_requests", 4), ("most_bytes", 4), ("most_inputs", 4)], ids=str
)
def test_a_batch_ends_at_each_bound_of_its_provider(bound: str, count: int) -> None:
    size = planned(texts(1), job=replace(text_job(), mode="batch"))["batches"]["bytes"]
    small = replace(OPENAI, **{bound: 3 * size + 20 if bound == "most_bytes" else 3})
    found = planned(texts(10), job=replace(text_job(), mode="batch"), provider=small)
    assert found["batches"]["count"] == count
    assert found["calls"] == 10


def test_what_a_provider_takes_no_batches_of_is_told_before() -> None:
    found = planned(texts(3), job=replace(text_job(), mode="batch"), provider=AZURE)
    assert found["batches"]["count"] == 0
    assert found["batches"]["unfit"][0]["rows"] == 3
    assert "no batch takes 3 rows" in "\n".join(_lines(found))
    assert found["batches"]["expire"] is False


def test_the_limit_of_the_queue_that_an_earlier_run_met_cuts_batches(store: Store) -> None:
    lines = request_lines(20)
    tokens = planned(lines)["batches"]["tokens"]["m"]
    Scene(store, request_lines(1))
    with store.write() as connection:
        batches.learn_queue(connection, [(IDENTITY.account, "m", tokens // 2)])
    found = planned(lines, job=batch_job(), store_path=store.path)
    assert found["batches"]["queue_takes"] == {"m": tokens // 2}
    assert found["batches"]["count"] == 3
    assert f"takes {tokens // 2:,} of m at a time" in "\n".join(_lines(found))


def test_a_row_that_is_larger_than_the_queue_goes_alone(store: Store) -> None:
    with store.write() as connection:
        batches.learn_queue(connection, [(IDENTITY.account, "m", 40)])
    lines = [*request_lines(2), request_line("long", "word " * 100), request_line("last")]
    found = planned(lines, job=batch_job(), store_path=store.path)
    assert sum(found["batches"]["tokens"].values()) > 100
    assert found["batches"]["count"] >= 2
    assert found["batches"]["unfit"] == []


def test_what_is_out_in_a_batch_is_waited_for_and_not_asked(store: Store) -> None:
    scene = Scene(store, request_lines(3))
    scene.expand()
    scene.plan(*[task for (task,) in scene.query("SELECT id FROM task LIMIT 2")])
    found = planned(request_lines(3), job=batch_job(), store_path=store.path)
    assert (found["tasks"]["to_ask"], found["tasks"]["in_batches"]) == (1, 2)
    assert "To ask    1 row in 1 batch; 2 out in batches of earlier starts" in _lines(found)


def test_a_budget_in_batches_counts_at_their_price() -> None:
    prices = Prices.parse(
        b'{"as_of": "2026-11-01", "models": {"m": {"input": "1", "output": "2", "max_output": 1000,'
        b' "batch": {"input": "0.5", "output": "1"}}}}',
        "p",
    )
    online = planned(request_lines(2), prices=prices, budget=10**10)["budget"]
    found = planned(request_lines(2), prices=prices, budget=10**10, job=batch_job())
    assert Decimal(found["budget"]["dearest_call_usd"]) == Decimal(online["dearest_call_usd"]) / 2
    assert Decimal(found["batches"]["most_usd"]) == 2 * Decimal(found["budget"]["dearest_call_usd"])
    assert "allows all rows out at once" in "\n".join(_lines(found))


def auto_job(deadline: str) -> Job:
    return replace(text_job("responses"), mode="auto", deadline=parse_deadline(deadline))


def test_auto_says_which_ways_it_goes_and_until_when() -> None:
    prices = Prices.parse(
        b'{"as_of": "2026-11-01", "models": {"m": {"input": "1", "output": "2", "max_output": 1000,'
        b' "flex": {"input": "0.5", "output": "1"}}}}',
        "p",
    )
    found = planned(texts(3), job=auto_job("2h"), prices=prices)
    assert found["auto"] == {
        "ways": ["flex", "batch", "online"],
        "switch_at": "2026-11-21T21:49:00Z",
        "deadline": "2026-11-21T22:00:00Z",
        "calls_per_second": None,
    }
    assert "done by 2026-11-21T22:00:00Z: flex, then batches, then online" in "\n".join(_lines(found))
    assert planned(texts(3), job=auto_job("2h"))["auto"]["ways"] == ["batch", "online"]
    assert planned(texts(3), job=text_job())["auto"] is None


def test_auto_reckons_with_what_the_run_has_learned_of_the_standard_way(store: Store) -> None:
    job = auto_job("2h")
    scene = Scene(store, texts(300), job=job)
    with store.write() as connection:
        runs.beat(connection, [runs.Beat(scene.run.id, {"calls_per_second_allowed": 0.5})])
        connection.exec_driver_sql("UPDATE run SET created_at = ?", (int(NOW.timestamp() * 1_000_000),))
    found = planned(texts(300), job=job, store_path=store.path)
    # 300 rows at a row a second, the least that is reckoned with, and a quarter more: 375 s, and 660 for the end.
    assert found["auto"]["switch_at"] == "2026-11-21T21:42:45Z"
    assert found["auto"]["calls_per_second"] == 0.5


# What a shorter answer would change


def test_a_bound_on_the_output_lets_a_budget_carry_more_calls() -> None:
    prices = Prices.parse(
        b'{"as_of": "2026-11-01", "models": {"m": {"input": "1", "output": "2", "max_output": 100000}}}', "p"
    )
    found = planned(request_lines(2), prices=prices, budget=10**12)["budget"]
    shorter = found["if_shorter"]
    assert shorter["fields"] == ["max_completion_tokens"]
    assert shorter["tokens"] == 1_000
    assert found["calls_in_flight"] == 4
    bounded = planned(request_lines(2, max_completion_tokens=1_000), prices=prices, budget=10**12)["budget"]
    assert bounded["if_shorter"] is None
    # The field itself makes the body some bytes longer.
    assert 0.95 * shorter["calls_in_flight"] < bounded["calls_in_flight"] <= shorter["calls_in_flight"]


def test_a_bound_makes_a_budget_possible_where_nothing_else_bounds_the_output() -> None:
    prices = Prices.parse(b'{"as_of": "2026-11-01", "models": {"m": {"input": "1", "output": "2"}}}', "p")
    found = planned(request_lines(2), prices=prices, budget=10**12)
    assert found["budget"]["dearest_call_usd"] is None
    assert found["budget"]["calls_in_flight"] is None
    assert found["budget"]["if_shorter"]["calls_in_flight"] > 400
    screen = "\n".join(_lines(found))
    assert "$1 cannot be held" in screen
    assert "with max_completion_tokens: 1000 it allows all calls" in screen


def test_a_bound_that_changes_little_is_not_spoken_of() -> None:
    assert planned(request_lines(2), budget=10**12)["budget"]["if_shorter"] is None
    assert (
        planned(request_lines(2, max_completion_tokens=1_500), budget=10**12)["budget"]["if_shorter"] is None
    )
    images = [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]
    line = request_line("a", images)  # type: ignore[arg-type]
    assert planned([line], budget=10**12)["budget"]["if_shorter"] is None


# Tokens


def test_the_input_of_a_known_model_is_counted_exactly() -> None:
    pytest.importorskip("rs_bpe")
    found = planned([request_line("a", "Hello, world!", model="gpt-4o")])["tokens"]
    # "Hello, world!" is four tokens; three and the role stand around it, and three begin the answer.
    assert (found["input"], found["input_is"]) == (11, "exact")
    assert found["counted_as"] == {"gpt-4o": "o200k_base"}


def test_an_unknown_model_is_counted_by_the_newest_vocabulary_and_that_is_said() -> None:
    pytest.importorskip("rs_bpe")
    found = planned([request_line("a", "Hello, world!")])
    assert found["tokens"]["input_is"] == "counted"
    assert "11 in (counted as o200k_base), at most" in "\n".join(_lines(found))


def test_tools_and_schemas_are_written_by_the_api_in_a_form_of_its_own() -> None:
    pytest.importorskip("rs_bpe")
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    found = planned([request_line("a", model="gpt-4o", tools=tools)])["tokens"]
    assert found["input_is"] == "counted"


def test_without_a_vocabulary_there_are_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rs_bpe.bpe", None)
    found = planned([request_line("a", "Hello, world!", model="gpt-4o")])
    assert found["tokens"]["input_is"] == "estimated"
    assert found["tokens"]["counted_as"] == {}
    assert 5 < found["tokens"]["input"] < 20
    assert "about" in "\n".join(_lines(found))


def test_texts_to_embed_are_counted_whatever_form_they_come_in() -> None:
    pytest.importorskip("rs_bpe")

    def embedding(given: object) -> bytes:
        body = {"model": "text-embedding-3-small", "input": given}
        return json.dumps(
            {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": body}
        ).encode()

    for given, tokens in (
        ("Hello, world!", 4),
        (["Hello, world!", "Hello"], 5),
        ([1, 2, 3], 3),
        ([[1, 2], [3]], 3),
    ):
        found = planned([embedding(given)])["tokens"]
        assert (found["input"], found["input_is"]) == (tokens, "exact"), given


def test_what_counts_at_the_limit_is_the_larger_of_input_and_longest_output() -> None:
    found = planned(
        [
            request_line("a", max_completion_tokens=5_000),
            request_line("b", "x " * 3_000, max_completion_tokens=5),
        ]
    )
    long = planned([request_line("b", "x " * 3_000, max_completion_tokens=5)])["tokens"]["input"]
    assert found["tokens"]["charged"] == 5_000 + long


# The screen and the README


def test_the_readme_lists_what_a_plan_holds() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    listed = re.search(r"^\| field of the plan \|.*?\n\n", text, re.MULTILINE | re.DOTALL)
    assert listed is not None
    first = re.findall(r"^\| `(\w+)` \|", listed[0], re.MULTILINE)
    found = planned(request_lines(1))
    assert first == list(found)
    inner = [name for value in found.values() if isinstance(value, dict) for name in value if name != "m"]
    for name in [*inner, "least", "most", "fields"]:
        assert f"`{name}`" in listed[0], name


@pytest.mark.parametrize(
    ("seconds", "said"), [(90.5, "90.5 s"), (600, "10 min"), (3 * 3600 + 61, "3 h 1 min")]
)
def test_durations_are_spelt_for_people(seconds: float, said: str) -> None:
    found = planned(request_lines(1)) | {"seconds_at_limits": seconds}
    assert f"Duration  at least {said} at the job's limits" in _lines(found)
