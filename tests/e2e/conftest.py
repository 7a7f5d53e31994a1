"""The real command in a process of its own, and small things for it to work on.

    def test_something(cli, server, requests_file, tmp_path):
        ended = cli("run", requests_file(3), "-o", "out.jsonl")      # waits; cli.start(...) does not
        assert ended.code == 0
        assert server.ledger.calls() == 3

Every command stands in `tmp_path`, has an environment of its own (no OPENAI_* of the user's, the store below
tmp_path, a key that is a canary), a timeout, and is checked when it ends: no traceback on any screen, no key
in what it printed, and no key in any file that the test leaves in tmp_path.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson
import pytest
from faultserver import FaultServer

from runner.store.database import Store

if TYPE_CHECKING:
    from e2e.killing import Forks

KEY = "sk-canary-6f1d0c9b7e"
"""The API key that every command of these tests is given; it must never come out again."""

TIMEOUT = 60.0
PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, standard output (bytes), standard error (text), seconds it took."""

    code: int
    out: bytes
    err: str
    seconds: float

    @property
    def events(self) -> list[dict[str, Any]]:
        """The lines of `--json` on standard error, all of which must be objects."""
        found = [orjson.loads(line) for line in self.err.split("\n")[:-1]]
        assert all(isinstance(one, dict) for one in found)
        return found

    @property
    def json(self) -> Any:
        """Standard output as one JSON value (of plan, status, doctor with `--json`)."""
        return orjson.loads(self.out)


