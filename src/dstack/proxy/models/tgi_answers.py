"""Answers of Text Generation Inference in the form of OpenAI's API: whole, and as a stream of server-sent events."""

from typing import Any, Protocol, TypeVar

from msgspec import DecodeError, Struct, json

from dstack.proxy.models.tgi import Wanted

ANSWER_BYTES_MAX = 16 << 20
"""Of a whole answer."""
EVENT_BYTES_MAX = 1 << 20

T = TypeVar("T")
Headers = list[tuple[bytes, bytes]]
_REFUSAL_PARTS_MAX = 16
_REASONS = {"length": "length", "eos_token": "stop", "stop_sequence": "stop"}


class _Details(Struct):
    finish_reason: str | None = None
    generated_tokens: int | None = None
    input_length: int | None = None
    """The number of the prompt's tokens; newer versions alone report it."""


class _Answer(Struct):
    generated_text: str
    details: _Details | None = None


class _Token(Struct):
    text: str
    special: bool = False


class _Event(Struct):
    token: _Token | None = None
    generated_text: str | None = None
    details: _Details | None = None
    error: str | None = None


class _Error(Struct):
    error: str | None = None
    error_type: str | None = None


class Identity(Struct, frozen=True):
    """The marks of one answer."""

    id: str
    created_at: int
    """In seconds since the epoch."""


_answer, _event, _error = json.Decoder(_Answer), json.Decoder(_Event), json.Decoder(_Error)


class Rewriting(Protocol):
    """See `choices.Rewriting`."""

    is_whole: bool

    def head(self, status: int, headers: Headers) -> tuple[int, bytes]: ...
    def body(self, data: bytes) -> bytes: ...
    def end(self) -> bytes: ...


