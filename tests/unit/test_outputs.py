"""Files out: complete under their names, or not there at all."""

import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runner.errors import OutputUnwritable
from runner.files import AtomicFile, check_writable, remove


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def part_of(path: Path) -> Path:
    return path.parent / f".{path.name}.part"


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    line = b'{"a":1}\n'
    with AtomicFile(path) as file:
        for _ in range(300_000):
            file.write(line)
        assert not path.exists()
        assert mode_of(part_of(path)) == 0o600
        assert part_of(path).stat().st_size >= 2**20
    data = line * 300_000
    assert path.read_bytes() == data
    assert (file.size, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_file_and_a_missing_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "out.jsonl"
    with AtomicFile(path):
        pass
    assert path.read_bytes() == b""


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o027, 0o640)])
def test_a_new_file_honours_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    old = os.umask(umask)
    try:
        with AtomicFile(tmp_path / "out") as file:
            assert mode_of(tmp_path / ".out.part") == 0o600
            file.write(b"x")
    finally:
        os.umask(old)
    assert mode_of(tmp_path / "out") == mode


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    path.chmod(0o4641)
    with AtomicFile(path) as file:
        file.write(b"new")
        assert mode_of(part_of(path)) == 0o600
    assert (path.read_bytes(), mode_of(path)) == (b"new", 0o641)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_after_an_error_the_old_file_stays(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")

    def fail_halfway() -> None:
        with AtomicFile(path) as file:
            file.write(b"n" * 2**21)
            raise error

    with pytest.raises(error):
        fail_halfway()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from runner.files import AtomicFile\n"
        "with AtomicFile(Path(sys.argv[1])) as file:\n"
        "    file.write(b'n' * 2**21)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert mode_of(part_of(path)) == 0o600
    with AtomicFile(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_the_order_is_sync_rename_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    seen: list[str] = []
    sync, replace = os.fsync, Path.replace

    def note_sync(fd: int) -> None:
        seen.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else f"file of {os.fstat(fd).st_size}")
        sync(fd)

    def note_replace(part: Path, target: Path) -> Path:
        seen.append("rename")
        return replace(part, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_replace)
    with AtomicFile(path) as file:
        file.write(b"12345")
    assert seen == ["file of 5", "rename", "folder"]


def test_a_link_in_the_place_of_the_part_is_not_followed(tmp_path: Path) -> None:
    path, victim = tmp_path / "out", tmp_path / "victim"
    victim.write_bytes(b"precious")
    part_of(path).symlink_to(victim)
    with AtomicFile(path) as file:
        file.write(b"new")
    assert victim.read_bytes() == b"precious"
    assert path.read_bytes() == b"new"
    assert not path.is_symlink()


def test_a_link_made_in_the_last_moment_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, victim = tmp_path / "out", tmp_path / "victim"
    victim.write_bytes(b"precious")
    unlink = Path.unlink

    def race(part: Path, missing_ok: bool = False) -> None:
        unlink(part, missing_ok=missing_ok)
        part.symlink_to(victim)

    monkeypatch.setattr(Path, "unlink", race)
    with pytest.raises(OutputUnwritable), AtomicFile(path):
        pass
    assert victim.read_bytes() == b"precious"
    assert not path.exists()


def test_a_link_in_the_place_of_the_file_is_replaced(tmp_path: Path) -> None:
    path, target = tmp_path / "out", tmp_path / "target"
    target.write_bytes(b"precious")
    target.chmod(0o777)
    path.symlink_to(target)
    with AtomicFile(path) as file:
        file.write(b"new")
    assert target.read_bytes() == b"precious"
    assert (path.read_bytes(), path.is_symlink()) == (b"new", False)
    assert mode_of(path) != 0o777


@pytest.mark.parametrize("call", ["write", "fsync", "fchmod", "close"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    real = getattr(os, call)

    def fail(fd: int, *_args: object) -> None:
        if call == "close":
            real(fd)
        raise OSError(code, os.strerror(code))

    def write() -> None:
        with AtomicFile(path) as file:
            file.write(b"new")
            monkeypatch.setattr(os, call, fail)

    with pytest.raises(OutputUnwritable) as caught:
        write()
    monkeypatch.undo()
    assert str(path) in str(caught.value)
    assert os.strerror(code) in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]
    if call != "close":
        assert path.read_bytes() == b"old"


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_a_disk_that_fills_while_more_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    real, written = os.write, []

    def fail(fd: int, data: bytes) -> int:
        written.append(len(data))
        if len(written) >= parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data)

    def draw() -> None:
        with AtomicFile(path) as file:
            for _ in range(4):
                file.write(b"n" * 2**20)

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(OutputUnwritable, match=r"No space left.*Free some space"):
        draw()
    monkeypatch.undo()
    # What was drawn after that is not tried.
    assert len(written) == parts
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_has_the_bytes_and_the_sum_of_what_was_written_in_order(tmp_path: Path) -> None:
    parts = [bytes([n % 251]) * (n * 7_919 % 700_000) for n in range(40)]
    with AtomicFile(tmp_path / "out") as file:
        for part in parts:
            file.write(part)
        stamp = file.prepare()
        assert file.sha256 == hashlib.sha256(b"".join(parts)).hexdigest()
    assert (tmp_path / "out").read_bytes() == b"".join(parts)
    assert stamp.size == file.size == sum(map(len, parts))
    assert not [one for one in threading.enumerate() if one.name.startswith("output")]


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    with AtomicFile(tmp_path / "out") as file:
        file.write(b"a longer text than seven")
    assert (tmp_path / "out").read_bytes() == b"a longer text than seven"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_a_folder_that_cannot_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    real = os.fsync

    def fail_for_folders(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(code, os.strerror(code))
        real(fd)

    monkeypatch.setattr(os, "fsync", fail_for_folders)
    if code == errno.EIO:
        with pytest.raises(OutputUnwritable), AtomicFile(tmp_path / "out"):
            pass
    else:
        with AtomicFile(tmp_path / "out"):
            pass
    assert (tmp_path / "out").exists()


def unwritable_places(folder: Path) -> list[tuple[Path, str]]:
    (folder / "folder").mkdir()
    (folder / "file").write_bytes(b"kept")
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to("/dev/null")
    return [
        (folder / "folder", "folder"),
        (folder / "file" / "out", "ot a directory|File exists"),
        (folder / "pipe", "device or a pipe"),
        (folder / "link", "device or a pipe"),
        (Path("/dev/null"), "device or a pipe"),
        (Path("/proc/none/out"), "cannot be written"),
        (folder / ("x" * 252), "too long.*shorter"),
        (Path("/"), "does not name a file"),
        (folder / "a\0b", "does not name a file"),
    ]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    for path, said in unwritable_places(tmp_path):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(OutputUnwritable, match=said):
            check_writable(path)
        with pytest.raises(OutputUnwritable, match=said), AtomicFile(path):
            pass
        assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_no_permission_is_found_before_anything_is_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*_args: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", deny)
    with pytest.raises(OutputUnwritable, match=r"Permission denied.*mode"):
        check_writable(tmp_path / "out")


def test_a_full_disk_is_found_before_anything_is_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutputUnwritable, match=r"No space.*Free some space"):
        check_writable(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_writable_place_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out"
    check_writable(path)
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"]
    path.write_bytes(b"old")
    part_of(path).write_bytes(b"another process may be writing this")
    check_writable(path)
    assert path.read_bytes() == b"old"
    assert part_of(path).read_bytes() == b"another process may be writing this"
    assert len(list(path.parent.iterdir())) == 2


def test_remove(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.touch()
    remove(path)
    remove(path)
    assert not path.exists()
    with pytest.raises(OutputUnwritable, match="cannot be removed"):
        remove(tmp_path)


def test_what_a_killed_process_left_of_the_probe_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / ".out.jsonl.try").write_bytes(b"of a process that was killed")
    check_writable(tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == []
