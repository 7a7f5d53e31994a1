"""POST /v1/chat/completions: what it accepts, and the shape of its answers."""

from __future__ import annotations

from typing import Any

import orjson

from runner.simulator import wording
from runner.simulator.bill import Tokens
from runner.simulator.chance import Chance
from runner.simulator.models import Model
from runner.simulator.question import Body, Prompt, Question, check_format, count_tokens, refuse_stream
from runner.simulator.refusal import Refusal, check_whole_number, invalid_value, missing, wrong_type

NAME = "chat"
PATH = "/v1/chat/completions"
_ROLES = ("system", "assistant", "user", "function", "tool", "developer")
_FORMATS = ("json_object", "json_schema", "text")


def read(body: Body, model: Model) -> Question:
    """The question in a request body, or the API's refusal of it."""
    if not model.writes:
        raise Refusal(
            404,
            "This is not a chat model and thus not supported in the v1/chat/completions endpoint. "
            "Did you mean to use v1/embeddings?",
            param="model",
        )
    prompt = _read_messages(body)
    refuse_stream(body)
    check_whole_number(body, "n", maximum=128)
    if body.get("max_tokens") is not None and model.reasons:
        raise Refusal(
            400,
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            param="max_tokens",
            code="unsupported_parameter",
        )
    limit = check_whole_number(body, "max_completion_tokens", maximum=model.max_output)
    limit = limit or check_whole_number(body, "max_tokens", maximum=model.max_output)
    data = prompt.data()
    _read_format(body, data)
    size = len(data)
    for part in ("tools", "response_format"):
        size += len(orjson.dumps(body[part])) if body.get(part) else 0
    tokens = count_tokens(size) + 85 * prompt.attachments
    if tokens > model.context:
        raise Refusal(
            400,
            f"This model's maximum context length is {model.context} tokens. However, your messages resulted "
            f"in {tokens} tokens. Please reduce the length of the messages.",
            param="messages",
            code="context_length_exceeded",
        )
    return Question(body, model, tokens, text=prompt.text, beginning=data[:4096], max_output=limit)


def answer(question: Question, chance: Chance, tokens: Tokens) -> dict[str, Any]:
    """The response body; `tokens.output` is set to what the answer takes."""
    body = question.body
    choices = [_choice(question, chance, index) for index in range(body.get("n") or 1)]
    tokens.output = sum(choice.pop("tokens") for choice in choices)
    return {
        "id": f"chatcmpl-{chance.hex('id', 29)}",
        "object": "chat.completion",
        "created": 1_790_000_000 + chance.pick(2_592_000, "created"),
        "model": question.model.name,
        "choices": choices,
        "usage": usage(tokens),
        "service_tier": question.tier,
        "system_fingerprint": "fp_simulated",
    }


def usage(tokens: Tokens) -> dict[str, Any]:
    """The usage object of a chat completion."""
    return {
        "prompt_tokens": tokens.input,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.input + tokens.output,
        "prompt_tokens_details": {
            "cached_tokens": tokens.cached,
            "cache_write_tokens": tokens.cache_write,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _choice(question: Question, chance: Chance, index: int) -> dict[str, Any]:
    body, limit = question.body, question.max_output
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
    if tool := _forced_tool(body):
        said = wording.write_json(
            tool.get("parameters") or {"type": "object", "properties": {}},
            question.text,
            chance,
            variant=index,
            limit=limit,
        )
        message["tool_calls"] = [
            {
                "id": f"call_{chance.hex(f'call {index}', 24)}",
                "type": "function",
                "function": {"name": tool.get("name"), "arguments": said.text},
            }
        ]
        # The API says "stop" where the caller named the function, "tool_calls" where the model chose.
        reason = "tool_calls" if body.get("tool_choice") == "required" else "stop"
    else:
        form = body.get("response_format") or {}
        reason = "stop"
        if form.get("type") in ("json_schema", "json_object"):
            schema = form["json_schema"]["schema"] if form["type"] == "json_schema" else None
            said = wording.write_json(schema, question.text, chance, variant=index, limit=limit)
        else:
            said = wording.write(question.text, chance, variant=index, limit=limit)
        message["content"] = said.text
    return {
        "index": index,
        "message": message,
        "logprobs": None,
        "finish_reason": "length" if said.cut else reason,
        "tokens": said.tokens,
    }


def _forced_tool(body: Body) -> dict[str, Any] | None:
    choice = body.get("tool_choice")
    functions: list[dict[str, Any]] = [
        tool["function"]
        for tool in body.get("tools") or ()
        if isinstance(tool, dict) and isinstance(tool.get("function"), dict)
    ]
    if choice == "required":
        return functions[0] if functions else None
    if not isinstance(choice, dict):
        return None
    wanted = (choice.get("function") or {}).get("name")
    for function in functions:
        if function.get("name") == wanted:
            return function
    raise Refusal(
        400,
        f"Invalid value for 'tool_choice': the function '{wanted}' is not among the 'tools'.",
        param="tool_choice",
        code="invalid_value",
    )


def _read_messages(body: Body) -> Prompt:
    messages = body.get("messages")
    if messages is None:
        raise missing("messages")
    if not isinstance(messages, list):
        raise wrong_type("messages", "an array of objects", messages)
    if not messages:
        raise Refusal(
            400,
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty "
            "array instead.",
            param="messages",
            code="empty_array",
        )
    prompt = Prompt()
    for number, message in enumerate(messages):
        param = f"messages[{number}]"
        if not isinstance(message, dict):
            raise wrong_type(param, "an object", message)
        role, content = message.get("role"), message.get("content")
        if role is None:
            raise missing(f"{param}.role")
        if role not in _ROLES:
            raise invalid_value(f"{param}.role", role, _ROLES)
        if content is None and role != "assistant":
            raise missing(f"{param}.content")
        if content is not None and not isinstance(content, str | list):
            raise wrong_type(f"{param}.content", "one of a string or array of objects", content)
        prompt.add(content, user=role == "user")
    return prompt


def _read_format(body: Body, data: bytes) -> None:
    form = body.get("response_format")
    if form is None:
        return
    if not isinstance(form, dict):
        raise wrong_type("response_format", "an object", form)
    kind = form.get("type")
    if kind not in _FORMATS:
        raise invalid_value("response_format.type", kind, _FORMATS)
    if kind == "json_schema":
        check_format(form.get("json_schema"), param="response_format.json_schema")
    if kind == "json_object" and b"json" not in data.lower():
        raise Refusal(
            400,
            "'messages' must contain the word 'json' in some form, to use 'response_format' of type "
            "'json_object'.",
            param="messages",
        )