class WholeAnswer:
    """Rewrites an answer that is not a stream: it is collected to its end."""

    is_whole = True

    def __init__(self, wanted: Wanted, identity: Identity) -> None:
        self._wanted = wanted
        self._identity = identity
        self._parts: list[bytes] = []
        self._left = ANSWER_BYTES_MAX
        self._value: dict[str, Any] = {}

    def body(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left >= 0:
            self._parts.append(data)
        return b""

    def head(self, status: int, headers: Headers) -> tuple[int, bytes]:
        data = b"".join(self._parts)
        answer = _read(_answer, data) if status == 200 and self._left >= 0 else None
        if answer is not None:
            self._value = self._rewritten(answer, _prompt_tokens(headers))
        elif status == 200:
            status = 502
            self._value = error_of(status, "The replica's answer is not one of Text Generation Inference")
        else:
            self._value = error_of(status, _message(data))
        return status, b"application/json"

    def end(self) -> bytes:
        return json.encode(self._value)

    def _rewritten(self, answer: _Answer, prompt_tokens: int | None) -> dict[str, Any]:
        wanted, details = self._wanted, answer.details or _Details()
        text = _without_stop(answer.generated_text, wanted.stops)
        own = {"message": {"role": "assistant", "content": text}} if wanted.is_chat else {"text": text}
        choice = {"index": 0, "logprobs": None, "finish_reason": _reason(details), **own}
        whole = _frame("chat.completion" if wanted.is_chat else "text_completion", wanted, self._identity, [choice])
        used = usage_of(details, prompt_tokens)
        return whole if used is None else whole | {"usage": used}


class Stream:
    """Rewrites a stream of events.

    The end of what has arrived is held back while it may be the beginning of a text in `stop`.
    """

    is_whole = False

    def __init__(self, wanted: Wanted, identity: Identity) -> None:
        self._wanted = wanted
        self._identity = identity
        self._rest = b""
        self._held = ""
        self._refusal: list[bytes] | None = None
        self._status = 0
        self._has_begun = self._is_over = False
        self._kind = "chat.completion.chunk" if wanted.is_chat else "text_completion"

    def head(self, status: int, headers: Headers) -> tuple[int, bytes]:
        if status == 200:
            return status, b"text/event-stream"
        self._refusal, self._status = [], status
        return status, b"application/json"

    def body(self, data: bytes) -> bytes:
        if self._refusal is not None:
            if len(self._refusal) < _REFUSAL_PARTS_MAX:
                self._refusal.append(data)
            return b""
        *lines, self._rest = (self._rest + data).split(b"\n")
        out = b"".join(map(self._line, lines))
        if len(self._rest) > EVENT_BYTES_MAX:
            self._rest = b""
            out += self._failed("An event of the replica's stream is too large")
        return out

    def end(self) -> bytes:
        if self._refusal is not None:
            return json.encode(error_of(self._status, _message(b"".join(self._refusal))))
        return self._failed("The replica's stream ended before its answer")

    def _line(self, line: bytes) -> bytes:
        if self._is_over or not line.startswith(b"data:"):
            return b""
        event = _read(_event, line[5:].strip())
        if event is None:
            return self._failed("The replica's stream is not one of Text Generation Inference")
        if event.error is not None:
            return self._failed(event.error)
        text = "" if event.token is None or event.token.special else event.token.text
        if event.details is None and event.generated_text is None:
            return self._text(text)
        return self._last(text, event.details or _Details())

    def _text(self, text: str) -> bytes:
        held = self._held + text
        begin = len(held) - _tail(held, self._wanted.stops)
        self._held = held[begin:]
        return self._chunk(held[:begin], None) if begin else b""

    def _last(self, text: str, details: _Details) -> bytes:
        self._is_over = True
        left = _without_stop(self._held + text, self._wanted.stops)
        parts = [self._chunk(left, None)] if left else []
        parts.append(self._chunk("", _reason(details)))
        used = usage_of(details, None)
        if self._wanted.with_usage and used is not None:
            parts.append(_sse(_frame(self._kind, self._wanted, self._identity, []) | {"usage": used}))
        return b"".join((*parts, b"data: [DONE]\n\n"))

    def _chunk(self, text: str, reason: str | None) -> bytes:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": reason}
        if self._wanted.is_chat:
            delta: dict[str, str] = {} if reason is not None else {"content": text}
            choice["delta"] = delta if self._has_begun else {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        self._has_begun = True
        return _sse(_frame(self._kind, self._wanted, self._identity, [choice]))

    def _failed(self, message: str) -> bytes:
        """Return an event with the reason, the first time: the status of the answer has been sent."""
        if self._is_over:
            return b""
        self._is_over = True
        return _sse(error_of(502, message))


def rewriting_of(wanted: Wanted, identity: Identity) -> Rewriting:
    """Return what turns a replica's answer into one of OpenAI's API."""
    return Stream(wanted, identity) if wanted.is_stream else WholeAnswer(wanted, identity)


def usage_of(details: _Details, prompt_tokens: int | None) -> dict[str, int] | None:
    """Return the numbers of tokens; None where the replica does not report both."""
    prompt = details.input_length if prompt_tokens is None else prompt_tokens
    completion = details.generated_tokens
    if prompt is None or completion is None:
        return None
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _reason(details: _Details) -> str:
    return _REASONS.get(str(details.finish_reason), "stop")


def _prompt_tokens(headers: Headers) -> int | None:
    value = next((value for name, value in headers if name.lower() == b"x-prompt-tokens"), b"")
    return int(value) if value.isdigit() and len(value) < 10 else None


def error_of(status: int, message: str) -> dict[str, Any]:
    """Return an error as clients of OpenAI's API expect it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": "replica_failed"}}


def _message(data: bytes) -> str:
    """Return the reason that a replica gives for a refusal."""
    error = _read(_error, data)
    if error is not None and error.error:
        return error.error
    return data[:500].decode("utf-8", "replace").strip() or "The replica gives no reason"


def _read(decoder: "json.Decoder[T]", data: bytes) -> T | None:
    try:
        return decoder.decode(data)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _frame(kind: str, wanted: Wanted, identity: Identity, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": identity.id,
        "object": kind,
        "created": identity.created_at,
        "model": wanted.model,
        "choices": choices,
    }


def _sse(value: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % json.encode(value)


def _without_stop(text: str, stops: tuple[str, ...]) -> str:
    """Return a text without the stop text at its end: TGI has it there, OpenAI's API has not."""
    return next((text[: -len(stop)] for stop in stops if text.endswith(stop)), text)


def _tail(text: str, stops: tuple[str, ...]) -> int:
    """Return the number of characters at a text's end that may be the beginning of a stop text, or all of it.

    Examples:
        >>> _tail("one\\nUs", ("\\nUser:", "</s>")), _tail("one", ("\\nUser:",)), _tail("one</s>", ("</s>",))
        (3, 0, 4)
    """
    longest = max(map(len, stops), default=0)
    for size in range(min(longest, len(text)), 0, -1):
        end = text[-size:]
        if any(stop.startswith(end) for stop in stops):
            return size
    return 0
