"""The job file as a frozen, validated value: what to ask, of which model, and how to handle it."""

from __future__ import annotations

from pathlib import Path

from runner.job.amounts import parse_duration, parse_money, parse_size
from runner.job.deadline import Deadline, parse_deadline
from runner.job.value import Batch, Job, Limits, Retry, requests_job

__all__ = [
    "Batch",
    "Deadline",
    "Job",
    "Limits",
    "Retry",
    "parse_deadline",
    "parse_duration",
    "parse_money",
    "parse_size",
    "read_job",
    "requests_job",
]


def read_job(path: Path) -> Job:
    """Read a job file. Raises BadJob with every fault, one a line: FILE:LINE: field: what is wrong.

    Nothing else is read but the JSON Schema that the job names.
    """
    # YAML and templates take long to import, and only a job file needs them.
    from runner.job.reader import read_job as read

    return read(path)
