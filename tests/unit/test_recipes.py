"""The ready jobs: each can be copied, and the copy is whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner import recipes
from runner.errors import OutputUnwritable
from runner.job import read_job

NAMES = ["classify_tickets", "embed_corpus", "summarize_documents"]


def test_each_ready_job_says_in_a_sentence_what_it_is_for() -> None:
    found = recipes.recipes()
    assert list(found) == NAMES
    assert all(purpose.endswith(".") and not purpose.startswith("#") for purpose in found.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_is_the_same_job_over_the_same_rows(name: str, tmp_path: Path) -> None:
    target = recipes.copy(name, tmp_path / "new" / "folder")
    copy, original = read_job(target), read_job(recipes._shipped() / "jobs" / f"{name}.yaml")
    assert copy.meaning() == original.meaning()
    assert copy.input is not None
    assert original.input is not None
    assert Path(copy.input).is_relative_to(tmp_path)
    assert Path(copy.input).read_bytes() == Path(original.input).read_bytes()
    assert copy.output is not None
    assert copy.output.is_relative_to(tmp_path)


def test_two_recipes_fit_into_one_folder(tmp_path: Path) -> None:
    for name in NAMES:
        recipes.copy(name, tmp_path)
    assert sorted(path.name for path in (tmp_path / "jobs").glob("*.yaml")) == [
        f"{one}.yaml" for one in NAMES
    ]


def test_what_is_there_is_not_replaced_and_nothing_is_copied_beside_it(tmp_path: Path) -> None:
    theirs = tmp_path / "sample_data" / "tickets.jsonl"
    theirs.parent.mkdir()
    theirs.write_text("mine")
    with pytest.raises(OutputUnwritable, match=r"tickets\.jsonl is there already"):
        recipes.copy("classify_tickets", tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [theirs]
    assert theirs.read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        recipes.copy("embed_corpus", tmp_path / "file")
