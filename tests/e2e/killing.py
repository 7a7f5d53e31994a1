"""The real command in processes that are forked from one that has run before, and kill themselves at a point.

    with Forks(environment) as forks:
        forks.warm_up(["run", ...], cwd)
        ended = forks(["run", ...], folder=..., kill_at=17)         # may be called from several threads
        assert ended.code == -signal.SIGKILL

A point is a moment at which the process may leave something behind: before each commit of the store and after it,
before each change to a file or folder below `folder`, and before each flush of one to the disk. Between two
points there is nothing that a kill could cut apart, but for what SQLite does within a commit, and requests, whose
server can kill as well (`on_start` tells the process).
"""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

TESTS = Path(__file__).parents[1]
CHANGES = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod"})
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
TIMEOUT = 60.0


# --- in the process that is to die --------------------------------------------------------------------


class Points:
    """Counts the points below a folder, and kills this process at one of them. `seen` names each."""

    def __init__(self, folder: str, kill_at: int | None) -> None:
        self._folder = folder
        self._kill_at = kill_at
        self._count = itertools.count(1)
        self.seen: list[str] = []

    def watch(self) -> None:
        """From now on, count."""
        connect, write, fsync = sqlite3.connect, os.write, os.fsync

        def connecting(*args: Any, **how: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*args, **how)
            connection.set_trace_callback(self._statement)
            return connection

        def writing(fd: int, data: Any) -> int:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                self._reach("write")
            return write(fd, data)

        def flushing(fd: int) -> None:
            self._reach("fsync")
            fsync(fd)

        sqlite3.connect, os.write, os.fsync = connecting, writing, flushing
        sys.addaudithook(self._event)

    def _statement(self, statement: str) -> None:
        # What begins comes right after what was committed before.
        if statement in ("COMMIT", "BEGIN IMMEDIATE"):
            self._reach(statement)

    def _event(self, event: str, args: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & WRITES):
            path = os.fsdecode(args[0]) if isinstance(args[0], (str, bytes, os.PathLike)) else ""
            if path.startswith(self._folder) or not path.startswith("/"):
                self._reach(event)

    def _reach(self, name: str) -> None:
        number = next(self._count)
        self.seen.append(name)
        if number == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def run_here(asked: Mapping[str, Any]) -> None:
    """Be the command: in its folder, with its environment and its screen, until it ends or is killed."""
    from runner.cli import main

    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    screen = os.open(asked["screen"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for number in (1, 2):
        os.dup2(screen, number)
    points = Points(asked["folder"], asked["kill_at"])
    points.watch()
    code = 70
    try:
        main(asked["args"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - the outermost frame of a process
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        Path(asked["screen"]).with_suffix(".points").write_bytes(orjson.dumps(points.seen))
        os._exit(code)


def attend(connection: socket.socket) -> None:
    """Serve one who wants a command to be run: tell its process id, then how it ended."""
    asked = orjson.loads(connection.makefile("rb").readline())
    began = time.monotonic()
    pid = os.fork()
    if not pid:
        connection.close()
        run_here(asked)
    connection.sendall(b"%d\n" % pid)
    _, status, used = os.wait4(pid, 0)
    ended = {
        "code": os.waitstatus_to_exitcode(status),
        "seconds": time.monotonic() - began,
        "cpu": used.ru_utime + used.ru_stime,
    }
    connection.sendall(orjson.dumps(ended) + b"\n")


def run_once(asked: Mapping[str, Any]) -> int:
    """Run a command in this very process, so that those forked from it find made what the first one makes."""
    from runner.cli import main

    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    try:
        main(asked["args"])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def serve(path: str) -> None:
    """Fork for each connection but the first, whose command is run here."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as asked:
        connection.sendall(b"%d\n" % run_once(orjson.loads(asked.readline())))
    gc.collect()
    gc.freeze()
    while True:
        connection, _ = listener.accept()
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            attend(connection)
            os._exit(0)
        connection.close()


# --- in the test's process ----------------------------------------------------------------------------


@dataclass(frozen=True)
class ForkEnded:
    """How a forked command ended: its exit code (negative: the signal), its screen, its seconds, those of them that
    it had the processor, and its points."""

    code: int
    screen: str
    seconds: float
    cpu: float
    points: list[str]

    @property
    def was_killed(self) -> bool:
        return self.code == -signal.SIGKILL


class Forks:
    """A process that has run the command once, and forks one for each call."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = dict(env)
        # The name of a socket is limited to a hundred characters, which a test's own folder may exceed.
        self._folder = Path(tempfile.mkdtemp(prefix="forks"))
        self._socket = str(self._folder / "socket")
        self._screens = itertools.count()

    def __enter__(self) -> Forks:
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import e2e.killing; e2e.killing.serve({self._socket!r})"],
            env={**os.environ, "PYTHONPATH": str(TESTS)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        shutil.rmtree(self._folder)

    def warm_up(self, args: Sequence[str], cwd: Path) -> None:
        """Run a whole command without a fork. It must be the first."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(self._socket)
            asked = {"args": list(args), "env": self._env, "cwd": str(cwd)}
            connection.sendall(orjson.dumps(asked) + b"\n")
            assert connection.recv(16) == b"0\n"

    def __call__(
        self,
        args: Sequence[str],
        *,
        folder: Path,
        kill_at: int | None = None,
        cwd: Path | None = None,
        on_start: Callable[[int], None] = lambda pid: None,
    ) -> ForkEnded:
        """Run the command to its end, or its death at that point. `folder` is what it may change."""
        screen = self._folder / f"{next(self._screens)}.screen"
        asked = {"args": list(args), "folder": str(folder), "cwd": str(cwd or folder), "screen": str(screen)}
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(self._socket)
            connection.sendall(orjson.dumps({**asked, "env": self._env, "kill_at": kill_at}) + b"\n")
            with connection.makefile("rb") as answers:
                pid = int(answers.readline())
                on_start(pid)
                try:
                    ended = orjson.loads(answers.readline())
                except TimeoutError:
                    os.kill(pid, signal.SIGKILL)
                    raise
        points = screen.with_suffix(".points")
        seen = orjson.loads(points.read_bytes()) if points.exists() else []
        return ForkEnded(screen=screen.read_text() if screen.exists() else "", points=seen, **ended)
