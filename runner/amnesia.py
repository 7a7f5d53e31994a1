"""A run whose batches are at the provider already, and whose store knows nothing of them: it is asked nothing again
by mistake.

That is a store that was lost, or another one than before, or an old copy put back in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from runner.api.batches import BatchApi
from runner.asking import Asking
from runner.errors import BadConfiguration
from runner.remote import Refused, RemoteBatch, Unclear
from runner.store import remotes, series
from runner.submission import TOOL, mark_of


async def refuse_what_was_forgotten(asking: Asking, api: BatchApi, warn: Callable[[str], None]) -> None:
    """Before the first batch that a series ever plans: BadConfiguration if its server has batches of the same series
    out, over the same input, that the store does not know; a warning if such have ended. One look at the newest of
    them; where the server cannot list them, nothing is refused."""
    mark = mark_of(asking.run.meaning, asking.run.fingerprint.sha256)
    with asking.store.read() as connection:
        has_planned = remotes.has_planned(connection, asking.tenure.series_id)
        series_mark = series.identity_of(connection, asking.tenure.series_id).mark
    if asking.fresh or has_planned or not mark:
        return
    newest = await api.newest()
    if isinstance(newest, (Refused, Unclear)):
        return
    ours = [
        one
        for one in newest
        if is_worth_adopting(one)
        and (one.metadata.get("mark"), one.metadata.get("series")) == (mark, series_mark)
    ]
    with asking.store.read() as connection:
        ours = [one for one in ours if not remotes.is_known(connection, one.id)]
    if any(not one.has_ended for one in ours):
        raise BadConfiguration(f"{_words(asking, ours)} Nothing was submitted; --fresh asks all of it again.")
    if ours:
        warn(f"{_words(asking, ours)} This run asks all of it again.")


def is_worth_adopting(batch: RemoteBatch) -> bool:
    """Whether a batch is one of runner's, and has done something, or may yet."""
    if batch.metadata.get("tool") != TOOL or batch.status == "failed":
        return False
    if not batch.has_ended:
        return True
    return bool(batch.output_file_id or batch.error_file_id or batch.completed)


def _words(asking: Asking, ours: list[RemoteBatch]) -> str:
    lines = sum(one.total or 0 for one in ours)
    run = ours[0].metadata.get("run", "unknown")
    created_at = ours[0].created_at
    since = (
        ""
        if created_at is None
        else f", the newest from {datetime.fromtimestamp(created_at, UTC):%Y-%m-%d %H:%M} UTC"
    )
    are = (
        "1 batch of this job over this input is"
        if len(ours) == 1
        else f"{len(ours)} batches of this job over this input are"
    )
    job = asking.job.path or asking.job.input
    return (
        f"{are} at {asking.account.origin} already (run {run}, {lines:,} requests{since}), and this store knows nothing "
        f"of it: was the store lost, or is it another one? `runner adopt {job}` takes over what is there, and pays "
        "nothing for it."
    )
