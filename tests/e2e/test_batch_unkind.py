"""What nobody named: odd result files, servers without a Batch API, outages, full disks. Nothing is lost or paid twice.

The command runs in the test's own process, against a fault server whose ledger is the judge.
"""

from __future__ import annotations

import errno
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from e2e.batch_runs import screens
from e2e.conftest import Ended, read_jsonl, request_line, write_jsonl
from e2e.test_torture import SmallDisk, disks_in
from faultserver import (
    Arrival,
    BatchFaults,
    Behaviour,
    FaultServer,
    Ledger,
    answer,
    error,
    html,
    ok,
    redirect,
    reset,
)
from faultserver.work import Results

ROWS = 20
POLL = ("--poll", "0.1s", "--queue-wait", "0.2s", "--quarantine", "2s")
JSON = [("Content-Type", "application/json")]
Edit = Callable[[Results], None]


class Shop:
    """A folder with a requests file, a store and an output, and the command over them."""

    def __init__(self, folder: Path, rows: int = ROWS) -> None:
        self.folder = folder
        self.input = write_jsonl(folder / "in.jsonl", (request_line(n) for n in range(1, rows + 1)))
        self.output = folder / "out.jsonl"

    def run(self, server: FaultServer, *more: object, command: str = "run") -> Ended:
        what = (self.input, "-o", self.output) if command == "run" else ("last",)
        where = ("--base-url", server.url, "--store", f"sqlite:///{self.folder / 'store.db'}")
        mode = () if "--mode" in more else ("--mode", "batch")
        with screens() as run:
            return run(command, *what, *mode, *POLL, *where, *more)

    @property
    def answered(self) -> list[str]:
        return [one["custom_id"] for one in read_jsonl(self.output) if one["error"] is None]

    @property
    def errors(self) -> dict[str, str]:
        """The codes of the rows that failed."""
        path = self.output.with_name("out.jsonl.errors.jsonl")
        found = read_jsonl(path) if path.exists() else []
        return {one["custom_id"]: code_of(one) for one in found}


def code_of(line: dict[str, Any]) -> str:
    return str((line["error"] or line["response"]["body"]["error"])["code"])


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def ids(rows: int = ROWS) -> list[str]:
    return [f"r{n}" for n in range(1, rows + 1)]


def only(name: str, fate: Behaviour, times: int = 10**9) -> Callable[[Arrival], Behaviour]:
    """A script under which the first requests for one operation of the Batch API meet this fate."""
    left = iter(range(times))

    def script(arrival: Arrival) -> Behaviour:
        meets = arrival.operation is not None and arrival.operation.name == name
        return fate if meets and next(left, None) is not None else ok()

    return script


# --- what stands in the files


def huge(results: Results) -> None:
    """An answer of ten million bytes."""
    results.output[3] = results.output[3].replace(b"answer to", b"x" * 10_000_000 + b" to")


def not_utf8(results: Results) -> None:
    results.output[3] = results.output[3].replace(b"answer to", b"\xff\xfe\xc0 to")


def cut(results: Results) -> None:
    results.output[3] = results.output[3][:-40]


def cut_at_the_end(results: Results) -> None:
    results.output[-1] = results.output[-1][:-40]


def blank(results: Results) -> None:
    results.output[3:3] = [b"", b"   ", b"\r", b"null", b"[]", b"17", b'"text"', b"{"]


def with_carriage_returns(results: Results) -> None:
    results.output[:] = [line + b"\r" for line in results.output]


ODD_FILES: dict[str, tuple[Edit, int]] = {
    # How many rows must be asked once more, for nobody can read their answers.
    "huge": (huge, 0),
    "not-utf-8": (not_utf8, 1),
    "cut": (cut, 1),
    "cut-at-the-end": (cut_at_the_end, 1),
    "blank-and-odd": (blank, 0),
    "carriage-returns": (with_carriage_returns, 0),
}


def once(edit: Edit) -> Edit:
    """The same, for the first batch alone."""
    left = iter([edit])

    def edits(results: Results) -> None:
        next(left, lambda _: None)(results)

    return edits


