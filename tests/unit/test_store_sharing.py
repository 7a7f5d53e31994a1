"""Who shares an account's limits: living runs of this store at the same account that have calls to make."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from scene import IDENTITY, Scene, request_lines

from runner.model import RunState
from runner.store import runs
from runner.store.database import Store
from runner.store.locks import SeriesLock
from runner.store.runs import Beat
from runner.store.sharing import Sharing

OTHER = replace(IDENTITY, input_path="/in/others.jsonl")

DIE = """
import os, sys
from pathlib import Path
from runner.store.locks import SeriesLock
SeriesLock(Path(sys.argv[1]), sys.argv[2]).__enter__()
os._exit(9)
"""


@contextlib.contextmanager
def living(store: Store, scene: Scene, identity: Any = OTHER, **progress: Any) -> Iterator[None]:
    """A run whose process holds its series, and has said this of itself, if anything."""
    if progress:
        with store.write() as connection:
            runs.beat(connection, [Beat(scene.run.id, progress)])
    with SeriesLock(store.path, identity.digest):
        yield


def asking(store: Store, one: Sharing) -> int:
    with store.read() as connection:
        return one.runs_asking(connection)


@pytest.fixture
def sharing(store: Store) -> Sharing:
    return Sharing(store.path, Scene(store, request_lines(1)).tenure.series_id)


def test_a_run_alone_has_the_limits_for_itself(store: Store, sharing: Sharing) -> None:
    with SeriesLock(store.path, IDENTITY.digest):
        assert asking(store, sharing) == 1


def test_another_at_the_account_counts_from_its_start_to_its_end(store: Store, sharing: Sharing) -> None:
    assert asking(store, sharing) == 1
    other = Scene(store, request_lines(1), identity=OTHER)
    assert asking(store, sharing) == 1
    with living(store, other):
        assert asking(store, sharing) == 2
        third = replace(OTHER, job_name="third")
        with living(store, Scene(store, request_lines(1), identity=third), third):
            assert asking(store, sharing) == 3
        assert asking(store, sharing) == 2
    assert asking(store, sharing) == 1


@pytest.mark.parametrize("field", ["provider", "origin", "organization", "project"])
def test_another_account_has_limits_of_its_own(store: Store, sharing: Sharing, field: str) -> None:
    elsewhere = replace(OTHER, **{field: "something else"})
    with living(store, Scene(store, request_lines(1), identity=elsewhere), elsewhere):
        assert asking(store, sharing) == 1


@pytest.mark.parametrize(
    ("progress", "counted"),
    [
        ({"left": 5, "held_for": 0.0}, 2),
        ({"left": 0, "held_for": 0.0}, 1),
        ({"left": 5, "held_for": 12.5}, 1),
    ],
)
def test_one_that_is_held_or_has_asked_all_takes_nothing(
    store: Store, sharing: Sharing, progress: dict[str, Any], counted: int
) -> None:
    with living(store, Scene(store, request_lines(1), identity=OTHER), **progress):
        assert asking(store, sharing) == counted


def test_one_that_has_finished_or_reads_its_input_takes_nothing(store: Store, sharing: Sharing) -> None:
    other = Scene(store, request_lines(1), identity=OTHER)
    with store.write() as connection:
        runs.move(connection, other.run.id, RunState.FINISHED)
        runs.create(
            connection, series_id=other.tenure.series_id, meaning="m", job=other.job.frozen(), row_limit=None
        )
    with living(store, other):
        assert asking(store, sharing) == 1


def test_one_that_was_killed_takes_nothing_from_that_moment_on(store: Store, sharing: Sharing) -> None:
    Scene(store, request_lines(1), identity=OTHER)
    died = subprocess.run([sys.executable, "-c", DIE, str(store.path), OTHER.digest])
    assert died.returncode == 9
    assert asking(store, sharing) == 1
