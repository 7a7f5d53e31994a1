"""A local server that answers as the OpenAI API does, for rehearsals without a key and for tests.

`Simulator(Settings(...))` listens in a thread of its own; `serve_forever` holds the calling thread instead.

    server.py     HTTP: the port, and model calls.   wire.py   the faults that live below it
    control.py    models, files and batches: which path leads where, and what goes wrong there.   transfers.py
    calls.py      the way of one model call: arrival, limits, fault, answer, ledger
    batches.py, batch.py, batch_life.py       batches: made and found; one of them; its states and its fate
    batch_lines.py, batch_results.py, line_faults.py      what goes into batches, and what comes out
    admission.py, profiles.py, files.py       limits on batches; OpenAI's ways and Azure's; the Files API
    webhooks.py       how the end of a batch is told
    chat.py, responses.py, embeddings.py      what each endpoint accepts, and the shape of its answers
    wording.py, digest.py, schema_instances.py, patterns.py, vectors.py      what the answers say
    buckets.py, faults.py, ledger.py, bill.py, models.py      what their names say

It imports nothing of the rest of the product. Importing this package loads neither aiohttp nor orjson.
"""

from runner.simulator.faults import BadFaults
from runner.simulator.settings import Settings
from runner.simulator.simulator import Simulator, serve_forever

__all__ = ["BadFaults", "Settings", "Simulator", "serve_forever"]
