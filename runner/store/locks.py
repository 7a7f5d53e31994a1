"""Kernel locks that die with their process: one a series, held for a whole run; one a store, held for each write.

They are files of their own in `STORE.d/`, never the database itself: closing any handle on a database file
would drop SQLite's own locks. The folder stands beside the store's real file, so that a symbolic link and its
target are one lock (`database` refuses a store with hard links).
"""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import orjson

from runner.errors import SeriesLocked, StoreUnusable

if sys.platform == "win32":
    import msvcrt

    def _take(descriptor: int, *, wait: bool) -> bool:
        # Byte 1,000,000 is past the holder's note, which others must be able to read.
        os.lseek(descriptor, 1_000_000, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _give(descriptor: int) -> None:
        os.lseek(descriptor, 1_000_000, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _take(descriptor: int, *, wait: bool) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def _give(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


LOOKS = 3
LOOK_AGAIN = 0.02

NAMED_WITHIN = 50
"""So many looks, a second in all, until who has just taken a lock has said who it is, on a machine that does much
else."""

NOTE_BYTES = 512
"""A note is written as a whole, over the one before: whoever reads it meanwhile finds one of the two, or looks again."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock, as it wrote of itself."""

    pid: int
    host: str
    since: str
    run: str | None = None

    def runs(self, name: str) -> bool:
        """Whether it is at work on that run of its series, as far as it has said which."""
        return self.run in (None, name)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class LockFile:
    """An exclusive lock on a file of its own. The kernel frees it when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self, *, wait: bool) -> bool:
        """Take the lock; False if another process has it and `wait` is not asked for."""
        refused = 0
        while True:
            descriptor = self._open()
            if not _take(descriptor, wait=wait):
                os.close(descriptor)
                refused += 1
                if refused == LOOKS:
                    return False
                # `status` may hold it for the instant in which it looks whether somebody does.
                time.sleep(LOOK_AGAIN)
                continue
            # A cleaner may have deleted the file between opening and locking it: lock the new one then.
            if self._is_still_at_path(descriptor):
                self._descriptor = descriptor
                return True
            os.close(descriptor)

    def withdraw_holder(self) -> None:
        """Say no more who holds the lock: the next who takes it is another."""
        self._write_note(b"")

    def release(self) -> None:
        if self._descriptor is not None:
            _give(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def take(self) -> None:
        """Lock again a file that is kept open, waiting for it: the short lock around each write."""
        if self._descriptor is None:
            self._descriptor = self._open()
        _take(self._descriptor, wait=True)

    def give(self) -> None:
        """Unlock the file and keep it open."""
        if self._descriptor is not None:
            _give(self._descriptor)

    def write_holder(self, run: str | None = None) -> None:
        assert self._descriptor is not None
        before = self.read_holder() if run is not None else None
        since = _now() if before is None else before.since
        note = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "run": run}
        self._write_note(orjson.dumps(note))

    def name_holder(self) -> Holder | None:
        """Who holds the lock, waiting a little for the one who has just taken it; None if nobody says so by then."""
        for look in range(NAMED_WITHIN):
            if look:
                time.sleep(LOOK_AGAIN)
            if (found := self.read_holder()) is not None:
                return found
        return None

    def read_holder(self) -> Holder | None:
        try:
            note = orjson.loads(self.path.read_bytes())
            return Holder(int(note["pid"]), str(note["host"]), str(note["since"]), note.get("run"))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def is_held(self) -> bool:
        """Whether some process, this one included, holds the lock."""
        if self._descriptor is not None:
            return True
        if not self.path.exists():
            return False
        descriptor = self._open()
        try:
            if not _take(descriptor, wait=False):
                return True
            _give(descriptor)
            return False
        finally:
            os.close(descriptor)

    def _write_note(self, note: bytes) -> None:
        assert self._descriptor is not None
        # A full disk takes none. The lock holds without it, and whatever must be written says what is to be done.
        with suppress(OSError):
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.write(self._descriptor, note.ljust(NOTE_BYTES))
            os.ftruncate(self._descriptor, max(NOTE_BYTES, len(note)))

    def _open(self) -> int:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnusable(
                f"The lock {self.path} cannot be opened: {error.strerror}. Make the store's folder writable, "
                "or name another store with --store or RUNNER_STORE."
            ) from error

    def _is_still_at_path(self, descriptor: int) -> bool:
        try:
            there = self.path.stat()
        except OSError:
            return False
        ours = os.fstat(descriptor)
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


class SeriesLock:
    """The lock of one series, held from before its input is read until its output is written."""

    def __init__(self, store_path: Path, digest: str) -> None:
        self._file = LockFile(lock_folder(store_path) / f"series-{digest[:32]}.lock")

    def __enter__(self) -> SeriesLock:
        if not self._file.acquire(wait=False):
            raise self._is_another()
        self._file.write_holder()
        return self

    def name_run(self, name: str) -> None:
        """Say on which run of the series this process is at work."""
        self._file.write_holder(name)

    def refuse_if_held(self) -> None:
        """SeriesLocked if another process runs the series right now: to say so before all that a start costs."""
        if self._file.is_held():
            raise self._is_another()

    def _is_another(self) -> SeriesLocked:
        holder = self._file.name_holder() or "one that has not said who it is"
        return SeriesLocked(
            f"Another process is running this series: {holder}. Wait for it, or stop it with "
            "`runner cancel RUN`; `--if-locked ok` makes this exit code 0."
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.withdraw_holder()
        self._file.release()

    def is_held(self) -> bool:
        return self._file.is_held()

    def holder(self) -> Holder | None:
        return self._file.read_holder() if self._file.is_held() else None


def lock_folder(store_path: Path) -> Path:
    """Where a store's locks are: beside its real file, whatever link it was named by."""
    real = store_path.resolve()
    return real.with_name(real.name + ".d")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
