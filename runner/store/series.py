"""Series: who asks what from where at whose account, and who may write for it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

import orjson
from sqlalchemy import Connection, insert, select, update

from runner.errors import Fenced
from runner.store.clock import now
from runner.store.schema import series


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes two runs one series: the job over one input path at one account.

    `job_path` is the real path of the job file (empty for a requests file), `input_path` the real path of the
    input ("-" for standard input), `origin` scheme, host and port of the base URL ("sim" for the simulator).
    """

    job_name: str
    job_path: str
    input_path: str
    provider: str
    origin: str
    organization: str
    project: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS)).hexdigest()

    @property
    def mark(self) -> str:
        """The beginning of the digest: what its batches say of whose they are."""
        return self.digest[:32]

    @property
    def account(self) -> str:
        """Whose limits and queues its calls and batches share, in one line."""
        return f"{self.provider} {self.origin} {self.organization or ''} {self.project or ''}"


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
