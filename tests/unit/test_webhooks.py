"""Deliveries over real sockets, and signatures: made by the simulator's own code, verified by the SDK's."""

from __future__ import annotations

import asyncio
import gzip
import random
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson
import pytest

from runner.api.account import Account
from runner.api.webhooks import MAX_BODY, Delivery, NotGenuine, Signatures, WebhookServer, check_secret
from runner.errors import BadConfiguration, StoreUnusable
from runner.simulator.webhooks import signed

ACCOUNT = Account("sim", "http://127.0.0.1:1/v1")
SECRET = "whsec_" + b64encode(b"a secret of thirty-two bytes....").decode()
BODY = orjson.dumps(
    {"id": "evt_1", "object": "event", "created_at": 1, "type": "batch.completed", "data": {"id": "batch_1"}}
)
DELIVERED = Delivery("wh_1", "batch.completed", "batch_1")


def headers(
    body: bytes = BODY, *, secret: str = SECRET, webhook_id: str = "wh_1", late: int = 0
) -> dict[str, str]:
    return signed(secret, webhook_id, int(time.time()) - late, body)


@pytest.fixture(scope="module")
def signatures() -> Iterator[Signatures]:
    made = Signatures(ACCOUNT, SECRET)
    yield made
    asyncio.run(made.close())


def test_the_signature_is_that_of_standard_webhooks() -> None:
    # The example of the specification itself.
    made = signed(
        "whsec_plJ3nmyCDGBKInavdOK15jsl",
        "msg_loFOjxBNrRLzqYUf",
        1731705121,
        b'{"event_type":"ping","data":{"success":true}}',
    )

    assert made["webhook-signature"] == "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="


@pytest.mark.parametrize("secret", [SECRET, "no prefix", "whsec_AA=="])
def test_what_the_provider_signed_is_read(secret: str) -> None:
    reader = Signatures(ACCOUNT, secret)
    assert reader.read(BODY, headers(secret=secret)) == DELIVERED
    asyncio.run(reader.close())


def test_one_right_signature_among_several_is_enough(signatures: Signatures) -> None:
    # While a secret is being replaced, the provider signs with both.
    sent = headers()
    sent["webhook-signature"] = f"{headers(secret='old')['webhook-signature']} {sent['webhook-signature']}"
    assert signatures.read(BODY, sent) == DELIVERED


def forged(chance: random.Random) -> tuple[bytes, dict[str, str]]:
    """A delivery that differs from a genuine one in one thing, chosen at random."""
    body, sent = BODY, headers()
    kind = chance.randrange(9)
    if kind == 0:
        place = chance.randrange(len(body))
        body = body[:place] + bytes([body[place] ^ (1 << chance.randrange(8))]) + body[place + 1 :]
    elif kind == 1:
        place = chance.randrange(len(body))
        body = body[:place] + chance.randbytes(chance.randint(1, 9)) + body[place:]
    elif kind == 2:
        sent = headers(secret="whsec_" + b64encode(chance.randbytes(chance.randint(1, 40))).decode())
    elif kind == 3:
        sent["webhook-id"] = f"wh_{chance.randrange(10**9)}"
    elif kind == 4:
        sent["webhook-timestamp"] = str(int(sent["webhook-timestamp"]) + chance.choice([-9, -1, 1, 9]))
    elif kind == 5:
        sent["webhook-signature"] = "v1," + b64encode(chance.randbytes(chance.choice([0, 31, 32]))).decode()
    elif kind == 6:
        sent["webhook-signature"] = sent["webhook-signature"][: -chance.randint(1, 46)]
    elif kind == 7:
        name = chance.choice(list(sent))
        sent[name] = chance.choice(["", "\udcff\udc00", "é" * 9, "v1,", "v1,ü", "nan", "9" * 5000])
    else:
        sent = headers(late=chance.choice([-1, 1]) * chance.randint(310, 10**6))
    return body, sent


def test_of_a_thousand_forgeries_none_is_believed(signatures: Signatures) -> None:
    chance = random.Random(18)
    for _ in range(1_000):
        body, sent = forged(chance)
        with pytest.raises(NotGenuine):
            signatures.read(body, sent)


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b'{"type": 3}', b'{"type": "batch.compl'])
def test_what_is_signed_and_no_event_is_refused(signatures: Signatures, body: bytes) -> None:
    with pytest.raises(NotGenuine, match="its body is no"):
        signatures.read(body, headers(body))


@pytest.mark.parametrize("data", [None, [], {}, {"id": None}, {"id": ""}, {"id": 7}])
def test_an_event_about_nothing_is_an_event(signatures: Signatures, data: object) -> None:
    body = orjson.dumps({"type": "batch.completed", "data": data})
    assert signatures.read(body, headers(body)) == Delivery("wh_1", "batch.completed", None)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_A", "whsec_é"])
def test_a_secret_that_everybody_or_nobody_could_sign_with_is_refused(secret: str) -> None:
    with pytest.raises(BadConfiguration, match="OPENAI_WEBHOOK_SECRET") as refused:
        check_secret(secret)
    assert secret in ("", "whsec_") or secret not in str(refused.value)


