"""Kernel locks: one holder, told by name, and gone with its process."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.errors import SeriesLocked, StoreUnusable
from runner.store.locks import LockFile, SeriesLock, lock_folder

DIGEST = "ab" * 32

HOLD = """
import sys
from pathlib import Path
from runner.store.locks import SeriesLock
with SeriesLock(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the series of `DIGEST`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "s.db"), DIGEST],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_another_process_is_refused_and_told_whose_the_series_is(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    with pytest.raises(SeriesLocked, match=rf"process {holder.pid} on .*runner cancel.*--if-locked ok"):
        SeriesLock(tmp_path / "s.db", DIGEST).__enter__()
    lock = SeriesLock(tmp_path / "s.db", DIGEST)
    assert lock.is_held()
    found = lock.holder()
    assert found is not None
    assert found.pid == holder.pid


def test_a_killed_holder_leaves_the_series_free(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait(5)

    assert SeriesLock(tmp_path / "s.db", DIGEST).holder() is None
    with SeriesLock(tmp_path / "s.db", DIGEST) as lock:
        found = lock.holder()
        assert found is not None
        assert found.pid == os.getpid()


def test_another_series_is_another_lock(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    assert holder.poll() is None
    with SeriesLock(tmp_path / "s.db", "cd" * 32):
        pass


def test_a_lock_is_free_after_its_block(tmp_path: Path) -> None:
    for _ in range(3):
        with SeriesLock(tmp_path / "s.db", DIGEST) as lock:
            assert lock.is_held()
            assert SeriesLock(tmp_path / "s.db", DIGEST).is_held()
        assert not SeriesLock(tmp_path / "s.db", DIGEST).is_held()


def test_looking_whether_it_is_held_makes_no_file(tmp_path: Path) -> None:
    assert not SeriesLock(tmp_path / "s.db", DIGEST).is_held()
    assert list(tmp_path.iterdir()) == []


def test_looking_does_not_take_it_away(tmp_path: Path) -> None:
    with SeriesLock(tmp_path / "s.db", DIGEST):
        for _ in range(3):
            assert SeriesLock(tmp_path / "s.db", DIGEST).is_held()


def test_a_look_in_passing_does_not_refuse_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looker = LockFile(tmp_path / "a.lock")
    assert looker.acquire(wait=False)
    monkeypatch.setattr("runner.store.locks.time.sleep", lambda seconds: looker.release())

    assert LockFile(tmp_path / "a.lock").acquire(wait=False)


def test_who_has_just_taken_the_lock_is_waited_for_until_it_says_who_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = SeriesLock(tmp_path / "s.db", DIGEST)
    assert lock._file.acquire(wait=False)
    monkeypatch.setattr("runner.store.locks.time.sleep", lambda seconds: lock._file.write_holder())

    with pytest.raises(SeriesLocked, match=rf"process {os.getpid()} on "):
        SeriesLock(tmp_path / "s.db", DIGEST).refuse_if_held()
    lock._file.release()


def test_who_never_says_who_it_is_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = SeriesLock(tmp_path / "s.db", DIGEST)
    assert lock._file.acquire(wait=False)
    monkeypatch.setattr("runner.store.locks.time.sleep", lambda seconds: None)

    with pytest.raises(SeriesLocked, match="series: one that has not said who it is"):
        SeriesLock(tmp_path / "s.db", DIGEST).__enter__()
    lock._file.release()


def test_who_had_the_lock_before_is_not_taken_for_who_has_it(tmp_path: Path) -> None:
    with SeriesLock(tmp_path / "s.db", DIGEST):
        pass
    lock = SeriesLock(tmp_path / "s.db", DIGEST)
    assert lock._file.acquire(wait=False)
    assert lock.holder() is None
    lock._file.release()


def test_a_full_disk_takes_no_note_and_the_lock_holds_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("runner.store.locks.os.write", full)
    monkeypatch.setattr("runner.store.locks.time.sleep", lambda seconds: None)
    with SeriesLock(tmp_path / "s.db", DIGEST) as lock:
        lock.name_run("run")
        with pytest.raises(SeriesLocked):
            SeriesLock(tmp_path / "s.db", DIGEST).refuse_if_held()
    assert not SeriesLock(tmp_path / "s.db", DIGEST).is_held()


def test_a_note_that_is_written_anew_is_read_all_the_same(tmp_path: Path) -> None:
    lock = SeriesLock(tmp_path / "s.db", DIGEST)
    with lock:
        done = threading.Event()

        def write() -> None:
            for number in range(2_000):
                lock.name_run("run" * (1 + number % 20))
            done.set()

        thread = threading.Thread(target=write)
        thread.start()
        while not done.is_set():
            assert lock._file.name_holder() is not None
        thread.join()


def test_a_lock_file_that_was_deleted_is_locked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.lock"
    opened, real = [], LockFile._open

    def opening(self: LockFile) -> int:
        opened.append(real(self))
        if len(opened) == 1:
            path.unlink()
        return opened[-1]

    monkeypatch.setattr(LockFile, "_open", opening)
    one, other = LockFile(path), LockFile(path)
    assert one.acquire(wait=False)
    assert len(opened) == 2
    assert not other.acquire(wait=False)
    one.release()


def test_a_torn_note_is_no_holder(tmp_path: Path) -> None:
    lock = SeriesLock(tmp_path / "s.db", DIGEST)
    with lock:
        for note in (b"", b'{"pid": 3', b"[]", b'{"pid": "x", "host": 1, "since": 2}', b"\xff"):
            lock._file.path.write_bytes(note)
            assert lock.holder() is None


def test_a_shorter_note_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    file = LockFile(tmp_path / "a.lock")
    assert file.acquire(wait=False)
    file.path.write_bytes(b"x" * 5000)
    file.write_holder()
    found = file.read_holder()
    file.release()
    assert found is not None
    assert found.pid == os.getpid()


def test_only_its_owner_can_read_a_lock(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with SeriesLock(tmp_path / "s.db", DIGEST) as lock:
            assert stat.S_IMODE(lock._file.path.stat().st_mode) == 0o600
            assert stat.S_IMODE(lock._file.path.parent.stat().st_mode) == 0o700
    finally:
        os.umask(before)


def test_a_place_without_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "s.db.d").touch()
    with pytest.raises(StoreUnusable, match="cannot be opened"):
        SeriesLock(tmp_path / "s.db", DIGEST).__enter__()


def test_a_link_has_the_locks_of_its_target(tmp_path: Path) -> None:
    (tmp_path / "real.db").touch()
    (tmp_path / "link.db").symlink_to("real.db")
    with SeriesLock(tmp_path / "link.db", DIGEST), pytest.raises(SeriesLocked):
        SeriesLock(tmp_path / "real.db", DIGEST).__enter__()
    assert lock_folder(tmp_path / "link.db") == tmp_path / "real.db.d"


def test_the_short_lock_is_taken_in_turn(tmp_path: Path) -> None:
    path, inside, most = tmp_path / "a.lock", [], []

    def work() -> None:
        file = LockFile(path)
        for _ in range(200):
            file.take()
            inside.append(1)
            most.append(len(inside))
            inside.pop()
            file.give()
        file.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert max(most) == 1
    assert len(most) == 800


def test_releasing_what_is_not_held_does_nothing(tmp_path: Path) -> None:
    file = LockFile(tmp_path / "a.lock")
    file.release()
    file.give()
    file.take()
    file.release()
    file.release()
