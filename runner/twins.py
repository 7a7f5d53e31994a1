"""Batches that ask rows a second time: found in the account's list, cancelled, and told.

There are none as long as the quarantine is longer than lists lag and creates come late. Whether it was, only the
list can tell, once the run's batches have ended.
"""

from __future__ import annotations

from collections.abc import Callable

from runner.api.batches import BatchApi
from runner.remote import Listed, Page, RemoteBatch
from runner.store import batches
from runner.store.batches import Kept
from runner.store.database import Store
from runner.submission import HORIZON, audit

MOST_PAGES = 50


async def call_off_twins(
    api: BatchApi, store: Store, run_id: int, tell: Callable[[Kept, str, str], None]
) -> None:
    """Look for second batches of the shards of a run, and cancel those. A list that cannot be had tells nothing."""
    with store.read() as connection:
        kept = batches.of_run(connection, run_id)
    submissions = [one.submission for one in kept]
    made = [one.first_file_at for one in submissions if one.first_file_at]
    if not made:
        return
    twins = audit(submissions, await _listed_since(api, min(made) - HORIZON))
    for twin in twins:
        # A store that took batches over may have two of one shard.
        of = next((one for one in kept if one.submission.shard == twin.shard), kept[0])
        await call_off(api, twin.id, of, tell)


async def call_off(api: BatchApi, batch_id: str, of: Kept, tell: Callable[[Kept, str, str], None]) -> None:
    """Cancel one second batch of a shard."""
    answer = await api.cancel(batch_id)
    if not isinstance(answer, RemoteBatch):
        became = f"It could not be cancelled, do so at the provider ({answer.message.rstrip('.')})"
    elif answer.has_ended:
        became = f"It has ended ({answer.status})"
    else:
        became = "It is cancelled"
    tell(
        of,
        "twin",
        f"batch {batch_id} asks the same rows a second time: a create arrived later than --quarantine waits for, or a "
        f"list lagged. {became}; what it did may be charged. Give a longer --quarantine",
    )


async def _listed_since(api: BatchApi, since: float) -> list[Listed]:
    listed: list[Listed] = []
    after: str | None = None
    for _ in range(MOST_PAGES):
        page = await api.list_page(after)
        if not isinstance(page, Page) or not page.batches:
            break
        listed.extend(page.batches)
        if not page.has_more or page.batches[-1].created_at < since:
            break
        after = page.batches[-1].id
    return listed
