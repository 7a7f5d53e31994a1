"""Rows become the tasks that they need next, some at a time, as their turn comes.

A row needs one task: its question. A question that an earlier run of the series has been answered needs none.
"""

from __future__ import annotations

from runner.store import series, tasks
from runner.store.database import Store
from runner.store.tasks import Expanded


def expand(store: Store, tenure: series.Tenure, run_id: int) -> Expanded | None:
    """Make the tasks of the next rows, the more the further it is; None if every row has its task."""
    with store.write() as connection:
        series.fence(connection, tenure)
        return tasks.expand(connection, run_id=run_id, series_id=tenure.series_id)
