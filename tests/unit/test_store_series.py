"""Series: who may write. A second tenure ends the first: each of its verbs is refused and writes nothing."""

import asyncio
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from scene import IDENTITY, Scene, answer_of, chat_body, request_lines, settlement

from runner import engine, expand, ingest, takeup
from runner.errors import Fenced
from runner.export import Outputs, export
from runner.files import AtomicFile
from runner.model import TaskState
from runner.store import runs, series, tasks
from runner.store.database import Store
from runner.store.runs import Beat
from runner.store.tasks import Claim
from runner.store.writer import GroupWriter


def taken(store: Store, identity: series.Identity = IDENTITY) -> series.Tenure:
    with store.write() as connection:
        return series.take(connection, identity)


def test_each_taking_raises_the_epoch_of_its_own_series_only(store: Store) -> None:
    first, second = taken(store), taken(store)
    other = taken(store, replace(IDENTITY, provider="sim"))

    assert (second.series_id, second.epoch) == (first.series_id, first.epoch + 1)
    assert other.series_id != first.series_id
    with store.write() as connection:
        series.fence(connection, second)
        series.fence(connection, other)
        with pytest.raises(Fenced):
            series.fence(connection, first)


@pytest.mark.parametrize(
    "field", ["job_name", "job_path", "input_path", "provider", "origin", "organization", "project"]
)
def test_every_part_of_the_identity_makes_another_series(store: Store, field: str) -> None:
    other = replace(IDENTITY, **{field: "something else"})

    assert other.digest != IDENTITY.digest
    assert taken(store, other).series_id != taken(store).series_id


def test_parts_do_not_run_into_each_other() -> None:
    assert (
        replace(IDENTITY, organization="a", project="").digest
        != replace(IDENTITY, organization="", project="a").digest
    )


def test_a_series_is_found_again_with_its_identity(store: Store) -> None:
    with store.read() as connection:
        assert series.find(connection, IDENTITY) is None
    tenure = taken(store)
    with store.read() as connection:
        assert series.find(connection, IDENTITY) == tenure.series_id
        assert series.identity_of(connection, tenure.series_id) == IDENTITY


def submit(scene: Scene, verb: object, item: object) -> None:
    async def once() -> None:
        writer = GroupWriter(scene.store, scene.tenure, lambda: None)
        try:
            await writer.submit(verb, [item])  # type: ignore[arg-type]
        finally:
            await writer.close()

    asyncio.run(once())


def outputs_of(scene: Scene, folder: Path) -> Outputs:
    return Outputs(scene.store, scene.tenure, folder / "out.jsonl")


def note_file(scene: Scene, folder: Path) -> None:
    with AtomicFile(folder / "out.jsonl") as file:
        file.write(b"{}\n")
        outputs_of(scene, folder).note(file)


def in_flight(scene: Scene) -> int:
    return int(scene.query("SELECT id FROM task WHERE state = 'in_flight'")[0][0])


VERBS: dict[str, Callable[[Scene, Path], object]] = {
    "expand": lambda scene, _: expand.expand(scene.store, scene.tenure, scene.new.id),
    "claim": lambda scene, _: submit(
        scene, tasks.claim, Claim(scene.run.id, scene.tenure.epoch, (scene.calls()[0].task_id,), 1)
    ),
    "settle": lambda scene, _: submit(
        scene,
        tasks.settle,
        settlement(1, in_flight(scene), TaskState.ANSWERED, answer=answer_of(chat_body("late"))),
    ),
    "beat": lambda scene, _: submit(scene, runs.beat, Beat(scene.run.id, {"done": 1})),
    "ingest": lambda scene, _: scene.ingest(scene.run, b"{}\n"),
    "clear": lambda scene, _: ingest.clear(scene.store, scene.tenure, scene.run.id),
    "recover": lambda scene, _: engine.recover(scene.store, scene.tenure, "retry", lambda event: None),
    "forget answers": lambda scene, _: takeup.forget_answers(scene.store, scene.tenure),
    "forget run": lambda scene, _: takeup.forget_run(scene.store, scene.tenure, scene.run),
    "take up": lambda scene, _: takeup.take_up(
        scene.store,
        scene.tenure,
        scene.job,
        takeup.Source(None, io.BytesIO(b"{}\n"), limit=None, max_line=1000),
        stopping=lambda: False,
        told=lambda count: None,
    ),
    "export": lambda scene, folder: export(scene.store, scene.run, scene.job, outputs_of(scene, folder)),
    "note": note_file,
    "drop": lambda scene, folder: outputs_of(scene, folder).drop(folder / "none.jsonl"),
    "write summary": lambda scene, folder: outputs_of(scene, folder).write_summary({}),
    "write errors": lambda scene, folder: outputs_of(scene, folder).write_errors([b"{}"]),
}


@pytest.fixture
def busy(store: Store) -> Scene:
    """A series with an answered, an in-flight and a ready task, a run that is not expanded, and its run."""
    scene = Scene(store, request_lines(3))
    scene.expand()
    scene.claim(scene.calls()[0].task_id)
    scene.answer(chat_body())
    run = scene.run
    scene.new = scene.new_run(request_lines(5))  # type: ignore[attr-defined]
    scene.run = run
    return scene


@pytest.mark.parametrize("verb", VERBS)
def test_a_second_tenure_ends_every_verb_of_the_first(busy: Scene, tmp_path: Path, verb: str) -> None:
    folder = tmp_path / "out"
    taken(busy.store)
    before = busy.dump()

    with pytest.raises(Fenced, match="taken this series over"):
        VERBS[verb](busy, folder)

    assert busy.dump() == before
    assert not [path for path in folder.glob("*") if not path.name.startswith(".")]


def test_a_first_tenure_writes_as_long_as_nobody_else_took_the_series(busy: Scene, tmp_path: Path) -> None:
    taken(busy.store, replace(IDENTITY, provider="sim"))

    for verb in ("expand", "settle", "beat", "note"):
        before = busy.dump()
        VERBS[verb](busy, tmp_path)
        assert busy.dump() != before
