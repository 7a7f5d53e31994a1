"""The tree of errors: what is drawn is what there is, and each has its exit code."""

import inspect
import re

import pytest

from runner import errors
from runner.errors import BadInput, LineFault, RunnerError
from runner.store.faults import Broken, DiskFull
from runner.takeup import RowsHeld

CODES = {
    "UsageError": 2,
    "Paused": 4,
    "Interrupted": 4,
    "BudgetReached": 4,
    "MoneyRefused": 4,
    "SeriesLocked": 5,
    "BadInput": 65,
    "RunnerError": 70,
    "OutputUnwritable": 73,
    "StoreUnusable": 74,
    "Fenced": 74,
    "NotFinished": 75,
    "AccessRefused": 77,
    "BadConfiguration": 78,
    "BadJob": 78,
    "BatchRefused": 78,
}

KINDS = {
    name: one
    for name, one in vars(errors).items()
    if inspect.isclass(one) and issubclass(one, Exception) and one.__module__ == errors.__name__
}


def test_every_error_has_the_exit_code_of_the_contract() -> None:
    assert {name: kind.exit_code for name, kind in KINDS.items()} == CODES


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_error_is_ours_and_is_drawn_where_it_stands(name: str) -> None:
    kind = KINDS[name]
    assert issubclass(kind, RunnerError)
    assert kind.__doc__
    drawn = re.search(rf"^(\s*[│├└─ ]*){name}\b(?:\s+(\d+))?", errors.__doc__ or "", re.MULTILINE)
    assert drawn
    if drawn[2]:
        assert int(drawn[2]) == kind.exit_code
    else:
        assert kind is RunnerError or kind.exit_code == kind.__mro__[1].exit_code


def test_the_errors_made_elsewhere_end_like_their_kind() -> None:
    assert {DiskFull.exit_code, Broken.exit_code} == {74}
    held = RowsHeld(3, "abc")
    assert held.exit_code == 4
    assert "3 rows" in str(held)
    assert "runner retry abc" in str(held)


def test_bad_input_brings_its_faults_along() -> None:
    fault = LineFault(7, "invalid_json", "not JSON", "k")

    assert BadInput("bad").faults == ()
    assert BadInput("bad", [fault]).faults == (fault,)
    assert str(BadInput("bad", [fault])) == "bad"
