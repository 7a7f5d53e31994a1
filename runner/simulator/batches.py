"""The Batch API: batches go through all their states by themselves, in the time that the settings name.

validating ──▶ in_progress ──▶ finalizing ──▶ completed
    │  │            │               │
    │  └────────────┴───────────────┴──cancel──▶ cancelling ──▶ cancelled
    └──▶ failed
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import orjson

from runner.simulator import chat, embeddings, responses
from runner.simulator.batch_lines import Lines, answered, not_run
from runner.simulator.calls import Calls
from runner.simulator.chance import Chance
from runner.simulator.files import Files, StoredFile, page
from runner.simulator.ledger import Tokens
from runner.simulator.refusal import Refusal, invalid_value, missing, wrong_type

ENDPOINTS = {module.PATH: module.NAME for module in (responses, chat, embeddings)}
_DAY = 86_400
_AT_ONCE = 50


class Batch:
    """One batch: the object that the API shows, and what is behind it."""

    def __init__(self, shown: dict[str, Any], *, lifetime: int | None) -> None:
        self.shown = shown
        self.lifetime = lifetime
        self.cancelled = asyncio.Event()
        self.used = Tokens(0)
        self.task: asyncio.Task[None] | None = None

    @property
    def status(self) -> str:
        """The state, in the API's word."""
        return str(self.shown["status"])


