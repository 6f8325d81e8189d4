"""Environment variables: a mapping, or a list of `K=V`, `K=` and `K`."""

import re
from collections.abc import Mapping

from dstack.errors import ConfigurationError
from dstack.kit.text import shown

_KEY = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def parse_env(value: object) -> dict[str, str | None]:
    """Read env; None stands for a variable that is taken from the submitter's environment.

    Raises:
        ValueError: a name is none, or a value is neither text nor a number.

    Examples:
        >>> parse_env(["A=1", "B=", "C"])
        {'A': '1', 'B': '', 'C': None}
    """
    if isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, list) and all(isinstance(line, str) for line in value):
        pairs = [(key, text if equals else None) for key, equals, text in (line.partition("=") for line in value)]
    else:
        raise ValueError("expected a mapping or a list of `NAME=value`")  # what was found may be a secret
    return {_key(key): _text(key, text) for key, text in pairs}


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
    """All values, those of passed-through variables from `environ`.

    Raises:
        ConfigurationError: variables that are to be passed through are not set; names them.
    """
    missing = [key for key, value in env.items() if value is None and key not in environ]
    if missing:
        names = ", ".join(f"`{key}`" for key in missing)
        raise ConfigurationError(
            f"The configuration passes on {names}, which this environment does not have",
            hint=f"`export {missing[0]}=…` first, or write a value in `env`",
        )
    return {key: environ[key] if value is None else value for key, value in env.items()}