class Running:
    """A command on its way: `send` it a signal, `wait` for its end."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._started = time.monotonic()
        self._read = b""
        self._ended: Ended | None = None

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self.process.send_signal(number)

    def wait(self, timeout: float = TIMEOUT) -> Ended:
        """Wait for the end, and check that the screen holds no traceback and no key."""
        if self._ended is None:
            out, err = self.process.communicate(timeout=timeout)
            seconds = time.monotonic() - self._started
            self._ended = Ended(self.process.returncode, out, (self._read + (err or b"")).decode(), seconds)
            assert "Traceback (most recent call last)" not in self._ended.err, self._ended.err
            assert KEY not in self._ended.err + out.decode(errors="replace")
        return self._ended

    def line(self, holding: str, timeout: float = TIMEOUT) -> str:
        """Read standard error up to and with the first line that holds this text."""
        assert self.process.stderr is not None
        # A read has no timeout of its own; the end of the process ends it.
        limit = threading.Timer(timeout, self.process.kill)
        limit.start()
        try:
            for line in self.process.stderr:
                self._read += line
                if holding in line.decode():
                    return line.decode()
        finally:
            limit.cancel()
        raise AssertionError(f"no line with {holding!r} in:\n{self._read.decode()}")


@dataclass
class Cli:
    """`cli("run", job, ...)` waits for the end; `cli.start("run", ...)` gives the running process.

    `env` adds to the environment or, with None, takes from it; `cli.env` does so for all commands of a test.
    Paths may be given as they are; `stdin` is bytes, and empty by default. `cwd` is tmp_path by default.
    """

    folder: Path
    env: dict[str, str | None] = field(default_factory=dict)
    _started: list[Running] = field(default_factory=list)
    _left_open: list[IO[bytes]] = field(default_factory=list)

    def __call__(self, *args: object, timeout: float = TIMEOUT, **how: Any) -> Ended:
        return self.start(*args, **how).wait(timeout)

    def start(
        self,
        *args: object,
        env: Mapping[str, str | None] | None = None,
        stdin: bytes = b"",
        keep_stdin_open: bool = False,
        stderr: int = subprocess.PIPE,
        under: Iterable[str] = (),
        cwd: Path | None = None,
    ) -> Running:
        """Start the command and go on at once. What still runs when the test ends is killed.

        `stderr` may be the descriptor of a terminal, which the test reads itself; `under` is a command, such
        as a shell's exec, that takes ours as its last arguments.
        """
        process = subprocess.Popen(
            [*under, sys.executable, "-m", "runner", *map(str, args)],
            env=self._environment({**self.env, **(env or {})}),
            cwd=cwd or self.folder,
            stdin=subprocess.PIPE if stdin or keep_stdin_open else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            # Unbuffered, so that what `line` does not take is left to `wait`.
            bufsize=0,
        )
        if process.stdin is not None:
            process.stdin.write(stdin)
            if not keep_stdin_open:
                process.stdin.close()
            else:
                self._left_open.append(process.stdin)
            # What `communicate` knows of, it closes.
            process.stdin = None
        running = Running(process)
        self._started.append(running)
        return running

    def close(self) -> None:
        """Kill what still runs."""
        for running in self._started:
            process = running.process
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        for pipe in self._left_open:
            pipe.close()

    def _environment(self, changes: Mapping[str, str | None]) -> dict[str, str]:
        found: dict[str, str | None] = {name: os.environ.get(name) for name in PASSED_ON}
        found |= {"XDG_DATA_HOME": str(self.folder / "data"), "OPENAI_API_KEY": KEY, "COLUMNS": "200"}
        # A test that names no server must not reach a real one.
        found |= {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
        return {name: value for name, value in (found | dict(changes)).items() if value is not None}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of this version without any run. To make one costs a third of a second, to copy one nothing."""
    path = tmp_path_factory.mktemp("store") / "store.db"
    Store.open(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def cli(tmp_path: Path, empty_store: Path, store: Path) -> Iterator[Cli]:
    """The real command. Its store is the user's default, below tmp_path, and empty; `store` is its file."""
    store.parent.mkdir(parents=True)
    shutil.copy(empty_store, store)
    made = Cli(tmp_path)
    yield made
    made.close()
    for path in tmp_path.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert KEY.encode() not in path.read_bytes(), f"the key is in {path}"


@pytest.fixture
def server(cli: Cli) -> Iterator[FaultServer]:
    """An API that answers all; the commands of the test ask it. Set `server.script` for its faults."""
    with FaultServer() as started:
        cli.env["OPENAI_BASE_URL"] = started.url
        yield started


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The file of the default store, for tests that look at its bytes, or take it away first."""
    return tmp_path / "data" / "runner" / "store.db"


def request_line(number: int, *, body: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A line in the Batch API's format, its prompt marked `row=r<number>` for the server's ledger."""
    asked = {
        "model": "gpt-6-luna",
        "messages": [{"role": "user", "content": f"row=r{number} say something"}],
        "max_completion_tokens": 50,
        **(body or {}),
    }
    line = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": asked}
    return {**line, **changes}


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Rows as a JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def read_jsonl(path: Path) -> list[Any]:
    """The rows of a JSONL file."""
    return [orjson.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


@pytest.fixture
def requests_file(tmp_path: Path) -> Callable[..., Path]:
    """`requests_file(count, name=..., **changes)` writes r1 to r<count> in the Batch API's format."""

    def write(count: int, name: str = "requests.jsonl", **changes: Any) -> Path:
        return write_jsonl(
            tmp_path / name, (request_line(number, **changes) for number in range(1, count + 1))
        )

    return write


@pytest.fixture
def job_file(tmp_path: Path) -> Callable[..., Path]:
    """`job_file(rows, **fields)` writes job.yaml and its rows.jsonl; a field given as None is left out.

    Without `rows` there are three, `{"id": "r1", "text": "row=r1 ..."}` and so on. The output is out.jsonl.
    """

    def write(rows: Iterable[Mapping[str, Any]] | int = 3, name: str = "job.yaml", **fields: Any) -> Path:
        if isinstance(rows, int):
            rows = [{"id": f"r{n}", "text": f"row=r{n} tell me more"} for n in range(1, rows + 1)]
        write_jsonl(tmp_path / "rows.jsonl", rows)
        job = {
            "name": "small-job",
            "endpoint": "chat",
            "model": "gpt-6-luna",
            "input": "rows.jsonl",
            "output": "out.jsonl",
            "key": "id",
            "request": {
                "messages": [{"role": "user", "content": "{{ text }}"}],
                "max_completion_tokens": 50,
            },
            **fields,
        }
        # JSON is YAML: what a test means is written as it is.
        path = tmp_path / name
        path.write_bytes(orjson.dumps({k: v for k, v in job.items() if v is not None}))
        return path

    return write


@pytest.fixture
def embed(job_file: Callable[..., Path]) -> Callable[..., Path]:
    """`embed(texts, **fields)` writes a job that embeds these texts in eight dimensions."""

    def write(texts: Iterable[str], **fields: Any) -> Path:
        rows = [{"id": n, "text": text} for n, text in enumerate(texts)]
        request = {"input": "{{ text }}", "dimensions": 8, **fields.pop("request", {})}
        job = {
            "endpoint": "embeddings",
            "model": "text-embedding-3-small",
            "keep": ["id"],
            "request": request,
        }
        return job_file(rows, **job | fields)

    return write


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Forks]:
    """What starts the command in batch mode by a fork, which saves it the imports."""
    from e2e.batch_runs import ENVIRONMENT, Case
    from e2e.killing import Forks

    with Forks(ENVIRONMENT) as started:
        case = Case(tmp_path_factory.mktemp("warm") / "up", empty_store, 6, options=("--poll", "0.02s"))
        with FaultServer(batch_time=0.05) as server:
            started.warm_up(case.command(server.url), case.folder)
        yield started
