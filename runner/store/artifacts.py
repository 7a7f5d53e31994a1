"""Artifacts: which files a series has written, so that it replaces its own and nobody else's."""

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


def put(connection: Connection, series_id: int, one: Artifact) -> None:
    drop(connection, series_id, one.path)
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


def get(connection: Connection, series_id: int, path: str) -> Artifact | None:
    found = connection.execute(
        select(artifact).where(artifact.c.series_id == series_id, artifact.c.path == path)
    ).first()
    return (
        None if found is None else Artifact(found.path, found.size, found.mtime_ns, found.inode, found.sha256)
    )


def drop(connection: Connection, series_id: int, path: str) -> None:
    connection.execute(delete(artifact).where(artifact.c.series_id == series_id, artifact.c.path == path))
