"""The base of all specs. It reports all mistakes at once, and an unknown field with the nearest known ones."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from dstack.kit.text import nearest, nearest_listed, shown
from dstack.spec.validation import found_value

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema


@dataclass(frozen=True, slots=True)
class Conflict:
    """A conflict between fields: the field to report (None for the whole spec), and the mistake."""

    field: str | None
    text: str
    index: int | None = None
    """The number of the entry, if the field is a list."""


@dataclass(frozen=True, slots=True, eq=False)
class Also:
    """An annotation with other JSON Schemas that the field's validator accepts besides the field's own type."""

    forms: tuple[Mapping[str, Any], ...]
    in_words: str = ""
    """Those forms for a message, if the field's own type is a mapping of fields."""

    def __get_pydantic_json_schema__(self, schema: "CoreSchema", handler: "GetJsonSchemaHandler") -> "JsonSchemaValue":
        return {"anyOf": [handler(schema), *map(dict, self.forms)]}


TEXT = {"type": "string"}
TRUTH = {"type": "boolean"}
NUMBER = {"type": "number"}


Text = Annotated[str, Also((NUMBER, TRUTH))]
"""Text that stays as written in YAML, even `3.10` and `on` (see `spec.yaml`)."""


def matching(pattern: str, expected: str) -> AfterValidator:
    """Return a validator for an annotation: text that matches a pattern.

    Args:
        pattern: a regular expression for the whole text.
        expected: a description of the form with an example, for errors.
    """
    form = re.compile(pattern)

    def check(value: str) -> str:
        if not form.fullmatch(value):
            raise ValueError(f"expected {expected}, found {shown(value)}")
        return value

    return AfterValidator(check)


class Spec(BaseModel):
    """The base of all configurations and their parts."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, defer_build=True, hide_input_in_errors=True)

    renamed: ClassVar[Mapping[str, str]] = {}
    """Old names of fields that still work, and their new names."""
    without_effect: ClassVar[Mapping[str, str]] = {}
    """Old fields that are accepted and ignored, and the advice that replaces them."""

    def written(self) -> dict[str, Any]:
        """Return the fields that were set or changed in place, of the whole tree."""
        now = {name: _written(value) for name, value in self}
        return {name: value for name, value in now.items() if self._is_written(name, value)}

    def _is_written(self, name: str, value: object) -> bool:
        if name in self.model_fields_set:
            return True
        default = type(self).model_fields[name].get_default(call_default_factory=True)
        return bool(value != _written(default))

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """Yield the conflicts between the written fields, even if single fields are invalid.

        Args:
            written: the fields as written, or their current values.
        """
        for old, new in cls.renamed.items():
            if written.get(old) is not None and written.get(new) is not None:
                yield Conflict(old, f"expected one of `{new}` and `{old}`, found both; `{old}` is the old name")

    @model_validator(mode="wrap")
    @classmethod
    def _tell_all_at_once(cls, value: Any, build: ModelWrapValidatorHandler[Any]) -> Any:
        given = value
        if isinstance(value, Mapping):
            value = {name: part for name, part in value.items() if part is not None or not cls._holds_entries(name)}
        found: list[Any] = []
        built = None
        try:
            built = build(value)
        except ValidationError as error:
            found = error.errors(include_url=False)
        # A missing field is probably the misspelled one: then one mistake is enough.
        misspelled = [one["loc"][0] for one in found if one["type"] == "extra_forbidden" and len(one["loc"]) == 1]
        guesses = {nearest(str(name), cls.model_fields) for name in misspelled}
        details = [
            _detail(one, cls)
            for one in found
            if not (one["type"] == "missing" and len(one["loc"]) == 1 and one["loc"][0] in guesses)
        ]
        if isinstance(value, Mapping) or built is not None:
            written = given if isinstance(given, Mapping) else _written(built)
            conflicts = (one for one in cls.conflicts(written) if one.field or not misspelled)
            details += [_told(conflict, written) for conflict in conflicts]
        if details:
            raise ValidationError.from_exception_data(cls.__name__, details) from None
        return built

    @classmethod
    def _holds_entries(cls, name: str) -> bool:
        """Whether a field is a list or a mapping: all of its entries may be comments, and then it is empty."""
        field = cls.model_fields.get(name)
        return name in cls._specs() or (field is not None and isinstance(field.default, list | dict))

    @classmethod
    def _specs(cls) -> "dict[str, type[Spec]]":
        """The fields that hold fields of their own."""
        kinds = {name: field.annotation for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Spec)}

    @classmethod
    def _parent_of(cls, name: str) -> str | None:
        """Return the field whose value has a field of that name."""
        return next((parent for parent, spec in cls._specs().items() if name in spec.model_fields), None)

    @classmethod
    def _types_with(cls, name: str) -> list[str]:
        """Return the types of configurations, other than this one, that have a field of that name."""
        return []


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


def _detail(error: Any, spec: type[Spec]) -> InitErrorDetails:
    """Return one mistake; for an unknown field, with its place or the nearest known ones."""
    kind, loc, said = error["type"], error["loc"], error["msg"]
    if kind == "extra_forbidden" and len(loc) == 1:
        kind, said = "unknown_field", f"unknown field {shown(loc[0])}; {_advice(str(loc[0]), spec)}"
    elif kind == "model_type" and len(loc) == 1 and (forms := _other_forms(spec, loc[0])):
        said = f"expected {forms} or a mapping of fields, found {found_value(error['input'])}"
        kind = "value_error"
    elif kind == "value_error" and "error" in error.get("ctx", {}):
        said = str(error["ctx"]["error"])
    elif kind not in ("value_error", "unknown_field"):
        return InitErrorDetails(type=kind, loc=loc, input=error["input"], ctx=error.get("ctx", {}))
    own_words = PydanticCustomError(kind, "{said}", {"said": said})
    return InitErrorDetails(type=own_words, loc=loc, input=error["input"])


def _other_forms(spec: type[Spec], name: str | int) -> str:
    field = spec.model_fields.get(str(name))
    return next((one.in_words for one in (field.metadata if field else ()) if isinstance(one, Also)), "")


def _advice(name: str, spec: type[Spec]) -> str:
    """Return the place of an unknown field: below another, in another type, or at the nearest known name."""
    if (parent := spec._parent_of(name)) is not None:
        return f"it belongs below `{parent}`"
    types = " and ".join(f"`type: {kind}`" for kind in spec._types_with(name))
    if not types:
        return nearest_listed(name, spec.model_fields)
    guess = nearest(name, spec.model_fields)
    return f"did you mean `{guess}`? It belongs to {types}" if guess else f"it belongs to {types}"
