"""The chat template and the last token of a model, from its tokenizer configuration on the hub.

The replica reports the name of its model. The hub is `HF_ENDPOINT`, as for all programs of Hugging Face. No token is
sent: with one, the author of a service could read private files of the server's owner.
"""

import asyncio
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from msgspec import DecodeError, Struct, json

from dstack.kit.tasks import apart
from dstack.protocol.proxy import Model
from dstack.proxy.answers import Refusal

log = logging.getLogger(__name__)

HUB = "https://huggingface.co"
READ_TIMEOUT_S = 10.0
"""Of one part of an answer."""
FETCH_TIMEOUT_S = 30.0
FILE_BYTES_MAX = 16 << 20
TEMPLATE_CHARACTERS_MAX = 1 << 20
KEPT_MAX = 256
FAILURE_HOLDS_S = 30.0
"""A failure is not repeated for so long."""
_NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}|[\w.-]{1,96}", re.ASCII)
_REVISION = re.compile(r"[\w.-]{1,96}", re.ASCII)


class Tokenizer(NamedTuple):
    """The parts of a tokenizer configuration that chats need."""

    chat_template: str
    eos_token: str | None


class Reported(Struct):
    """The answer of a replica to `/info`."""

    model_id: str | None = None
    model_sha: str | None = None


Fetch = Callable[[str], bytes | None]
"""Fetches a file: its content, or None if it is missing. Blocks. Raises `OSError`."""
AskReplica = Callable[[], Awaitable[bytes]]
"""Asks a replica for its `/info`. Raises `OSError`."""

_info = json.Decoder(Reported)


class Tokenizers:
    """The tokenizer configurations that were read of late."""

    def __init__(self, now_s: Callable[[], float], fetch: Fetch | None = None) -> None:
        self._now_s = now_s
        self._fetch = fetch or fetch_file
        self._known: OrderedDict[tuple[str, Model], tuple[Tokenizer | str, float]] = OrderedDict()
        """By service and model: the configuration, or the reason why it is missing, and until when it holds."""
        self._turns: dict[tuple[str, Model], asyncio.Lock] = {}

    async def of(self, service_id: str, model: Model, ask_replica: AskReplica) -> Tokenizer:
        """Return what the chats of a model need: from its `Model`, else from the hub. Raises `Refusal`."""
        if model.chat_template is not None and model.eos_token is not None:
            return Tokenizer(model.chat_template, model.eos_token)
        key = (service_id, model)
        turn = self._turns.setdefault(key, asyncio.Lock())
        try:
            async with turn:
                found = self._recent(key) or await self._look(key, model, ask_replica)
        finally:
            if not turn.locked():
                self._turns.pop(key, None)
        if isinstance(found, str):
            message = f"The model {model.name} has no chat template: {found}"
            raise Refusal(
                500, "no_chat_template", message, hint="Write `chat_template` into the `model` of the service"
            )
        return found

    def _recent(self, key: tuple[str, Model]) -> Tokenizer | str | None:
        found, until_s = self._known.get(key, (None, 0.0))
        if found is None or self._now_s() > until_s:
            return None
        self._known.move_to_end(key)
        return found

    async def _look(self, key: tuple[str, Model], model: Model, ask_replica: AskReplica) -> Tokenizer | str:
        found: Tokenizer | str
        until_s = float("inf")
        try:
            read = await self._read(await _name_of(model, ask_replica))
        except LookupError as error:
            until_s = self._now_s() + FAILURE_HOLDS_S
            if model.chat_template is None:
                found = str(error)
            else:
                log.info("The model %s: no `eos_token` is known: %s", model.name, error)
                found = Tokenizer(model.chat_template, None)
        else:
            template = read.chat_template if model.chat_template is None else model.chat_template
            found = Tokenizer(template, read.eos_token if model.eos_token is None else model.eos_token)
        self._known[key] = found, until_s
        if len(self._known) > KEPT_MAX:
            self._known.popitem(last=False)
        return found

    async def _read(self, info: Reported) -> Tokenizer:
        """Read a model's configuration. Raises `LookupError` with the reason why it is missing."""
        name, revision = info.model_id or "", info.model_sha or "main"
        if not _NAME.fullmatch(name) or ".." in name or not _REVISION.fullmatch(revision):
            raise LookupError(f"{name[:80]!r} is not the name of a model on the hub")
        base = f"{os.environ.get('HF_ENDPOINT', HUB).rstrip('/')}/{name}/resolve/{revision}"
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                data = await apart(lambda: self._fetch(f"{base}/tokenizer_config.json"), "tokenizer configuration")
                if data is None:
                    raise LookupError(f"there is no {base}/tokenizer_config.json")
                template, eos_token = _configured(data)
                if template is None:
                    own = await apart(lambda: self._fetch(f"{base}/chat_template.jinja"), "chat template")
                    template = None if own is None else own.decode("utf-8", "replace")
        except TimeoutError:
            raise LookupError(f"{base} did not answer within {FETCH_TIMEOUT_S:g} s") from None
        except OSError as error:
            raise LookupError(f"{base} cannot be read: {error}") from None
        if not template:
            raise LookupError(f"the tokenizer configuration of {name} has none")
        if len(template) > TEMPLATE_CHARACTERS_MAX:
            raise LookupError(f"that of {name} is too large")
        return Tokenizer(template, eos_token)


async def _name_of(model: Model, ask_replica: AskReplica) -> Reported:
    """Return the name that a replica reports for its model; where it reports none, that in the configuration."""
    try:
        info = _info.decode(await ask_replica())
    except (DecodeError, UnicodeDecodeError, RecursionError, OSError) as error:
        log.info("The model %s: its replica does not report its name: %s", model.name, error)
        return Reported(model.name)
    return info if info.model_id else Reported(model.name)


def _configured(data: bytes) -> tuple[str | None, str | None]:
    """Return the default chat template and the last token of a `tokenizer_config.json`. Raises `LookupError`."""
    try:
        content = json.decode(data)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise LookupError("the tokenizer configuration is not a JSON object")
    template, eos_token = content.get("chat_template"), content.get("eos_token")
    if isinstance(template, list):
        named = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
        template = named.get("default")
    if isinstance(eos_token, dict):
        eos_token = eos_token.get("content")
    return _as_text(template), _as_text(eos_token)


def _as_text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def fetch_file(url: str) -> bytes | None:
    """Return the content of a file; None if it is missing. Blocks. Raises `OSError`."""
    import ssl
    from urllib.error import HTTPError
    from urllib.request import HTTPSHandler, build_opener

    import certifi

    if not url.startswith(("http://", "https://")):
        raise OSError("`HF_ENDPOINT` does not begin with `http://` or `https://`")
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"]:  # a Python with its own OpenSSL may have no authorities
        context.load_verify_locations(certifi.where())
    try:
        with build_opener(HTTPSHandler(context=context)).open(url, timeout=READ_TIMEOUT_S) as answer:
            data: bytes = answer.read(FILE_BYTES_MAX + 1)
    except HTTPError as error:
        error.close()
        if error.code in (401, 403, 404):
            return None
        raise
    except ValueError as error:
        raise OSError(str(error)) from None
    if len(data) > FILE_BYTES_MAX:
        raise OSError(f"it has more than {FILE_BYTES_MAX >> 20} MiB")
    return data
