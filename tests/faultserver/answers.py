"""The API's own answers: the same body always gets the same content, with the shapes of today's API."""

from __future__ import annotations

import orjson

from .chat import chat
from .embeddings import embeddings
from .ledger import Arrival
from .own import Own, Refused, missing
from .responses import responses

MODELS = ("gpt-6-luna", "gpt-6-sol", "gpt-6-astra", "text-embedding-3-small", "text-embedding-3-large")


def own_answer(arrival: Arrival, server: str) -> Own:
    """What an API in perfect health says to this request. `server` makes ids unique across servers."""
    try:
        if arrival.path == "/v1/models" or arrival.path.startswith("/v1/models/"):
            return models(arrival)
        return paid_answer(arrival, f"{server}{arrival.n:08x}")
    except Refused as refused:
        return Own(refused.status, refused.body, charged=False, usage={})


def paid_answer(arrival: Arrival, ident: str) -> Own:
    """The answer of an endpoint that costs money; Refused where the request is none."""
    if not arrival.paid:
        raise Refused(404, f"Invalid URL ({arrival.method} {arrival.path})")
    if arrival.method != "POST":
        raise Refused(405, f"Not allowed to {arrival.method} on {arrival.path}.")
    request = arrival.parsed
    if not isinstance(request, dict):
        raise Refused(400, "We could not parse the JSON body of your request.")
    if not isinstance(request.get("model"), str):
        raise missing("model")
    if request.get("stream"):
        raise Refused(400, "This server does not stream.", param="stream", code="unsupported_value")
    if arrival.path == "/v1/chat/completions":
        return chat(request, ident)
    return responses(request, ident) if arrival.path == "/v1/responses" else embeddings(request)


def models(arrival: Arrival) -> Own:
    """The list of models, or one of them."""
    if arrival.method != "GET":
        raise Refused(405, f"Not allowed to {arrival.method} on {arrival.path}.")
    found = [
        {"id": name, "object": "model", "created": 1_790_000_000, "owned_by": "system"} for name in MODELS
    ]
    name = arrival.path.removeprefix("/v1/models").lstrip("/")
    if not name:
        return Own(200, orjson.dumps({"object": "list", "data": found}), charged=False, usage={})
    for model in found:
        if model["id"] == name:
            return Own(200, orjson.dumps(model), charged=False, usage={})
    raise Refused(404, f"The model '{name}' does not exist.", param="model", code="model_not_found")
