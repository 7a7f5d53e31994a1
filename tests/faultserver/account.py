"""What a ledger's events say of files and batches; the same for those in memory and those of a ledger file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Event = Mapping[str, Any]


def creates_in(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Every batch that came to be, in order, whether or not its client learned of it.

    Each has `batch`, `input_file_id`, `input_sha` (of the file's bytes; None where there was no such file),
    `endpoint` and `metadata`.
    """
    return [dict(event) for event in events if event["event"] == "created"]


def batches_in(events: Iterable[Event]) -> dict[str, dict[str, Any]]:
    """Every batch by its id: what `creates_in` says and, once it has ended, `status`, `lines` and `done`.

    `done` counts the lines that were executed. The status of one that is under way is None.
    """
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        if event["event"] == "created":
            found[event["batch"]] = dict(event) | {"status": None}
        elif event["event"] == "ended":
            found[event["batch"]] |= {name: event[name] for name in ("status", "lines", "done")}
    return found
