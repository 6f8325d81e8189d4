"""The errors of Pydantic as mistakes with plain messages, and mistakes as an error of Pydantic."""

from collections.abc import Iterable

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from dstack.kit.text import nearest, nearest_listed, shown
from dstack.spec.mistakes import Mistake

CREDENTIALS = frozenset(("creds", "kubeconfig"))
"""The fields of a backend's configuration that hold credentials."""
SECRET = CREDENTIALS | {"registry_auth"}
"""The fields whose values are never shown."""

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "bool_type": "`true` or `false`",
    "bool_parsing": "`true` or `false`",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping of fields",
    "model_attributes_type": "a mapping of fields",
    "tuple_type": "a list",
}
CHOICES_MAX = 8
"""The number of known words that a message lists."""
ENTRY_MAX = 60
"""The longest entry that a message repeats."""
_LENGTHS = {"too_short": ("at least", "min_length"), "too_long": ("at most", "max_length")}
_LIMITS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def refusal_of(mistakes: Iterable[Mistake]) -> ValidationError:
    """Return the error for a validator that found several mistakes. Their paths begin below its field."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError("value_error", "{said}", {"said": one.text}), loc=one.path, input=None
        )
        for one in mistakes
    ]
    return ValidationError.from_exception_data("mistakes", details)


def mistakes_in(error: ValidationError) -> list[Mistake]:
    """Return all mistakes in a validation error, each once: a union finds the same in each of its members."""
    return list(dict.fromkeys(Mistake(tuple(one["loc"]), _text(one)) for one in error.errors(include_url=False)))


def _text(error: ErrorDetails) -> str:
    kind, found, context = error["type"], _found(error), error.get("ctx", {})
    if kind == "missing":
        return f"expected a field `{error['loc'][-1]}`, found none"
    if kind in ("enum", "literal_error"):
        known = str(context["expected"]).replace("'", "`")
        choices = [word.strip(" `") for word in known.replace(" or ", ",").split(",")]
        if len(choices) > CHOICES_MAX:
            advice = nearest_listed(str(error["input"]), choices)
            return f"expected one of {len(choices)} words, found {found}; {advice}"
        guess = nearest(str(error["input"]), choices)
        return f"expected one of {known}, found {found}" + (f"; did you mean `{guess}`?" if guess else "")
    if kind in _LIMITS:
        words, key = _LIMITS[kind]
        limit = context[key]
        return f"expected {words} {f'{limit:g}' if isinstance(limit, float) else limit}, found {found}"
    if kind in _LENGTHS:
        words, key = _LENGTHS[kind]
        entries = "entry" if context[key] == 1 else "entries"
        return f"expected {words} {context[key]} {entries}, found {context['actual_length']}"
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, found {found}{_advice(error)}"
    said = str(context["error"]) if "error" in context else error["msg"]
    return "this value is not valid" if _is_secret(error) and str(error["input"]) in said else said


def _advice(error: ErrorDetails) -> str:
    """Return the way to write a value as the expected text, or as an entry of the expected list."""
    value = error["input"]
    if _is_secret(error):
        return ""
    match error["type"]:
        case "string_type" if isinstance(value, bool | int | float):
            return "; put it in quotes"
        case "string_type" if isinstance(value, dict) and isinstance(error["loc"][-1], int):
            return "; put the line in quotes"  # `- echo key: value`
        case "list_type" if isinstance(value, str | int | float):
            entry = str(value).removeprefix("-").strip()
            is_short = len(entry) <= ENTRY_MAX and entry.isprintable()
            return f"; write `- {entry}`" if is_short else "; begin each entry with `- `"
    return ""


def _found(error: ErrorDetails) -> str:
    return "something else" if _is_secret(error) else found_value(error["input"])


def _is_secret(error: ErrorDetails) -> bool:
    return not SECRET.isdisjoint(error["loc"])


def found_value(value: object) -> str:
    """Return a value for a message about its type."""
    return f"the text {shown(value)}" if isinstance(value, str) else shown(value)
