"""`--mode auto`: flex where the model has it, batches for what it refuses, the standard price when time is short.

The oracle is the fault server's ledger: who was executed, how often, by which way.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from e2e.batch_runs import screens
from e2e.conftest import Ended, read_jsonl
from faultserver import Arrival, Behaviour, FaultServer, error, ok

ROWS = 120
TIERS = {"input": "1", "output": "2", "max_output": 100, "batch": {"input": "0.5", "output": "1"}}
FLEX = {**TIERS, "flex": {"input": "0.5", "output": "1"}}


@dataclass
class Rig:
    """A job over some rows, with prices that have a flex tier or have none."""

    folder: Path
    prices: dict[str, Any]

    def start(self, server: FaultServer, *options: str, deadline: str = "1h") -> Ended:
        job = {
            "name": "auto",
            "endpoint": "chat",
            "model": "m",
            "input": "in.jsonl",
            "output": "out.jsonl",
            "key": "id",
            "mode": "auto",
            "batch": {"poll": "0.1s", "queue_wait": "0.2s"},
            "request": {"messages": [{"role": "user", "content": "row={{ id }}"}], "max_tokens": 20},
        }
        (self.folder / "job.yaml").write_text(json.dumps(job))
        (self.folder / "in.jsonl").write_text("".join(f'{{"id":"r{n}"}}\n' for n in range(ROWS)))
        prices = {"as_of": "2026-11-01", "models": {"m": self.prices}}
        (self.folder / "prices.json").write_text(json.dumps(prices))
        where = ("--store", str(self.folder / "store.db"), "--base-url", server.url)
        args = ("--prices", self.folder / "prices.json", "--deadline", deadline, *options)
        with screens() as command:
            return command("run", self.folder / "job.yaml", *where, *args)

    @property
    def answered(self) -> int:
        return sum(line["result"] is not None for line in read_jsonl(self.folder / "out.jsonl"))

    @property
    def modes(self) -> dict[str, int]:
        summary = orjson.loads((self.folder / "out.jsonl.summary.json").read_bytes())
        return {name: block["rows"] for name, block in summary["modes"].items()}

    def saved(self, mode: str) -> str:
        summary = orjson.loads((self.folder / "out.jsonl.summary.json").read_bytes())
        return str(summary["modes"][mode]["saved_usd"])


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path, TIERS)


@pytest.fixture
def flex_rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path, FLEX)


def once_each(server: FaultServer) -> bool:
    executed = server.ledger.executed_rows
    return len(executed) == ROWS and max(executed.values()) == 1


def test_without_flex_all_but_the_probe_go_by_batch_at_half_the_price(rig: Rig) -> None:
    with FaultServer(batch_time=0.2) as server:
        ended = rig.start(server)
        assert ended.code == 0, ended.err
        assert once_each(server)
        # One row asked at the standard price told how fast the others would be, were time to run short.
        assert rig.modes == {"batch": ROWS - 1, "online": 1}
        assert [one["status"] for one in server.ledger.batches().values()] == ["completed"]
        assert "By batches" in ended.err
        assert float(rig.saved("batch")) > 0


def test_a_batch_that_stands_still_is_cancelled_in_time_and_what_it_did_is_not_asked_again(rig: Rig) -> None:
    with FaultServer(batches="stuck:in_progress", batch_time=0.2) as server:
        ended = rig.start(server, deadline="10s")
        assert ended.code == 0, ended.err
        assert ended.seconds < 10
        assert once_each(server)
        assert [one["status"] for one in server.ledger.batches().values()] == ["cancelled"]
        assert rig.modes["batch"] > 0
        assert rig.modes["online"] > 1
        assert rig.answered == ROWS


def test_no_row_is_asked_online_while_its_batch_is_being_cancelled(rig: Rig) -> None:
    with FaultServer(batches="stuck:in_progress", batch_time=3.0) as server:
        ended = rig.start(server, deadline="8s")
        assert ended.code == 0, ended.err
        assert once_each(server)
        ended_at = [one for one in server.ledger.batches().values() if one["status"] == "cancelled"]
        assert len(ended_at) == 1


def test_with_flex_every_row_goes_by_flex(flex_rig: Rig) -> None:
    with FaultServer() as server:
        ended = flex_rig.start(server)
        assert ended.code == 0, ended.err
        assert once_each(server)
        assert flex_rig.modes == {"flex": ROWS}
        assert not server.ledger.batches()


def refusing(share: int) -> Any:
    """A script that has no room for one in so many flex calls, always the same ones."""

    def script(arrival: Arrival) -> Behaviour:
        if not arrival.paid or arrival.parsed.get("service_tier") != "flex":
            return ok()
        number = int((arrival.marker or "r0")[1:])
        return error(429, "resource_unavailable", "Resource Unavailable") if number % share == 0 else ok()

    return script


def test_what_flex_refuses_goes_to_the_batch(flex_rig: Rig) -> None:
    with FaultServer(script=refusing(6), batch_time=0.2) as server:
        ended = flex_rig.start(server)
        assert ended.code == 0, ended.err
        assert once_each(server)
        assert flex_rig.modes == {"flex": ROWS - ROWS // 6, "batch": ROWS // 6}
        refused = [one for one in server.ledger.arrivals if one.paid and one.nth > 1]
        assert not refused, "a row that flex has refused is not asked by flex again"


def test_a_flex_tier_without_any_room_is_given_up_soon(flex_rig: Rig) -> None:
    with FaultServer(script=refusing(1), batch_time=0.2) as server:
        ended = flex_rig.start(server)
        assert ended.code == 0, ended.err
        assert once_each(server)
        assert flex_rig.modes["batch"] >= ROWS - 1
        flex = [
            one for one in server.ledger.arrivals if one.paid and one.parsed.get("service_tier") == "flex"
        ]
        assert len(flex) < 60


def test_a_deadline_that_has_passed_asks_all_at_the_standard_price(rig: Rig) -> None:
    with FaultServer() as server:
        ended = rig.start(server, deadline="1ms")
        assert ended.code == 0, ended.err
        assert once_each(server)
        assert rig.modes == {"online": ROWS}


def test_from_cron_each_start_does_what_it_can_and_the_last_takes_in_and_finishes(rig: Rig) -> None:
    with FaultServer(batch_time=0.5) as server:
        first = rig.start(server, "--no-wait")
        assert first.code == 75, first.err
        assert "1 batch is out" in first.err
        server.ledger.wait_until(
            lambda ledger: all(one["status"] == "completed" for one in ledger.batches().values()), timeout=20
        )
        second = rig.start(server, "--no-wait")
        assert second.code == 0, second.err
        assert once_each(server)
        assert rig.modes == {"batch": ROWS - 1, "online": 1}
