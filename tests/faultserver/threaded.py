"""The server in a thread of a test's own process."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType

from .batches import DEFAULT_TIME
from .batchfaults import BatchFaults, named_batches
from .ledger import Ledger
from .scripts import Script, named_script
from .server import Door, Service


class FaultServer:
    """An API on loopback that fails as it is told, in a thread of its own, for the length of a `with`.

    `script` is a name (see faultserver.scripts) or a callable from an arrival to a behaviour. A script that
    raises ends its connection, and the exception comes out of the `with`. `batches` is a name, or names (see
    faultserver.batchfaults), and `batch_time` the seconds that a batch takes if nothing hinders it.
    """

    def __init__(
        self,
        script: str | Script = "ok",
        *,
        seed: int = 0,
        port: int = 0,
        latency: float = 0.0,
        door: Door | None = None,
        ledger: Ledger | None = None,
        batches: str | BatchFaults = "plain",
        batch_time: float = DEFAULT_TIME,
    ) -> None:
        chosen = named_script(script, seed) if isinstance(script, str) else script
        self.ledger = Ledger() if ledger is None else ledger
        faults = named_batches(batches, seed) if isinstance(batches, str) else batches
        self._service = Service(
            chosen, self.ledger, latency=latency, door=door, batches=faults, batch_time=batch_time
        )
        self._port = port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="faultserver", daemon=True)
        self._ready = threading.Event()
        self._stopping = asyncio.Event()
        self._refusal: OSError | None = None

    @property
    def url(self) -> str:
        """The base URL, to the `/v1`."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return self._service.port

    @property
    def script(self) -> Script:
        """The script in force. It may be exchanged while the server runs, by a name or a callable."""
        return self._service.script

    @script.setter
    def script(self, script: str | Script) -> None:
        self._service.script = named_script(script) if isinstance(script, str) else script

    def __enter__(self) -> FaultServer:
        self._thread.start()
        self._ready.wait()
        if self._refusal is not None:
            self._thread.join()
            raise self._refusal
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        if kind is None and self._service.failures:
            raise self._service.failures[0]

    def close(self) -> None:
        """End every connection and stop listening, at once; a second time does nothing."""
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        try:
            await self._service.start(self._port)
        except OSError as refusal:
            self._refusal = refusal
            return
        finally:
            self._loop = asyncio.get_running_loop()
            self._ready.set()
        await self._stopping.wait()
        await self._service.stop()
