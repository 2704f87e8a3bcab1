"""Streams that the clients of model providers and agent frameworks can read, each from one class in
the route:

    from sserpent.protocols import OpenAIChat

    @app.post("/v1/chat/completions", response_class=OpenAIChat)
    async def complete(body: Completion) -> AsyncIterator[ChatCompletionChunk]:
        async for chunk in await upstream.chat.completions.create(**body.model_dump(), stream=True):
            yield chunk
"""

from __future__ import annotations

from typing import Any

from . import ServerSentEvent
from ._fastapi.protocol_response import ProtocolResponse, field_of
from ._fastapi.stream_end import StreamEnd

__all__ = [
    "AGUI",
    "AnthropicMessages",
    "GoogleGenAI",
    "LangGraph",
    "OpenAIChat",
    "OpenAIResponses",
    "ProtocolResponse",
    "StreamEnd",
    "VercelUI",
]

_DONE = ServerSentEvent(raw_data="[DONE]")


class OpenAIChat(ProtocolResponse):
    """A stream of the chunks of OpenAI's chat completions, with `[DONE]` once at the end."""

    _leaves_out = "[DONE]"

    def closing_event(self, end: StreamEnd) -> Any:
        if self._is_over(end) or end.is_stopped:
            return _DONE
        error = {"message": end.message, "type": _openai_type(end), "param": None, "code": None}
        return {"error": error}


def _openai_type(end: StreamEnd) -> str:
    if end.status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if _is_of_client(end.status) else "server_error"


def _is_of_client(status: int | None) -> bool:
    return status is not None and 400 <= status < 500


class OpenAIResponses(ProtocolResponse):
    """A stream of the events of OpenAI's Responses."""

    name_from = "type"
    keeps_first = True
    _number_as = "sequence_number"
    _last_types = "response.completed", "response.failed", "response.incomplete", "error"

    def closing_event(self, end: StreamEnd) -> Any:
        if self._is_over(end):
            return []
        first: Any = field_of(end.first, "response")
        changes: dict[str, Any]
        code = "rate_limit_exceeded" if end.status == 429 else "server_error"
        if not isinstance(first, dict):
            return {
                "type": "error",
                "code": code,
                "message": end.message,
                "param": None,
                "sequence_number": end.count,
            }
        if end.is_stopped:
            name, changes = "response.incomplete", {"status": "cancelled"}
        else:
            error = {"code": code, "message": end.message}
            name, changes = "response.failed", {"status": "failed", "error": error}
        response: dict[str, Any] = {**first, **changes}
        return {"type": name, "sequence_number": end.count, "response": response}


class AnthropicMessages(ProtocolResponse):
    """A stream of the events of Anthropic's messages."""

    name_from = "type"
    ping_event = ServerSentEvent(event="ping", data={"type": "ping"})
    _last_types = "message_stop", "error"

    def closing_event(self, end: StreamEnd) -> Any:
        if self._is_over(end):
            return []
        if end.is_stopped:
            return {"type": "message_stop"}
        other = "invalid_request_error" if _is_of_client(end.status) else "api_error"
        kind = _ANTHROPIC_TYPES.get(end.status, other)
        return {"type": "error", "error": {"type": kind, "message": end.message}}


_ANTHROPIC_TYPES: dict[int | None, str] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class GoogleGenAI(ProtocolResponse):
    """A stream of the responses of Google's `streamGenerateContent?alt=sse`."""

    ping_interval = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        _refuse_ping_interval(cls, vars(cls).get("ping_interval"))
        super().__init_subclass__(**kwargs)

    def _check_option(self, name: str, value: object) -> None:
        super()._check_option(name, value)
        if name == "ping_interval":
            _refuse_ping_interval(type(self), value)

    def closing_event(self, end: StreamEnd) -> Any:
        if self._is_over(end):
            return []
        code = 499 if end.is_stopped else end.status or 500
        status = _GOOGLE_STATUSES.get(code, "INTERNAL")
        return {"error": {"code": code, "message": end.message, "status": status}}


def _refuse_ping_interval(cls: type, value: object) -> None:
    if value:
        raise ValueError(
            f"{cls.__name__} option 'ping_interval' must be None, not {value!r}: Google's SDK fails"
            " on a keep-alive"
        )


_GOOGLE_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class VercelUI(ProtocolResponse):
    """A stream of the parts that `useChat` reads, the UI message stream."""

    default_headers = {"x-vercel-ai-ui-message-stream": "v1"}  # noqa: RUF012
    _leaves_out = "[DONE]"
    _last_types = "finish", "abort"

    def closing_event(self, end: StreamEnd) -> Any:
        if self._is_over(end):
            return _DONE
        if end.is_stopped:
            return [{"type": "abort"}, _DONE]
        return [{"type": "error", "errorText": end.message}, _DONE]


class AGUI(ProtocolResponse):
    """A stream of the events of AG-UI."""

    _last_types = "RUN_FINISHED", "RUN_ERROR"

    def closing_event(self, end: StreamEnd) -> Any:
        if self._is_over(end):
            return []
        if end.is_interrupted:
            code = "interrupted"
        elif end.is_stopped:
            code = "cancelled"
        else:
            code = "error" if end.status is None else str(end.status)
        return {"type": "RUN_ERROR", "message": end.message, "code": code}


class LangGraph(ProtocolResponse):
    """A stream of the events of a LangGraph server's runs."""

    event_ids = True

    def closing_event(self, end: StreamEnd) -> Any:
        if self._is_over(end) or end.is_stopped:
            return ServerSentEvent(event="end", raw_data="null")
        return ServerSentEvent(event="error", data={"error": "error", "message": end.message})
