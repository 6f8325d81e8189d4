"""What all specs share: an unknown field is told with the nearest known one, and all mistakes at once."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from dstack.kit.text import nearest, nearest_listed, shown

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema


@dataclass(frozen=True, slots=True)
class Conflict:
    """Fields that do not go together: the one to point at (None for the whole), and what is wrong."""

    field: str | None
    text: str
    index: int | None = None
    """Which entry of the field, where it is a list."""


@dataclass(frozen=True, slots=True, eq=False)
class Also:
    """In an annotation: other JSON Schemas that the field's validator takes beside the field's own type."""

    forms: tuple[Mapping[str, Any], ...]

    def __get_pydantic_json_schema__(self, schema: "CoreSchema", handler: "GetJsonSchemaHandler") -> "JsonSchemaValue":
        return {"anyOf": [handler(schema), *map(dict, self.forms)]}


TEXT = {"type": "string"}
TRUTH = {"type": "boolean"}
NUMBER = {"type": "number"}


Text = Annotated[str, Also((NUMBER, TRUTH))]
"""Text of which the reader of files takes every word as it is written, also `3.10` and `on` (`spec.yaml`)."""


def matching(pattern: str, expected: str) -> AfterValidator:
    """In an annotation: text of one form, which `expected` describes with an example."""
    form = re.compile(pattern)

    def check(value: str) -> str:
        if not form.fullmatch(value):
            raise ValueError(f"expected {expected}, found {shown(value)}")
        return value

    return AfterValidator(check)


class Spec(BaseModel):
    """The base of everything a user writes."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, defer_build=True, hide_input_in_errors=True)

    renamed: ClassVar[Mapping[str, str]] = {}
    """Old spellings that still work, and what to write instead."""
    without_effect: ClassVar[Mapping[str, str]] = {}
    """Old fields that are accepted and ignored, and what to do instead."""

    def written(self) -> dict[str, Any]:
        """What was written of the whole tree: what was set, and what was changed in place."""
        now = {name: _written(value) for name, value in self}
        return {name: value for name, value in now.items() if self._is_written(name, value)}

    def _is_written(self, name: str, value: object) -> bool:
        if name in self.model_fields_set:
            return True
        default = type(self).model_fields[name].get_default(call_default_factory=True)
        return bool(value != _written(default))

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """Which of the written fields do not go together, whether or not each is right by itself.

        Args:
            written: the fields as they were written, or as they are by now.
        """
        for old, new in cls.renamed.items():
            if written.get(old) is not None and written.get(new) is not None:
                yield Conflict(old, f"expected one of `{new}` and `{old}`, found both; `{old}` is the old name")

    @model_validator(mode="wrap")
    @classmethod
    def _tell_all_at_once(cls, value: Any, build: ModelWrapValidatorHandler[Any]) -> Any:
        found: list[Any] = []
        built = None
        try:
            built = build(value)
        except ValidationError as error:
            found = error.errors(include_url=False)
        # What is missing may well be what is misspelled: then one mistake is enough.
        misspelled = [one["loc"][0] for one in found if one["type"] == "extra_forbidden" and len(one["loc"]) == 1]
        guesses = {nearest(str(name), cls.model_fields) for name in misspelled}
        details = [
            _detail(one, tuple(cls.model_fields))
            for one in found
            if not (one["type"] == "missing" and len(one["loc"]) == 1 and one["loc"][0] in guesses)
        ]
        if isinstance(value, Mapping) or built is not None:
            written = value if isinstance(value, Mapping) else _written(built)
            conflicts = (one for one in cls.conflicts(written) if one.field or not misspelled)
            details += [_told(conflict, written) for conflict in conflicts]
        if details:
            raise ValidationError.from_exception_data(cls.__name__, details) from None
        return built


def _written(value: Any) -> Any:
    match value:
        case Spec():
            return value.written()
        case list():
            return [_written(part) for part in value]
        case dict():
            return {name: _written(part) for name, part in value.items()}
        case _:
            return value


def _told(conflict: Conflict, written: Mapping[str, Any]) -> InitErrorDetails:
    own_words = PydanticCustomError("value_error", "{said}", {"said": conflict.text})
    if conflict.field is None:
        return InitErrorDetails(type=own_words, loc=(), input=written)
    loc = (conflict.field,) if conflict.index is None else (conflict.field, conflict.index)
    return InitErrorDetails(type=own_words, loc=loc, input=written.get(conflict.field))


def _detail(error: Any, fields: tuple[str, ...]) -> InitErrorDetails:
    """One mistake, with the words of an unknown field made helpful."""
    kind, loc, said = error["type"], error["loc"], error["msg"]
    if kind == "extra_forbidden" and len(loc) == 1:
        kind, said = "unknown_field", f"unknown field {shown(loc[0])}; {nearest_listed(str(loc[0]), fields)}"
    elif kind == "value_error" and "error" in error.get("ctx", {}):
        said = str(error["ctx"]["error"])
    elif kind not in ("value_error", "unknown_field"):
        return InitErrorDetails(type=kind, loc=loc, input=error["input"], ctx=error.get("ctx", {}))
    own_words = PydanticCustomError(kind, "{said}", {"said": said})
    return InitErrorDetails(type=own_words, loc=loc, input=error["input"])
