"""What `doctor` looks at, against a real store and a server that is not the simulator."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import orjson
import pytest
from faultserver import FaultServer, answer, named_script
from scene import Scene, chat_body, request_lines

from runner.api.account import Account
from runner.checkup import (
    Check,
    check_account,
    check_prices,
    check_store,
    check_versions,
    models_in_use,
)
from runner.job import Job
from runner.job.value import freeze
from runner.pricing import Prices
from runner.store.database import Store

KEY = "sk-canary-of-doctor-1234"


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer() as started:
        yield started


def account(server: FaultServer) -> Account:
    server.script = named_script("ok")
    return Account("openai", server.url, api_key=KEY)


def prices(shutdown: str) -> Prices:
    entry = {"input": "1", "output": "2", "shutdown_date": shutdown}
    return Prices.parse(orjson.dumps({"as_of": "2026-11-01", "models": {"gpt-6-luna": entry}}), "p")


def test_versions_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = check_versions()
    assert [one.name for one in found] == ["versions", "sqlite"]
    assert "runner " in found[0].found
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 2))
    assert check_versions()[1].verdict == "warn"
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 3))
    assert check_versions()[1].verdict == "ok"


def test_a_store_that_is_not_there_yet_is_no_fault_and_is_not_made(tmp_path: Path) -> None:
    [found] = check_store(str(tmp_path / "store.db"))
    assert (found.name, found.verdict) == ("store", "ok")
    assert list(tmp_path.iterdir()) == []
    assert models_in_use(str(tmp_path / "store.db")) == set()


def test_a_sound_store_says_how_much_it_holds(store: Store) -> None:
    scene = Scene(store, request_lines(2))
    scene.answer(chat_body())
    assert check_store(str(store.path)) == [
        Check("store", "ok", f"{store.path}: sound, 1 answers with their checksums")
    ]


def test_a_damaged_answer_is_found(store: Store) -> None:
    scene = Scene(store, request_lines(3))
    for _ in range(3):
        scene.answer(chat_body())
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE answer SET body = replace(body, 'yes', 'yea') WHERE id = 2")
    [found] = check_store(str(store.path))
    assert found.verdict == "fail"
    assert "1 of 3 answers damaged" in found.found
    assert "Restore a copy" in found.found


@pytest.mark.parametrize("text", ["no database at all", ""])
def test_a_file_that_is_no_store_fails(tmp_path: Path, text: str) -> None:
    path = tmp_path / "store.db"
    path.write_text(text * 100)
    [found] = check_store(str(path))
    assert found.verdict == "fail"
    assert str(path) in found.found


def test_damaged_pages_are_found(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, request_lines(400))
    assert scene.ingested.rows == 400
    copy = tmp_path / "copy.db"
    store.copy_to(copy)
    data = bytearray(copy.read_bytes())
    for page in range(len(data) // 8192 // 2, len(data) // 8192):
        data[page * 8192 : page * 8192 + 200] = bytes(range(200))
    copy.write_bytes(data)
    [found] = check_store(str(copy))
    assert found.verdict == "fail"


def test_the_models_of_the_newest_runs_are_in_use(store: Store) -> None:
    assert models_in_use(str(store.path)) == set()
    request = freeze({"input": "{{ text }}"})
    job = Job(
        name="j", path=None, endpoint="embeddings", model="e5", input="/i", output=None, request=request
    )
    Scene(store, [b'{"text": "a"}'], job=job)
    assert models_in_use(str(store.path)) == {"e5"}


def test_prices_grow_old() -> None:
    table = prices("2099-01-01")
    assert check_prices(table, date(2026, 11, 21)) == Check("prices", "ok", "as of 2026-11-01")
    old = check_prices(table, date(2027, 6, 1))
    assert old.verdict == "warn"
    assert "212 days old" in old.found
    assert check_prices(Prices.none(), date(2026, 11, 21)).verdict == "warn"


def test_a_key_that_opens_the_api_and_a_model_that_is_listed(server: FaultServer) -> None:
    found = check_account(account(server), {"gpt-6-luna", "gpt-6-gone"}, Prices.none())
    assert [(one.name, one.verdict) for one in found] == [("key", "ok"), ("model", "warn"), ("model", "ok")]
    assert "lists 5 models" in found[0].found
    assert "gpt-6-gone is not among" in found[1].found


@pytest.mark.parametrize(
    ("ends", "verdict"), [("2000-01-01", "fail"), ("2099-01-01", "ok")], ids=["past", "far"]
)
def test_a_model_that_was_shut_down_fails(server: FaultServer, ends: str, verdict: str) -> None:
    [_, model] = check_account(account(server), {"gpt-6-luna"}, prices(ends))
    assert (model.name, model.verdict) == ("model", verdict)
    assert ends in model.found


def test_what_the_server_says_of_a_models_end_goes_before_the_price_table(server: FaultServer) -> None:
    asked = account(server)
    listed = {
        "id": "gpt-6-luna",
        "object": "model",
        "created": 1,
        "owned_by": "x",
        "shutdown_date": "2000-02-02",
    }
    body = orjson.dumps({"object": "list", "data": [listed]})
    server.script = lambda arrival: answer(body=body)
    [_, model] = check_account(asked, {"gpt-6-luna"}, prices("2099-01-01"))
    assert model.verdict == "fail"
    assert "2000-02-02" in model.found


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_fails_and_is_not_shown(server: FaultServer, status: int) -> None:
    asked = account(server)
    server.script = named_script(f"always:{status}")
    [found] = check_account(asked, {"gpt-6-luna"}, Prices.none())
    assert (found.name, found.verdict) == ("key", "fail")
    assert KEY not in found.found
    assert str(status) in found.found


def test_a_server_that_is_not_there_fails_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(_seconds: float) -> None:
        return

    from runner.api import client

    monkeypatch.setattr(client.list_models, "__kwdefaults__", {"attempts": 1, "sleep": at_once})
    [found] = check_account(Account("openai", "http://127.0.0.1:9/v1", api_key=KEY), set(), Prices.none())
    assert (found.name, found.verdict) == ("key", "fail")
    assert "http://127.0.0.1:9" in found.found
