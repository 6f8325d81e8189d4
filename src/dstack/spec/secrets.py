"""References in a configuration: `${{ secrets.NAME }}` and `${{ env.NAME }}` in `env` and in `registry_auth`.

A second `$` escapes a reference: `$${{ any }}` stands for the text `${{ any }}`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from dstack.errors import InvalidRequestError
from dstack.kit.text import listed, nearest, shown

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")
_REFERENCE = re.compile(r"(\$?)\$\{\{(.*?)\}\}", re.DOTALL)


def check_name(name: str) -> None:
    """Raise `InvalidRequestError` unless a secret may have the name."""
    if not NAME.fullmatch(name):
        raise InvalidRequestError(
            f"`{name[:100]}` cannot be a secret's name", hint="Use letters, digits, `-` and `_`, no digit first"
        )


def names_in(text: str) -> list[str]:
    """Return the names of the secrets to which a text refers.

    Raises:
        ValueError: a reference is neither to a secret nor to a variable.

    Examples:
        >>> names_in("Bearer ${{ secrets.TOKEN }} of ${{ env.USER }}"), names_in("no $HOME")
        (['TOKEN'], [])
    """
    return [name for kind, name in _names_in(text) if kind == "secrets"]


def variables_in(text: str) -> list[str]:
    """Return the names of the variables of `env` to which a text refers. Raises as `names_in`.

    Examples:
        >>> variables_in("${{ env.USER }}@${{ secrets.HOST }}")
        ['USER']
    """
    return [name for kind, name in _names_in(text) if kind == "env"]


def _names_in(text: str) -> list[tuple[str, str]]:
    names = []
    for inside in _references_in(text):
        kind, dot, name = inside.partition(".")
        if kind not in ("secrets", "env") or not dot or not NAME.fullmatch(name):
            expected = "expected `${{ secrets.NAME }}` or `${{ env.NAME }}`"
            raise ValueError(f"{expected}, found {shown(inside)}")
        names.append((kind, name))
    return names


def filled(text: str, secrets: Mapping[str, str], env: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return a text with its references replaced by their values.

    Args:
        text: a text that may contain `${{ secrets.NAME }}` and `${{ env.NAME }}`.
        secrets: the values of secrets by name.
        env: the values of variables by name, without references.

    Raises:
        ValueError: a secret or variable is unknown. Names it and the nearest known one.

    Examples:
        >>> filled("Bearer ${{ secrets.TOKEN }}", {"TOKEN": "123"})
        'Bearer 123'
    """
    values = {"secrets": secrets, "env": env}
    for kind, name in _names_in(text):
        if name not in values[kind]:
            guess = nearest(name, values[kind])
            what = "secret" if kind == "secrets" else "variable in `env`"
            raise ValueError(f"there is no {what} `{name}`" + (f"; did you mean `{guess}`?" if guess else ""))

    def value(found: "re.Match[str]") -> str:
        kind, _, name = found[2].strip().partition(".")
        return found[0][1:] if found[1] else values[kind][name]

    return _replaced(value, text)


def filled_env(env: Mapping[str, str], secrets: Mapping[str, str]) -> dict[str, str]:
    """Return variables with their references to secrets and to each other replaced by the values.

    Raises:
        ValueError: a secret or variable is unknown, or variables refer to each other in a circle.

    Examples:
        >>> filled_env({"URL": "https://${{ env.HOST }}", "HOST": "example.com"}, {})["URL"]
        'https://example.com'
    """
    whole: dict[str, str] = {}
    todo = dict(env)
    while todo:
        ready = [name for name, text in todo.items() if todo.keys().isdisjoint(variables_in(text))]
        if not ready:
            raise ValueError(f"the variables {listed(todo)} refer to each other in a circle")
        whole |= {name: filled(todo[name], secrets, whole) for name in ready}
        for name in ready:
            del todo[name]
    return whole


def check_variables(configuration: Mapping[str, Any]) -> None:
    """Raise `ValueError` if a reference to a variable has no value.

    Args:
        configuration: a configuration as a JSON object. Its `env` is a mapping with all values.
    """
    texts = dict(texts_with_secrets(configuration))
    known = {str(path[1]): text for path, text in texts.items() if path[0] == "env"}
    for path, text in texts.items():
        for name in variables_in(text):
            if name not in known:
                where = ".".join(map(str, path))
                raise ValueError(f"`{where}` refers to the variable `{name}`, which `env` does not have")
    stand_ins = {name: "" for text in texts.values() for name in names_in(text)}
    filled_env(known, stand_ins)


def as_it_stands(text: str) -> str:
    """Return the escaped text: `filled` turns it into the given text.

    Examples:
        >>> as_it_stands("a ${{ b }}")
        'a $${{ b }}'
    """
    return _replaced(lambda found: f"${found[0]}", text)


def _references_in(text: str) -> Iterator[str]:
    return (inside.strip() for is_plain, inside in _REFERENCE.findall(text[: _end_in(text)]) if not is_plain)


def _replaced(value: Callable[["re.Match[str]"], str], text: str) -> str:
    end = _end_in(text)
    return _REFERENCE.sub(value, text[:end]) + text[end:]


def _end_in(text: str) -> int:
    """Return the end of the last reference. Behind it, each `${{` would be searched to the end of the text for `}}`."""
    return text.rfind("}}") + 2 if "}}" in text else 0


FIELDS = ("env", "registry_auth")
"""The fields that may contain references."""


def texts_with_secrets(configuration: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the texts of a configuration (a JSON object) that may contain references, with their paths."""
    for field in FIELDS:
        part = configuration.get(field)
        pairs = part.items() if isinstance(part, Mapping) else enumerate(part) if isinstance(part, list) else ()
        for name, text in pairs:
            if isinstance(text, str):
                yield (field, name), text


def refers_to(text: str, kind: str) -> bool:
    """Whether a text contains a reference of a kind, such as `secrets`.

    Examples:
        >>> refers_to("echo ${{ secrets.TOKEN }}", "secrets"), refers_to("echo ${{ matrix.os }}", "secrets")
        (True, False)
    """
    return any(inside.startswith(f"{kind}.") for inside in _references_in(text))
