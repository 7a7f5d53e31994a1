"""The real command in the test's own process, one at a time, in a folder, with a store, and with servers to ask.

A process of its own would cost each command most of a second. Arguments, environment, sockets, store, files and
exit codes are real.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from e2e.batch_runs import screens
from e2e.conftest import KEY, Ended
from faultserver import BatchFaults, FaultServer


class InPlace:
    """`cli("run", job, ...)` runs the command to its end; `env` adds to its environment or, with None, takes from
    it. `serve(batches, batch_time)` starts a server, which the commands ask from then on."""

    def __init__(self, store: Path, servers: contextlib.ExitStack) -> None:
        self.store = store
        self._servers = servers
        self._env = {"RUNNER_STORE": f"sqlite:///{store}"}

    def __call__(self, *args: object, env: Mapping[str, str | None] | None = None) -> Ended:
        with screens() as command, mock.patch.dict(os.environ):
            for name, text in {**self._env, **(env or {})}.items():
                if text is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = text
            return command(*args)

    def serve(self, batches: str | BatchFaults = "plain", batch_time: float = 0.3) -> FaultServer:
        server = self._servers.enter_context(FaultServer(batches=batches, batch_time=batch_time))
        self._env["OPENAI_BASE_URL"] = server.url
        return server

    def lose_store(self) -> None:
        """Take the store away, with all that lies beside it."""
        for path in self.store.parent.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def in_place(folder: Path, store: Path, empty_store: Path) -> Iterator[InPlace]:
    """Stand in a folder, beside which the store is empty. When it ends, no file there holds the key."""
    store.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_store, store)
    with contextlib.chdir(folder), contextlib.ExitStack() as servers:
        yield InPlace(store, servers)
    for path in folder.rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), f"the key is in {path}"
