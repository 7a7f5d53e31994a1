"""The summary: its equation balances, its sums are exact, and what is unknown is not zero."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs
from scene import Scene, chat_body, request_line, request_lines, settlement

from runner.errors import StoreUnusable
from runner.export.drawing import error_of, usage_of
from runner.job import requests_job
from runner.model import Outcome, TaskState, Usage
from runner.report import summarise
from runner.store import rows, runs, tasks
from runner.store.database import Store
from runner.sums import RowTotals, Sums, mode_of


def totals_of(scene: Scene) -> RowTotals:
    """What the scene's rows came to, added up here one by one."""
    found = RowTotals()
    with scene.store.read() as connection:
        for row in rows.settled(connection, scene.run.id, scene.run.series_id):
            error = error_of(row, scene.job.accepts)
            if row.state == TaskState.ANSWERED:
                ours = (row.asked_by_run, row.asked_by_row) == (scene.run.id, row.id)
                (found.paid if ours else found.reused).add(usage_of(row), row.cost)
                if ours:
                    found.by_mode.setdefault(mode_of(row.tier, scene.job.mode), Sums()).add(
                        usage_of(row), row.cost
                    )
                found.by_model.setdefault(row.model or "unknown", Sums()).add(usage_of(row), row.cost)
            found.ok += error is None
            found.invalid += row.row_fault is not None
            skipped = error is not None and error["code"] == "skipped"
            found.skipped += skipped
            found.failed += error is not None and row.row_fault is None and not skipped
    return found


def summary(scene: Scene, totals: RowTotals | None = None) -> dict:  # type: ignore[type-arg]
    with scene.store.read() as connection:
        run = runs.get(connection, scene.run.id)
    return summarise(scene.store, run, totals or totals_of(scene), job_name="j", prices_as_of="2026-11-01")


def test_the_rows_of_every_kind_add_up(store: Store) -> None:
    scene = Scene(store, [*request_lines(3), b"{", request_line("r9", "last")])
    scene.answer(chat_body())
    scene.fail({"code": "c", "message": "m", "status": 400, "attempts": 1})
    found = summary(scene)
    assert found["rows"] == {"in": 5, "ok": 1, "failed": 1, "invalid": 1, "skipped": 2}
    assert found["complete"] is False
    assert (found["run"], found["job"]) == (scene.run.name, "j")


def test_a_run_that_does_not_balance_is_an_error(store: Store) -> None:
    scene = Scene(store, request_lines(2))
    with pytest.raises(StoreUnusable, match="2 lines came in, 1 are accounted for"):
        summary(scene, RowTotals(ok=1))


def test_tokens_and_money_are_those_that_this_run_paid(store: Store) -> None:
    scene = Scene(store, [request_line("a", "x")])
    scene.answer(chat_body(), cost=7)
    scene.new_run([request_line("a", "x"), request_line("b", "y")])
    usage = Usage(input=10, cached_input=4, cache_write=2, output=5, reasoning=3, total=15)
    scene.answer(chat_body(), cost=1_500_000_000_001, usage=usage)
    found = summary(scene)
    assert found["tokens"] == {
        "input": 10,
        "cached_input": 4,
        "cache_write": 2,
        "output": 5,
        "reasoning": 3,
        "total": 15,
    }
    assert found["cost_usd"] == {
        "total": "1.500000000001",
        "reused": "0.000000000007",
        "at_risk": "0",
        "unknown_price_rows": 0,
        "prices_as_of": "2026-11-01",
    }
    assert (found["reused_rows"], found["modes"]["online"]["rows"]) == (1, 1)


def test_money_that_was_not_spent_is_zero_and_money_that_is_unknown_is_null(store: Store) -> None:
    nothing = summary(Scene(store, request_lines(1)))
    assert (nothing["cost_usd"]["total"], nothing["cost_usd"]["reused"]) == ("0", "0")
    scene = Scene(store, request_lines(2))
    scene.answer(chat_body(), cost=None)
    found = summary(scene)
    assert (found["cost_usd"]["total"], found["cost_usd"]["unknown_price_rows"]) == (None, 1)
    scene.answer(chat_body(), cost=5)
    found = summary(scene)
    assert (found["cost_usd"]["total"], found["cost_usd"]["unknown_price_rows"]) == ("0.000000000005", 1)


