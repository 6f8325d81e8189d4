"""What all specs share: unknown fields are errors that name the nearest known one."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from dstack.kit.text import listed, nearest


class Spec(BaseModel):
    """The base of everything a user writes."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, defer_build=True)

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
    kind, loc = error["type"], error["loc"]
    if kind == "extra_forbidden" and len(loc) == 1:
        guess = nearest(str(loc[0]), fields)
        advice = f"did you mean `{guess}`?" if guess else f"known are {listed(fields)}"
        text = PydanticCustomError(
            "unknown_field", "unknown field `{name}`; {advice}", {"name": loc[0], "advice": advice}
        )
        return InitErrorDetails(type=text, loc=loc, input=error["input"])
    if kind == "value_error":
        said = PydanticCustomError("value_error", "{reason}", {"reason": str(error["ctx"]["error"])})
        return InitErrorDetails(type=said, loc=loc, input=error["input"])
    if "ctx" in error and kind in ("unknown_field", "said"):
        said = PydanticCustomError(kind, "{text}", {"text": error["msg"]})
        return InitErrorDetails(type=said, loc=loc, input=error["input"])
    return InitErrorDetails(type=kind, loc=loc, input=error["input"], ctx=error.get("ctx", {}))
