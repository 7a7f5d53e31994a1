"""Series: who asks what from where at whose account, and who may write for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import orjson
from sqlalchemy import Connection, insert, select, update

from runner.errors import Fenced
from runner.store.clock import now
from runner.store.identity import Identity
from runner.store.schema import series


@dataclass(frozen=True, slots=True)
class Tenure:
    """The right to write for a series: it ends when another process raises the epoch."""

    series_id: int
    epoch: int


def take(connection: Connection, identity: Identity) -> Tenure:
    """Find or make the series and raise its epoch: whoever wrote for it before writes no more."""
    found = connection.execute(select(series.c.id).where(series.c.digest == identity.digest)).scalar()
    if found is None:
        found = connection.execute(
            insert(series)
            .values(
                digest=identity.digest,
                name=identity.job_name,
                identity=orjson.dumps(asdict(identity)).decode(),
                created_at=now(),
            )
            .returning(series.c.id)
        ).scalar_one()
    connection.execute(update(series).where(series.c.id == found).values(epoch=series.c.epoch + 1))
    epoch = connection.execute(select(series.c.epoch).where(series.c.id == found)).scalar_one()
    return Tenure(int(found), int(epoch))


def find(connection: Connection, identity: Identity) -> int | None:
    """The number of the series, or None if it has never run."""
    return connection.execute(select(series.c.id).where(series.c.digest == identity.digest)).scalar()


def identity_of(connection: Connection, series_id: int) -> Identity:
    text = connection.execute(select(series.c.identity).where(series.c.id == series_id)).scalar_one()
    return Identity(**orjson.loads(text))


def fence(connection: Connection, tenure: Tenure) -> None:
    """Raise Fenced unless the series is still ours; once in every transaction."""
    held = connection.exec_driver_sql(
        "UPDATE series SET epoch = epoch WHERE id = ? AND epoch = ?", (tenure.series_id, tenure.epoch)
    )
    if held.rowcount != 1:
        raise Fenced(
            "Another process has taken this series over. This one has stopped and written nothing more; "
            "`runner status` shows the run."
        )
