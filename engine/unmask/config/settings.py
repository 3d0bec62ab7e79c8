"""A setting: one field of a configuration, with its default, its meaning and its range in one place.

    @dataclass(frozen=True, kw_only=True, slots=True)
    class MaskingConfig(Checked):
        rate: float = setting(0.15, "Share of the tokens to predict.", gt=0, le=1)

A configuration checks itself when it is made, whoever makes it. So `MaskingConfig(rate=2)` in Python,
`masking: {rate: 2}` in a file and `--masking.rate 2` on the command line hear the same sentence:
"rate must be above 0 and at most 1, got 2".

The metadata of a field has the names of `annotated_types` (ge, gt, le, lt) and `description`, so pydantic reads it too.
The check itself needs the standard library only: model, objectives and training step need PyTorch and NumPy, no more.
"""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

from unmask.errors import SettingError, SettingTypeError

__all__ = ["Checked", "between_commas", "check_argument", "check_value", "counted", "described", "hints_of", "setting"]

# the largest number of float32
_LARGEST = 3.4e38
_SIGNS = {"gt": "above", "ge": "at least", "le": "at most", "lt": "below"}
_EXPECTED: dict[object, tuple[type, str]] = {
    bool: (bool, "true or false"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "text"),
    Path: (Path, "a path"),
}


