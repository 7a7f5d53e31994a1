"""What a series is: the job over one input path at one account. Importing it needs no database."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

import orjson


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes two runs one series: the job over one input path at one account.

    `job_path` is the real path of the job file (empty for a requests file), `input_path` the real path of the
    input ("-" for standard input), `origin` scheme, host and port of the base URL ("sim" for the simulator).
    """

    job_name: str
    job_path: str
    input_path: str
    provider: str
    origin: str
    organization: str
    project: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS)).hexdigest()

    @property
    def mark(self) -> str:
        """The beginning of the digest: what its batches say of whose they are."""
        return self.digest[:32]

    @property
    def account(self) -> str:
        """Whose limits and queues its calls and batches share, in one line."""
        return f"{self.provider} {self.origin} {self.organization or ''} {self.project or ''}"
