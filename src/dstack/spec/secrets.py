"""Secrets in a configuration: `${{ secrets.NAME }}` in values of `env` and in `registry_auth`.

One more `$` before it makes it plain text: `$${{ any }}` stands for `${{ any }}`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from dstack.errors import InvalidRequestError
from dstack.kit.text import nearest, shown

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")
_REFERENCE = re.compile(r"(\$?)\$\{\{(.*?)\}\}", re.DOTALL)


def check_name(name: str) -> None:
    """Raise `InvalidRequestError` unless it may be the name of a secret."""
    if not NAME.fullmatch(name):
        raise InvalidRequestError(
            f"`{name[:100]}` cannot be a secret's name", hint="Use letters, digits, `-` and `_`, no digit first"
        )


def names_in(text: str) -> list[str]:
    """The secrets that a text refers to.

    Raises:
        ValueError: it refers to something else.

    Examples:
        >>> names_in("Bearer ${{ secrets.TOKEN }}"), names_in("no $HOME")
        (['TOKEN'], [])
    """
    names = []
    for inside in _references_in(text):
        kind, dot, name = inside.partition(".")
        if kind != "secrets" or not dot or not NAME.fullmatch(name):
            raise ValueError(f"expected a secret such as `${{{{ secrets.TOKEN }}}}`, found {shown(inside)}")
        names.append(name)
    return names


def filled(text: str, secrets: Mapping[str, str]) -> str:
    """The text with its secrets in place.

    Raises:
        ValueError: one is not known; names it and the nearest.

    Examples:
        >>> filled("Bearer ${{ secrets.TOKEN }}", {"TOKEN": "123"})
        'Bearer 123'
    """
    for name in names_in(text):
        if name not in secrets:
            guess = nearest(name, secrets)
            raise ValueError(f"there is no secret `{name}`" + (f"; did you mean `{guess}`?" if guess else ""))
    return _REFERENCE.sub(lambda found: found[0][1:] if found[1] else secrets[found[2].strip().partition(".")[2]], text)


def as_it_stands(text: str) -> str:
    """What `filled` makes the text of.

    Examples:
        >>> as_it_stands("a ${{ b }}")
        'a $${{ b }}'
    """
    return _REFERENCE.sub(r"$\g<0>", text)


def _references_in(text: str) -> Iterator[str]:
    return (inside.strip() for is_plain, inside in _REFERENCE.findall(text) if not is_plain)


FIELDS = ("env", "registry_auth")
"""Where secrets are filled in."""


def texts_with_secrets(configuration: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The texts of a configuration (as a JSON object) in which secrets may stand, with their paths."""
    for field in FIELDS:
        part = configuration.get(field)
        pairs = part.items() if isinstance(part, Mapping) else enumerate(part) if isinstance(part, list) else ()
        for name, text in pairs:
            if isinstance(text, str):
                yield (field, name), text


def refers_to_secret(text: str) -> bool:
    """Whether a secret is meant to stand in the text.

    Examples:
        >>> refers_to_secret("echo ${{ secrets.TOKEN }}"), refers_to_secret("echo ${{ matrix.os }}")
        (True, False)
    """
    return any(inside.startswith("secrets.") for inside in _references_in(text))
