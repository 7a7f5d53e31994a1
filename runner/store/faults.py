"""What the database says went wrong, in our words: the one border where its errors become ours."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from runner.errors import StoreUnusable


class DiskFull(StoreUnusable):
    """The disk of the store is full."""


class Broken(StoreUnusable):
    """The disk or the database fails: this process writes nothing more."""


def explain(error: SQLAlchemyError | sqlite3.Error | UnicodeDecodeError, path: Path) -> StoreUnusable:
    """The error of ours that an error of the database comes to."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    name = getattr(cause, "sqlite_errorname", "") or ""
    if isinstance(cause, UnicodeDecodeError):
        # What the database itself says holds bytes of the file, and they are no text.
        name = "SQLITE_CORRUPT"
    # The second is said where there is no room for the log's index, before anything is written.
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")):
        return DiskFull(
            f"The disk of the store {path} is full. What was answered is kept. Free some space and run "
            "the same command again."
        )
    if name.startswith("SQLITE_IOERR"):
        # After a failed fsync nobody knows what is on disk: this process writes nothing more.
        return Broken(
            f"The disk of the store {path} fails ({name}). What was acknowledged is kept. Check the "
            "disk, then run the same command again."
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return Broken(
            f"The store {path} is damaged or not a store ({name}). Nothing more is written to it. "
            "Restore a copy, rescue it with `sqlite3 STORE .recover`, or name another with --store."
        )
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return StoreUnusable(
            f"The store {path} cannot be written ({name}). Make it and its folder writable, or name "
            "another with --store."
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreUnusable(
            f"The store {path} has been locked by another program for 30 seconds. Close it (a "
            "`sqlite3` shell, a backup), then run the same command again."
        )
    return StoreUnusable(f"The store {path} failed: {cause}. `runner doctor` checks it.")


def unwritable(error: OSError, path: Path) -> StoreUnusable:
    """The error of ours that one of the system comes to, for a file beside the store."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            f"The disk is full: {path} cannot be written. What was answered is kept. Free some space and run the "
            "same command again."
        )
    return StoreUnusable(
        f"{path} cannot be written: {error.strerror or error}. Make its folder writable, or name another store "
        "with --store; then run the same command again."
    )
