"""A store: one SQLite file, opened with the settings that keep what was acknowledged.

WAL with `synchronous=FULL` survives a power cut. Commits and checkpoints happen under one lock of the store,
because SQLite before 3.51.3 can corrupt a WAL that one connection checkpoints while another commits.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from runner.errors import RunnerError, StoreUnusable, UsageError
from runner.store import faults, upgrade
from runner.store.ballast import Ballast, free_bytes
from runner.store.locks import LockFile, lock_folder
from runner.store.page_cache import PageCache
from runner.store.place import path_of
from runner.store.schema import APPLICATION_ID

CHECKPOINT_PAGES = 2_048
"""The log is folded into the database at a commit that leaves so many pages in it: 16 MiB."""

STATEMENTS = 512
"""Prepared statements that a connection keeps: those of the hot path, for each number of rows."""

CHECKED_BYTES = 64 * 2**20
"""The largest store that is checked after an unclean end: on a slow disk it takes most of a second."""

CACHE_KIB = 16 * 1024
"""Pages that wait for their commit: room for a packed answer of 2,048 vectors of 1,536 numbers. What has none is
written to the log page by page beforehand, at twice the cost of all else."""

WRITE_PRAGMAS = (
    "busy_timeout=30000",
    "synchronous=FULL",
    "fullfsync=1",
    "checkpoint_fullfsync=1",
    f"wal_autocheckpoint={CHECKPOINT_PAGES}",
    "journal_size_limit=67108864",
    "mmap_size=0",
    "foreign_keys=ON",
    "trusted_schema=OFF",
    "cell_size_check=ON",
    "secure_delete=ON",
    "temp_store=FILE",
    f"cache_size=-{CACHE_KIB}",
)
READ_PRAGMAS = (
    "busy_timeout=30000",
    "trusted_schema=OFF",
    "query_only=ON",
    "temp_store=FILE",
    "cache_size=-8192",
)


class Store:
    """One open store. `write` and `read` are its two kinds of transaction."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._guard = threading.RLock()
        self._lock = LockFile(lock_folder(path) / "store.lock")
        self._ballast: Ballast | None = None
        self._cache = PageCache(path)
        self._broken: str | None = None
        self._looking = False
        self._writer = _engine(path, WRITE_PRAGMAS, read_only=False)
        self._reader = _engine(path, READ_PRAGMAS, read_only=True)

    @classmethod
    def open(cls, url: str) -> Store:
        """Open a store, making or upgrading it first. StoreUnusable or BadConfiguration if it cannot be."""
        path = path_of(url)
        _prepare_file(path)
        unclean = _wal_of(path).exists() and _wal_of(path).stat().st_size > 0
        store = cls(path)
        try:
            store._settle_in(unclean=unclean)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def read_only(cls, url: str) -> Store:
        """Open a store that is there, to look at only: nothing is locked, changed or upgraded."""
        path = path_of(url)
        if not path.exists():
            raise UsageError(
                f"There is no store at {path}. `runner run` makes it; --store or RUNNER_STORE names another."
            )
        store = cls(path)
        store._looking = True
        try:
            upgrade.refuse_other_version(store)
        except BaseException:
            store.close()
            raise
        return store

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that changes the store: all of it is on disk when the block ends, or none."""
        with self._guard, self._errors():
            if self._broken is not None:
                raise StoreUnusable(self._broken)
            self._lock.take()
            try:
                with self._writer.begin() as connection:
                    yield connection
            finally:
                self._lock.give()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One snapshot of the store, which never blocks a writer."""
        with self._errors(), self._reader.connect() as connection:
            yield connection

    def keep_ballast(self, owner: str) -> None:
        """Set space aside, so that answers in flight can still be stored when the disk is full. `owner` is
        the digest of the series that it is for."""
        self._ballast = Ballast(self.path, owner)
        self._ballast.keep()

    def release_ballast(self) -> bool:
        """Free the space kept aside, and what the WAL takes up beyond need; False if nothing is kept aside."""
        if self._ballast is None or not self._ballast.release():
            return False
        # The WAL holds a page once for each commit that changed it: folded, it gives back more than it takes.
        if self._has_room_to_fold():
            self._fold(wait=True)
        return True

    def room(self) -> int:
        """How many bytes the disk still takes, what is kept aside included."""
        return free_bytes(self.path.resolve().parent) + (0 if self._ballast is None else self._ballast.size())

    def spare_memory(self) -> None:
        """Let the system keep no more of the store in memory than what came last: large answers were stored."""
        self._cache.trim()

    def integrity(self) -> list[str]:
        """What SQLite's full check finds wrong; an empty list if nothing."""
        with self.read() as connection:
            found = [str(line[0]) for line in connection.exec_driver_sql("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found

    def compact(self) -> None:
        """Give the space of what was deleted back to the disk, and leave no trace of it in the WAL."""
        with self._guard, self._errors():
            self._lock.take()
            try:
                with self._raw() as connection:
                    # `execute` would take one step, which gives back one page.
                    connection.executescript("PRAGMA incremental_vacuum")
                self._checkpoint("TRUNCATE")
            finally:
                self._lock.give()

    def copy_to(self, copy: Path) -> None:
        """A whole copy of the store in a file of its own, unless that file is there already."""
        if copy.exists():
            return
        with self._guard, self._errors(), self._raw() as connection:
            connection.execute("VACUUM INTO ?", (str(copy),))
        copy.chmod(0o600)

    def close(self) -> None:
        """Close it, folding the WAL into the database if nobody else uses it."""
        with self._guard:
            if self._ballast is not None:
                self._ballast.release()
            if self._broken is None and not self._looking:
                self._fold(wait=False)
            self._reader.dispose()
            self._writer.dispose()
            self._lock.release()

    def _has_room_to_fold(self) -> bool:
        # To begin, and to find no room half-way, would use up what the ballast has just given back.
        with self._guard, self._errors(), self._raw() as connection:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            page_size = connection.execute("PRAGMA page_size").fetchone()[0]
        real = self.path.resolve()
        return int(pages) * int(page_size) - real.stat().st_size <= free_bytes(real.parent)

    def _fold(self, *, wait: bool) -> None:
        """Fold the WAL into the database, if the disk and other processes let us."""
        with self._guard:
            try:
                self._lock.take()
                self._checkpoint("TRUNCATE", wait=wait)
            except (SQLAlchemyError, sqlite3.Error, UnicodeDecodeError, RunnerError):
                pass
            finally:
                self._lock.give()

    def _settle_in(self, *, unclean: bool) -> None:
        with self._guard, self._errors():
            self._lock.take()
            try:
                self._prepare_database()
                if unclean and self.path.stat().st_size <= CHECKED_BYTES:
                    self._quick_check()
            finally:
                self._lock.give()
        upgrade.bring_up_to_date(self)

    def _prepare_database(self) -> None:
        with self._raw() as connection:
            if connection.execute("PRAGMA page_count").fetchone()[0] == 0:
                for pragma in (
                    "page_size=8192",
                    "auto_vacuum=INCREMENTAL",
                    f"application_id={APPLICATION_ID}",
                ):
                    connection.execute(f"PRAGMA {pragma}")
            elif connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise StoreUnusable(
                    f"{self.path} is a database of some other program. Name another store with --store or "
                    "RUNNER_STORE."
                )
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            if mode != "wal":
                raise StoreUnusable(
                    f"The store {self.path} cannot use a write-ahead log (SQLite says '{mode}'), which it needs "
                    "to survive a crash. Put it on a local disk with --store."
                )

    def _quick_check(self) -> None:
        # Most of it is one step to SQLite before 3.41, which nothing interrupts: the size is the bound that holds.
        deadline = time.monotonic() + 1.0
        with self._raw() as connection:
            connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
            try:
                found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            except sqlite3.OperationalError as error:
                if "interrupted" not in str(error):
                    raise
                found = "ok"
            finally:
                connection.set_progress_handler(None, 0)
        if found != "ok":
            raise StoreUnusable(
                f"The store {self.path} is damaged: {found}. Nothing was sent. Restore a copy, or rescue what "
                "can be read with `sqlite3 STORE .recover`; `runner doctor` shows the whole check."
            )

    def _checkpoint(self, mode: str, *, wait: bool = True) -> None:
        with self._raw() as connection:
            if not wait:
                # Whoever reads may be waiting for the lock that we hold, to write: neither would go on.
                connection.execute("PRAGMA busy_timeout=0")
            connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()

    @contextmanager
    def _raw(self) -> Iterator[sqlite3.Connection]:
        fairy = self._writer.raw_connection()
        try:
            connection = fairy.driver_connection
            assert isinstance(connection, sqlite3.Connection)
            yield connection
        finally:
            fairy.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, UnicodeDecodeError) as error:
            ours = faults.explain(error, self.path)
            if isinstance(ours, faults.Broken):
                self._broken = str(ours)
            raise ours from error


def _engine(path: Path, pragmas: tuple[str, ...], *, read_only: bool) -> Engine:
    mode = "ro" if read_only else "rw"

    def connect() -> sqlite3.Connection:
        uri = f"{path.resolve().as_uri()}?mode={mode}"
        connection = sqlite3.connect(
            uri, uri=True, check_same_thread=False, isolation_level=None, cached_statements=STATEMENTS
        )
        try:
            for pragma in pragmas:
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
        return connection

    # The writer is one connection for the whole process; readers come and go.
    if read_only:
        engine = create_engine("sqlite://", creator=connect, pool_size=4)
        begin = "BEGIN DEFERRED"
    else:
        engine = create_engine("sqlite://", creator=connect, poolclass=StaticPool)
        begin = "BEGIN IMMEDIATE"

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _prepare_file(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        links = path.stat().st_nlink
        lock_folder(path).mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise StoreUnusable(
            f"The store {path} cannot be opened: {error.strerror}. Make it writable, or name another with "
            "--store sqlite:///PATH or RUNNER_STORE."
        ) from error
    if links > 1:
        raise StoreUnusable(
            f"The store {path} has {links} hard links: SQLite's log belongs to one name only. Remove the others."
        )


def _wal_of(path: Path) -> Path:
    real = path.resolve()
    return real.with_name(real.name + "-wal")
