"""Environment variables: a mapping, or a list of `K=V`, `K=` and `K`."""

import re
from collections.abc import Mapping

from dstack.errors import ConfigurationError
from dstack.kit.text import listed, shown
from dstack.spec.mistakes import MISPRINT, Mistake, refusal_of
from dstack.spec.secrets import as_it_stands

VARIABLE_BYTES_MAX = (128 << 10) - 2
"""Of a name and its value: Linux takes 128 KiB for both with `=` between them and an end."""
ENV_BYTES_MAX = 3 << 19
"""Of all variables: Linux takes 2 MiB, of which a program's arguments and what a host adds are a part."""
_KEY = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def parse_env(value: object) -> dict[str, str | None]:
    """Read env; None stands for a variable that is taken from the submitter's environment.

    Raises:
        ValueError: names are none, or values are neither text nor numbers; tells each with its place.

    Examples:
        >>> parse_env(["A=1", "B=", "C"])
        {'A': '1', 'B': '', 'C': None}
    """
    if not isinstance(value, Mapping | list):
        raise ValueError("expected a mapping or a list of `NAME=value`")  # what was found may be a secret
    env: dict[str, str | None] = {}
    mistakes = []
    for place, part in value.items() if isinstance(value, Mapping) else enumerate(value):
        try:
            key, text = (place, part) if isinstance(value, Mapping) else _pair(part)
            env[_key(key)] = _text(key, text)
            check_variable(_key(key), env[_key(key)])
        except ValueError as error:
            mistakes.append(Mistake((place,) if isinstance(place, str | int) else (), str(error)))
    if not mistakes:
        check_whole(env)
    if mistakes:
        raise refusal_of(mistakes)
    return env


def check_variable(name: str, value: str | None) -> None:
    """Raise `ValueError` for a variable that no program can be given; names it, and not its value."""
    size = len(f"{name}{value or ''}".encode("utf-8", "surrogatepass"))
    if size > VARIABLE_BYTES_MAX:
        raise ValueError(
            f"expected at most {VARIABLE_BYTES_MAX:,} bytes for the variable `{name}` with its name, found {size:,}; "
            "a file can hold more"
        )


def check_whole(env: Mapping[str, str | None]) -> None:
    """Raise `ValueError` for more variables than a program can be given; names the largest."""
    sizes = {name: len(f"{name}{value or ''}".encode("utf-8", "surrogatepass")) + 10 for name, value in env.items()}
    if sum(sizes.values()) > ENV_BYTES_MAX:
        largest = max(sizes, key=sizes.__getitem__)
        raise ValueError(
            f"expected at most {ENV_BYTES_MAX:,} bytes for all variables together, found {sum(sizes.values()):,}; "
            f"the largest is `{largest}`"
        )


def _pair(line: object) -> tuple[str, str | None]:
    if not isinstance(line, str):
        raise ValueError("expected `NAME=value` or `NAME`")  # what was found may be a secret
    key, equals, text = line.partition("=")
    return key, text if equals else None


def _key(key: object) -> str:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ValueError(f"expected a variable's name (letters, digits and `_`, no digit first), found {shown(key)}")
    return key


def _text(key: object, value: object) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (int, float)):
        return str(value)
    raise ValueError(f"expected text or a number for the variable `{key}`")


def resolve(env: Mapping[str, str | None], environ: Mapping[str, str]) -> dict[str, str]:
    """All values, those of passed-through variables from `environ`: what looks like a secret's name there is none.

    Raises:
        ConfigurationError: variables that are to be passed through are not set, are no text, or are too large; names
            them.
    """
    passed = [key for key, value in env.items() if value is None]
    if missing := [key for key in passed if key not in environ]:
        raise ConfigurationError(
            f"The configuration passes on {listed(missing)}, which this environment does not have",
            hint=f"`export {missing[0]}=…` first, or write a value in `env`",
        )
    if unreadable := [key for key in passed if MISPRINT.search(environ[key])]:
        raise ConfigurationError(
            f"The configuration passes on {listed(unreadable)}, which in this environment is no UTF-8 text",
            hint="What is no text can travel in a file: name it in `files`",
        )
    whole = {key: as_it_stands(environ[key]) if value is None else value for key, value in env.items()}
    try:
        for key in passed:
            check_variable(key, whole[key])
        check_whole(whole)
    except ValueError as error:
        raise ConfigurationError(
            f"`env`: {error}", hint="What is large travels in a file: name it in `files`"
        ) from None
    return whole
