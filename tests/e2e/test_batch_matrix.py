"""The 144 cases of B1: each status of a batch with each thing that it may say of its two files.

What is right follows from what a client can know. "None" is a file that the batch does not name (null or ""),
"gone" one that it names and that is not there (404).

    the batch                 output  error        right
    has not ended             any     any          what it names is no end: it is looked at again. Its truth is
                                                   half done, half errors: these go again (B1, B8, B16)
    completed                 there   none         all is done
    ended                     there   any other    what is done is kept; all else, be it known to have failed or
                                                   told of nowhere, goes again (B2, B3, B4)
    failed                    none    any          nothing was done: all goes again
    ended otherwise           none    there, gone  it claims no work, and names errors: all goes again (B2)
    ended otherwise           none    none         it claims work, whose answers nobody can have: nothing goes
                                                   again unless the user says so (B9, H8)
    ended                     gone    there        what stands in the error file goes again, the rest may be paid:
                                                   it is held (B9)
    ended                     gone    none, gone   what is paid nobody can tell: all is held (B9)

Held is exit 4, with a message that says how many and what to do; everything else is 0. Nothing is executed twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import pytest
from e2e.batch_runs import Case, Result, params_of, side_by_side
from faultserver import B1, B1_CASES, b1

ROWS = 10
BOUND = 30.0
"""Seconds within which a case must end, beside eleven others on a busy machine."""


class Right(NamedTuple):
    """How a case must end. `executed` and `held` count rows, `again` says that a second batch asks what is left."""

    executed: int = ROWS
    held: int = 0
    again: bool = True


HALF = ROWS // 2


def right(case: B1) -> Right:
    """The table above."""
    output, error = ({None: "there", "404": "gone"}.get(one, "none") for one in (case.output, case.error))
    if not case.terminal:
        return Right()
    if output == "there":
        return Right(again=not (case.status == "completed" and error == "none"))
    if output == "none":
        if error == "none" and case.status != "failed":
            return Right(executed=0, held=ROWS, again=False)
        return Right()
    if error == "there":
        return Right(held=HALF)
    all_done = case.status == "completed" and error == "none"
    return Right(executed=ROWS if all_done else HALF, held=ROWS, again=False)


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> Mapping[int, Future[Result]]:
    """What came of each case that is asked for."""
    folder = tmp_path_factory.mktemp("b1")
    options = ("--poll", "0.02s", "--queue-wait", "0.1s")
    cases = {
        number: Case(
            folder / str(number), empty_store, ROWS, f"b1:{number}", batch_time=0.05, options=options
        )
        for number in params_of(request, "number")
    }
    return side_by_side(cases, most=12, within=90)


@pytest.mark.parametrize("number", range(B1_CASES), ids=lambda number: b1(number).name.replace(" ", "-"))
def test_each_end_of_a_batch_ends_right(number: int, results: Mapping[int, Future[Result]]) -> None:
    case, found = b1(number), results[number].result(0)
    expected = right(case)

    assert found.ended.seconds < BOUND
    assert found.code == (4 if expected.held else 0), found.ended.err
    assert sum(found.executed.values()) == len(found.executed) == expected.executed, (
        "nothing is executed twice"
    )
    first = case.status if case.terminal else "completed"
    assert found.statuses == ((first, "completed") if expected.again else (first,))
    if expected.held:
        assert not found.files, "no output until every row has an end"
        words = re.search(
            r"runner: (\d+) rows may have been answered and charged .*`runner retry \w+`", found.ended.err
        )
        assert words is not None, found.ended.err
        assert int(words[1]) == expected.held
    else:
        assert found.answered == found.case.ids
        assert found.summary["rows"]["ok"] == ROWS
        assert found.files == {"out.jsonl", "out.jsonl.summary.json"}
    if case.status == "reticulating":
        assert "reticulating" in found.ended.err, "a word that nobody knows is passed on"
