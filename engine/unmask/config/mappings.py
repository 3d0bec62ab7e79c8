"""From nested mappings to a checked dataclass: renamed settings, merging, unknown names, types.

The error for an unknown name gives its dotted path and the most similar known name. The error for a wrong type says
what was expected and what came.
"""

import dataclasses
import difflib
import functools
import math
import typing
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from unmask.errors import ConfigError

if TYPE_CHECKING:
    import pydantic

__all__ = ["build", "current_name", "merge", "nest", "settings_of", "with_current_names"]

T = TypeVar("T")

# what a field accepts, in words, by the first word of pydantic's error type
_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "string": "text",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dataclass": "a group of settings",
    "dict": "a group of settings",
    "none": "nothing",
}

# Settings that had another name in an earlier version: old name, new name. Files, saved runs and command lines may use
# either. A star is the number of an item in a list.
_RENAMED = {"data.longest": "data.max_length", "train.phases.*.longest": "train.phases.*.max_length"}


def current_name(setting: str) -> str:
    """Return the name that a setting has today: "data.max_length" for "data.longest", others as they are."""
    steps = setting.split(".")
    renamed = _RENAMED.get(".".join("*" if step.isdigit() else step for step in steps))
    return setting if renamed is None else ".".join([*steps[:-1], renamed.rpartition(".")[2]])


def with_current_names(mapping: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return nested settings under the names that they have today.

    Raises:
        ConfigError: a setting is given under its old name and its new name.
    """
    result: dict[str, Any] = {}
    for key, value in mapping.items():
        here = (*path, str(key))
        old, last = ".".join(here), key
        # a name that contains a dot is no setting, and its error quotes the name as given
        if "." not in here[-1] and (new := current_name(old)) != old:
            last = new.rpartition(".")[2]
            if last in mapping:
                raise ConfigError(f"config: {old} is the old name of {new}, which is given too; leave it out")
        if isinstance(value, Mapping):
            value = with_current_names(value, here)
        elif isinstance(value, list | tuple):
            items = enumerate(value)
            value = [with_current_names(one, (*here, str(i))) if isinstance(one, Mapping) else one for i, one in items]
        result[last] = value
    return result


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `above` merged into `below`, group by group. A list replaces the other list."""
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        merged[name] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def nest(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"train": {"steps": 2}} for {"train.steps": 2}; names without a dot stay."""
    nested: dict[str, Any] = {}
    for path, value in dotted.items():
        *groups, last = str(path).split(".")
        leaf: dict[str, Any] = {last: value}
        for group in reversed(groups):
            leaf = {group: leaf}
        nested = merge(nested, leaf)
    return nested


def build(cls: type[T], mapping: Mapping[str, Any], *, name: str) -> T:
    """Make the dataclass `cls`, and the dataclasses in it, from a mapping. Missing fields keep their defaults.

    Raises:
        ConfigError: an unknown name or a wrong type. The message begins with `name`.
    """
    import pydantic

    plain = _checked(cls, mapping, name, ())
    try:
        # mypy does not know that a class can be hashed
        return cast(T, _adapter(cls).validate_python(plain))  # type: ignore[arg-type]
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"{name}: {_explain(first)}") from None


@functools.cache
def _adapter(cls: Any) -> "pydantic.TypeAdapter[Any]":
    """Return pydantic's adapter of a dataclass. Making it takes far longer than using it, so it is cached."""
    import pydantic

    return pydantic.TypeAdapter(cls)


def _explain(error: Any) -> str:
    # for `int | None`, pydantic adds the member that it tried to the path
    path = ".".join(str(part) for part in error["loc"] if part not in ("int", "float", "str", "bool"))
    if error["loc"][-1] == "[key]":
        path = f"a name in {'.'.join(str(part) for part in error['loc'][:-2])}"
    if error["type"] == "missing":
        return f"{path} is missing; give it a value"
    if error["type"] == "literal_error":
        expected = "one of " + error["ctx"]["expected"].replace(" or ", ", ")
    else:
        expected = _EXPECTED.get(error["type"].split("_")[0], error["msg"])
    quoted = error["type"].startswith("string") and isinstance(error["input"], bool | int | float)
    return f"{path} must be {expected}, got {_describe(error['input'])}{'; write it in quotes' if quoted else ''}"


def _describe(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a group of settings"
    return f"{value!r} ({type(value).__name__})"


def _checked(cls: type, mapping: object, name: str, path: tuple[str, ...]) -> dict[str, Any]:
    """Return `mapping` with {} for empty groups; refuse unknown names, true and false as numbers, inf and nan."""
    if mapping is None:
        return {}
    if not isinstance(mapping, Mapping):
        where = ".".join(path) or "the configuration"
        raise ConfigError(f"{name}: {where} must be a group of settings, got {_describe(mapping)}")
    types = typing.get_type_hints(cls)
    result: dict[str, Any] = {}
    for key, value in mapping.items():
        here = (*path, str(key))
        dotted = ".".join(here)
        if key not in types:
            raise ConfigError(f"{name}: {dotted} is not a setting{_nearest(cls, here)}")
        if dataclasses.is_dataclass(types[key]):
            result[key] = _checked(typing.cast(type, types[key]), value, name, here)
            continue
        for item in _scalars(value):
            if isinstance(item, bool) and bool not in (types[key], *typing.get_args(types[key])):
                raise ConfigError(f"{name}: {dotted} must be {_words(types[key])}, got {_describe(item)}")
            if isinstance(item, float) and not math.isfinite(item):
                raise ConfigError(f"{name}: {dotted} must be a finite number, got {item}")
        result[key] = _list_of_groups(types[key], value, name, here)
    return result


def _list_of_groups(hint: object, value: object, name: str, path: tuple[str, ...]) -> object:
    members = typing.get_args(hint)
    if not (isinstance(value, list) and members and dataclasses.is_dataclass(members[0])):
        return value
    return [_checked(typing.cast(type, members[0]), item, name, (*path, str(i))) for i, item in enumerate(value)]


def _scalars(value: object) -> Iterator[object]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _scalars(item)
    elif not isinstance(value, Mapping):
        yield value


def _words(hint: object) -> str:
    kinds = {int: "a whole number", float: "a number", str: "text"}
    for kind in (hint, *typing.get_args(hint)):
        if isinstance(kind, type) and kind in kinds:
            return kinds[kind]
    return str(hint)


def _nearest(cls: type, path: tuple[str, ...]) -> str:
    """Suggest the most similar name in the same group, else a similar last name in another group."""
    *groups, last = path
    prefix = "".join(f"{group}." for group in groups)
    names = [f.name for f in dataclasses.fields(cls)]
    old = [name for *_, name in (key.split(".") for key in _RENAMED) if current_name(prefix + name) != prefix + name]
    close = difflib.get_close_matches(last, [*names, *old], n=1, cutoff=0.6)
    if close:
        return f"; did you mean {current_name(prefix + close[0])}?"
    by_leaf = {} if groups else {dotted.rsplit(".", 1)[-1]: dotted for dotted, _ in settings_of(cls)}
    close = difflib.get_close_matches(last, list(by_leaf), n=1, cutoff=0.6)
    if close:
        return f"; did you mean {by_leaf[close[0]]}?"
    return f"; {prefix.rstrip('.') or 'the configuration'} has {', '.join(names)}"


def settings_of(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the type of each field of a dataclass and of the dataclasses in it."""
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from settings_of(cast(type, hint), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", hint