def test_models_reasons_and_errors_are_listed_in_a_stable_order(store: Store) -> None:
    scene = Scene(store, [b""])
    totals = RowTotals(
        by_model={"z": Sums(rows=1, priced=1, cost=3), "a": Sums(rows=1, unpriced=1)},
        finish_reasons={"stop": 2, "length": 1},
        error_codes={"b": 1, "c": 5, "a": 1},
    )
    found = summary(scene, totals)
    assert list(found["models"]) == ["a", "z"]
    assert [one["cost_usd"] for one in found["models"].values()] == [None, "0.000000000003"]
    assert list(found["finish_reasons"]) == ["length", "stop"]
    assert list(found["errors"]) == ["c", "a", "b"]


def test_attempts_are_counted_and_what_may_have_been_charged_is_at_risk(store: Store) -> None:
    scene = Scene(store, request_lines(2))
    first, second = (one.task_id for one in scene.calls())
    for outcome, kind in (
        (Outcome.AMBIGUOUS, "ambiguous"),
        (Outcome.REFUSED, "rate_limited"),
        (Outcome.NOT_SENT, "not_sent"),
    ):
        [call] = scene.claim(first, reserved=300)
        scene.settle(structs.replace(settlement(call, first, TaskState.READY, outcome=outcome), kind=kind))
    [call] = scene.claim(second, reserved=300)
    scene.settle(settlement(call, second, TaskState.FAILED, outcome=Outcome.REFUSED, error='{"code": "c"}'))
    found = summary(scene, RowTotals(failed=1, skipped=1))
    assert (found["requests"], found["retries"], found["rate_limited"], found["ambiguous"]) == (3, 1, 1, 1)
    assert found["cost_usd"]["at_risk"] == "0.0000000003"


