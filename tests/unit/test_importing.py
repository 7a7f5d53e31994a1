"""A start imports no more than it needs, and the garbage collector rests while it does."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from scene import request_line

from runner.api.account import Account
from runner.cli import importing
from runner.cli.account import identity_of
from runner.job import requests_job
from runner.store.locks import SeriesLock

LATER = ("alembic", "aiohttp", "httpx2", "openai", "rich", "ruamel.yaml", "sqlalchemy.dialects.postgresql")


def test_the_collector_rests_while_modules_are_imported() -> None:
    assert gc.isenabled()
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()


def said(code: str) -> str:
    """What a Python of its own prints."""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ended.stdout


def test_the_collector_works_again_after_an_import_that_failed() -> None:
    with pytest.raises(ImportError), importing():
        raise ImportError("no such module")

    assert gc.isenabled()


@pytest.mark.parametrize("module", ["runner.cli.run, runner.engine", "runner.cli.status, runner.standing"])
def test_what_only_some_starts_need_is_imported_when_it_is_needed(module: str) -> None:
    assert said(f"import sys, {module}; print([m for m in {LATER!r} if m in sys.modules])") == "[]\n"


def test_the_first_start_of_a_store_needs_no_migrations(tmp_path: Path) -> None:
    opening = f"from runner.store.database import Store; Store.open({str(tmp_path / 's.db')!r}).close()"
    assert said(f"import sys; {opening}; print('alembic' in sys.modules)") == "False\n"


def test_a_start_that_finds_its_series_running_says_so_before_it_imports_what_runs_it(tmp_path: Path) -> None:
    requests = tmp_path / "requests.jsonl"
    requests.write_bytes(request_line("a") + b"\n")
    store = tmp_path / "store.db"
    url = "http://127.0.0.1:9/v1"
    account = Account("openai", url)
    digest = identity_of(requests_job(str(requests)), account).digest
    start = (
        "import sys; from runner.cli import main\n"
        "try: main()\n"
        "finally: print([m for m in ('sqlalchemy', 'runner.engine') if m in sys.modules])"
    )
    with SeriesLock(store, digest):
        said = subprocess.run(
            [
                sys.executable,
                "-c",
                start,
                "run",
                requests,
                "--base-url",
                url,
                "--store",
                f"sqlite:///{store}",
            ],
            capture_output=True,
            text=True,
        )

    assert said.returncode == 5, said.stderr
    assert f"process {os.getpid()} on" in said.stderr
    assert said.stdout == "[]\n"
