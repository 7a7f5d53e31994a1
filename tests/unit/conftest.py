"""A fresh store for each test that asks for one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.store.database import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "store.db")) as opened:
        yield opened
