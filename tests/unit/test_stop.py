"""A wish to stop: once asked it stays, and the loop at work is told once."""

import asyncio
import threading
from contextvars import Context

import anyio
import anyio.lowlevel

from runner.stop import Stop


def test_nobody_asked() -> None:
    stop = Stop()
    assert not stop()
    assert stop.reason is None


def test_the_first_reason_stays() -> None:
    stop = Stop()
    stop.request("Ctrl-C")
    stop.request("SIGTERM")
    assert stop()
    assert stop.reason == "Ctrl-C"


def listened(ask: object, *, before: str | None = None) -> list[str]:
    async def listen() -> list[str]:
        stop, told, heard = Stop(), [], asyncio.Event()
        if before is not None:
            stop.request(before)

        def tell(reason: str) -> None:
            assert threading.get_ident() == here
            told.append(reason)
            heard.set()

        here = threading.get_ident()
        with stop.listening(tell):
            ask(stop)  # type: ignore[operator]
            await asyncio.wait_for(heard.wait(), 5)
            await asyncio.sleep(0)
        stop.request("too late")
        await asyncio.sleep(0)
        return told

    return asyncio.run(listen())


def test_who_listens_is_told_once() -> None:
    def twice(stop: Stop) -> None:
        stop.request("first")
        stop.request("second")

    assert listened(twice) == ["first"]


def test_a_wish_from_another_thread_is_told_in_the_loop() -> None:
    def elsewhere(stop: Stop) -> None:
        thread = threading.Thread(target=stop.request, args=("from afar",))
        thread.start()
        thread.join(5)

    assert listened(elsewhere) == ["from afar"]


def test_a_wish_from_before_is_told_at_once() -> None:
    assert listened(lambda stop: None, before="early") == ["early"]


def test_who_is_told_may_start_tasks_wherever_the_signal_came() -> None:
    stop, done = Stop(), []

    async def work(reason: str) -> None:
        done.append(reason)

    async def listen() -> None:
        async with anyio.create_task_group() as group:
            with stop.listening(lambda reason: group.start_soon(work, reason)):
                # A thread's context is empty, as is the loop's own, between two of its steps.
                await asyncio.to_thread(Context().run, stop.request, "SIGTERM")
                await anyio.lowlevel.checkpoint()

    anyio.run(listen)
    assert done == ["SIGTERM"]