@dataclass
class Ear:
    """A server that listens, what it took, and what it refused."""

    port: int = 0
    taken: list[Delivery] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)

    async def take(self, delivery: Delivery) -> None:
        self.taken.append(delivery)

    async def post(self, body: bytes = BODY, sent: Mapping[str, str] | None = None, **how: str) -> int:
        """Send a delivery; the status of the answer."""
        lines = [f"{how.get('method', 'POST')} {how.get('path', '/')} HTTP/1.1", "host: x"]
        lines += [f"{name}: {text}" for name, text in (headers(body) if sent is None else sent).items()]
        if "transfer-encoding" not in (sent or {}):
            lines.append(f"content-length: {how.get('length', len(body))}")
        return status_of(await self.say("\r\n".join([*lines, "\r\n"]).encode() + body))

    async def say(self, raw: bytes) -> bytes:
        """Send bytes; the answer up to its headers' end, or to the end of the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(raw)
            return await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as ended:
            return ended.partial
        finally:
            writer.close()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ")[1])


@asynccontextmanager
async def listening(
    signatures: Signatures,
    take: Callable[[Delivery], Awaitable[None]] | None = None,
    read_seconds: float = 10.0,
) -> AsyncIterator[Ear]:
    ear = Ear()
    server = WebhookServer(
        signatures,
        take or ear.take,
        lambda status, why: ear.refused.append((status, why)),
        read_seconds=read_seconds,
    )
    ear.port = await server.open("127.0.0.1", 0)
    try:
        yield ear
    finally:
        await server.close()


def test_genuine_deliveries_are_taken_and_others_are_told_why_not(signatures: Signatures) -> None:
    async def deliver() -> Ear:
        async with listening(signatures) as ear:
            assert await ear.post() == 200
            assert await ear.post(path="/any/path?at=all") == 200
            assert await ear.post(sent={**headers(), "content-encoding": "gzip"}) == 200
            assert await ear.post(BODY + b" ", headers(BODY)) == 400
            assert await ear.post(sent=headers(secret="another")) == 400
            assert await ear.post(sent=headers(late=310)) == 400
            assert await ear.post(sent=headers(late=-310)) == 400
            assert await ear.post(sent={}) == 400
            assert await ear.post(gzip.compress(BODY), {**headers(), "content-encoding": "gzip"}) == 400
            assert b"Allow: POST\r\n" in await ear.say(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert await ear.post(method="PUT") == 405
            return ear

    ear = asyncio.run(deliver())

    assert ear.taken == [DELIVERED] * 3
    assert [why for _, why in ear.refused] == [
        "its signature is not made with this secret",
        "its signature is not made with this secret",
        "its time is more than 300 seconds from this machine's",
        "its time is more than 300 seconds from this machine's",
        "it has no webhook-id header",
        "its body is not UTF-8",
        "it is no POST",
        "it is no POST",
    ]


def test_a_huge_body_is_refused_before_it_has_come(signatures: Signatures) -> None:
    async def deliver() -> Ear:
        async with listening(signatures) as ear:
            # Said to be huge, and not sent; then of unknown size, and sent.
            assert await ear.post(b"", headers(), length=str(10**12)) == 413
            chunk = b"%x\r\n%s\r\n" % (MAX_BODY, b"x" * MAX_BODY)
            assert await ear.post(chunk * 2, {**headers(), "transfer-encoding": "chunked"}) == 413
            most = b" " * (MAX_BODY - len(BODY)) + BODY
            assert await ear.post(most) == 200
            return ear

    ear = asyncio.run(deliver())

    assert [status for status, _ in ear.refused] == [413, 413]
    assert ear.taken == [DELIVERED]


def test_a_body_that_does_not_come_is_not_waited_for(signatures: Signatures) -> None:
    async def deliver() -> Ear:
        async with listening(signatures, read_seconds=0.05) as ear:
            assert await ear.post(BODY[:-1], headers(), length=str(len(BODY))) == 408
            return ear

    assert asyncio.run(deliver()).taken == []


def test_what_cannot_be_kept_is_to_be_delivered_again(signatures: Signatures) -> None:
    async def cannot(_: Delivery) -> None:
        raise StoreUnusable("The disk is full.")

    async def deliver() -> Ear:
        async with listening(signatures, cannot) as ear:
            assert await ear.post() == 503
            return ear

    assert asyncio.run(deliver()).refused == [(503, "The disk is full.")]


def test_two_at_once_do_not_wait_for_each_other(signatures: Signatures) -> None:
    async def deliver() -> list[int]:
        both = asyncio.Barrier(2)

        async def together(_: Delivery) -> None:
            async with both:
                return

        async with listening(signatures, together) as ear, asyncio.timeout(10):
            return await asyncio.gather(ear.post(), ear.post())

    assert asyncio.run(deliver()) == [200, 200]


def test_what_is_no_http_and_what_breaks_off_leaves_no_trace(
    signatures: Signatures, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def deliver() -> Ear:
        async with listening(signatures) as ear:
            for raw in (
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300),
                b"POST / HTTP/1.1\r\n" + b"a: " + b"b" * 100_000 + b"\r\n\r\n",
                b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
                b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
            ):
                assert status_of(await ear.say(raw)) == 400
            _, writer = await asyncio.open_connection("127.0.0.1", ear.port)
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf")
            await writer.drain()
            writer.close()
            assert await ear.post() == 200
            return ear

    ear = asyncio.run(deliver())

    assert ear.taken == [DELIVERED]
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_it_ends_at_once_while_a_body_is_coming(signatures: Signatures) -> None:
    async def deliver() -> float:
        async with listening(signatures) as ear:
            reader, writer = await asyncio.open_connection("127.0.0.1", ear.port)
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf")
            await writer.drain()
            assert await ear.post() == 200
            began = time.monotonic()
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()
        return time.monotonic() - began

    assert asyncio.run(deliver()) < 1
