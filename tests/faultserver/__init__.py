"""An OpenAI-compatible server that fails as it is told, and keeps a ledger of what it did.

    with FaultServer(script="mixed", seed=7) as server:
        ...                                     # talk to server.url
    assert max(server.ledger.executed.values()) == 1

It is the tests' second opinion on the protocol and shares no code with the product or its simulator.
"""

from .behaviour import (
    Behaviour,
    End,
    answer,
    chunked,
    closed,
    closing,
    cut,
    cut_message,
    drip,
    error,
    error_body,
    error_in_200,
    flood,
    gzip_garbage,
    html,
    lost,
    no_content,
    ok,
    overloaded,
    rate_limited,
    rate_limited_until,
    raw,
    redirect,
    reset,
    server_error,
    silence,
    wrong_length,
)
from .gate import Gate
from .ledger import Arrival, Ledger, executions, read_ledger
from .scripts import FIRST_FAULTS, Script, in_turn, named_script
from .server import FaultServer

__all__ = [
    "FIRST_FAULTS",
    "Arrival",
    "Behaviour",
    "End",
    "FaultServer",
    "Gate",
    "Ledger",
    "Script",
    "answer",
    "chunked",
    "closed",
    "closing",
    "cut",
    "cut_message",
    "drip",
    "error",
    "error_body",
    "error_in_200",
    "executions",
    "flood",
    "gzip_garbage",
    "html",
    "in_turn",
    "lost",
    "named_script",
    "no_content",
    "ok",
    "overloaded",
    "rate_limited",
    "rate_limited_until",
    "raw",
    "read_ledger",
    "redirect",
    "reset",
    "server_error",
    "silence",
    "wrong_length",
]
