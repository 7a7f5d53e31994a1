"""The migrations make exactly the schema that the code speaks of, and a store is brought up to it on opening."""

import sqlite3
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from scene import Scene, chat_body, request_lines
from sqlalchemy import create_engine

from runner.errors import BadConfiguration, StoreUnusable
from runner.export import Outputs, export
from runner.model import TaskState
from runner.store import upgrade
from runner.store.database import Store
from runner.store.schema import APPLICATION_ID, metadata
from runner.store.upgrade import SCHEMA_VERSION, migrations_folder


def statements(path: Path) -> dict[str, str]:
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    connection.close()
    # A table that was renamed bears its name in quotes.
    plain = {name: sql.replace(",", " ").replace('"', "") for name, sql in found}
    return {name: " ".join(sql.split()) for name, sql in plain.items()}


def test_a_new_store_is_what_the_migrations_come_to(tmp_path: Path) -> None:
    with Store.open(str(tmp_path / "created.db")):
        pass
    migrate(tmp_path / "migrated.db", SCHEMA_VERSION)
    engine = create_engine(f"sqlite:///{tmp_path / 'migrated.db'}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"target_metadata": metadata})
        assert compare_metadata(context, metadata) == []
    engine.dispose()

    migrated, created = statements(tmp_path / "migrated.db"), statements(tmp_path / "created.db")
    assert migrated.keys() == created.keys()
    for name, sql in created.items():
        assert sorted(migrated[name].split()) == sorted(sql.split()), name
    marks = [contents(tmp_path / name)["alembic_version"] for name in ("created.db", "migrated.db")]
    assert marks[0] == marks[1] == [{"version_num": f"{SCHEMA_VERSION:04}"}]


def test_of_two_who_make_a_store_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = upgrade._create

    def late(store: Store) -> None:
        monkeypatch.setattr(upgrade, "_create", real)
        with Store.open(str(store.path)):
            pass
        real(store)

    monkeypatch.setattr(upgrade, "_create", late)
    with Store.open(str(tmp_path / "s.db")) as store:
        assert store.integrity() == []
        Scene(store, request_lines(2)).expand()


def migrate(path: Path, version: int) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, f"{version:04}")
    engine.dispose()


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


def store_of_version(version: int, path: Path, filled_from: Path) -> None:
    """A store as an earlier version has made it, with all that a store of this version holds."""
    migrate(path, version)
    with sqlite3.connect(path, isolation_level=None) as connection:
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={version}")
        connection.execute("ATTACH ? AS filled", (str(filled_from),))
        tables = connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            if table == "alembic_version":
                continue
            columns = ", ".join(
                f'"{one[1]}"' for one in connection.execute(f'PRAGMA main.table_info("{table}")')
            )
            connection.execute(
                f'INSERT INTO main."{table}" ({columns}) SELECT {columns} FROM filled."{table}"'
            )
    connection.close()


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_an_older_store_is_upgraded_and_draws_the_same(tmp_path: Path, version: int) -> None:
    with Store.open(str(tmp_path / "now.db")) as store:
        scene = Scene(store, [*request_lines(5), b"no json"])
        for n in range(3):
            scene.answer(chat_body(f"answer {n}"))
        scene.fail({"code": "bad", "message": "no", "status": 400, "attempts": 1})
        totals = export(store, scene.run, scene.job, Outputs(store, scene.tenure, tmp_path / "now.jsonl"))
    store_of_version(version, tmp_path / "then.db", tmp_path / "now.db")

    with Store.open(str(tmp_path / "then.db")) as upgraded:
        outputs = Outputs(upgraded, scene.tenure, tmp_path / "then.jsonl")
        assert export(upgraded, scene.run, scene.job, outputs) == totals
    assert (totals.ok, totals.failed, totals.invalid, totals.skipped) == (3, 1, 1, 1)
    assert (tmp_path / "then.jsonl").read_bytes() == (tmp_path / "now.jsonl").read_bytes()
    assert statements(tmp_path / "then.db").keys() == statements(tmp_path / "now.db").keys()
    assert (tmp_path / f"then.db.before-{version + 1}").exists()


def contents(path: Path) -> dict[str, list[dict[str, object]]]:
    """Every row of every table, by name of its columns."""
    found = {}
    with sqlite3.connect(path) as connection:
        connection.row_factory = sqlite3.Row
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            rows = connection.execute(f'SELECT * FROM "{table}" ORDER BY 1').fetchall()
            found[table] = [dict(row) for row in rows]
    connection.close()
    return found


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_an_upgrade_keeps_everything(tmp_path: Path, version: int) -> None:
    with Store.open(str(tmp_path / "now.db")) as store:
        scene = Scene(store, [*request_lines(6), b"no json"])
        scene.answer(chat_body("\u2028"), reason="length")
        error = {"code": "bad", "message": "no", "status": 400, "attempts": 1}
        for to in (TaskState.FAILED, TaskState.HELD, TaskState.READY):
            scene.fail(error, to=to)
        scene.claim(scene.calls()[0].task_id)
        output = Outputs(store, scene.tenure, tmp_path / "now.jsonl")
        export(store, scene.run, scene.job, output)
        states = sorted(scene.states())
    assert states == ["answered", "failed", "held", "in_flight", "ready", "ready"]
    store_of_version(version, tmp_path / "then.db", tmp_path / "now.db")
    before = contents(tmp_path / "then.db")

    with Store.open(str(tmp_path / "then.db")) as upgraded:
        assert upgraded.integrity() == []
        with upgraded.read() as connection:
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall() == []
            assert connection.exec_driver_sql("PRAGMA cache_size").scalar() == -8192
    after = contents(tmp_path / "then.db")
    for table, rows in before.items():
        if table != "alembic_version":
            assert [{name: row[name] for name in rows[0]} for row in after[table]] == rows


def test_an_upgraded_store_takes_batches(tmp_path: Path) -> None:
    with Store.open(str(tmp_path / "now.db")) as store:
        scene = Scene(store, request_lines(2))
        scene.expand()
    store_of_version(SCHEMA_VERSION - 1, tmp_path / "then.db", tmp_path / "now.db")
    with Store.open(str(tmp_path / "then.db")) as upgraded:
        scene.store = upgraded
        scene.plan(1)
        assert scene.states() == ["batched", "ready"]
        with pytest.raises(StoreUnusable), upgraded.write() as connection:
            connection.exec_driver_sql("UPDATE task SET state = 'lost'")
