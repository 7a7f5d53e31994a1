"""Where a store is, by its URL. Importing it needs no database."""

from __future__ import annotations

from pathlib import Path

from runner.errors import UsageError


def path_of(url: str) -> Path:
    """The file that a store's URL names: `sqlite:///relative.db`, `sqlite:////absolute.db`, or a bare path."""
    if url.startswith("sqlite:///"):
        url = url.removeprefix("sqlite:///")
    elif "://" in url:
        scheme = url.split("://", 1)[0]
        raise UsageError(f"--store {scheme}:// is not supported: use sqlite:///PATH.")
    if not url or url == ":memory:" or "\0" in url:
        raise UsageError("--store needs a file: sqlite:///PATH. A store in memory could not be resumed.")
    return Path(url).expanduser().absolute()
