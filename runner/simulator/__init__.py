"""A local server that answers as the OpenAI API does, for rehearsals without a key and for tests.

`Simulator(Settings(...))` listens in a thread of its own; `serve_forever` holds the calling thread instead.

    server.py     HTTP: which path leads where.   wire.py   the faults that live below it
    calls.py      the way of one model call: arrival, limits, fault, answer, ledger
    chat.py, responses.py, embeddings.py      what each endpoint accepts, and the shape of its answers
    wording.py, digest.py, schema_instances.py, patterns.py, vectors.py      what the answers say
    buckets.py, faults.py, ledger.py, models.py, files.py, batches.py      what their names say

It imports nothing of the rest of the product. Importing this package loads neither aiohttp nor orjson.
"""

from runner.simulator.faults import BadFaults
from runner.simulator.settings import Settings
from runner.simulator.simulator import Simulator, serve_forever

__all__ = ["BadFaults", "Settings", "Simulator", "serve_forever"]
