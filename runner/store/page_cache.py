"""How much of what was stored the system keeps in memory: a corpus of vectors is not to push out all else.

What a run stores is read again only when its output is drawn. Left alone, the system keeps all of it until memory is
full, and in a container that counts as the container's. A page that is given back serves the next one, too: taking
fresh ones can cost a virtual machine more than the disk does.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

KEPT_BYTES = 2**30
"""So much of what was stored last stays in memory, which is all where it is less."""

STEP_BYTES = 16 * 2**20

_OPEN_FILES = "/proc/self/fd"


class PageCache:
    """Gives back the memory that the system keeps of a growing file, but for what came last. It does nothing where the
    system cannot be told."""

    def __init__(self, path: Path, *, kept: int = KEPT_BYTES) -> None:
        self._path = path
        self._kept = kept
        self._file: int | None = None
        self._given_back: int | None = None

    def trim(self) -> None:
        """The file may have grown, and is on disk but for what was written last."""
        if sys.platform != "linux":
            return
        with suppress(OSError):
            real = self._path.stat()
            start = self._given_back = real.st_size if self._given_back is None else self._given_back
            length = real.st_size - self._kept - start
            if length < STEP_BYTES:
                return
            file = self._open_file(real)
            if file is not None:
                os.posix_fadvise(file, start, length, os.POSIX_FADV_DONTNEED)
                self._given_back = start + length

    def _open_file(self, real: os.stat_result) -> int | None:
        # One that is open already: to close another of the same file would drop the locks that SQLite holds on it.
        if self._file is None or not _is(self._file, real):
            files = (int(one.name) for one in Path(_OPEN_FILES).iterdir())
            self._file = next((one for one in files if _is(one, real)), None)
        return self._file


def _is(file: int, real: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(file), real)
    except OSError:
        return False
