"""Requests of OpenAI's API as Text Generation Inference (TGI) takes them: `/generate` and `/generate_stream`.

TGI has prompts and no chats, and other names for the same parameters. A field without a counterpart is refused where it
would change the answer, and ignored where it would not.
"""

from typing import Any, NamedTuple, TypeVar

from msgspec import DecodeError, Struct, ValidationError, field, json

from dstack.proxy.answers import Refusal

STOPS_MAX = 16
_NOT_THERE = ("tools", "functions", "response_format", "logit_bias", "logprobs", "presence_penalty", "audio")
"""Fields with an effect that TGI does not have; empty values ask for nothing."""
_OWN = ("top_k", "typical_p", "repetition_penalty", "truncate", "watermark", "do_sample")
"""Parameters of TGI that OpenAI's API does not have: they go on as they are."""


class StreamOptions(Struct):
    """The wishes about a stream."""

    include_usage: bool | None = None


class Parameters(Struct, kw_only=True):
    """The fields that chats and completions have in common."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: int | None = None
    # Parameters of TGI
    top_k: int | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    truncate: int | None = None
    watermark: bool | None = None
    do_sample: bool | None = None
    # Fields that TGI does not have
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None
    logit_bias: dict[str, Any] | None = None
    logprobs: bool | int | None = None
    presence_penalty: float | None = None
    audio: dict[str, Any] | None = None


class Chat(Parameters, kw_only=True):
    """A request to `chat/completions`."""

    messages: list[dict[str, Any]]


class Completion(Parameters, kw_only=True):
    """A request to `completions`."""

    prompt: str | list[str]
    echo: bool | None = None


class Wanted(NamedTuple):
    """The form of an answer."""

    model: str
    is_chat: bool
    is_stream: bool
    with_usage: bool
    """Whether the last part of a stream has the numbers of tokens."""
    stops: tuple[str, ...]


class _Generate(Struct):
    inputs: str
    parameters: dict[str, Any] = field(default_factory=dict)


P = TypeVar("P", bound=Parameters)

_chat = json.Decoder(Chat)
_completion = json.Decoder(Completion)


def read_chat(body: bytes | bytearray) -> Chat:
    """Return a chat whose messages have texts alone, as templates expect them. Raises `Refusal`."""
    chat = _read(_chat, body)
    if not chat.messages:
        raise Refusal(400, "invalid_request", "Expected at least one message, found none")
    chat.messages = [_plain(message) for message in chat.messages]
    return chat


def read_completion(body: bytes | bytearray) -> tuple[Completion, str]:
    """Return a request with its only prompt. Raises `Refusal`."""
    completion = _read(_completion, body)
    prompts = completion.prompt if isinstance(completion.prompt, list) else [completion.prompt]
    if len(prompts) != 1:
        raise Refusal(400, "invalid_request", f"A model with the `format` `tgi` takes one prompt, found {len(prompts)}")
    return completion, prompts[0]


def wanted_of(asked: Parameters, eos_token: str | None) -> Wanted:
    """Return the form of the answer that a request expects.

    Args:
        eos_token: the token that ends an answer, which the answer does not include.
    """
    options = asked.stream_options
    stops = [] if asked.stop is None else [asked.stop] if isinstance(asked.stop, str) else asked.stop
    ends = [*stops, *([eos_token] if eos_token else [])]
    return Wanted(
        model=asked.model,
        is_chat=isinstance(asked, Chat),
        is_stream=bool(asked.stream),
        with_usage=bool(options is not None and options.include_usage),
        stops=tuple(dict.fromkeys(end for end in ends if end)),
    )


def target_of(wanted: Wanted) -> bytes:
    """Return the path that a replica receives."""
    return b"/generate_stream" if wanted.is_stream else b"/generate"


def body_of(asked: Parameters, wanted: Wanted, prompt: str) -> bytes:
    """Return the body that a replica receives."""
    parameters: dict[str, Any] = {
        "max_new_tokens": asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens,
        "frequency_penalty": asked.frequency_penalty or None,
        "seed": asked.seed,
        "stop": list(wanted.stops) or None,
        "return_full_text": True if isinstance(asked, Completion) and asked.echo else None,
        **_sampling(asked),
        **{name: value for name in _OWN if (value := getattr(asked, name)) is not None},
        "details": True,
    }
    return json.encode(_Generate(prompt, {name: value for name, value in parameters.items() if value is not None}))


def _sampling(asked: Parameters) -> dict[str, Any]:
    """Return the parameters of chance: TGI takes no temperature of 0, and no `top_p` of 1."""
    if asked.temperature == 0 or asked.top_p == 0:
        return {"do_sample": False}
    chosen = {"temperature": asked.temperature, "top_p": None if asked.top_p == 1 else asked.top_p}
    is_random = asked.temperature is not None or chosen["top_p"] is not None
    return {**chosen, "do_sample": True if is_random else None}


def _read(decoder: "json.Decoder[P]", body: bytes | bytearray) -> P:
    try:
        asked = decoder.decode(body)
    except ValidationError as error:
        raise Refusal(400, "invalid_request", f"The request is not understood: {error}") from None
    except RecursionError:
        raise Refusal(400, "invalid_request", "The JSON of the request is nested too deeply") from None
    except (DecodeError, UnicodeDecodeError) as error:
        raise Refusal(400, "invalid_request", f"The body of the request is not JSON: {error}") from None
    for name in _NOT_THERE:
        if getattr(asked, name):
            raise Refusal(400, "invalid_request", f"A model with the `format` `tgi` has no `{name}`")
    if asked.n not in (None, 1):
        raise Refusal(400, "invalid_request", f"A model with the `format` `tgi` gives one answer, found `n: {asked.n}`")
    if isinstance(asked.stop, list) and len(asked.stop) > STOPS_MAX:
        raise Refusal(400, "invalid_request", f"Expected at most {STOPS_MAX} texts in `stop`, found {len(asked.stop)}")
    return asked


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message whose content is one text. Raises `Refusal`."""
    if not isinstance(message.get("role"), str):
        raise Refusal(400, "invalid_request", "Expected each message to have a `role`, such as `user`")
    content = message.get("content")
    if content is None or isinstance(content, str):
        return {**message, "content": content or ""}
    if not isinstance(content, list):
        raise Refusal(400, "invalid_request", "Expected the `content` of a message to be text, or a list of parts")
    return {**message, "content": "\n".join(map(_text, content))}


def _text(part: Any) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else None
    message = f"A model with the `format` `tgi` takes parts of the type `text` alone, found {str(kind)[:40]!r}"
    raise Refusal(400, "invalid_request", message)
