"""From YAML text to a checked dataclass: parse, merge, refuse unknown names, convert types.

Numbers follow YAML 1.2's core schema: `1e6` is a number, `010` is ten, `no` and `on` are strings. A name that
no field has is refused with its dotted path and the nearest right one; a value of the wrong type with what
was expected and what came.
"""

import dataclasses
import difflib
import functools
import math
import re
import typing
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from unmask.errors import ConfigError

if TYPE_CHECKING:
    import pydantic

__all__ = ["build", "merge", "nest", "parse_yaml"]

T = TypeVar("T")

# what a field accepts in words, by the beginning of pydantic's error type
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


def parse_yaml(text: str, *, source: str) -> dict[str, Any]:
    """Nested mapping in YAML text; an empty text is an empty mapping. `source` names it in errors."""
    import yaml

    try:
        value = yaml.load(text, Loader=_core_schema_loader())
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"config: {source}, line {line}, is not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"config: {source} is not YAML: {error}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"config: {source} must hold settings as 'name: value' lines, got {_describe(value)}")
    return value


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, mapping by mapping; lists are replaced, not joined."""
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        merged[name] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def nest(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """{"train.steps": 2} as {"train": {"steps": 2}}; names without a dot stay."""
    nested: dict[str, Any] = {}
    for path, value in dotted.items():
        *groups, last = str(path).split(".")
        leaf: dict[str, Any] = {last: value}
        for group in reversed(groups):
            leaf = {group: leaf}
        nested = merge(nested, leaf)
    return nested


def build(cls: type[T], mapping: Mapping[str, Any], *, name: str) -> T:
    """Make the dataclass `cls` (and those inside it) from a mapping; fields left out keep their defaults."""
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
    """Pydantic's reading of a dataclass, made once: it takes far longer than a reading."""
    import pydantic

    return pydantic.TypeAdapter(cls)


def _explain(error: Any) -> str:
    path = ".".join(str(part) for part in error["loc"] if not _is_union_tag(part))
    if error["type"] == "missing":
        return f"{path} is missing"
    if error["type"] == "literal_error":
        expected = "one of " + error["ctx"]["expected"].replace(" or ", ", ")
    else:
        expected = _EXPECTED.get(error["type"].split("_")[0], error["msg"])
    return f"{path} must be {expected}, got {_describe(error['input'])}"


def _is_union_tag(part: object) -> bool:
    # pydantic names the tried member of `int | None` as one more step of the path
    return part in ("int", "float", "str", "bool")


def _describe(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a group of settings"
    return f"{value!r} ({type(value).__name__})"


def _checked(cls: type, mapping: object, name: str, path: tuple[str, ...]) -> dict[str, Any]:
    """`mapping` with every name known, empty groups filled in, and no truth value where a number belongs."""
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
    """The most similar name: in the same group first, then the same last name in any other group."""
    *groups, last = path
    prefix = "".join(f"{group}." for group in groups)
    names = [f.name for f in dataclasses.fields(cls)]
    close = difflib.get_close_matches(last, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {prefix}{close[0]}?"
    elsewhere = [] if groups else list(_dotted_names(cls))
    by_leaf = {dotted.rsplit(".", 1)[-1]: dotted for dotted in elsewhere}
    close = difflib.get_close_matches(last, list(by_leaf), n=1, cutoff=0.6)
    if close:
        return f"; did you mean {by_leaf[close[0]]}?"
    return f"; {prefix.rstrip('.') or 'the configuration'} has {', '.join(names)}"


def _dotted_names(cls: type, prefix: str = "") -> Iterator[str]:
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from _dotted_names(typing.cast(type, hint), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _core_schema_loader() -> type[Any]:
    import yaml

    class CoreLoader(yaml.SafeLoader):
        """SafeLoader with the scalars of YAML 1.2's core schema, and no name given twice."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen: set[object] = set()
            for key_node, _ in node.value:
                key = self.construct_object(key_node, deep=True)
                if isinstance(key, str) and key in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", key_node.start_mark)
                if isinstance(key, str):
                    seen.add(key)
            return super().construct_mapping(node, deep)

    # PyYAML copies the inherited table on the first addition; an empty one leaves YAML 1.1's rules out
    CoreLoader.yaml_implicit_resolvers = {}
    patterns: list[tuple[str, str, list[str]]] = [
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
        ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ]
    for tag, pattern, first in patterns:
        CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), first)
    CoreLoader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: _whole(node.value))
    CoreLoader.add_constructor(
        "tag:yaml.org,2002:float",
        lambda loader, node: float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan")),
    )
    return CoreLoader


def _whole(text: str) -> int:
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text, base)
