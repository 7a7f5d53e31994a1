"""An OpenAI-compatible server that fails as it is told, and keeps a ledger of what it did.

    with FaultServer(script="mixed", seed=7) as server:
        ...                                     # talk to server.url
    assert max(server.ledger.executed.values()) == 1

Files and batches go wrong by names of their own (see batchfaults.py), which may be joined:

    with FaultServer(batches="create-lost-executed+list-lag:2", batch_time=0.1) as server:
        ...
    assert [one["status"] for one in server.ledger.batches().values()] == ["completed"]
    assert max(server.ledger.executed.values()) == 1

It is the tests' second opinion on the protocol and shares no code with the product or its simulator.
"""

from .account import batches_in, creates_in
from .batchfaults import BatchFaults, named_batches
from .behaviour import (
    Behaviour,
    End,
    answer,
    chunked,
    closed,
    closing,
    cut,
    cut_message,
    cut_to_share,
    drip,
    error,
    error_body,
    error_in_200,
    flood,
    gzip_garbage,
    html,
    late,
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
from .matrix import B1, B1_CASES, b1
from .scripts import FIRST_FAULTS, Script, in_turn, named_script
from .threaded import FaultServer

__all__ = [
    "B1",
    "B1_CASES",
    "FIRST_FAULTS",
    "Arrival",
    "BatchFaults",
    "Behaviour",
    "End",
    "FaultServer",
    "Gate",
    "Ledger",
    "Script",
    "answer",
    "b1",
    "batches_in",
    "chunked",
    "closed",
    "closing",
    "creates_in",
    "cut",
    "cut_message",
    "cut_to_share",
    "drip",
    "error",
    "error_body",
    "error_in_200",
    "executions",
    "flood",
    "gzip_garbage",
    "html",
    "in_turn",
    "late",
    "lost",
    "named_batches",
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