def test_a_risk_without_a_price_is_unknown(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    [only] = (one.task_id for one in scene.calls())
    [call] = scene.claim(only, reserved=None)
    scene.settle(settlement(call, only, TaskState.READY, outcome=Outcome.AMBIGUOUS))
    assert summary(scene)["cost_usd"]["at_risk"] is None


def test_times_are_utc_and_the_length_is_that_of_the_run(store: Store) -> None:
    scene = Scene(store, [b""])
    with store.write() as connection:
        connection.exec_driver_sql(
            "UPDATE run SET created_at = 1793534400000000, finished_at = 1793534402500000"
        )
    found = summary(scene)
    assert (found["started_at"], found["finished_at"]) == ("2026-11-01T12:00:00Z", "2026-11-01T12:00:02Z")
    assert found["seconds"] == 2.5


def test_what_was_paid_and_asked_again_stays_in_the_total(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    scene.answer(chat_body(reason="length"), reason="length", cost=7)
    with store.write() as connection:
        again = tasks.retry(connection, run_id=scene.run.id, series_id=scene.run.series_id, accepted=["stop"])
    assert again == 1
    scene.answer(chat_body(), cost=5)
    found = summary(scene)
    assert found["cost_usd"]["total"] == "0.000000000012"
    assert (found["models"]["m"]["rows"], found["models"]["m"]["cost_usd"]) == (1, "0.000000000012")
    assert (found["tokens"]["total"], found["modes"]["online"]["rows"]) == (30, 1)


def test_what_was_paid_and_asked_again_in_vain_stays_in_the_total_too(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    scene.answer(chat_body(reason="length"), reason="length", cost=None, model=None)
    with store.write() as connection:
        tasks.retry(connection, run_id=scene.run.id, series_id=scene.run.series_id, accepted=["stop"])
    scene.fail({"code": "c", "message": "m", "status": 400, "attempts": 1})
    found = summary(scene)
    assert (found["cost_usd"]["total"], found["cost_usd"]["unknown_price_rows"]) == (None, 1)
    assert (found["models"]["unknown"]["rows"], found["tokens"]["total"]) == (0, 15)


@pytest.mark.parametrize(
    "counts",
    [{"ok": 3}, {"ok": 5}, {"ok": 3, "failed": 2}, {"ok": 4, "invalid": 1}, {}, {"ok": 3, "skipped": 2}],
)
def test_every_kind_of_row_counts_in_the_equation(store: Store, counts: dict[str, int]) -> None:
    scene = Scene(store, request_lines(4))
    with pytest.raises(StoreUnusable, match="does not balance: 4 lines came in") as raised:
        summary(scene, RowTotals(**counts))
    assert raised.value.exit_code == 74


@pytest.mark.parametrize(
    ("costs", "total", "unknown"),
    [
        ([], "0", 0),
        ([0], "0", 0),
        ([None], None, 1),
        ([None, None], None, 2),
        ([None, 0], "0", 1),
        ([1], "0.000000000001", 0),
        ([10**12, 5 * 10**11, None], "1.5", 1),
        ([10**24], "1000000000000", 0),
    ],
)
def test_the_money_of_reused_answers_is_exact_or_unknown(
    store: Store, costs: list[int | None], total: str | None, unknown: int
) -> None:
    totals = RowTotals(ok=1)
    for cost in costs:
        totals.reused.add(Usage(input=1), cost)

    found = summary(Scene(store, request_lines(1)), totals)["cost_usd"]
    assert (found["reused"], found["unknown_price_rows"]) == (total, unknown)
    assert not [name for name, value in found.items() if isinstance(value, float)]


def test_each_way_of_asking_has_its_own_sums(store: Store) -> None:
    scene = Scene(store, request_lines(4), job=replace(requests_job("/in/r.jsonl"), mode="auto"))
    for cost in (7, 5, 3, 2):
        scene.answer(chat_body(), cost=cost)
    assert list(summary(scene)["modes"]) == ["online"]
    with store.write() as connection:
        for answer, tier in ((1, "default"), (2, "batch"), (3, "flex"), (4, "batch")):
            connection.exec_driver_sql("UPDATE answer SET tier = ? WHERE id = ?", (tier, answer))
    modes = summary(scene)["modes"]
    assert {name: (one["rows"], one["cost_usd"]) for name, one in modes.items()} == {
        "batch": (2, "0.000000000007"),
        "flex": (1, "0.000000000003"),
        "online": (1, "0.000000000007"),
    }
    assert sum(one["tokens"]["total"] for one in modes.values()) == summary(scene)["tokens"]["total"]
    assert not any("saved_usd" in one for one in modes.values())


def test_flex_that_a_request_asked_for_itself_is_asked_online(store: Store) -> None:
    scene = Scene(store, request_lines(2))
    scene.answer(chat_body(), cost=7)
    scene.answer(chat_body(), cost=3)
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE answer SET tier = 'flex' WHERE id = 1")
        connection.exec_driver_sql("UPDATE answer SET tier = 'batch' WHERE id = 2")
    assert {name: one["rows"] for name, one in summary(scene)["modes"].items()} == {"batch": 1, "online": 1}


def test_what_was_saved_is_told_where_it_is_known(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    scene.answer(chat_body(), cost=7)
    totals = totals_of(scene)
    totals.by_mode = {"batch": totals.paid}
    totals.saved = {"batch": 7}
    assert summary(scene, totals)["modes"]["batch"]["saved_usd"] == "0.000000000007"


def test_what_was_paid_in_a_batch_and_asked_again_online_is_told_of_each(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    scene.answer(chat_body(reason="length"), reason="length", cost=7)
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE answer SET tier = 'batch'")
        tasks.retry(connection, run_id=scene.run.id, series_id=scene.run.series_id, accepted=["stop"])
    scene.answer(chat_body(), cost=5)
    modes = summary(scene)["modes"]
    assert {name: (one["rows"], one["cost_usd"]) for name, one in modes.items()} == {
        "batch": (0, "0.000000000007"),
        "online": (1, "0.000000000005"),
    }


def test_a_run_that_paid_nothing_names_the_usual_way(store: Store) -> None:
    modes = summary(Scene(store, request_lines(1)))["modes"]
    assert (list(modes), modes["online"]["rows"], modes["online"]["cost_usd"]) == (["online"], 0, "0")
