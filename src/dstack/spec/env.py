"""Environment variables of a configuration: a mapping, or a list of `NAME=value`, `NAME=` and `NAME`."""

import re
from collections.abc import Mapping

from dstack.errors import ConfigurationError
from dstack.kit.text import listed, shown
from dstack.spec.mistakes import MISPRINT, Mistake, Mistaken
from dstack.spec.secrets import as_it_stands

VARIABLE_BYTES_MAX = (128 << 10) - 2
"""The largest name and value. Linux accepts 128 KiB for both, including `=` and the end."""
ENV_BYTES_MAX = 3 << 19
"""The size of all variables together. Linux accepts 2 MiB, including a program's arguments and the host's additions."""
_KEY = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def parse_env(value: object) -> dict[str, str | None]:
    """Read environment variables. None stands for a value from the submitter's environment.

    Raises:
        Mistaken: names are malformed, or values are neither text nor numbers. Lists each with its place.
        ValueError: the value is neither a mapping nor a list, or all variables together are too large.

    Examples:
        >>> parse_env(["A=1", "B=", "C"])
        {'A': '1', 'B': '', 'C': None}
    """
    if not isinstance(value, Mapping | list):
        kind = "text" if isinstance(value, str) else "a number" if isinstance(value, int | float) else shown(value)
        raise ValueError(f"expected a mapping or a list of `NAME=value`, found {kind}")  # the value may be a secret
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
        raise Mistaken(mistakes)
    return env


def check_variable(name: str, value: str | None) -> None:
    """Raise `ValueError` for a variable that is too large for a program. The error does not show the value."""
    size = len(f"{name}{value or ''}".encode("utf-8", "surrogatepass"))
    if size > VARIABLE_BYTES_MAX:
        raise ValueError(
            f"expected at most {VARIABLE_BYTES_MAX:,} bytes for the variable `{name}` with its name, found {size:,}; "
            "a file can hold more"
        )


def check_whole(env: Mapping[str, str | None]) -> None:
    """Raise `ValueError` if all variables together are too large for a program. Names the largest."""
    sizes = {name: len(f"{name}{value or ''}".encode("utf-8", "surrogatepass")) + 10 for name, value in env.items()}
    if sum(sizes.values()) > ENV_BYTES_MAX:
        largest = max(sizes, key=sizes.__getitem__)
        raise ValueError(
            f"expected at most {ENV_BYTES_MAX:,} bytes for all variables together, found {sum(sizes.values()):,}; "
            f"the largest is `{largest}`"
        )


def _pair(line: object) -> tuple[str, str | None]:
    if not isinstance(line, str):
        raise ValueError("expected `NAME=value` or `NAME`")  # the value may be a secret
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
    """Return all variables with their values. Values from `environ` are escaped: they contain no references.

    Args:
        env: the variables; None stands for a value from `environ`.
        environ: the submitter's environment.

    Raises:
        ConfigurationError: variables are missing in `environ`, are not text, or are too large.
    """
    passed = [key for key, value in env.items() if value is None]
    if missing := [key for key in passed if key not in environ]:
        raise ConfigurationError(
            f"The configuration passes on {listed(missing)}, which this environment does not have",
            hint=f"`export {missing[0]}=…` first, or write a value in `env`",
        )
    if unreadable := [key for key in passed if MISPRINT.search(environ[key])]:
        raise ConfigurationError(
            f"The configuration passes on {listed(unreadable)}, which is not UTF-8 text in this environment",
            hint="Environment values must be text; put binary data in a file, and list it in `files`",
        )
    whole = {key: as_it_stands(environ[key]) if value is None else value for key, value in env.items()}
    try:
        for key in passed:
            check_variable(key, whole[key])
        check_whole(whole)
    except ValueError as error:
        raise ConfigurationError(f"`env`: {error}", hint="Put large values in a file, and list it in `files`") from None
    return whole
