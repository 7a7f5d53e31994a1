"""The migrations make exactly the schema that the code speaks of, and a store is brought up to it on opening."""

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from runner.errors import BadConfiguration, StoreUnusable
from runner.store.database import Store
from runner.store.schema import metadata
from runner.store.upgrade import SCHEMA_VERSION, migrations_folder


def statements(path: Path) -> dict[str, str]:
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    connection.close()
    return {name: " ".join(sql.replace(",", " ").split()) for name, sql in found if name != "alembic_version"}


def test_migrations_equal_the_schema(tmp_path: Path) -> None:
    with Store.open(str(tmp_path / "migrated.db")):
        pass
    engine = create_engine(f"sqlite:///{tmp_path / 'created.db'}")
    metadata.create_all(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"target_metadata": metadata})
        assert compare_metadata(context, metadata) == []
    engine.dispose()

    migrated, created = statements(tmp_path / "migrated.db"), statements(tmp_path / "created.db")
    assert migrated.keys() == created.keys()
    for name, sql in created.items():
        assert sorted(migrated[name].split()) == sorted(sql.split()), name


def test_the_schema_version_counts_the_migrations() -> None:
    files = sorted((migrations_folder() / "versions").glob("*.py"))

    assert [file.name[:4] for file in files] == [f"{n:04}" for n in range(1, SCHEMA_VERSION + 1)]


def test_migrations_import_no_living_code() -> None:
    for file in (migrations_folder() / "versions").glob("*.py"):
        assert "runner" not in [word.strip(".,") for word in file.read_text().split() if word.isidentifier()]


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    with Store.open(str(tmp_path / "s.db")):
        pass
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    connection.close()

    with pytest.raises(BadConfiguration, match="newer version"):
        Store.open(str(tmp_path / "s.db"))


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()

    with pytest.raises(StoreUnusable, match="some other program"):
        Store.open(str(tmp_path / "s.db"))
