"""A start imports no more than it needs, and the garbage collector rests while it does."""

import gc
import subprocess
import sys

import pytest

from runner.cli import importing

LATER = ("alembic", "aiohttp", "httpx2", "openai", "rich", "ruamel.yaml", "sqlalchemy.dialects.postgresql")


def test_the_collector_rests_while_modules_are_imported() -> None:
    assert gc.isenabled()
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_the_collector_works_again_after_an_import_that_failed() -> None:
    with pytest.raises(ImportError), importing():
        raise ImportError("no such module")

    assert gc.isenabled()


@pytest.mark.parametrize("module", ["runner.cli.run, runner.engine", "runner.cli.status, runner.standing"])
def test_what_only_some_starts_need_is_imported_when_it_is_needed(module: str) -> None:
    said = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print([m for m in {LATER!r} if m in sys.modules])"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert said.stdout == "[]\n"
