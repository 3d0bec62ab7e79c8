"""Parsing of command lines, and help texts as wide as the terminal.

The help of an option is the docstring of its field. The help of a command is the docstring of its class, or a
description. The source wraps both at a column that must not show on a terminal, so `read` joins the lines of each
paragraph.
"""

import ast
import dataclasses
import functools
import inspect
import itertools
import re
import shutil
import textwrap
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

from unmask.config.mappings import settings_of
from unmask.paths import expanded

if TYPE_CHECKING:
    from tyro.constructors import StructConstructorSpec, StructTypeInfo

__all__ = ["join_repeated", "read"]

T = TypeVar("T")


def read(
    options: type[T],
    *,
    prog: str,
    arguments: list[str],
    default: T | None = None,
    description: str = "",
    stray: Callable[[list[str]], None] | None = None,
) -> T:
    """Parse the arguments into an instance of the dataclass `options`. Print the help and exit if they ask for it.

    Args:
        options: the class; a docstring under each field describes it.
        prog: the command as it is typed.
        arguments: words of the command line.
        default: values of the options that are not given. Default: the defaults of the class.
        description: description of the command. Default: the docstring of the class.
        stray: called with the words that belong to no option, if there are any. If it returns, they are refused.
    """
    import tyro
    from tyro.constructors import ConstructorRegistry

    if {"-h", "--help"} & set(arguments):
        width = shutil.get_terminal_size().columns
        paragraphs = _flow(description or inspect.getdoc(options) or "").split("\n\n")
        print("\n\n".join(textwrap.fill(one, width, break_on_hyphens=False) for one in paragraphs), end="\n\n")
    arguments = _switched(arguments, {f"__{name}" for name, hint in settings_of(options) if hint is bool})
    registry = ConstructorRegistry()
    registry.struct_rule(_described)
    parse: Any = functools.partial(tyro.cli, options, prog=prog, description="", args=arguments, default=default)
    with registry:
        if stray is not None:
            found, words = parse(return_unknown_args=True)
            if not words:
                return _expanded(cast(T, found))
            stray(words)
        return _expanded(cast(T, parse()))


def join_repeated(arguments: list[str], option: str) -> list[str]:
    """Return `--input a --input b` as `--input a b`; otherwise the last occurrence would silently win."""
    values: list[str] = []
    rest: list[str] = []
    taking = False
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            taking = name == option
            if taking and equals:
                values.append(value)
        if taking and not argument.startswith("--"):
            values.append(argument)
        elif not taking:
            rest.append(argument)
    return [*rest, option, *values] if values else arguments


def _switched(arguments: list[str], switches: set[str]) -> list[str]:
    """Return `--a.lowercase false` and `--a.lowercase=false`, which look like YAML, as `--a.no-lowercase`."""
    words: list[str] = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        option, equals, value = word.partition("=")
        if option.replace("-", "_") in switches:
            said = (value if equals else left[0] if left else "").lower()
            if said in ("true", "false"):
                if not equals:
                    left.pop(0)
                group, dot, name = option.removeprefix("--").rpartition(".")
                word = option if said == "true" else f"--{group}{dot}no-{name}"
        words.append(word)
    return words


def _expanded(found: T) -> T:
    """Return the options with ~ expanded in every path."""
    options: Any = found
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    paths = {name: Path(expanded(str(value))) for name, value in values.items() if isinstance(value, Path)}
    return cast(T, dataclasses.replace(options, **paths)) if paths else found


def _described(info: "StructTypeInfo") -> "StructConstructorSpec | None":
    """Return the fields of a dataclass with their docstrings as help; None for other types."""
    from tyro.constructors import StructConstructorSpec, StructFieldSpec

    if not dataclasses.is_dataclass(info.type):
        return None
    cls = typing.cast(type, info.type)
    types, texts = typing.get_type_hints(cls, include_extras=True), _docstrings(cls)
    fields = [(field.name, _default(field, info.default)) for field in dataclasses.fields(cls)]
    return StructConstructorSpec(
        instantiate=cls,
        fields=tuple(
            StructFieldSpec(name=name, type=_quiet(types[name], default), default=default, helptext=texts[name])
            for name, default in fields
        ),
    )


def _default(field: "dataclasses.Field[Any]", instance: Any) -> Any:
    from tyro import MISSING

    if dataclasses.is_dataclass(instance):
        return getattr(instance, field.name)
    if field.default is not dataclasses.MISSING:
        return field.default
    return MISSING if field.default_factory is dataclasses.MISSING else field.default_factory()


def _quiet(hint: Any, default: Any) -> Any:
    """Return `hint` without a remark about an empty default, since the help text says what happens then."""
    from tyro.conf import arg

    return Annotated[hint, arg(help_behavior_hint="")] if default is None or default in ([], {}, ()) else hint


def _docstrings(cls: type) -> dict[str, str | None]:
    """Return the docstring under each field of a class; None for a field without one."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    texts: dict[str, str | None] = dict.fromkeys(field.name for field in dataclasses.fields(cls))
    for field, below in itertools.pairwise(typing.cast(ast.ClassDef, definition).body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts[name] = _flow(text)
    return texts


def _flow(text: str) -> str:
    """Return the text with each paragraph on one line."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text.strip()))
