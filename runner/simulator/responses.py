"""POST /v1/responses: what it accepts, and the shape of its answers."""

from __future__ import annotations

from typing import Any

import orjson

from runner.simulator import wording
from runner.simulator.bill import Tokens
from runner.simulator.chance import Chance
from runner.simulator.models import Model
from runner.simulator.question import Body, Prompt, Question, check_format, count_tokens, refuse_stream
from runner.simulator.refusal import Refusal, check_whole_number, invalid_value, missing, wrong_type

NAME = "responses"
PATH = "/v1/responses"
_FORMATS = ("json_object", "json_schema", "text")


def read(body: Body, model: Model) -> Question:
    """The question in a request body, or the API's refusal of it."""
    if not model.writes:
        raise Refusal(
            400,
            f"The requested model '{model.name}' cannot be used with the Responses API.",
            param="model",
            code="unsupported_model",
        )
    prompt = _read_input(body)
    refuse_stream(body)
    if body.get("background"):
        raise Refusal(
            400,
            "Unsupported value: 'background' does not support true with the simulator.",
            param="background",
            code="unsupported_value",
        )
    limit = check_whole_number(body, "max_output_tokens", maximum=model.max_output)
    data = prompt.data()
    _read_format(body, data)
    size = len(data)
    for part in ("tools", "text"):
        size += len(orjson.dumps(body[part])) if body.get(part) else 0
    tokens = count_tokens(size) + 85 * prompt.attachments
    if tokens > model.context:
        raise Refusal(
            400,
            "Your input exceeds the context window of this model. Please adjust your input and try again.",
            param="input",
            code="context_length_exceeded",
        )
    return Question(body, model, tokens, text=prompt.text, beginning=data[:4096], max_output=limit)


def answer(question: Question, chance: Chance, tokens: Tokens) -> dict[str, Any]:
    """The response body; `tokens.output` is set to what the answer takes."""
    body = question.body
    item, said = _output_item(question, chance)
    tokens.output = said.tokens
    created = 1_790_000_000 + chance.pick(2_592_000, "created")
    text = body.get("text") or {}
    return {
        "id": f"resp_{chance.hex('id', 50)}",
        "object": "response",
        "created_at": created,
        "status": "incomplete" if said.cut else "completed",
        "background": False,
        "completed_at": None if said.cut else created,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if said.cut else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": question.max_output,
        "max_tool_calls": None,
        "model": question.model.name,
        "output": [item],
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "prompt_cache_key": body.get("prompt_cache_key"),
        "reasoning": {"effort": (body.get("reasoning") or {}).get("effort"), "summary": None},
        "safety_identifier": body.get("safety_identifier"),
        "service_tier": question.tier,
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": {
            "format": text.get("format") or {"type": "text"},
            "verbosity": text.get("verbosity", "medium"),
        },
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_logprobs": 0,
        "top_p": body.get("top_p", 1.0),
        "truncation": body.get("truncation", "disabled"),
        "usage": usage(tokens),
        "user": body.get("user"),
        "metadata": body.get("metadata") or {},
    }


def usage(tokens: Tokens) -> dict[str, Any]:
    """The usage object of a response."""
    return {
        "input_tokens": tokens.input,
        "input_tokens_details": {"cached_tokens": tokens.cached, "cache_write_tokens": tokens.cache_write},
        "output_tokens": tokens.output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens.input + tokens.output,
    }


def _output_item(question: Question, chance: Chance) -> tuple[dict[str, Any], wording.Wording]:
    body, limit = question.body, question.max_output
    if tool := _forced_tool(body):
        schema = tool.get("parameters") or {"type": "object", "properties": {}}
        said = wording.write_json(schema, question.text, chance, limit=limit)
        return {
            "id": f"fc_{chance.hex('item', 50)}",
            "type": "function_call",
            "status": "incomplete" if said.cut else "completed",
            "arguments": said.text,
            "call_id": f"call_{chance.hex('call', 24)}",
            "name": tool.get("name"),
        }, said
    form = (body.get("text") or {}).get("format") or {}
    if form.get("type") in ("json_schema", "json_object"):
        said = wording.write_json(form.get("schema"), question.text, chance, limit=limit)
    else:
        said = wording.write(question.text, chance, variant=0, limit=limit)
    return {
        "id": f"msg_{chance.hex('item', 50)}",
        "type": "message",
        "status": "incomplete" if said.cut else "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": said.text}],
    }, said


def _forced_tool(body: Body) -> dict[str, Any] | None:
    choice = body.get("tool_choice")
    functions = [
        tool for tool in body.get("tools") or () if isinstance(tool, dict) and tool.get("type") == "function"
    ]
    if choice == "required":
        return functions[0] if functions else None
    if not isinstance(choice, dict) or choice.get("type") != "function":
        return None
    for function in functions:
        if function.get("name") == choice.get("name"):
            return function
    raise Refusal(
        400,
        f"Tool choice 'function' with name '{choice.get('name')}' not found in 'tools' parameter.",
        param="tool_choice",
        code="invalid_value",
    )


def _read_input(body: Body) -> Prompt:
    asked = body.get("input")
    if asked is None:
        raise missing("input")
    if not isinstance(asked, str | list):
        raise wrong_type("input", "one of a string or array of input items", asked)
    prompt = Prompt()
    prompt.add(body.get("instructions"), user=False)
    if isinstance(asked, str):
        prompt.add(asked, user=True)
        return prompt
    for number, item in enumerate(asked):
        if not isinstance(item, dict):
            raise wrong_type(f"input[{number}]", "an input item", item)
        if item.get("type", "message") == "message" and item.get("content") is None:
            raise missing(f"input[{number}].content")
        content = item.get("content") or item.get("output") or item.get("arguments")
        prompt.add(content, user=item.get("role") == "user")
    return prompt


def _read_format(body: Body, data: bytes) -> None:
    text = body.get("text")
    if text is None:
        return
    if not isinstance(text, dict):
        raise wrong_type("text", "an object", text)
    form = text.get("format")
    if form is None:
        return
    if not isinstance(form, dict):
        raise wrong_type("text.format", "an object", form)
    kind = form.get("type")
    if kind not in _FORMATS:
        raise invalid_value("text.format.type", kind, _FORMATS)
    if kind == "json_schema":
        check_format(form, param="text.format")
    if kind == "json_object" and b"json" not in data.lower():
        raise Refusal(
            400,
            "Response input messages must contain the word 'json' in some form to use 'text.format' of type "
            "'json_object'.",
            param="input",
        )
