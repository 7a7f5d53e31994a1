"""The plan: what a run would be, from the very rules that the run goes by, and nothing asked."""

import gzip
import io
from pathlib import Path
from typing import Any

import pytest
from scene import IDENTITY, PRICES, Scene, chat_body, request_line, request_lines

from runner.errors import BadInput
from runner.job import Job, Limits, requests_job
from runner.plan import plan
from runner.pricing import Prices
from runner.question import Questions, worst_case
from runner.store.database import Store
from runner.takeup import Source

NOWHERE = Path("/nowhere/store.db")


def planned(
    lines: list[bytes],
    *,
    job: Job | None = None,
    prices: Prices = PRICES,
    store_path: Path = NOWHERE,
    skip_invalid: bool = False,
    budget: int | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    return plan(
        job or requests_job("-"),
        Source(None, io.BytesIO(b"\n".join(lines) + b"\n"), limit=limit, max_line=10**6),
        IDENTITY,
        prices,
        store_path=store_path,
        skip_invalid=skip_invalid,
        budget=budget,
    )


def test_rows_tasks_and_calls_are_counted() -> None:
    found = planned([*request_lines(3), b"", request_line("x", "question 1")])

    assert found["rows"] == {"in": 4, "good": 4, "invalid": 0, "blank_lines": 1}
    assert found["tasks"] == {"to_ask": 4, "answered_before": 0, "repeats": 0}
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
    assert found["tasks"] == {"to_ask": 2, "answered_before": 0, "repeats": 1}


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
    assert found["budget"] == {"usd": None, "dearest_call_usd": None, "calls_in_flight": None}
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

    assert found["tasks"] == {"to_ask": 3, "answered_before": 1, "repeats": 0}


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
        )
