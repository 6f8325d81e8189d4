"""What all specs share: unknown fields are errors that name the nearest known one."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from dstack.kit.text import listed, nearest


class Spec(BaseModel):
    """The base of everything a user writes."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, defer_build=True, hide_input_in_errors=True)

    @model_validator(mode="wrap")
    @classmethod
    def _name_the_nearest_field(cls, value: Any, build: ModelWrapValidatorHandler[Any]) -> Any:
        try:
            return build(value)
        except ValidationError as error:
            details = [_detail(one, tuple(cls.model_fields)) for one in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(cls.__name__, details) from None


def _detail(error: Any, fields: tuple[str, ...]) -> InitErrorDetails:
    """One mistake, with the words of an unknown field made helpful."""
    kind, loc, said = error["type"], error["loc"], error["msg"]
    if kind == "extra_forbidden" and len(loc) == 1:
        guess = nearest(str(loc[0]), fields)
        advice = f"did you mean `{guess}`?" if guess else f"known are {listed(fields)}"
        kind, said = "unknown_field", f"unknown field `{loc[0]}`; {advice}"
    elif kind == "value_error" and "error" in error.get("ctx", {}):
        said = str(error["ctx"]["error"])
    elif kind not in ("value_error", "unknown_field"):
        return InitErrorDetails(type=kind, loc=loc, input=error["input"], ctx=error.get("ctx", {}))
    own_words = PydanticCustomError(kind, "{said}", {"said": said})
    return InitErrorDetails(type=own_words, loc=loc, input=error["input"])
