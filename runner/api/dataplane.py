"""Which transport serves an account: the lean one, or the SDK's where each call needs its own credential."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.api import transport
from runner.api.account import Account
from runner.api.client import wire
from runner.api.inflow import Inflow

if TYPE_CHECKING:
    from runner.api.sdk_transport import SdkTransport


def transport_for(
    account: Account, *, concurrency: int, deadline: float = 600.0, inflow: Inflow | None = None
) -> transport.Transport | SdkTransport:
    """The transport for an account's calls; both are used as `async with`, and have the same `send`. `inflow` bounds
    the bytes of answers that are read.

    Raises BadConfiguration for headers or a proxy that cannot be used.
    """
    if account.credential is None:
        return transport.Transport(wire(account), concurrency=concurrency, deadline=deadline, inflow=inflow)
    from runner.api.sdk_transport import SdkTransport

    return SdkTransport(account, concurrency=concurrency, deadline=deadline, inflow=inflow)