@pytest.mark.parametrize("name", ODD_FILES)
def test_one_odd_line_costs_one_row_at_most(name: str, shop: Shop) -> None:
    edit, again = ODD_FILES[name]
    with FaultServer(batches=BatchFaults().with_edit(once(edit)), batch_time=0.05) as server:
        ended = shop.run(server)

        assert ended.code == 0, ended.err
        assert shop.answered == ids()
        assert sum(server.ledger.executed.values()) == ROWS + again
        assert len(server.ledger.creates()) == (2 if again else 1)


def test_results_for_other_ids_are_kept_and_not_paid_for_again_unasked(shop: Shop) -> None:
    """All rows were answered, and nobody knows which is whose: the next batch could come back just so."""

    def renamed(results: Results) -> None:
        results.output[:] = [line.replace(b'"custom_id":"', b'"custom_id":"x') for line in results.output]

    with FaultServer(batches=BatchFaults().with_edit(once(renamed)), batch_time=0.05) as server:
        for _ in range(2):
            held = shop.run(server)
            assert held.code == 4, held.err
            assert "`runner retry" in held.err
            assert len(server.ledger.creates()) == 1
        [kept] = (shop.folder / "store.db.d" / "unmatched").iterdir()
        assert len(read_jsonl(kept)) == ROWS

        assert shop.run(server, "-o", shop.output, command="retry").code == 0
        assert shop.answered == ids()
        assert len(server.ledger.creates()) == 2


# --- servers that have no Batch API, or a strange one


@pytest.mark.parametrize("operation", ["files.create", "batches.create"])
@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_without_batches_is_told_apart_at_once(operation: str, status: int, shop: Shop) -> None:
    nothing = answer(status, JSON, b'{"detail":"Not Found"}', executed=False)
    with FaultServer(only(operation, nothing)) as server:
        ended = shop.run(server)

        assert ended.code == 78, ended.err
        assert f"HTTP {status}" in ended.err
        assert "--mode online" in ended.err
        assert ended.seconds < 5
        online = shop.run(server, "--mode", "online")
        assert online.code == 0, online.err
        assert server.ledger.executed_rows == Counter(ids())


def test_before_a_deadline_a_server_without_batches_is_asked_online(shop: Shop) -> None:
    with FaultServer(only("files.create", error(404, None, "Not Found"))) as server:
        ended = shop.run(server, "--mode", "auto", "--deadline", "1h")

        assert ended.code == 0, ended.err
        assert server.ledger.executed_rows == Counter(ids())


@pytest.mark.parametrize("fate", [html(200), redirect("https://login.example/")], ids=["html", "portal"])
def test_pages_instead_of_answers_are_told_and_outlasted(fate: Behaviour, shop: Shop) -> None:
    said = "no answer of a Batch API" if fate.status == 200 else "sends us elsewhere"
    with (
        FaultServer(lambda arrival: fate) as server,
        mock.patch("runner.dispatch.batch_life.WORTH_A_WORD", 1),
    ):

        def end_it() -> None:
            server.ledger.wait_until(has_looked_for_the_file, timeout=30)
            server.script = lambda arrival: ok()

        ending = threading.Thread(target=end_it)
        ending.start()
        ended = shop.run(server)
        ending.join()

        assert ended.code == 0, ended.err
        assert said in ended.err
        assert server.ledger.executed_rows == Counter(ids())


def has_looked_for_the_file(ledger: Ledger) -> bool:
    return any(one.operation is not None and one.operation.name == "files.list" for one in ledger.arrivals)


def test_a_page_that_moved_for_good_is_a_wrong_address(shop: Shop) -> None:
    with FaultServer(lambda arrival: redirect("https://elsewhere.example/v1", 301)) as server:
        ended = shop.run(server)

    assert ended.code == 78
    assert "sends us elsewhere. Check the base URL" in ended.err


def test_a_server_that_lists_nothing_serves_a_batch(shop: Shop) -> None:
    empty = answer(200, JSON, b'{"object":"list","data":[],"has_more":false}')
    listing = {"files.list", "batches.list"}

    def script(arrival: Arrival) -> Behaviour:
        return empty if arrival.operation is not None and arrival.operation.name in listing else ok()

    with FaultServer(script, batches="upload-reset", batch_time=0.05) as server:
        assert shop.run(server).code == 0
        assert server.ledger.executed_rows == Counter(ids())


