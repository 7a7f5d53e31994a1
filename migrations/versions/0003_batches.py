"""Batches: their submissions, the calls and tasks that they carry, what was learned of queues, and webhooks."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    let_tasks_be_batched()
    op.create_table(
        "batch",
        sa.Column("id", ID, nullable=False),
        sa.Column("run_id", ID, nullable=False),
        sa.Column("series_id", ID, nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("first_call", ID, nullable=False),
        sa.Column("submission", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("remote_id", sa.Text(), nullable=True),
        sa.Column("seen", sa.Text(), nullable=True),
        sa.Column("polls", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("submitted_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_batch_run_id_run")),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name=op.f("fk_batch_series_id_series")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batch")),
    )
    for column in ("run_id", "series_id", "remote_id"):
        op.create_index(op.f(f"ix_batch_{column}"), "batch", [column], unique=False)
    op.create_table(
        "batch_queue",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account", "model", name=op.f("pk_batch_queue")),
    )
    op.create_table(
        "webhook",
        sa.Column("number", ID, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_webhook")),
        sa.UniqueConstraint("id", name=op.f("uq_webhook_id")),
    )
    op.add_column("call", sa.Column("batch_id", ID, nullable=True))
    create_partial_index("ix_call_batch_id", "call", ["batch_id"], "batch_id IS NOT NULL")
    create_partial_index("ix_batch_out", "batch", ["series_id"], "ended_at IS NULL")


def let_tasks_be_batched() -> None:
    """Give tasks the state 'batched'. SQLite changes no condition of a table: there the table is written anew."""
    table = sa.Table(
        "task",
        sa.MetaData(),
        sa.Column("id", ID, nullable=False),
        sa.Column("series_id", ID, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("occurrence", sa.Integer(), nullable=False),
        sa.Column("run_id", ID, nullable=False),
        sa.Column("row_id", ID, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("call_id", ID, nullable=True),
        sa.Column("answer_id", ID, nullable=True),
        sa.Column("item", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("finish_reason", sa.Text(), nullable=True),
        sa.Column("fault", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint("state IN ('ready', 'in_flight', 'held', 'answered', 'failed')", "ck_task_state"),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_task_run_id_run"),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name="fk_task_series_id_series"),
        sa.PrimaryKeyConstraint("id", name="pk_task"),
        sa.UniqueConstraint("series_id", "hash", "occurrence", name="uq_task_series_id_hash_occurrence"),
    )
    with op.batch_alter_table("task", copy_from=table) as batch:
        batch.drop_constraint("ck_task_state", type_="check")
        batch.create_check_constraint(
            "ck_task_state", "state IN ('ready', 'in_flight', 'batched', 'held', 'answered', 'failed')"
        )
    if op.get_context().dialect.name == "sqlite":
        # They went with the table that they were of.
        create_partial_index("ix_task_in_flight", "task", ["series_id"], "state = 'in_flight'")
        create_partial_index("ix_task_ready", "task", ["run_id", "due_at", "row_id"], "state = 'ready'")
        create_partial_index("ix_task_held", "task", ["run_id"], "state = 'held'")
        create_partial_index("ix_task_failed", "task", ["run_id"], "state = 'failed'")
    create_partial_index("ix_task_batched", "task", ["run_id", "call_id"], "state = 'batched'")


def create_partial_index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, unique=False, sqlite_where=where, postgresql_where=where)
