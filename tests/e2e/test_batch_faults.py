"""Every fault of a Batch API by its name, and some together: 300 rows answered once and paid once.

The judge is the server's own ledger. The faults are those of faultserver/batchfaults.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from e2e.batch_runs import Case, Result, params_of, screens, side_by_side
from e2e.conftest import read_jsonl
from faultserver import FaultServer

ROWS = 300
SEPARATORS = "\u2028 \u2029 \u0085"


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and what must come of it.

    `ends` are the batches that come to be, by how they end, in their order. `uploads` and `creates` count the
    requests for them, `quarantine` is short where the fate of a create must be settled by waiting. `failed` are the
    rows that fail, `unmatched` the batches whose files have lines that belong to no row, which are kept.
    """

    batches: str
    ends: tuple[str, ...] = ("completed",)
    uploads: int = 1
    creates: int = 1
    quarantine: str | None = None
    failed: tuple[str, ...] = ()
    unmatched: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)


AGAIN = {"uploads": 2, "creates": 2}

FAULTS = {
    "plain": Fault("plain"),
    # A create whose answer is lost: found in the list, or surely not there.
    "create-executed-answer-lost": Fault("create-lost-executed"),
    "create-lost": Fault("create-lost", **AGAIN, quarantine="1s"),
    "create-lost-twice": Fault("create-lost*2", uploads=3, creates=3, quarantine="1s"),
    "create-late": Fault("create-late:0.7", quarantine="4s"),
    "create-after-the-fence": Fault(
        "create-late:6", ("completed", "failed"), **AGAIN, quarantine="1s", more={"waits_for": 2}
    ),
    "list-that-lags": Fault("list-lag:1"),
    "create-executed-answer-lost-list-lags": Fault("create-lost-executed+list-lag:2", quarantine="8s"),
    "create-late-list-lags": Fault("create-late:0.5+list-lag:1", quarantine="6s"),
    # Uploads: the file is found by its name and its bytes, or sent again.
    "upload-answered-by-a-reset": Fault("upload-reset"),
    "upload-lost": Fault("upload-lost", uploads=2),
    "upload-lost-three-times": Fault("upload-lost*3", uploads=4),
    # The account's queue.
    "queue-full": Fault("queue-full:2", ("failed", "failed", "completed"), uploads=3, creates=3),
    "queue-full-at-once": Fault("queue-full-400:2", creates=3),
    # Validation.
    "failed-for-a-line": Fault("failed-validation", ("failed", "completed"), **AGAIN, failed=("r2",)),
    "failed-for-two-lines": Fault(
        "failed-validation*2", ("failed", "failed", "completed"), uploads=3, creates=3, failed=("r2", "r3")
    ),
    "failed-for-a-line-by-its-json": Fault(
        "failed-validation:invalid_json_line", ("failed", "completed"), **AGAIN, failed=("r2",)
    ),
    "failed-for-an-unknown-reason": Fault(
        "failed-validation:something_new", ("failed", "completed"), **AGAIN
    ),
    # What a batch did not do, and said so, goes into another one, all of it together.
    "expired": Fault("expired:0.4", ("expired", "completed"), **AGAIN),
    "expired-with-nothing-done": Fault("expired:0", ("expired", "completed"), **AGAIN),
    "expired-twice": Fault(
        "expired:0.4+expired:0.5", ("expired", "expired", "completed"), uploads=3, creates=3
    ),
    "cancelled-by-somebody": Fault("cancelled-partial", ("cancelled", "completed"), **AGAIN),
    "error-lines": Fault("error-lines", ("completed", "completed"), **AGAIN),
    "row-in-neither-file": Fault("missing-row", ("completed", "completed"), **AGAIN),
    # What stands in the files, and how.
    "separators-in-answers": Fault("unicode"),
    "doubled-rows": Fault("doubled-row", unmatched=1),
    "unknown-rows": Fault("unknown-row", unmatched=1),
    "shuffled": Fault("shuffled"),
    "empty-ids": Fault("empty-ids"),
    "empty-error-file": Fault("empty-error-file"),
    "download-cut": Fault("cut-download"),
    "download-cut-three-times": Fault("cut-download*3"),
    # Looking at it.
    "flapping": Fault("flapping"),
    "odd-word": Fault("odd-word"),
    "counts-that-fall": Fault("counts-down"),
    "not-found-once": Fault("not-found-once"),
    "trouble-for-two-seconds": Fault("trouble:2"),
    # Together.
    "lost-and-lagging-and-cut-and-odd": Fault(
        "create-lost-executed+list-lag:1+unicode+shuffled+cut-download+odd-word", quarantine="8s"
    ),
    "reset-and-late-and-flapping-and-expired": Fault(
        "upload-reset+create-late:0.5+flapping+expired:0.4",
        ("expired", "completed"),
        **AGAIN,
        quarantine="4s",
    ),
    "full-then-expired-then-errors": Fault(
        "queue-full:1+expired:0.4+error-lines+doubled-row",
        ("failed", "expired", "completed", "completed"),
        uploads=4,
        creates=4,
        unmatched=3,
    ),
    "trouble-and-lost": Fault(
        "trouble:1+create-lost+missing-row+empty-ids",
        ("completed", "completed"),
        uploads=3,
        creates=3,
        quarantine="2s",
    ),
}


