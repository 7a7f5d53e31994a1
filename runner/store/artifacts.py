"""Artifacts: which files a series has written, so that it replaces its own and nobody else's.

A file is noted before it takes its name, so that a process that dies between the two leaves none it disowns.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select

from runner.store.schema import artifact


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file as it was written: bytes, modification time, inode, SHA-256 in hex."""

    path: str
    size: int
    mtime_ns: int
    inode: int
    sha256: str


def note(connection: Connection, series_id: int, one: Artifact) -> None:
    """This file is about to take its place; what stood there may stand there still."""
    connection.execute(
        delete(artifact).where(
            artifact.c.series_id == series_id, artifact.c.path == one.path, artifact.c.sha256 == one.sha256
        )
    )
    connection.execute(
        insert(artifact).values(
            series_id=series_id,
            path=one.path,
            size=one.size,
            mtime_ns=one.mtime_ns,
            inode=one.inode,
            sha256=one.sha256,
        )
    )


def of_path(connection: Connection, series_id: int, path: str) -> list[Artifact]:
    """The files of this name that the series has written."""
    found = connection.execute(
        select(artifact).where(artifact.c.series_id == series_id, artifact.c.path == path)
    )
    return [Artifact(one.path, one.size, one.mtime_ns, one.inode, one.sha256) for one in found]


def keep_only(connection: Connection, series_id: int, path: str, sha256: str | None) -> None:
    """The file has its name: forget those of before. None if no file of this name is left."""
    gone = delete(artifact).where(artifact.c.series_id == series_id, artifact.c.path == path)
    connection.execute(gone if sha256 is None else gone.where(artifact.c.sha256 != sha256))
