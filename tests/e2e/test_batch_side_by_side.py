"""As many batches are out at once as the account takes, not as many as are on their way at once."""

from __future__ import annotations

from pathlib import Path

from e2e.batch_runs import screens
from e2e.conftest import request_line, write_jsonl
from faultserver import FaultServer

MODELS = ("gpt-6-luna", "gpt-6-sol", "gpt-6-terra", "gpt-6.1-terra", "gpt-4o-mini")


def test_every_batch_is_submitted_before_the_first_has_ended(tmp_path: Path) -> None:
    lines = [request_line(number, body={"model": model}) for number, model in enumerate(MODELS)]
    requests = write_jsonl(tmp_path / "requests.jsonl", lines)
    with FaultServer(batch_time=2.0) as server, screens() as command:
        store = f"sqlite:///{tmp_path / 'store.db'}"
        ended = command(
            "run", requests, "--mode", "batch", "--poll", "0.1s", "--base-url", server.url, "--store", store
        )

    assert ended.code == 0, ended.err
    told = [line.rsplit(" ", 1)[-1] for line in ended.err.splitlines() if line.startswith("Batch ")]
    assert told == ["submitted."] * len(MODELS) + ["completed."] * len(MODELS)
