"""The store's file: its settings, its modes, what it refuses, and what it says when the disk or the bytes fail."""

import os
import random
import shutil
import sqlite3
import stat
import threading
from pathlib import Path

import pytest
import sqlalchemy.exc
from scene import Scene, chat_body, request_lines
from sqlalchemy import Connection

from runner.errors import BadConfiguration, RunnerError, StoreUnusable, UsageError
from runner.export import Outputs, export
from runner.job import requests_job
from runner.report import summarise
from runner.store import database, runs, series
from runner.store.ballast import LEAST_BYTES, MOST_BYTES
from runner.store.database import Store
from runner.store.faults import DiskFull
from runner.store.locks import lock_folder
from runner.store.place import path_of
from runner.store.schema import APPLICATION_ID
from runner.store.upgrade import SCHEMA_VERSION

WAL, FULL, INCREMENTAL, FILE = "wal", 2, 2, 1


def raw(store: Store, pragma: str) -> object:
    with store._raw() as connection:
        return connection.execute(f"PRAGMA {pragma}").fetchone()[0]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("pragma", "value"),
    [
        ("journal_mode", WAL),
        ("synchronous", FULL),
        ("cache_size", -16384),
        ("page_size", 8192),
        ("auto_vacuum", INCREMENTAL),
        ("application_id", APPLICATION_ID),
        ("user_version", SCHEMA_VERSION),
        ("busy_timeout", 30000),
        ("wal_autocheckpoint", 2048),
        ("journal_size_limit", 67108864),
        ("mmap_size", 0),
        ("foreign_keys", 1),
        ("trusted_schema", 0),
        ("cell_size_check", 1),
        ("temp_store", FILE),
        ("fullfsync", 1),
        ("checkpoint_fullfsync", 1),
    ],
)
def test_the_writer_has_the_settings_that_keep_what_was_acknowledged(
    store: Store, pragma: str, value: object
) -> None:
    assert raw(store, pragma) == value


def test_a_reopened_store_has_them_too(tmp_path: Path) -> None:
    for _ in range(2):
        with Store.open(str(tmp_path / "s.db")) as store:
            assert (raw(store, "synchronous"), raw(store, "journal_mode")) == (FULL, WAL)


def test_a_reader_cannot_write(store: Store) -> None:
    with (
        pytest.raises(StoreUnusable),
        store.read() as connection,
    ):
        connection.exec_driver_sql("DELETE FROM series")


def test_a_reader_sees_one_snapshot_and_stops_no_writer(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    with store.read() as connection:
        before = connection.exec_driver_sql("SELECT count(*) FROM row").scalar_one()
        scene.new_run(request_lines(5))
        assert connection.exec_driver_sql("SELECT count(*) FROM row").scalar_one() == before
    assert scene.query("SELECT count(*) FROM row") == [(6,)]


def delete_and_fail(connection: Connection) -> None:
    connection.exec_driver_sql("DELETE FROM row")
    raise ZeroDivisionError


def test_what_fails_within_a_transaction_is_not_written(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    before = scene.dump()

    with pytest.raises(ZeroDivisionError), store.write() as connection:
        delete_and_fail(connection)

    assert scene.dump() == before


def test_only_its_owner_can_read_any_file_of_a_store(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with Store.open(str(tmp_path / "deep" / "er" / "s.db")) as store:
            store.keep_ballast("ab" * 20)
            Scene(store, request_lines(1))
            files = [path for path in (tmp_path / "deep" / "er").rglob("*") if path.is_file()]
            names = {path.name for path in files}
            assert {"s.db", "s.db-wal", "s.db-shm", "store.lock"} < names
            assert [path.name for path in files if mode(path) != 0o600] == []
            assert mode(store.path.parent) == mode(lock_folder(store.path)) == 0o700
    finally:
        os.umask(before)


def test_a_copy_before_an_upgrade_is_private_and_whole(store: Store, tmp_path: Path) -> None:
    Scene(store, request_lines(3))
    store.copy_to(tmp_path / "copy.db")

    assert mode(tmp_path / "copy.db") == 0o600
    with Store.open(str(tmp_path / "copy.db")) as copy, copy.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM row").scalar_one() == 3


def test_a_clean_end_leaves_the_database_alone(tmp_path: Path) -> None:
    with Store.open(str(tmp_path / "s.db")) as store:
        store.keep_ballast("ab" * 20)
        Scene(store, request_lines(3))

    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.db", "s.db.d"]
    assert sorted(path.name for path in (tmp_path / "s.db.d").iterdir()) == ["store.lock"]


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////a/b.db", "/a/b.db"),
        ("sqlite:///a/b.db", "CWD/a/b.db"),
        ("b.db", "CWD/b.db"),
        ("~/b.db", "HOME/b.db"),
        ("sqlite:///~/b.db", "HOME/b.db"),
    ],
)
def test_where_a_url_points(url: str, path: str) -> None:
    assert str(path_of(url)) == path.replace("CWD", str(Path.cwd())).replace("HOME", str(Path.home()))


@pytest.mark.parametrize(
    "url", ["postgresql://h/d", "sqlite:///", "", ":memory:", "sqlite:///:memory:", "sqlite://x"]
)
def test_what_is_no_store_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError):
        path_of(url)


