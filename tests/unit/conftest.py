"""A fresh store for each test that asks for one."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.store.database import Store


@pytest.fixture(scope="session")
def memory_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory where there is one: most tests of the store do not put the disk on trial."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="runner-tests-", dir=memory if memory.is_dir() else tmp_path_factory.mktemp("stores")
    ) as folder:
        with Store.open(f"{folder}/template.db"):
            pass
        yield Path(folder)


@pytest.fixture
def store(memory_folder: Path) -> Iterator[Store]:
    with tempfile.TemporaryDirectory(dir=memory_folder) as folder:
        shutil.copy(memory_folder / "template.db", f"{folder}/store.db")
        with Store.open(f"{folder}/store.db") as opened:
            yield opened
