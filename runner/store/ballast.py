"""Ballast: space kept aside beside a store, to be let go when the disk is full.

What is in flight then can still be stored: a paid answer is not lost for want of a few pages.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from runner.errors import StoreUnusable
from runner.store.locks import lock_folder

MOST_BYTES = 64 * 2**20
LEAST_BYTES = 256 * 1024


class Ballast:
    """A file of one series, as large as 64 MiB or half of what is free: the write-ahead log, which can only
    grow into the other half, then has room to be folded into the database."""

    def __init__(self, store_path: Path, owner: str) -> None:
        self._store = store_path
        self._path = lock_folder(store_path) / f"ballast-{owner[:32]}"

    def keep(self) -> None:
        """Set the space aside. StoreUnusable if there is none."""
        free = free_bytes(self._store.parent)
        wanted = max(LEAST_BYTES, min(MOST_BYTES, free // 2))
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(descriptor).st_size < wanted:
                    _allocate(descriptor, wanted)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._path.unlink(missing_ok=True)
            raise StoreUnusable(
                f"The disk of the store {self._store} has no room left ({error.strerror}; {free:,} bytes free). "
                "Nothing was sent. Free some space, or name another store with --store."
            ) from error

    def release(self) -> bool:
        """Give the space back to the disk; False if that was done before."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True

    def size(self) -> int:
        """How much is kept aside, in bytes."""
        try:
            return self._path.stat().st_size
        except OSError:
            return 0


def free_bytes(folder: Path) -> int:
    """What is free on the disk of a folder, for us."""
    if sys.platform == "win32":
        import shutil

        return shutil.disk_usage(folder).free
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _allocate(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.write(descriptor, bytes(size))
