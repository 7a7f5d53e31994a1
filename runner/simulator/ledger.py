"""What arrived at the simulator, what it executed, and what that would have cost."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import orjson

from runner.simulator.bill import Bill, Tokens
from runner.simulator.models import Catalogue


class Visits:
    """How often one body came, passed the limits, and was executed."""

    __slots__ = ("admitted", "arrived", "executed")

    def __init__(self) -> None:
        self.arrived = 0
        self.admitted = 0
        self.executed = 0


@dataclass(slots=True)
class BatchEntry:
    """What the book says of one batch. `object` is the batch as the API has it, `input_sha256` that of its input
    file, in hexadecimal; `executions` are counted by body."""

    object: dict[str, Any]
    input_sha256: str | None
    bill: Bill
    executions: Counter[bytes] = field(default_factory=Counter)

    def shown(self) -> dict[str, Any]:
        """The entry as JSON types."""
        told = ("id", "created_at", "status", "endpoint", "model", "input_file_id", "metadata")
        return {
            **{name: self.object[name] for name in told},
            "input_sha256": self.input_sha256,
            "requests": self.object["request_counts"]["total"],
            "executed": self.executions.total(),
            "executions": {digest.hex(): times for digest, times in self.executions.items()},
            "tokens": self.bill.tokens(),
            **self.bill.shown(),
        }


class Ledger:
    """The book of one simulator. Safe to read from any thread, also after the simulator has stopped."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._visits: dict[bytes, Visits] = {}
            self._inputs: Counter[bytes] = Counter()
            self._counts: Counter[str] = Counter()
            self._endpoints: dict[str, Counter[str]] = {}
            self._refused: Counter[str] = Counter()
            self._faults: Counter[str] = Counter()
            self._bill = Bill(self._catalogue)
            self._uploads: dict[str, dict[str, Any]] = {}
            self._batches: dict[str, BatchEntry] = {}

    def arrive(self, endpoint: str, digest: bytes) -> Visits:
        """A model call has arrived."""
        with self._lock:
            self._counts["arrived"] += 1
            self._endpoints.setdefault(endpoint, Counter())["arrived"] += 1
            visits = self._visits.get(digest)
            if visits is None:
                visits = self._visits[digest] = Visits()
            visits.arrived += 1
            return visits

    def execute(
        self,
        endpoint: str,
        digest: bytes,
        tokens: Tokens,
        *,
        base: str,
        tier: str,
        inputs: list[bytes],
        batch_id: str | None = None,
    ) -> None:
        """A model call has been executed: from here on it would be charged, whatever reaches the client.

        `base` is the model's name in the price file, `tier` "default", "batch" or "flex"; `inputs` are the
        digests of an embeddings call's single inputs; `batch_id` names the batch whose line it was.
        """
        with self._lock:
            self._counts["executed"] += 1
            self._endpoints[endpoint]["executed"] += 1
            self._visits[digest].executed += 1
            self._inputs.update(inputs)
            self._bill.add(tokens, base=base, tier=tier)
            entry = self._batches.get(batch_id or "")
            if entry is not None:
                entry.executions[digest] += 1
                entry.bill.add(tokens, base=base, tier=tier)

    def upload(self, shown: dict[str, Any], sha256: str) -> None:
        """A file has been taken in: its object, and the SHA-256 of its bytes in hexadecimal."""
        told = ("id", "created_at", "filename", "purpose", "bytes")
        with self._lock:
            self._counts["files_uploaded"] += 1
            self._uploads[shown["id"]] = {
                **{name: shown[name] for name in told},
                "sha256": sha256,
                "deleted": False,
            }

    def delete_upload(self, file_id: str) -> None:
        """A file has been deleted; result files are not in the book."""
        with self._lock:
            if file_id in self._uploads:
                self._uploads[file_id]["deleted"] = True

    def enter_batch(self, batch: dict[str, Any], input_sha256: str | None) -> None:
        """A batch has been made: its object, as it will go on to be, and the SHA-256 of its input file."""
        with self._lock:
            self._counts["batches_created"] += 1
            self._batches[batch["id"]] = BatchEntry(batch, input_sha256, Bill(self._catalogue))

    def refuse(self, word: str) -> None:
        """A model call was refused, for the reason that this word names."""
        with self._lock:
            self._refused[word] += 1

    def fault(self, name: str) -> None:
        """A fault of the script was met."""
        with self._lock:
            self._faults[name] += 1

    def count(self, word: str, amount: int = 1) -> None:
        """Counts an event of the control plane, such as a batch created."""
        with self._lock:
            self._counts[word] += amount

    def snapshot(self) -> dict[str, Any]:
        """The whole book as JSON types.

        `executions` maps the SHA-256 of each executed body (`body_digest`) to how often; `inputs` counts the
        single inputs of embeddings likewise and names those executed more than once. `cost_usd` is exact
        decimal text for all that is priced; `unpriced` lists what is not. `files` are the uploads and `batches`
        the batches, in the order in which they were made: `BatchEntry.shown`.
        """
        with self._lock:
            counts = Counter(self._counts)
            return {
                "arrived": counts.pop("arrived", 0),
                "executed": counts.pop("executed", 0),
                "refused": dict(self._refused),
                "faults": dict(self._faults),
                "endpoints": {
                    name: {"arrived": seen["arrived"], "executed": seen["executed"]}
                    for name, seen in self._endpoints.items()
                },
                "executions": {
                    digest.hex(): seen.executed for digest, seen in self._visits.items() if seen.executed
                },
                "inputs": {
                    "executed": sum(self._inputs.values()),
                    "distinct": len(self._inputs),
                    "repeated": {digest.hex(): times for digest, times in self._inputs.items() if times > 1},
                },
                "tokens": self._bill.tokens(),
                **self._bill.shown(),
                "control": dict(counts),
                "files": [dict(upload) for upload in self._uploads.values()],
                "batches": [entry.shown() for entry in self._batches.values()],
            }


def body_digest(body: object) -> bytes:
    """SHA-256 of a body as compact JSON with sorted keys, so that spacing and order make no difference."""
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()