def test_a_link_and_its_target_are_one_store_with_one_lock(tmp_path: Path) -> None:
    with Store.open(str(tmp_path / "real.db")) as store:
        scene = Scene(store, request_lines(2))
    (tmp_path / "link.db").symlink_to("real.db")

    with Store.open(str(tmp_path / "link.db")) as store:
        scene.store = store
        assert scene.query("SELECT count(*) FROM row") == [(2,)]
    assert lock_folder(tmp_path / "link.db") == lock_folder(tmp_path / "real.db")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.db", "real.db", "real.db.d"]


def test_a_dangling_link_makes_the_store_it_names(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to("real.db")
    with Store.open(str(tmp_path / "link.db")):
        pass

    assert mode(tmp_path / "real.db") == 0o600


def test_a_store_with_two_names_is_refused_and_untouched(tmp_path: Path) -> None:
    with Store.open(str(tmp_path / "s.db")):
        pass
    (tmp_path / "other.db").hardlink_to(tmp_path / "s.db")
    before = (tmp_path / "s.db").read_bytes()

    with pytest.raises(StoreUnusable, match="2 hard links"):
        Store.open(str(tmp_path / "other.db"))

    assert (tmp_path / "s.db").read_bytes() == before


def foreign_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE mine (x)")
    connection.commit()
    connection.close()


def text_file(path: Path) -> None:
    path.write_text("my shopping list\n" * 1000)


def cut_store(path: Path) -> None:
    with Store.open(str(path)) as store:
        Scene(store, request_lines(200))
    os.truncate(path, path.stat().st_size // 3)


@pytest.mark.parametrize("make", [foreign_database, text_file, cut_store])
def test_what_is_not_a_whole_store_is_refused_without_a_write(tmp_path: Path, make: object) -> None:
    path = tmp_path / "x.db"
    make(path)  # type: ignore[operator]
    before = path.read_bytes()

    with pytest.raises(StoreUnusable, match=r"another|other program|damaged"), Store.open(str(path)) as store:
        Scene(store, request_lines(1))

    assert path.read_bytes() == before
    assert not path.with_name("x.db-journal").exists()


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "s.db").touch(0o600)
    with Store.open(str(tmp_path / "s.db")) as store:
        assert raw(store, "page_size") == 8192


@pytest.mark.parametrize("where", ["file.txt/s.db", "folder", "\0.db"])
def test_a_place_where_no_store_can_be(tmp_path: Path, where: str) -> None:
    (tmp_path / "file.txt").touch()
    (tmp_path / "folder").mkdir()

    with pytest.raises(RunnerError) as raised:
        Store.open(str(tmp_path / where))

    assert raised.value.exit_code in (74, 2)


def test_looking_makes_no_store_and_changes_none(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with pytest.raises(UsageError, match="no store"):
        Store.read_only(str(path))
    assert not list(tmp_path.iterdir())
    with Store.open(str(path)) as store:
        Scene(store, request_lines(1))
    before = path.read_bytes()

    with Store.read_only(str(path)) as looked, looked.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM row").scalar_one() == 1

    assert path.read_bytes() == before


def test_looking_does_not_wait_for_a_writer(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    with store.write() as writing:
        writing.exec_driver_sql("UPDATE run SET rows_in = 77")
        with Store.read_only(str(store.path)) as looked, looked.read() as connection:
            assert connection.exec_driver_sql("SELECT rows_in FROM run").scalar_one() == 1
    assert scene.query("SELECT rows_in FROM run") == [(77,)]


def test_the_whole_check_follows_an_unclean_end_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Path] = []
    monkeypatch.setattr(Store, "_quick_check", lambda self: checked.append(self.path))
    with Store.open(str(tmp_path / "s.db")) as store:
        Scene(store, request_lines(1))
        for name in ("s.db", "s.db-wal"):
            shutil.copy(tmp_path / name, tmp_path / name.replace("s.db", "killed.db"))
    assert checked == []
    with Store.open(str(tmp_path / "s.db")):
        assert checked == []

    with Store.open(str(tmp_path / "killed.db")) as store, store.read() as connection:
        assert checked == [tmp_path / "killed.db"]
        assert connection.exec_driver_sql("SELECT count(*) FROM row").scalar_one() == 1


def test_a_store_too_large_for_a_check_within_a_second_is_not_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Path] = []
    monkeypatch.setattr(Store, "_quick_check", lambda self: checked.append(self.path))
    monkeypatch.setattr(database, "CHECKED_BYTES", 400 * 1024)
    for name, rows_in in (("small", 1), ("large", 4000)):
        with Store.open(str(tmp_path / "s.db")) as store:
            Scene(store, request_lines(rows_in))
            store._checkpoint("PASSIVE")
            with store.write() as connection:
                connection.exec_driver_sql("UPDATE run SET rows_in = 1")
            shutil.copy(tmp_path / "s.db", tmp_path / f"{name}.db")
            shutil.copy(tmp_path / "s.db-wal", tmp_path / f"{name}.db-wal")
        with Store.open(str(tmp_path / f"{name}.db")):
            pass

    assert checked == [tmp_path / "small.db"]


def test_the_check_after_an_unclean_end_finds_damage(tmp_path: Path) -> None:
    with Store.open(str(tmp_path / "s.db")) as store:
        Scene(store, request_lines(300))
        store._checkpoint("PASSIVE")
        with store.write() as connection:
            connection.exec_driver_sql("UPDATE run SET rows_in = 1")
        for name in ("s.db", "s.db-wal"):
            shutil.copy(tmp_path / name, tmp_path / name.replace("s.db", "killed.db"))
    with (tmp_path / "killed.db").open("r+b") as file:
        file.seek(8192 * (file.seek(0, 2) // 8192 - 3))
        file.write(b"\xff" * 4096)

    with pytest.raises(StoreUnusable, match="damaged"):
        Store.open(str(tmp_path / "killed.db"))


ERRORS = {
    "SQLITE_FULL": ("is full", False),
    "SQLITE_IOERR_SHMSIZE": ("is full", False),
    "SQLITE_IOERR": ("disk of the store", True),
    "SQLITE_IOERR_FSYNC": ("disk of the store", True),
    "SQLITE_IOERR_WRITE": ("disk of the store", True),
    "SQLITE_CORRUPT": ("damaged", True),
    "SQLITE_CORRUPT_INDEX": ("damaged", True),
    "SQLITE_NOTADB": ("damaged", True),
    "SQLITE_READONLY": ("cannot be written", False),
    "SQLITE_READONLY_DIRECTORY": ("cannot be written", False),
    "SQLITE_CANTOPEN": ("cannot be written", False),
    "SQLITE_PERM": ("cannot be written", False),
    "SQLITE_BUSY": ("locked by another program", False),
    "SQLITE_BUSY_SNAPSHOT": ("locked by another program", False),
    "SQLITE_LOCKED": ("locked by another program", False),
    "SQLITE_CONSTRAINT_UNIQUE": ("failed", False),
    "SQLITE_TOOBIG": ("failed", False),
    "SQLITE_NOMEM": ("failed", False),
    "SQLITE_SCHEMA": ("failed", False),
    "SQLITE_ERROR": ("failed", False),
    "SQLITE_MISUSE": ("failed", False),
}


@pytest.mark.parametrize("wrapped", [False, True], ids=["sqlite3", "SQLAlchemy"])
@pytest.mark.parametrize("name", ERRORS)
def test_every_error_of_sqlite_becomes_ours(store: Store, name: str, wrapped: bool) -> None:
    words, for_good = ERRORS[name]
    foreign = sqlite3.OperationalError("it went wrong")
    foreign.sqlite_errorname = name
    error = sqlalchemy.exc.OperationalError("SELECT 1", {}, foreign) if wrapped else foreign

    with pytest.raises(StoreUnusable, match=words) as raised, store.write():
        raise error

    assert str(store.path) in str(raised.value)
    assert raised.value.__cause__ is error
    assert isinstance(raised.value, DiskFull) == (words == "is full")
    if for_good:
        with pytest.raises(StoreUnusable, match=words), store.write():
            pytest.fail("a broken store was written to")
    else:
        with store.write():
            pass


def sqlalchemy_errors() -> list[type[Exception]]:
    found, left = [], [sqlalchemy.exc.SQLAlchemyError]
    while left:
        one = left.pop()
        left.extend(one.__subclasses__())
        found.append(one)
    return sorted(set(found), key=lambda one: one.__name__)


@pytest.mark.parametrize("kind", sqlalchemy_errors(), ids=lambda kind: kind.__name__)
def test_no_error_of_sqlalchemy_leaves_the_store(store: Store, kind: type[Exception]) -> None:
    # Their constructors all differ.
    error = kind.__new__(kind)
    error.args = ("it went wrong",)
    error.code = None  # type: ignore[attr-defined]
    if issubclass(kind, sqlalchemy.exc.StatementError):
        error.orig, error.statement, error.params = sqlite3.Error("inner"), "SELECT 1", ()  # type: ignore[attr-defined]
        error.hide_parameters = error.ismulti = error.detail = ()  # type: ignore[attr-defined]

    with pytest.raises(StoreUnusable), store.read():
        raise error


@pytest.mark.parametrize(
    "kind",
    [one for one in vars(sqlite3).values() if isinstance(one, type) and issubclass(one, sqlite3.Error)],
    ids=lambda kind: kind.__name__,
)
def test_no_error_of_the_driver_leaves_the_store(store: Store, kind: type[Exception]) -> None:
    with pytest.raises(StoreUnusable), store.read():
        raise kind("it went wrong")


def test_a_full_disk_is_told_before_anything_is_sent(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int, _size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("runner.store.ballast._allocate", full)

    with pytest.raises(StoreUnusable, match=r"no room left .*Nothing was sent"):
        store.keep_ballast("ab" * 20)
    assert not list(lock_folder(store.path).glob("ballast*"))


def test_the_ballast_is_real_space_and_is_released_once(store: Store) -> None:
    store.keep_ballast("cd" * 20)
    [ballast] = lock_folder(store.path).glob("ballast*")
    assert ballast.stat().st_blocks * 512 >= LEAST_BYTES
    assert ballast.stat().st_size <= MOST_BYTES

    assert store.release_ballast()
    assert not ballast.exists()
    assert not store.release_ballast()


def test_without_a_ballast_there_is_none_to_release(store: Store) -> None:
    assert not store.release_ballast()


def test_the_log_is_folded_in_when_it_grows(store: Store) -> None:
    wal = store.path.with_name("store.db-wal")
    for n in range(6):
        with store.write() as connection:
            connection.exec_driver_sql(
                "INSERT INTO row (id, record) VALUES (?, ?)", (n, os.urandom(4 * 2**20))
            )
    assert store.path.stat().st_size > 16 * 2**20
    assert wal.stat().st_size < 24 * 2**20


def test_two_stores_on_one_file_take_turns(tmp_path: Path) -> None:
    url = str(tmp_path / "s.db")
    identity = Scene(Store.open(url), request_lines(1))
    with identity.store:
        pass

    def raise_epochs() -> None:
        with Store.open(url) as store:
            for _ in range(40):
                with store.write() as connection:
                    series.take(connection, series.identity_of(connection, 1))

    threads = [threading.Thread(target=raise_epochs) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    with Store.open(url) as store, store.read() as connection:
        assert connection.exec_driver_sql("SELECT epoch FROM series").scalar_one() == 1 + 3 * 40


def test_deleted_space_goes_back_to_the_disk(store: Store) -> None:
    with store.write() as connection:
        connection.exec_driver_sql("INSERT INTO row (id, record) VALUES (1, ?)", (os.urandom(2**20),))
    store.compact()
    large = store.path.stat().st_size
    with store.write() as connection:
        connection.exec_driver_sql("DELETE FROM row")
    store.compact()

    assert store.path.stat().st_size < large - 900_000
    assert store.path.with_name("store.db-wal").stat().st_size == 0


def test_a_newer_store_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with Store.open(str(path)) as store, store.write() as connection:
        connection.exec_driver_sql("PRAGMA user_version = 99")
    before = path.read_bytes()

    for opened in (Store.open, Store.read_only):
        with pytest.raises(BadConfiguration, match="newer version"):
            opened(str(path))
    assert path.read_bytes() == before


@pytest.fixture(scope="module")
def answered_store(memory_folder: Path) -> tuple[Path, bytes]:
    """A closed store whose run is answered, and the output that it gives."""
    path = memory_folder / "answered" / "s.db"
    with Store.open(str(path)) as store:
        scene = Scene(store, request_lines(60))
        scene.expand()
        for n in range(60):
            scene.answer(chat_body(f"answer {n} " + "x" * 200))
    return path, drawn_from(path)


def drawn_from(path: Path) -> bytes:
    """What the run of a store is drawn as, in the way that the engine does it."""
    with Store.open(str(path)) as store:
        with store.read() as connection:
            run = runs.find(connection, "last")
            identity = series.identity_of(connection, run.series_id)
        with store.write() as connection:
            tenure = series.take(connection, identity)
        job = requests_job("-")
        totals = export(store, run, job, Outputs(store, tenure, path.with_name("out.jsonl")))
        summarise(store, run, totals, job_name=job.name, prices_as_of=None)
    return path.with_name("out.jsonl").read_bytes()


def test_damage_at_a_hundred_places_is_never_taken_for_an_answer(
    answered_store: tuple[Path, bytes],
) -> None:
    whole, output = answered_store
    told = 0
    for seed in range(160):
        lots = random.Random(seed)
        damaged = bytearray(whole.read_bytes())
        at, length = lots.randrange(len(damaged)), lots.choice([1, 1, 1, 16, 4096])
        for place in range(at, min(at + length, len(damaged))):
            damaged[place] ^= lots.randrange(1, 256)
        path = whole.with_name(f"{seed}") / "s.db"
        path.parent.mkdir()
        path.write_bytes(damaged)
        try:
            drawn = drawn_from(path)
        except StoreUnusable:
            told += 1
            shown = path.with_name("out.jsonl")
            assert not shown.exists() or shown.read_bytes() == output
            continue
        # What is damaged beside the answers may show (an id of the input), an answer is whole or not given.
        for line in drawn.split(b"\n"):
            if line.endswith(b'"error":null}'):
                assert line.split(b'"body":')[1] in output
    assert told > 20