def options_of(fault: Fault) -> tuple[str, ...]:
    quarantine = () if fault.quarantine is None else ("--quarantine", fault.quarantine)
    return ("--poll", "0.2s", "--queue-wait", "0.5s", *quarantine)


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> Mapping[str, Future[Result]]:
    """What came of each case that is asked for."""
    folder = tmp_path_factory.mktemp("faults")
    cases = {
        name: Case(folder / name, empty_store, ROWS, one.batches, options=options_of(one), **one.more)
        for name, one in FAULTS.items()
        if name in params_of(request, "name")
    }
    return side_by_side(cases, most=10, within=90)


@pytest.mark.parametrize("name", FAULTS)
def test_each_row_is_answered_once_and_paid_once(name: str, results: Mapping[str, Future[Result]]) -> None:
    fault, found = FAULTS[name], results[name].result(0)
    good = [one for one in found.case.ids if one not in fault.failed]

    assert found.code == (3 if fault.failed else 0), found.ended.err
    assert found.answered == good, "in input order"
    assert found.executed == Counter(good), "each good row once, and no other at all"
    assert found.statuses == fault.ends
    assert (found.operations["files.create"], found.operations["batches.create"]) == (
        fault.uploads,
        fault.creates,
    )
    rows = {"in": ROWS, "ok": len(good), "failed": len(fault.failed), "invalid": 0, "skipped": 0}
    assert found.summary["rows"] == rows
    assert found.summary["tokens"]["total"] == found.ledger.usage["total"], "all that was paid for, once"
    check_files(found, fault)


def check_files(found: Result, fault: Fault) -> None:
    """The output and what belongs to it, and no litter: neither uploads nor downloads nor parts."""
    files = {"out.jsonl", "out.jsonl.summary.json"}
    if fault.failed:
        files.add("out.jsonl.errors.jsonl")
        errors = read_jsonl(found.case.output.with_name("out.jsonl.errors.jsonl"))
        assert [line["custom_id"] for line in errors] == list(fault.failed)
        assert all("This line is not valid." in str(line) for line in errors), "in the server's words"
    lines = [name for name in found.files if name.startswith("store.db.d/unmatched/")]
    assert len(lines) == fault.unmatched
    assert found.files - set(lines) == files
    if "unicode" in fault.batches:
        texts = [
            line["response"]["body"]["choices"][0]["message"]["content"]
            for line in read_jsonl(found.case.output)
        ]
        assert all(SEPARATORS in text for text in texts)


# --- what ends otherwise ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batches", "code", "said"),
    [
        ("failed-validation:insufficient_quota", 4, "Top up the account"),
        ("failed-validation:invalid_api_key", 77, "OPENAI_API_KEY"),
    ],
)
def test_a_batch_that_fails_for_the_accounts_sake_ends_the_run_and_no_row(
    batches: str, code: int, said: str, tmp_path: Path, empty_store: Path
) -> None:
    case = Case(tmp_path / "case", empty_store, ROWS, options=("--poll", "0.05s"))
    with screens() as command, FaultServer(batches=batches, batch_time=0.05) as server:
        first = command(*case.command(server.url))
        assert first.code == code
        assert said in first.err
        assert "run the same command again" in first.err
        assert not case.output.exists()

        assert command(*case.command(server.url)).code == 0
        assert server.ledger.executed_rows == Counter(case.ids)
        assert [one["status"] for one in server.ledger.batches().values()] == ["failed", "completed"]


def test_a_batch_that_claims_work_and_shows_none_is_asked_again_only_when_the_user_says_so(
    tmp_path: Path, empty_store: Path
) -> None:
    case = Case(tmp_path / "case", empty_store, ROWS, options=("--poll", "0.05s"))
    with screens() as command, FaultServer(batches="no-files", batch_time=0.05) as server:
        for _ in range(2):
            held = command(*case.command(server.url))
            assert held.code == 4
            assert "300 rows may have been answered and charged" in held.err
            assert len(server.ledger.creates()) == 1, "nothing is paid again on a guess"

        told = command("retry", "last", *case.command(server.url)[2:])
        assert told.code == 0, told.err
        assert server.ledger.executed_rows == Counter(case.ids)
        assert len(server.ledger.creates()) == 2


@pytest.mark.parametrize("state", ["validating", "in_progress", "finalizing"])
def test_a_batch_that_is_stuck_is_waited_for_and_never_submitted_again(
    state: str, tmp_path: Path, empty_store: Path
) -> None:
    case = Case(tmp_path / "case", empty_store, ROWS, options=("--poll", "0.05s"))
    with screens() as command, FaultServer(batches=f"stuck:{state}", batch_time=0.05) as server:
        for _ in range(3):
            ended = command(*case.command(server.url), "--no-wait")
            assert ended.code == 75
            assert "1 batch is out (300 rows" in ended.err
        assert len(server.ledger.creates()) == 1

        assert command("cancel", "last", *case.where(server.url), "--poll", "0.05s").code == 0
        kept = sum(server.ledger.executed.values())
        ended = command(*case.command(server.url))
        assert ended.code == 0, ended.err
        assert server.ledger.executed_rows == Counter(case.ids), (
            "what it did is kept, and the rest asked once"
        )
        ends = [one["status"] for one in server.ledger.batches().values()]
        assert ends == (["cancelled"] if kept == ROWS else ["cancelled", "completed"])