def setting(
    default: Any,
    description: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    hint: str = "",
    by_commas: bool = False,
) -> Any:
    """Return a dataclass field.

    Args:
        default: its default. A function makes the default of each configuration, for a list or a group.
            `dataclasses.MISSING`: the setting must be given.
        description: what it means, with its unit; the help of the command line.
        ge: smallest value; likewise `gt` (all values are above it), `le` (largest value) and `lt`. None is always
            in the range.
        hint: what to do about a value out of range, for the error.
        by_commas: whether the text may be several names with commas between them.
    """
    bounds = {name: bound for name, bound in zip(_SIGNS, (gt, ge, le, lt), strict=True) if bound is not None}
    metadata = {"description": description, **bounds, **({"hint": hint} if hint else {})}
    if by_commas:
        metadata["by_commas"] = True
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Checked:
    """A configuration whose values have their types and lie in their ranges; made with other values, it raises."""

    __slots__ = ()

    def __post_init__(self) -> None:
        """Check every field, then what the fields have to agree on.

        Raises:
            SettingError: a value is out of its range, or contradicts another one; a `ValueError`.
            SettingTypeError: a value has another type; a `TypeError`.
        """
        group, hints = type(self).__name__, hints_of(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            check_value(group, field, hints[field.name], getattr(self, field.name))
        for name, problem in self._contradictions():
            raise SettingError(group, name, problem)

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        """Yield the name of a setting and what is wrong with it beside the others."""
        yield from ()


def hints_of(cls: Any) -> dict[str, Any]:
    """Return the types of a configuration's fields."""
    return _hints_of(cls)


@functools.cache
def _hints_of(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def check_value(group: str, field: "dataclasses.Field[Any]", hint: Any, value: object) -> None:
    """Raise if a value has not the type or the range of a field.

    Args:
        group: what the error begins with.
        field: the field.
        hint: its type.
        value: the value.
    Raises:
        SettingError: the value is out of its range.
        SettingTypeError: it has another type.
    """
    _check(group, field.name, hint, field.metadata, value)


def check_argument(call: str, name: str, hint: Any, value: object, **bounds: float) -> None:
    """Raise if an argument of a function has not its type or its range, in the words that an option of a command has.

    Args:
        call: what the error begins with, such as "evaluate".
        name: of the argument.
        hint: its type.
        value: the value.
        **bounds: its range, as for `setting`.
    Raises:
        SettingError: the value is out of its range.
        SettingTypeError: it has another type.
    """
    _check(call, name, hint, bounds, value)


def _check(group: str, name: str, hint: Any, metadata: Mapping[str, Any], value: object) -> None:
    for below, problem in _type_problems(hint, value):
        way = ""
        if metadata.get("by_commas") and isinstance(value, list | tuple) and value:
            way = f"; write {','.join(map(between_commas, value))!r}"
        raise SettingTypeError(group, name + below, problem + way)
    for _, problem in _range_problems(hint, metadata, value):
        raise SettingError(group, name, problem)


def _range_problems(hint: Any, metadata: Mapping[str, Any], value: Any) -> Iterator[tuple[str, str]]:
    literals = [kind for kind in (hint, *typing.get_args(hint)) if typing.get_origin(kind) is Literal]
    choices = [one for kind in literals for one in typing.get_args(kind)]
    if choices and value is not None and value not in choices:
        way = f"; {metadata['hint']}" if "hint" in metadata else ""
        yield "", f"must be one of {', '.join(map(repr, choices))}, got {described(value)}{way}"
    if isinstance(value, float) and not math.isfinite(value):
        yield "", f"must be a finite number, got {value}"
    if isinstance(value, float) and math.isfinite(value) and abs(value) > _LARGEST:
        yield "", f"must be at most {_LARGEST:g}, got {value:.3g}"
    if isinstance(value, int) and value.bit_length() > 64:
        yield "", f"must be at most {2**63}, got a number of some {value.bit_length() * 3 // 10} digits"
    bounds = {sign: metadata[sign] for sign in _SIGNS if sign in metadata}
    if value is None or not bounds:
        return
    checks = {
        "gt": lambda bound: value > bound,
        "ge": lambda bound: value >= bound,
        "le": lambda bound: value <= bound,
        "lt": lambda bound: value < bound,
    }
    if all(checks[sign](bound) for sign, bound in bounds.items()):
        return
    wanted = " and ".join(f"{_SIGNS[sign]} {bound}" for sign, bound in bounds.items())
    hint = f"; {metadata['hint']}" if "hint" in metadata else ""
    yield "", f"must be {wanted}, got {str(value).removesuffix('.0')}{hint}"


def _type_problems(hint: Any, value: object) -> Iterator[tuple[str, str]]:
    """Yield, if a value has not the type `hint`, the path to what is wrong in it (".0" in a list) and the problem."""
    if isinstance(hint, types.UnionType):
        if value is None:
            return
        hint = next(member for member in typing.get_args(hint) if member is not types.NoneType)
    kind, members = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is Literal:
        if not isinstance(value, str):
            yield "", f"must be one of {', '.join(map(repr, members))}, got {described(value)}"
    elif dataclasses.is_dataclass(kind):
        if not isinstance(value, kind):  # type: ignore[arg-type]
            wanted = getattr(kind, "__name__", "") if isinstance(value, Mapping) else "a group of settings"
            yield "", f"must be {wanted}, got {described(value)}"
    elif kind in _EXPECTED:
        wanted, words = _EXPECTED[kind]
        if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
            plain = value is not None and not isinstance(value, list | tuple | Mapping)
            quotes = "; write it in quotes" if kind is str and plain else ""
            yield "", f"must be {words}, got {described(value)}{quotes}"
    elif issubclass(kind, Mapping):
        if not isinstance(value, Mapping):
            yield "", f"must be a group of settings, got {described(value)}"
            return
        for key, item in value.items():
            if not isinstance(key, str):
                yield "", f"must have names that are text, got {described(key)}; write it in quotes"
            for below, problem in _type_problems(members[1], item):
                yield f".{key}{below}", problem
    else:
        length = len(members) if kind is tuple and Ellipsis not in members else None
        if not isinstance(value, list | tuple) or length not in (None, len(value)):
            way = f"; write it in brackets, [{value!r}]" if isinstance(value, members[0]) else ""
            if length is None:
                yield "", f"must be a list, got {described(value)}{way}"
            else:
                yield "", f"must be a list of {length}, got {described(value)}"
            return
        for number, item in enumerate(value):
            for below, problem in _type_problems(members[0], item):
                yield f".{number}{below}", problem


def between_commas(name: object) -> str:
    """Return a name as it stands between commas: in double quotes if it holds a comma."""
    return f'"{name}"' if "," in str(name) else str(name)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 document", "2,000 documents"."""
    return f"1 {noun}" if number == 1 else f"{number:,} {noun}s"


def described(value: object) -> str:
    """Return a value as errors show it: its text and its type, "nothing", or "a group of settings"."""
    if value is None:
        return "nothing"
    return "a group of settings" if isinstance(value, Mapping) else f"{value!r} ({type(value).__name__})"
