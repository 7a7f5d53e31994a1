"""The simulator as something to start and stop: in a thread of its own, or for good."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from runner.simulator.faults import Script
from runner.simulator.profiles import find_profile
from runner.simulator.settings import Settings

if TYPE_CHECKING:
    from runner.simulator.server import Server


class Simulator:
    """A simulator in a daemon thread with an event loop of its own.

    `clock`, in seconds, judges limits and what is late; `wall` is the time of day, in seconds since 1970.

    Usable as a context manager. Raises `BadFaults` at once where the settings' faults cannot be
    read, and ValueError where there is no such profile.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        Script(settings.faults, seed=settings.seed)
        find_profile(settings.profile)
        self._settings = settings
        self._clock = clock
        self._wall = wall
        self._port = settings.port
        self._listening = threading.Event()
        self._failure: OSError | None = None
        self._thread: threading.Thread | None = None
        self._server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None

    def start(self) -> None:
        """Listens; returns once it does. Raises OSError with a clear message if the port cannot be had."""
        self._thread = threading.Thread(target=self._live, name="simulator", daemon=True)
        self._thread.start()
        self._listening.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    @property
    def url(self) -> str:
        """The base URL, to be used where `https://api.openai.com/v1` would be."""
        return _url(self._settings.host, self._port)

    def ledger(self) -> dict[str, Any]:
        """What arrived, what was executed, and its cost: `Ledger.snapshot`. Also after `stop`."""
        if self._server is None:
            raise RuntimeError("The simulator has not been started; call start() first.")
        return self._server.ledger.snapshot()

    def stop(self) -> None:
        """Closes the port and all connections, and waits for the thread to end."""
        if self._thread is None or not self._thread.is_alive():
            return
        loop, ended = self._loop, self._ended
        if loop is not None and ended is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(ended.set)
        self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _live(self) -> None:
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._serve())
        except OSError as error:
            self._failure = _explained(error, self._settings)
        finally:
            self._listening.set()

    async def _serve(self) -> None:
        from runner.simulator.server import Server

        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._server = Server(self._settings, clock=self._clock, wall=self._wall)
        try:
            self._port = await self._server.listen()
            self._listening.set()
            await self._ended.wait()
        finally:
            await self._server.close()


def serve_forever(settings: Settings, on_ready: Callable[[str], None]) -> None:
    """Serves in the calling thread until SIGINT or SIGTERM.

    Calls `on_ready` with the base URL once it listens.
    Raises `BadFaults` and OSError as `Simulator` does.
    """
    Script(settings.faults, seed=settings.seed)
    find_profile(settings.profile)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve_until_signal(settings, on_ready))
    except OSError as error:
        raise _explained(error, settings) from error


async def _serve_until_signal(settings: Settings, on_ready: Callable[[str], None]) -> None:
    from runner.simulator.server import Server

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, ended.set)
    server = Server(settings)
    try:
        port = await server.listen()
        on_ready(_url(settings.host, port))
        await ended.wait()
    finally:
        await server.close()


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def _explained(error: OSError, settings: Settings) -> OSError:
    import errno

    place = f"port {settings.port} of {settings.host}"
    if error.errno == errno.EADDRINUSE:
        message = (
            f"The simulator cannot listen on {place}: another process does. Choose another with --port, or"
        )
        return OSError(error.errno, f"{message} --port 0 for any free one.")
    if error.errno == errno.EACCES:
        message = f"The simulator may not listen on {place}. Choose a --port of 1024 or more."
        return OSError(error.errno, message)
    return OSError(error.errno or 0, f"The simulator cannot listen on {place}: {error.strerror or error}.")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The fast event loop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
