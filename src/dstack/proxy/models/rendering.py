"""`python -m dstack.proxy.models.rendering`: renders chat templates, in a process that may be ended at any moment.

A template is a program of a service's author. Jinja's sandbox keeps it from Python's objects, and this process bounds
its time and memory. Each frame of the input has a template and a chat, each frame of the output a prompt or a reason.
"""

import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from msgspec import Struct, json

if TYPE_CHECKING:
    from jinja2 import Template

MEMORY_BYTES_MAX = 512 << 20
PROMPT_CHARACTERS_MAX = 16 << 20
FRAME_BYTES_MAX = 128 << 20
HEAD_BYTES = 4
CPU_S_MAX = 600
"""Of the whole life of the process: a template that has evaded everything else ends with it. Another one follows."""


class Order(Struct):
    """A chat to render."""

    template: str
    messages: list[dict[str, Any]]
    time_s: int
    """The time after which the process ends itself."""
    eos_token: str = ""


class Rendered(Struct):
    """The prompt, or the reason why it is missing."""

    prompt: str = ""
    refused: str = ""
    """The reason that the template itself gives: the chat is not one for its model."""
    failed: str = ""
    """The reason why the template cannot be used."""


class _RefusedByTemplate(Exception):
    pass


def rendered(order: Order, compiled: "Callable[[str], Template]") -> Rendered:
    """Render a chat."""
    from jinja2 import TemplateError, TemplateSyntaxError

    try:
        template = compiled(order.template)
        # `bos_token` is empty: TGI itself begins a prompt with it.
        parts, size = [], 0
        for part in template.generate(
            messages=order.messages, add_generation_prompt=True, bos_token="", eos_token=order.eos_token
        ):
            size += len(part)
            if size > PROMPT_CHARACTERS_MAX:
                return Rendered(
                    failed=f"it makes a prompt of more than {PROMPT_CHARACTERS_MAX >> 20} million characters"
                )
            parts.append(part)
        return Rendered(prompt="".join(parts))
    except _RefusedByTemplate as error:
        return Rendered(refused=str(error)[:1000])
    except TemplateSyntaxError as error:
        return Rendered(failed=f"line {error.lineno}: {error.message}"[:1000])
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        return Rendered(failed=(str(error) or type(error).__name__)[:1000])
    except (MemoryError, RecursionError) as error:
        return Rendered(failed="it needs too much memory" if isinstance(error, MemoryError) else "it calls itself")


def compiler() -> "Callable[[str], Template]":
    """Return a function that compiles templates, and remembers the last ones."""
    from functools import lru_cache

    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _strftime_now
    return lru_cache(maxsize=8)(environment.from_string)


def _refuse(message: object) -> NoReturn:
    raise _RefusedByTemplate(str(message))


def _to_json(value: object, indent: int | None = None) -> str:
    from json import dumps

    return dumps(value, ensure_ascii=False, indent=indent if indent is None else min(indent, 8))


def _strftime_now(form: object) -> str:
    from dstack.kit.clock import SystemClock

    return SystemClock().now().strftime(str(form)[:100])


def bound() -> None:
    """Bound what this process may use."""
    import resource

    for kind, limit in (
        (resource.RLIMIT_AS, MEMORY_BYTES_MAX),
        (resource.RLIMIT_CPU, CPU_S_MAX),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        with suppress(ValueError, OSError):
            resource.setrlimit(kind, (limit, limit))


def serve(source: BinaryIO, target: BinaryIO) -> None:
    """Render what comes, until its end."""
    compiled = compiler()
    bound()
    decoder = json.Decoder(Order)
    while head := source.read(HEAD_BYTES):
        order = decoder.decode(source.read(int.from_bytes(head)))
        signal.alarm(order.time_s)
        answer = rendered(order, compiled)
        signal.alarm(0)
        try:
            data = json.encode(answer)
        except (UnicodeEncodeError, MemoryError):
            data = json.encode(Rendered(failed="its prompt is not valid text"))
        target.write(len(data).to_bytes(HEAD_BYTES) + data)
        target.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
