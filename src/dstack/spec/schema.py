"""The JSON Schema of configuration files, for completion and checks in editors."""

from typing import Any

from pydantic.json_schema import models_json_schema

from dstack.spec.kinds import TYPES
from dstack.spec.profile import Profiles

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def configuration_schema() -> dict[str, Any]:
    """Return the JSON Schema of `.dstack.yml` files.

    Examples:
        >>> sorted(configuration_schema()["discriminator"]["mapping"])
        ['dev-environment', 'fleet', 'gateway', 'service', 'task', 'volume']
    """
    references, whole = models_json_schema(
        [(kind, "validation") for kind in TYPES.values()], title="dstack configuration"
    )
    for name, kind in TYPES.items():
        whole["$defs"][kind.__name__]["required"] = [
            "type",
            *(one for one in whole["$defs"][kind.__name__].get("required", ()) if one != "type"),
        ]
        assert whole["$defs"][kind.__name__]["properties"]["type"]["const"] == name
    mapping = {name: references[kind, "validation"]["$ref"] for name, kind in TYPES.items()}
    return {
        "$schema": DIALECT,
        **whole,
        "type": "object",
        "discriminator": {"propertyName": "type", "mapping": mapping},
        "oneOf": [{"$ref": reference} for reference in mapping.values()],
    }


def profiles_schema() -> dict[str, Any]:
    """Return the JSON Schema of `profiles.yml` files.

    Examples:
        >>> profiles_schema()["title"]
        'dstack profiles'
    """
    return {"$schema": DIALECT, **Profiles.model_json_schema(), "title": "dstack profiles"}
