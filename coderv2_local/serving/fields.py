"""Fields of a request's JSON: their types and ranges, from which the checks and the OpenAPI description are made."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coderv2_local.serving.errors import ApiError, bad

KINDS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}


@dataclass(frozen=True)
class Field:
    """One field of a request.

    Attributes:
        kinds: the JSON types it may have, of `KINDS`. null is always taken as if the field were not there.
        low, high: range of a number.
        required: must it be there?
        meaning: one line, for the description.
        schema: more of its JSON schema: what the types do not say.
    """

    kinds: tuple[str, ...]
    meaning: str
    low: float | None = None
    high: float | None = None
    required: bool = False
    schema: Mapping[str, Any] = field(default_factory=dict)


Fields = Mapping[str, Field]


def read_json(data: bytes) -> dict[str, Any]:
    """The object in a request's body.

    Raises:
        ApiError: no UTF-8, no JSON, or no object.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse)
    except UnicodeDecodeError:
        raise bad("the body is not UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        raise bad(f"the body is not valid JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise bad("the body must be a JSON object")
    return value


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def checked(body: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """The values of `fields` in `body`, those that are null left out. What is not in `fields` is not looked at.

    Raises:
        ApiError: one is missing, of another type, or out of its range.
    """
    found = {}
    for name, known in fields.items():
        value = body.get(name)
        if value is None:
            if known.required:
                raise bad(f"{name} is missing", name)
            continue
        found[name] = _checked(name, value, known)
    return found


def _checked(name: str, value: Any, known: Field) -> Any:
    kind = type(value)
    if not any(kind in KINDS[k] for k in known.kinds):
        if kind is not float or "integer" not in known.kinds or not value.is_integer():
            raise bad(f"{name} must be {' or '.join(_article(k) for k in known.kinds)}", name)
        value = int(value)  # JSON knows one kind of number
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        check_range(name, value, known.low, known.high)
    return value


def check_range(name: str, value: float, low: float | None, high: float | None) -> None:
    """Raises ApiError where `value` is not between `low` and `high`."""
    is_number = value == value and abs(value) != math.inf  # math.isfinite knows no integers beyond 1.8e308
    if not is_number or (low is not None and value < low) or (high is not None and value > high):
        raise _outside(name, low, high)


def _outside(name: str, low: float | None, high: float | None) -> ApiError:
    if low is not None and high is not None:
        return bad(f"{name} must be between {low:g} and {high:g}", name)
    return bad(f"{name} must be a number" if low is None else f"{name} must be {low:g} or more", name)


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def json_schema(fields: Fields) -> dict[str, Any]:
    """The JSON schema of a body with these fields."""
    properties = {}
    for name, known in fields.items():
        types = [*known.kinds] if known.required else [*known.kinds, "null"]
        limits = {k: v for k, v in (("minimum", known.low), ("maximum", known.high)) if v is not None}
        properties[name] = {"type": types, "description": known.meaning, **limits, **known.schema}
    required = [name for name, known in fields.items() if known.required]
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def texts(name: str, value: Any, most: int) -> list[str]:
    """A string or a list of strings, as a list. Raises ApiError."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise bad(f"{name} must be a string or an array of strings", name)
    if len(values) > most:
        raise bad(f"{name} has {len(values)} entries: at most {most} are taken", name)
    return values
