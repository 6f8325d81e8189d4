"""Helper processes that render chat templates: one for each service, so that a bad template delays no other."""

import asyncio
import logging
import os
import sys
from collections import OrderedDict
from contextlib import suppress
from typing import Any

from msgspec import json

from dstack.proxy.answers import Refusal
from dstack.proxy.models.rendering import FRAME_BYTES_MAX, HEAD_BYTES, Order, Rendered

log = logging.getLogger(__name__)

RENDER_TIMEOUT_S = 5.0
START_TIMEOUT_S = 30.0
HELPERS_MAX = 8
"""The helper that was not used for the longest time ends for another one."""
WAITING_MAX = 64
"""Chats of one service that wait for its helper."""
_KEPT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LANG", "LC_ALL", "TZ")
_rendered = json.Decoder(Rendered)


class _Renderer:
    """One helper process, started with the first chat, and again after it was ended."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self.waiting = 0

    async def render(self, order: Order) -> Rendered:
        if self.waiting >= WAITING_MAX:
            raise Refusal(503, "busy", "Too many chats of this model wait for their template", retry_after_s=1)
        self.waiting += 1
        try:
            async with self._turn:
                return await self._render(json.encode(order))
        finally:
            self.waiting -= 1

    async def _render(self, data: bytes) -> Rendered:
        if len(data) > FRAME_BYTES_MAX:
            raise Refusal(413, "too_large", "The messages are too large for a model with the `format` `tgi`")
        # A helper may end for another reason, such as `CPU_S_MAX`: the next one shows whether it was this chat.
        answer = await self._attempt(data) or await self._attempt(data)
        return answer or Rendered(failed="it needs too much memory or time")

    async def _attempt(self, data: bytes) -> Rendered | None:
        """Return the answer of the helper; None if the helper ended earlier than this chat may take."""
        late = f"it takes longer than {self._timeout_s:g} s"
        now_s = asyncio.get_running_loop().time
        is_good, began_s = False, now_s()
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                process = await self._started()
            began_s = now_s()
            async with asyncio.timeout(self._timeout_s + 1):
                answer = await _ask(process, data)
            is_good = True
            return answer
        except TimeoutError:
            return Rendered(failed=late)
        except (EOFError, ConnectionError):
            is_late = now_s() - began_s >= self._timeout_s
            return Rendered(failed=f"{late}, or too much memory") if is_late else None
        except OSError as error:
            raise Refusal(503, "busy", f"The helper that renders chats does not start: {error}") from error
        finally:
            if not is_good:  # also where the client is lost in between: its answer would be the next one's
                await asyncio.shield(self.close())

    async def _started(self) -> asyncio.subprocess.Process:
        process = self._process
        if process is None or process.returncode is not None:
            environment = {name: value for name in _KEPT if (value := os.environ.get(name)) is not None}
            self._process = process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "dstack.proxy.models.rendering",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
                env=environment, cwd="/", start_new_session=True, limit=1 << 20,
            )  # fmt: skip
            await _ask(process, json.encode(Order("", [], 0)))
        return process

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _ask(process: asyncio.subprocess.Process, data: bytes) -> Rendered:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(len(data).to_bytes(HEAD_BYTES) + data)
    await process.stdin.drain()
    try:
        size = int.from_bytes(await process.stdout.readexactly(HEAD_BYTES))
        if size > FRAME_BYTES_MAX:
            raise EOFError
        return _rendered.decode(await process.stdout.readexactly(size))
    except asyncio.IncompleteReadError:
        raise EOFError from None


class Templates:
    """The helpers of all services."""

    def __init__(self, timeout_s: float = RENDER_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._renderers: OrderedDict[str, _Renderer] = OrderedDict()

    async def prompt(
        self, service_id: str, model: str, template: str, messages: list[dict[str, Any]], eos_token: str | None
    ) -> str:
        """Return the prompt that a chat becomes. Raises `Refusal` with the reason why it is missing."""
        order = Order(template, messages, int(self._timeout_s) or 1, eos_token or "")
        answer = await (await self._renderer(service_id)).render(order)
        if answer.refused:
            message = f"The chat template of the model {model} refuses these messages: {answer.refused}"
            raise Refusal(400, "invalid_request", message)
        if answer.failed:
            message = f"The chat template of the model {model} fails: {answer.failed}"
            raise Refusal(500, "template_failed", message, hint="Correct `chat_template` of the service's `model`")
        return answer.prompt

    async def _renderer(self, service_id: str) -> _Renderer:
        renderer = self._renderers.pop(service_id, None) or _Renderer(self._timeout_s)
        self._renderers[service_id] = renderer
        if len(self._renderers) > HELPERS_MAX:
            for id, oldest in self._renderers.items():
                if not oldest.waiting and oldest is not renderer:
                    del self._renderers[id]
                    await oldest.close()
                    break
        return renderer

    async def close(self) -> None:
        """End all helpers."""
        while self._renderers:
            await self._renderers.popitem()[1].close()
