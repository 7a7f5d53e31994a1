"""Files out: each appears under its name only when it is complete."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from runner.errors import OutputUnwritable
from runner.files.lines import Stamp

_BUFFER = 2**20
_BLOCK = 4096
_PERMISSION = "Change the folder's mode, or name another place with -o."
_ADVICE = {
    errno.ENOSPC: "Free some space, or name another place with -o.",
    errno.EDQUOT: "Free some of your quota, or name another place with -o.",
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EROFS: "Name another place with -o.",
    errno.EISDIR: "Name a file with -o, not a folder.",
    errno.ENAMETOOLONG: "Name a shorter one with -o.",
}


class AtomicFile:
    """Write a file that appears under its name when it is complete, and not before.

    What is written goes to `.NAME.part` beside it, which only its owner can read. A clean end of the `with`
    block puts it on disk and renames it over the old file; after an error the old file stays as it was. The
    mode is that of the file replaced, or of any new file. A link in the place of the file is replaced, not
    followed. `size` counts bytes; `sha256` is known at the end. Raises OutputUnwritable.

    Each full buffer is hashed and written in a thread, while the next one is filled.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = _part_of(path)
        self._fd = -1
        self._mode = 0
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._hash = hashlib.sha256()
        self._thread: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None
        self._discarded = False
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        """Add to the file. Raises OutputUnwritable, where the disk is full for one: perhaps for what was added
        before."""
        self._buffer.append(data)
        self._buffered += len(data)
        self.size += len(data)
        if self._buffered >= _BUFFER:
            self._hand_over()

    def prepare(self) -> Stamp:
        """Put all that was written on disk; the stamp that the file will have under its name."""
        self._flush()
        try:
            os.fchmod(self._fd, self._mode)
            os.fsync(self._fd)
            return Stamp.of_stat(os.fstat(self._fd))
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def discard(self) -> None:
        """Let the file never appear: what stands under its name stays."""
        self._discarded = True

    def __enter__(self) -> Self:
        try:
            kept = _mode_to_keep(self.path)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Only the kernel knows what a new file's mode would be (umask, access lists): a file that is
            # still empty asks it, and keeps the answer for the end.
            self._fd = _create(self._part, 0o666 if kept is None else 0o600)
            self._mode = stat.S_IMODE(os.fstat(self._fd).st_mode) if kept is None else kept
            os.fchmod(self._fd, 0o600)
        except OSError as error:
            self._abandon()
            raise _unwritable(self.path, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and not self._discarded:
                self._commit()
        finally:
            self._abandon()

    def _hand_over(self) -> None:
        self._finish_writing()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "output")
        self._writing = self._thread.submit(self._put, self._taken())

    def _flush(self) -> None:
        self._finish_writing()
        try:
            self._put(self._taken())
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _finish_writing(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            try:
                writing.result()
            except OSError as error:
                raise _unwritable(self.path, error) from error

    def _taken(self) -> list[bytes]:
        taken, self._buffer, self._buffered = self._buffer, [], 0
        return taken

    def _put(self, parts: list[bytes]) -> None:
        data = b"".join(parts)
        self._hash.update(data)
        _write_all(self._fd, data)

    def _commit(self) -> None:
        self.prepare()
        try:
            self._part.replace(self.path)
            fd, self._fd = self._fd, -1
            os.close(fd)
            _sync_folder(self.path.parent)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _abandon(self) -> None:
        """Close and remove a part that was not renamed; one that cannot be removed is replaced next time."""
        if self._thread is not None:
            # Its file's number may be another file's as soon as it is closed.
            self._thread.shutdown(cancel_futures=True)
        if self._fd >= 0:
            with suppress(OSError):
                os.close(self._fd)
            self._fd = -1
            with suppress(OSError):
                self._part.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Find out whether a file can be written there, before anything is paid.

    Makes the folder where it is missing, and leaves nothing else behind. Raises OutputUnwritable.
    """
    part = _part_of(path)
    # Of one name for all processes: what one that was killed leaves behind, the next takes away.
    probe = part.with_suffix(".try")
    try:
        _mode_to_keep(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _mode_to_keep(part)
        fd = _create(probe, 0o600)
        try:
            _write_all(fd, bytes(_BLOCK))
            os.fsync(fd)
        finally:
            os.close(fd)
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def remove(path: Path) -> None:
    """Remove a file, if it is there. Raises OutputUnwritable."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error, "removed") from error


def _part_of(path: Path) -> Path:
    if not path.name or "\0" in str(path):
        raise OutputUnwritable(f"{str(path)!r} does not name a file. Name one with -o.")
    return path.with_name(f".{path.name}.part")


def _mode_to_keep(path: Path) -> int | None:
    """The mode of the file that would be replaced; None if there is none, or a link, which keeps no mode.

    Raises OSError where a folder or a device stands there: a rename would replace even /dev/null.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a device or a pipe, not a file")
    return None if path.is_symlink() else mode & 0o777


def _create(path: Path, mode: int) -> int:
    """Open a new file of this name for writing, whatever stood there before; never through a link."""
    path.unlink(missing_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems cannot sync a folder, and say so like this.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(fd)


def _unwritable(path: Path, error: OSError, verb: str = "written") -> OutputUnwritable:
    reason = error.strerror or str(error)
    advice = _ADVICE.get(error.errno or 0, "Name another place with -o.")
    return OutputUnwritable(f"{path}: cannot be {verb}: {reason}. {advice}")
