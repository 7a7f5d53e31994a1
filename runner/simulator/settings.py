"""How the simulator behaves; the options of `runner simulate`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """How the simulator behaves.

    `port` 0 takes any free one. `rpm` and `tpm` are requests and tokens per minute and model, None for no
    limit; `slices` enforces a sixtieth of them each second, without carry-over, while the headers still speak
    of the minute. `latency` is seconds added to each answer, `batch_time` the seconds a batch takes from
    creation to completion. `faults` is the text that `faults.py` explains.

    Of the Batch API: `profile` names the provider whose ways it has (`profiles.py`), `enqueued_tokens` bounds the
    input tokens that a model's live batches may hold together (None: no bound), and `batches_per_hour` and
    `uploads_per_minute` what may be made. `webhook` is where the end of a batch is told, signed with
    `webhook_secret`; None tells nobody.
    """

    port: int = 0
    host: str = "127.0.0.1"
    rpm: int | None = None
    tpm: int | None = None
    latency: float = 0.0
    faults: str | None = None
    seed: int = 0
    batch_time: float = 5.0
    slices: bool = False
    profile: str = "openai"
    enqueued_tokens: int | None = None
    batches_per_hour: int = 2_000
    uploads_per_minute: int = 1_000
    webhook: str | None = None
    webhook_secret: str = field(default="", repr=False)
