"""Values of a file held against the types of a dataclass, so that a wrong one is named by its key."""

from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from experiments.common.cli import UserError

WHOLE = "the suite"
NOUNS = {str: "text", bool: "true or false", int: "a whole number", float: "a number", dict: "a mapping"}


def checked(key: str, kind: Any, value: Any) -> Any:
    """``value`` as one of a type, for the types that configurations have.

    Whole numbers are numbers, and so is text that spells one: YAML takes 1e-3 for text.

    Args:
        key: How to call it.
        kind: A plain type, a list, mapping, choice or union of such, or a dataclass, of which it makes an instance.
        value: As YAML has it.

    Raises:
        UserError: It is not; the message names the key, what it must be, and the value.
    """
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        choices = [choice for choice in arguments if choice is not NoneType]
        fitting = [choice for choice in choices if (get_origin(choice) is list) == isinstance(value, list)]
        return checked(key, (fitting or choices)[0], value)
    if is_dataclass(origin):
        return _instance(key, origin, value)
    if origin is list and isinstance(value, list):
        return [checked(f"{key}[{index}]", arguments[0], item) for index, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        of_names, of_values = arguments
        return {checked(f"a key of {key}", of_names, name): _item(key, name, of_values, value[name]) for name in value}
    if kind is float and _is_number(value):
        return float(value) if isinstance(value, str) else value
    is_right = value in arguments if origin is Literal else type(value) is origin or kind is Any
    if not is_right:
        raise UserError(f"{key} must be {_described(kind)}, got {value!r}")
    return value


def check_names(key: str, values: Any, known: Any) -> None:
    """Raise UserError if one of ``values`` is not among what is known."""
    unknown = [str(name) for name in values if name not in known]
    if unknown:
        raise UserError(f"{key} must be among {', '.join(known)}; got {', '.join(unknown)}")


def _instance(key: str, kind: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        raise UserError(f"{key or WHOLE} must be a mapping, got {value!r}")
    check_names(key or WHOLE, value, [field.name for field in fields(kind)])
    required = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in required if name not in value]
    if missing:
        raise UserError(f"{key or WHOLE} must have {', '.join(missing)}, got {', '.join(value)}")
    types = get_type_hints(kind)
    return kind(**{name: _item(key, name, types[name], value[name]) for name in value})


def _item(key: str, name: Any, kind: Any, value: Any) -> Any:
    return checked(f"{key}.{name}" if key else str(name), kind, value)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _described(kind: Any) -> str:
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is list:
        return f"a list, each item of it {_described(arguments[0])}"
    return "a mapping" if is_dataclass(origin) else NOUNS[origin]