def test_results_that_are_elsewhere_are_asked_for_until_they_come(shop: Shop) -> None:
    away = only("files.content", redirect("https://storage.example/x"), times=1)
    with FaultServer(away, batch_time=0.05) as server, mock.patch("runner.api.download.RESTARTS", 0):
        ended = shop.run(server)

        assert ended.code == 0, ended.err
        assert "its results cannot be fetched now" in ended.err
        assert server.ledger.executed_rows == Counter(ids())


# --- the network, for a while


def test_a_server_that_is_not_there_yet_is_waited_for(shop: Shop) -> None:
    with FaultServer() as first:
        port = first.port
    later = FaultServer(port=port, batch_time=0.05)
    timer = threading.Timer(1.0, later.__enter__)
    timer.start()
    try:
        ended = shop.run(first)
        assert ended.code == 0, ended.err
        assert later.ledger.executed_rows == Counter(ids())
        assert len(later.ledger.creates()) == 1
    finally:
        timer.join()
        later.close()


@pytest.mark.parametrize("until", ["uploaded", "created", "ended"])
def test_an_outage_in_the_middle_of_everything_costs_nothing(until: str, shop: Shop) -> None:
    """From some moment on every connection is reset, for as long as a few requests take."""
    left = iter(range(4))
    server = FaultServer(batch_time=0.2)

    def script(arrival: Arrival) -> Behaviour:
        away = server.ledger.noted(until) and next(left, None) is not None
        return reset() if away else ok()

    server.script = script
    with server:
        ended = shop.run(server)

        assert ended.code == 0, ended.err
        assert server.ledger.executed_rows == Counter(ids())
        assert len(server.ledger.creates()) == 1


# --- the disk


def full_disk(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_while_a_shard_is_written_sends_nothing(shop: Shop) -> None:
    with FaultServer() as server:
        with mock.patch("runner.dispatch.spool.SpoolFile._flush", full_spool):
            ended = shop.run(server)
        assert ended.code == 74, ended.err
        assert "disk is full" in ended.err
        assert "Free some space" in ended.err
        assert server.ledger.noted("uploaded") == []
        assert not list((shop.folder / "store.db.d" / "batches").rglob("*.jsonl"))

        assert shop.run(server).code == 0
        assert server.ledger.executed_rows == Counter(ids())


def full_spool(file: Any) -> None:
    from runner.store.faults import unwritable

    try:
        full_disk()
    except OSError as fault:
        raise unwritable(fault, file.path) from fault


def test_a_disk_that_fills_while_results_come_leaves_them_at_the_server(shop: Shop) -> None:
    with FaultServer(batch_time=0.05) as server:
        with mock.patch("runner.api.download.Sink.write", full_disk):
            ended = shop.run(server)
        assert ended.code == 74, ended.err
        assert "disk is full" in ended.err

        assert shop.run(server).code == 0
        assert server.ledger.executed_rows == Counter(ids()), "what is paid is fetched, not asked again"


@pytest.mark.parametrize("kib", [700, 1300, 1700, 2100])
def test_a_store_whose_disk_fills_loses_no_paid_answer(kib: int, cli, tmp_path: Path) -> None:
    """Wherever the disk fills (the rows, the plan, the file, the results, their settling), the next start goes on."""
    rows = 400
    shop, disk = Shop(tmp_path / "shop", rows), disks_in(tmp_path)(kib)
    assert isinstance(disk, SmallDisk)
    words = ["run", shop.input, "-o", shop.output, "--mode", "batch", *POLL]
    with FaultServer(batch_time=0.05) as server:
        words += ["--base-url", server.url, "--store"]
        full = disk.run(cli, *words, f"sqlite:///{disk.path / 'store.db'}")
        assert full.code in (0, 74), full.err
        if full.code == 74:
            assert "disk" in full.err
            assert "Free some space" in full.err
            assert not shop.output.exists()
            with screens() as run:
                ended = run(*words, f"sqlite:///{disk.saved / 'store.db'}")
            assert ended.code == 0, ended.err
        assert shop.answered == ids(rows)
        assert server.ledger.executed_rows == Counter(ids(rows))
