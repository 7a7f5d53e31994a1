"""Artifacts: which files a series wrote. A file is noted before it takes its name."""

from dataclasses import replace

from scene import IDENTITY, Scene

from runner.store import artifacts
from runner.store.artifacts import Artifact
from runner.store.database import Store

FILE = Artifact("/out/a.jsonl", 10, 123456789012345678, 2**40, "aa" * 32)


def known(scene: Scene, path: str = FILE.path) -> list[Artifact]:
    with scene.store.read() as connection:
        return artifacts.of_path(connection, scene.tenure.series_id, path)


def note(scene: Scene, one: Artifact) -> None:
    with scene.store.write() as connection:
        artifacts.note(connection, scene.tenure.series_id, one)


def test_a_noted_file_is_known_with_all_that_tells_it(store: Store) -> None:
    scene = Scene(store, [])
    assert known(scene) == []
    note(scene, FILE)
    assert known(scene) == [FILE]
    assert known(scene, "/out/b.jsonl") == []


def test_between_note_and_name_both_old_and_new_are_ours(store: Store) -> None:
    scene = Scene(store, [])
    new = replace(FILE, sha256="bb" * 32)
    note(scene, FILE)
    note(scene, new)
    assert {one.sha256 for one in known(scene)} == {FILE.sha256, new.sha256}

    with store.write() as connection:
        artifacts.keep_only(connection, scene.tenure.series_id, FILE.path, new.sha256)
    assert known(scene) == [new]


def test_the_same_bytes_noted_again_take_the_new_stamp(store: Store) -> None:
    scene = Scene(store, [])
    note(scene, FILE)
    note(scene, replace(FILE, inode=7))
    assert known(scene) == [replace(FILE, inode=7)]


def test_a_file_that_is_gone_is_forgotten(store: Store) -> None:
    scene = Scene(store, [])
    note(scene, FILE)
    with store.write() as connection:
        artifacts.keep_only(connection, scene.tenure.series_id, FILE.path, None)
    assert known(scene) == []


def test_another_series_file_is_not_ours(store: Store) -> None:
    scene = Scene(store, [])
    other = Scene(store, [], identity=replace(IDENTITY, project="p"))
    note(scene, FILE)
    with store.write() as connection:
        artifacts.keep_only(connection, other.tenure.series_id, FILE.path, None)

    assert known(other) == []
    assert known(scene) == [FILE]
