"""The tables. `series` and `run` say who asks; `row` what came in; `task`, `call`, `attempt` and `answer` what
was asked, how it was tried in vain, and what was paid for; `batch` what was submitted at once; `artifact` which files a
series has written.

A row's id is its run's number and its line number in one integer, so that reading by id is reading in input
order. A row finds its task by (series, hash, occurrence): that is the task's key, and the reason why an
unchanged row of a changed input finds the answer that an earlier run paid for.

An index on few of a table's rows counts them at once, however many there are of the others. The migrations set
the same condition for PostgreSQL; naming it here would import that dialect at every start.

Times are UTC seconds since 1970 as integers of microseconds; money is integer pico-dollars (1e-12 USD), NULL
where unknown. JSON is kept as text. Prompts stand in `row.record`, answers in `answer.body`, nowhere else.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from runner.model import Outcome, RunState, TaskState

APPLICATION_ID = 0x52554E52
"""`PRAGMA application_id` of a store: the letters RUNR."""

LINE_BITS = 40
"""A row's id is `run << LINE_BITS | line`: eight million runs of a trillion lines."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite gives rowid speed and automatic numbers only to a column typed INTEGER.
Id = BigInteger().with_variant(Integer(), "sqlite")


def _one_of(column: str, words: type[TaskState] | type[RunState] | type[Outcome]) -> CheckConstraint:
    listed = ", ".join(f"'{word}'" for word in words)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


