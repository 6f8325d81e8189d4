"""The configuration of a backend. Each driver has a model of its own, based on the one here."""

from collections.abc import Mapping
from typing import Any

from dstack.spec.base import Spec
from dstack.spec.validation import CREDENTIALS

HIDDEN = "***"
"""The mark that stands for a credential."""


class BackendConfig(Spec):
    """The base of all configurations of backends."""

    type: str
    """The value of a `BackendType`."""


def split(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a configuration with marks in place of its credentials, and the fields with credentials.

    Examples:
        >>> split({"type": "aws", "regions": ["eu-west-1"], "creds": {"type": "access_key", "secret_key": "s3cret"}})[0]
        {'type': 'aws', 'regions': ['eu-west-1'], 'creds': {'type': 'access_key', 'secret_key': '***'}}
    """
    secret = {name: value for name, value in config.items() if name in CREDENTIALS}
    return {name: _hidden(value) if name in secret else value for name, value in config.items()}, secret


def _hidden(value: Any) -> Any:
    match value:
        case dict():
            return {
                name: one if name == "type" and isinstance(one, str) else _hidden(one) for name, one in value.items()
            }
        case list():
            return [_hidden(one) for one in value]
        case None:
            return None
        case _:
            return HIDDEN
