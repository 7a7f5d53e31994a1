"""The files of one output, and whose they are: a series replaces what it has written, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from runner.errors import OutputUnwritable
from runner.files import AtomicFile, Stamp, check_writable, digest, remove
from runner.store import artifacts, runs, series
from runner.store.artifacts import Artifact
from runner.store.database import Store
from runner.store.series import Tenure


def is_matrix(output: Path) -> bool:
    """Whether an output is a matrix of vectors, which its name says."""
    return output.suffix.lower() == ".npy"


class Outputs:
    """`OUTPUT`, `OUTPUT.errors.jsonl` and `OUTPUT.summary.json` of a series; beside a matrix also
    `OUTPUT.keys.jsonl`. `drawn` are those that every export writes, the output itself first."""

    def __init__(self, store: Store, tenure: Tenure, output: Path) -> None:
        self._store = store
        self._tenure = tenure
        self.output = output
        self.errors = output.with_name(f"{output.name}.errors.jsonl")
        self.summary = output.with_name(f"{output.name}.summary.json")
        self.drawn = (
            [output, output.with_name(f"{output.name}.keys.jsonl")] if is_matrix(output) else [output]
        )

    def check(self, *, overwrite: bool) -> None:
        """OutputUnwritable unless all of them can be written, before anything is paid."""
        check_writable(self.output)
        for path in (*self.drawn, self.errors, self.summary):
            if overwrite or not path.exists() or self._is_ours(path):
                continue
            raise OutputUnwritable(
                f"{path} exists, and this series did not write it. Nothing was sent. Name another output with "
                "-o, or replace it with --overwrite."
            )

    def is_whole(self, *, with_errors: bool) -> bool:
        """Whether all the files of a finished run are there as they were written."""
        paths = [*self.drawn, self.summary, *([self.errors] if with_errors else [])]
        return all(path.exists() and self._is_ours(path) for path in paths)

    def note(self, file: AtomicFile) -> None:
        """Keep in the store that this file, complete but not named yet, is ours."""
        stamp = file.prepare()
        with self._store.write() as connection:
            series.fence(connection, self._tenure)
            runs.unset_drawn(connection, self._tenure.series_id, str(file.path))
            artifacts.note(
                connection,
                self._tenure.series_id,
                Artifact(str(file.path), stamp.size, stamp.mtime_ns, stamp.inode, file.sha256),
            )

    def settle(self, file: AtomicFile) -> None:
        """The file has its name now: nothing that stood there before is ours any more."""
        self._keep_only(file.path, file.sha256)

    def write_summary(self, summary: dict[str, Any]) -> None:
        self._write(self.summary, [orjson.dumps(summary, option=orjson.OPT_INDENT_2)])

    def write_errors(self, lines: Iterable[bytes]) -> None:
        """The errors alone, of an input that was refused."""
        self._write(self.errors, lines)

    def drop(self, path: Path) -> None:
        """Take a file of ours away."""
        remove(path)
        self._keep_only(path, None)

    def _write(self, path: Path, lines: Iterable[bytes]) -> None:
        with AtomicFile(path) as file:
            for line in lines:
                file.write(line + b"\n")
            self.note(file)
        self.settle(file)

    def _is_ours(self, path: Path) -> bool:
        with self._store.read() as connection:
            known = artifacts.of_path(connection, self._tenure.series_id, str(path))
        stamp = Stamp.of(path)
        if any(
            (stamp.size, stamp.mtime_ns, stamp.inode) == (one.size, one.mtime_ns, one.inode) for one in known
        ):
            return True
        like = [one.sha256 for one in known if one.size == stamp.size]
        return bool(like) and digest(path) in like

    def _keep_only(self, path: Path, sha256: str | None) -> None:
        with self._store.write() as connection:
            series.fence(connection, self._tenure)
            artifacts.keep_only(connection, self._tenure.series_id, str(path), sha256)