series = Table(
    "series",
    metadata,
    Column("id", Id, primary_key=True),
    Column("digest", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("identity", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False, server_default=text("0")),
    Column("created_at", BigInteger, nullable=False),
)

run = Table(
    "run",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("series_id", Id, ForeignKey("series.id"), nullable=False, index=True),
    Column("state", Text, nullable=False),
    Column("meaning", Text, nullable=False),
    Column("job", Text, nullable=False),
    Column("input_size", BigInteger),
    Column("input_mtime_ns", BigInteger),
    Column("input_inode", BigInteger),
    Column("input_sha256", Text),
    Column("row_limit", BigInteger),
    Column("rows_in", BigInteger, nullable=False, server_default=text("0")),
    Column("rows_invalid", BigInteger, nullable=False, server_default=text("0")),
    Column("lines_blank", BigInteger, nullable=False, server_default=text("0")),
    Column("expanded_to", BigInteger, nullable=False, server_default=text("0")),
    Column("skip_invalid", SmallInteger, nullable=False, server_default=text("0")),
    Column("stop_requested", SmallInteger, nullable=False, server_default=text("0")),
    Column("drawn_as", Text),
    Column("progress", Text),
    Column("summary", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    _one_of("state", RunState),
)

row = Table(
    "row",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=False),
    Column("key", Text),
    Column("record", LargeBinary, nullable=False),
    Column("hash", LargeBinary),
    Column("occurrence", Integer, nullable=False, server_default=text("0")),
    Column("fault", Text),
)
Index("ix_row_fault", row.c.id, sqlite_where=row.c.fault.is_not(None))

task = Table(
    "task",
    metadata,
    Column("id", Id, primary_key=True),
    Column("series_id", Id, ForeignKey("series.id"), nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("occurrence", Integer, nullable=False),
    Column("run_id", Id, ForeignKey("run.id"), nullable=False),
    Column("row_id", Id, nullable=False),
    Column("state", Text, nullable=False),
    Column("due_at", BigInteger, nullable=False, server_default=text("0")),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("call_id", Id),
    # No foreign key here, nor from attempt to task: without an index on it each deletion would scan the table,
    # and an index would cost every answer.
    Column("answer_id", Id),
    Column("item", Integer, nullable=False, server_default=text("0")),
    Column("finish_reason", Text),
    Column("fault", Text),
    Column("error", Text),
    UniqueConstraint("series_id", "hash", "occurrence"),
    _one_of("state", TaskState),
)
Index(
    "ix_task_ready",
    task.c.run_id,
    task.c.due_at,
    task.c.row_id,
    sqlite_where=task.c.state == TaskState.READY.value,
)
Index("ix_task_in_flight", task.c.series_id, sqlite_where=task.c.state == TaskState.IN_FLIGHT.value)
Index("ix_task_held", task.c.run_id, sqlite_where=task.c.state == TaskState.HELD.value)
Index("ix_task_failed", task.c.run_id, sqlite_where=task.c.state == TaskState.FAILED.value)
# With the call in it, what is left of a batch is read in the order of its lines: their calls are numbered so.
Index(
    "ix_task_batched",
    task.c.run_id,
    task.c.call_id,
    sqlite_where=task.c.state == TaskState.BATCHED.value,
)

call = Table(
    "call",
    metadata,
    Column("id", Id, primary_key=True),
    Column("run_id", Id, ForeignKey("run.id"), nullable=False, index=True),
    Column("epoch", BigInteger, nullable=False),
    Column("sent_at", BigInteger, nullable=False),
    Column("reserved", BigInteger),
    # No foreign key: a migration cannot add one to a table of SQLite without writing it anew.
    Column("batch_id", Id),
)
Index("ix_call_batch_id", call.c.batch_id, sqlite_where=call.c.batch_id.is_not(None))

batch = Table(
    "batch",
    metadata,
    Column("id", Id, primary_key=True),
    Column("run_id", Id, ForeignKey("run.id"), nullable=False, index=True),
    Column("series_id", Id, ForeignKey("series.id"), nullable=False, index=True),
    Column("epoch", BigInteger, nullable=False),
    Column("account", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("lines", Integer, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    # Its lines are the calls of the numbers from here on.
    Column("first_call", Id, nullable=False),
    # The record of its submission as JSON, and what the store itself looks for in it.
    Column("submission", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("remote_id", Text, index=True),
    # The last look at it as JSON, and how many there were.
    Column("seen", Text),
    Column("polls", Integer, nullable=False, server_default=text("0")),
    Column("created_at", BigInteger, nullable=False),
    Column("submitted_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("result", Text),
)
Index("ix_batch_out", batch.c.series_id, sqlite_where=batch.c.ended_at.is_(None))

batch_queue = Table(
    "batch_queue",
    metadata,
    Column("account", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("tokens", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
)

webhook = Table(
    "webhook",
    metadata,
    # In the order in which they came.
    Column("number", Id, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("batch", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("received_at", BigInteger, nullable=False),
)

attempt = Table(
    "attempt",
    metadata,
    Column("id", Id, primary_key=True),
    Column("call_id", Id, ForeignKey("call.id"), nullable=False, index=True),
    Column("task_id", Id, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("status", Integer),
    Column("code", Text),
    Column("request_id", Text),
    Column("ended_at", BigInteger, nullable=False),
    _one_of("outcome", Outcome),
)
Index("ix_attempt_not_ok", attempt.c.call_id, sqlite_where=attempt.c.outcome != Outcome.OK.value)

answer = Table(
    "answer",
    metadata,
    Column("id", Id, primary_key=True),
    Column("call_id", Id, ForeignKey("call.id"), nullable=False),
    Column("status", Integer, nullable=False),
    Column("request_id", Text),
    Column("body", LargeBinary, nullable=False),
    Column("checksum", LargeBinary, nullable=False),
    Column("model", Text),
    Column("tier", Text),
    Column("input_tokens", BigInteger),
    Column("cached_input_tokens", BigInteger),
    Column("cache_write_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("reasoning_tokens", BigInteger),
    Column("total_tokens", BigInteger),
    Column("cost", BigInteger),
    Column("received_at", BigInteger, nullable=False),
    # How many tasks point into the body, each by its `item`: a packed body is kept once.
    Column("items", Integer, nullable=False, server_default=text("1")),
)
# With the cost in it, what a run has spent is summed without reading a body.
Index(None, answer.c.call_id, answer.c.cost)

artifact = Table(
    "artifact",
    metadata,
    Column("series_id", Id, ForeignKey("series.id"), primary_key=True),
    Column("path", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("inode", BigInteger, nullable=False),
    Column("sha256", Text, primary_key=True),
)