class Batches:
    """All batches of one simulator."""

    def __init__(self, calls: Calls, files: Files, *, wall: Callable[[], float]) -> None:
        self._calls = calls
        self._files = files
        self._wall = wall
        self._batches: dict[str, Batch] = {}
        self._made = 0
        self._span = max(0.0, calls.settings.batch_time)

    def create(self, body: object) -> dict[str, Any]:
        """Takes a batch in; its file is looked at later, as the API does."""
        asked = _checked(body)
        now = int(self._wall())
        self._made += 1
        name = Chance(self._calls.settings.seed, str(self._made).encode()).hex("batch", 32)
        stamps = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        shown = {
            "id": f"batch_{name}",
            "object": "batch",
            "endpoint": asked["endpoint"],
            "model": None,
            "errors": None,
            "input_file_id": asked["input_file_id"],
            "completion_window": "24h",
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": now,
            "expires_at": now + _DAY,
            **{f"{stamp}_at": None for stamp in stamps},
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "usage": None,
            "metadata": asked.get("metadata"),
        }
        lifetime = (asked.get("output_expires_after") or {}).get("seconds")
        batch = self._batches[str(shown["id"])] = Batch(shown, lifetime=lifetime)
        self._calls.ledger.count("batches_created")
        batch.task = asyncio.get_running_loop().create_task(self._live(batch))
        return shown

    def get(self, batch_id: str) -> dict[str, Any]:
        """The batch object of this id, or the API's 404."""
        return self._find(batch_id).shown

    def listed(self, query: dict[str, str]) -> dict[str, Any]:
        """A page of batches, the newest first."""
        return page([batch.shown for batch in reversed(self._batches.values())], query, default=20, most=100)

    def cancel(self, batch_id: str) -> dict[str, Any]:
        """Cancels a batch that is under way; what has been answered stays."""
        batch = self._find(batch_id)
        if batch.status in ("completed", "failed", "expired"):
            raise Refusal(409, f"Cannot cancel a batch with status '{batch.status}'.")
        if batch.status not in ("cancelling", "cancelled"):
            self._enter(batch, "cancelling")
            batch.cancelled.set()
        return batch.shown

    async def stop(self) -> None:
        """Ends all batches where they stand, and forgets them."""
        tasks = [batch.task for batch in self._batches.values() if batch.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._batches.clear()

    def _find(self, batch_id: str) -> Batch:
        batch = self._batches.get(batch_id)
        if batch is None:
            raise Refusal(404, f"No batch found with id '{batch_id}'.")
        return batch

    def _enter(self, batch: Batch, state: str) -> None:
        batch.shown["status"] = state
        batch.shown[f"{state}_at"] = int(self._wall())

    async def _live(self, batch: Batch) -> None:
        """The life of a batch: a tenth of its time in validation, a tenth in the end, the rest in between."""
        await self._pause(batch, 0.1)
        lines = await self._validate(batch)
        if lines.errors and not batch.cancelled.is_set():
            batch.shown["errors"] = {"object": "list", "data": lines.errors}
            batch.shown["request_counts"] = {"total": 0, "completed": 0, "failed": 0}
            self._enter(batch, "failed")
            return
        if not batch.cancelled.is_set():
            self._enter(batch, "in_progress")
            await self._work(batch, lines)
        if not batch.cancelled.is_set():
            self._enter(batch, "finalizing")
            await self._pause(batch, 0.1)
        if batch.cancelled.is_set():
            await asyncio.sleep(self._span * 0.1)
        self._enter(batch, "cancelled" if batch.cancelled.is_set() else "completed")

    async def _pause(self, batch: Batch, share: float) -> None:
        """Lets a share of the batch's time pass, or less if it is cancelled meanwhile."""
        try:
            await asyncio.wait_for(batch.cancelled.wait(), self._span * share)
        except TimeoutError:
            return

    async def _validate(self, batch: Batch) -> Lines:
        lines = Lines(batch.shown["endpoint"], self._calls.catalogue)
        stored = self._files.find(batch.shown["input_file_id"])
        if stored is None or stored.purpose != "batch":
            message = (
                f"Cannot find file {batch.shown['input_file_id']}, or organization org-sim does not have "
                "access to it."
            )
            lines.errors.append(
                {"code": "invalid_request", "message": message, "param": "file_id", "line": None}
            )
            return lines
        with stored.path.open("rb") as stream:
            offset = 0
            for number, line in enumerate(stream):
                lines.check(line, offset)
                offset += len(line)
                if number % 500 == 499:
                    await asyncio.sleep(0)
        lines.finish()
        batch.shown["model"] = lines.model
        batch.shown["request_counts"]["total"] = len(lines.offsets)
        return lines

    async def _work(self, batch: Batch, lines: Lines) -> None:
        """Answers the lines in an order of its own, spread over the time, and writes both files."""
        order = list(range(len(lines.offsets)))
        random.Random(batch.shown["id"]).shuffle(order)  # noqa: S311
        loop = asyncio.get_running_loop()
        started, span = loop.time(), self._span * 0.8
        with (
            self._files.get(batch.shown["input_file_id"]).path.open("rb") as source,
            self._files.open_new() as output,
            self._files.open_new() as errors,
        ):
            for done, place in enumerate(order):
                source.seek(lines.offsets[place])
                request = orjson.loads(source.readline())
                if batch.cancelled.is_set():
                    errors.write(not_run(self._line_id(batch, request), request["custom_id"]))
                    continue
                self._answer(batch, request, output, errors)
                early = started + span * (done + 1) / len(order) - loop.time()
                if early > 0.01:
                    await self._pause(batch, early / self._span)
                elif done % _AT_ONCE == _AT_ONCE - 1:
                    await asyncio.sleep(0)
        batch.shown["output_file_id"] = self._kept(batch, output, "output")
        batch.shown["error_file_id"] = self._kept(batch, errors, "error")
        batch.shown["usage"] = responses.usage(batch.used)
        del batch.shown["usage"]["input_tokens_details"]["cache_write_tokens"]

    def _answer(self, batch: Batch, request: dict[str, Any], output: IO[bytes], errors: IO[bytes]) -> None:
        result = self._calls.batched(ENDPOINTS[batch.shown["endpoint"]], request["body"])
        fine = result.status == 200
        (output if fine else errors).write(
            answered(
                self._line_id(batch, request),
                request["custom_id"],
                status=result.status,
                request_id=result.request_id,
                body=result.body,
            )
        )
        batch.shown["request_counts"]["completed" if fine else "failed"] += 1
        if result.tokens is not None:
            batch.used.input += result.tokens.input
            batch.used.output += result.tokens.output
            batch.used.cached += result.tokens.cached

    def _line_id(self, batch: Batch, request: dict[str, Any]) -> str:
        chance = Chance(self._calls.settings.seed, str(batch.shown["id"]).encode())
        return f"batch_req_{chance.hex(request['custom_id'], 32)}"

    def _kept(self, batch: Batch, stream: IO[bytes], word: str) -> str | None:
        """The id of a result file; none where there is nothing in it."""
        path = Path(stream.name)
        if path.stat().st_size == 0:
            path.unlink()
            return None
        stored: StoredFile = self._files.keep(
            path,
            filename=f"{batch.shown['id']}_{word}.jsonl",
            purpose="batch_output",
            lifetime=batch.lifetime,
        )
        return stored.id


def _checked(body: object) -> dict[str, Any]:
    """The body of a creation, or the API's refusal of it."""
    if not isinstance(body, dict):
        raise Refusal(400, "We could not parse the JSON body of your request.")
    for param in ("input_file_id", "endpoint", "completion_window"):
        if body.get(param) is None:
            raise missing(param)
    if body["endpoint"] not in ENDPOINTS:
        raise invalid_value("endpoint", body["endpoint"], tuple(ENDPOINTS))
    if body["completion_window"] != "24h":
        raise invalid_value("completion_window", body["completion_window"], ("24h",))
    metadata = body.get("metadata")
    if metadata is None:
        return body
    if not isinstance(metadata, dict):
        raise wrong_type("metadata", "an object", metadata)
    if len(metadata) > 16:
        message = f"Invalid 'metadata': too many properties. Expected at most 16, but got {len(metadata)}."
        raise Refusal(400, message, param="metadata", code="object_above_max_properties")
    for name, value in metadata.items():
        if not isinstance(value, str):
            raise wrong_type(f"metadata.{name}", "a string", value)
        if len(name) > 64 or len(value) > 512:
            message = f"Invalid 'metadata.{name}': a key has at most 64 characters, a value 512."
            raise Refusal(400, message, param=f"metadata.{name}", code="string_above_max_length")
    return body
