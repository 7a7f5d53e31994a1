"""An answer can carry many tasks; what few rows, tasks and attempts have come to is found without the many."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("answer", sa.Column("items", sa.Integer(), server_default=sa.text("1"), nullable=False))
    op.drop_index("ix_answer_call_id", table_name="answer")
    op.create_index(op.f("ix_answer_call_id_cost"), "answer", ["call_id", "cost"], unique=False)
    for name, table, columns, condition in (
        ("ix_row_fault", "row", ["id"], "fault IS NOT NULL"),
        ("ix_task_held", "task", ["run_id"], "state = 'held'"),
        ("ix_task_failed", "task", ["run_id"], "state = 'failed'"),
        ("ix_attempt_not_ok", "attempt", ["call_id"], "outcome != 'ok'"),
    ):
        where = sa.text(condition)
        op.create_index(name, table, columns, unique=False, sqlite_where=where, postgresql_where=where)
