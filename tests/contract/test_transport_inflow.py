"""Large answers that come at once: no more of them is in memory than there may be, and each comes to its end."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from wire_server import ASKED, BODY, PATH, Plane, chunked, lean, saying, serving, whole

from runner.api.inflow import Inflow
from runner.model import Reply

Run = Callable[..., list[Reply]]
MIB = 2**20
LARGE = b"0123456789abcdef" * (MIB // 4)
CALLS = 8
# What a connection has read by the time it is told to stop.
READ = 512 * 2**10


class Noting(Inflow):
    """An inflow that notes the most bytes there were, and how often a connection was held."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.most_seen = self.holds = 0
        self.changed = asyncio.Event()

    def came(self, reader: object, size: int) -> None:
        before = len(self._held)
        super().came(reader, size)  # type: ignore[arg-type]
        self.holds += len(self._held) > before
        self.most_seen = max(self.most_seen, self.coming + self.waiting)
        self.changed.set()

    def went(self, reader: object, size: int) -> None:
        super().went(reader, size)  # type: ignore[arg-type]
        self.changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Until so much is true of the connections."""
        while not holds():
            self.changed.clear()
            await self.changed.wait()


async def storing(inflow: Inflow, replies: asyncio.Queue[Reply], count: int) -> list[Reply]:
    """Store answers one after the other, a turn of the loop for each."""
    stored: list[Reply] = []
    while len(stored) < count:
        stored.append(await replies.get())
        await asyncio.sleep(0)
        inflow.wait(inflow.waiting - len(stored[-1].body))
    return stored


async def many_at_once(url: str, plane: Plane, inflow: Inflow) -> list[Reply]:
    """As many calls as there are, all answered at once; each answer waits until it is stored."""
    replies: asyncio.Queue[Reply] = asyncio.Queue()
    async with plane(url, concurrency=CALLS, inflow=inflow) as transport:

        def landed(outcome: Reply | BaseException) -> None:
            assert isinstance(outcome, Reply)
            inflow.wait(inflow.waiting + len(outcome.body))
            replies.put_nowait(outcome)

        for _ in range(CALLS):
            transport.start(PATH, "m", ASKED, landed)
        stored = await storing(inflow, replies, CALLS)
        # Each connection reads again, and is as good as before.
        landed_again = [await transport.send(PATH, "m", ASKED) for _ in range(CALLS)]
    return stored + landed_again


@pytest.mark.parametrize("answer", [whole(LARGE), chunked(*[LARGE[:100_000]] * 41, LARGE[4_100_000:])])
def test_answers_that_come_at_once_take_no_more_than_there_may_be(
    run: Run, plane: Plane, answer: bytes
) -> None:
    inflow = Noting(5 * MIB)

    async def main() -> list[Reply]:
        async with serving(saying(answer, keep=True)) as url:
            return await many_at_once(url, plane, inflow)

    replies = run(main())
    assert [reply.status for reply in replies] == [200] * 2 * CALLS
    assert {reply.body for reply in replies[:CALLS]} <= {LARGE, LARGE[:100_000] * 41 + LARGE[4_100_000:]}
    assert inflow.holds > 0
    # The SDK's answers take some turns of the loop to land, in which they are counted nowhere; two may do so at once.
    landing = 0 if plane is lean else 2 * len(LARGE)
    assert inflow.most_seen <= 5 * MIB + len(LARGE) + CALLS * READ + landing
    assert (inflow.coming, inflow.waiting, inflow.is_full) == (0, 0, False)


def test_it_is_so_through_tls(
    run: Run, certificate: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    inflow = Noting(5 * MIB)

    async def main() -> list[Reply]:
        async with serving(saying(whole(LARGE), keep=True), certificate[1]) as url:
            return await many_at_once(url, lean, inflow)

    assert [reply.body for reply in run(main())] == [LARGE] * 2 * CALLS
    assert inflow.holds > 0
    assert inflow.coming == 0


def test_a_call_that_is_held_back_still_has_its_deadline_and_leaves_nothing(run: Run, plane: Plane) -> None:
    inflow = Noting(MIB)
    inflow.wait(2 * MIB)

    async def main() -> Reply:
        async with (
            serving(saying(whole(LARGE), keep=True)) as url,
            plane(url, deadline=0.3, inflow=inflow) as transport,
        ):
            return await transport.send(PATH, "m", ASKED)

    reply = run(main())
    assert isinstance(reply, Reply)
    assert (reply.status, reply.fault) == (None, "timeout")
    assert (inflow.coming, inflow.holds, len(inflow._held)) == (0, 1, 0)


def test_a_call_that_is_given_up_while_it_is_held_back_makes_room_for_others(run: Run, plane: Plane) -> None:
    inflow = Noting(MIB)

    async def main() -> None:
        async def answering(_: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
            writer.write(whole(LARGE if request.endswith(b"large") else BODY))
            return True

        async with serving(answering) as url, plane(url, concurrency=3, inflow=inflow) as transport:
            inflow.wait(MIB)
            large = [asyncio.create_task(transport.send(PATH, "m", b"large")) for _ in range(2)]
            await inflow.until(lambda: len(inflow._held) == 2)
            for call in large:
                call.cancel()
            await asyncio.gather(*large, return_exceptions=True)
            await inflow.until(lambda: not inflow.coming)
            inflow.wait(0)
            assert (await transport.send(PATH, "m", b"small")).body == BODY

    run(main())
    assert (inflow.coming, len(inflow._held)) == (0, 0)


def test_a_connection_that_ends_while_it_is_held_back_is_known_when_it_reads_on(
    run: Run, plane: Plane
) -> None:
    inflow = Noting(MIB)
    cut = whole(LARGE)[: 2 * MIB]

    async def main() -> Reply:
        async with serving(saying(cut)) as url, plane(url, inflow=inflow) as transport:
            inflow.wait(MIB)
            call = asyncio.create_task(transport.send(PATH, "m", ASKED))
            await inflow.until(lambda: bool(inflow._held))
            inflow.wait(0)
            return await call

    reply = run(main())
    assert isinstance(reply, Reply)
    assert (reply.status, reply.fault) == (None, "cut")
    assert inflow.coming == 0
