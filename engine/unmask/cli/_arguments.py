"""Command lines from dataclasses: each field is an option, with its default, meaning and range in one place.

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Options(Checked):
        out: Path = option(MISSING, "Store to make; must not exist.", metavar="FOLDER")

`argparse` reads the words and writes the help; a value is checked as that of any configuration (`config.settings`).
An option may be written with `-` or `_`, and a switch as `--lowercase`, `--no-lowercase` or `--lowercase false`.
"""

import argparse
import dataclasses
import difflib
import inspect
import logging
import re
import shutil
import textwrap
import types
import typing
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from unmask.config.settings import hints_of, setting
from unmask.errors import SettingError, UnmaskError
from unmask.paths import expanded

__all__ = ["Parser", "add_option", "complete_files", "option", "parser_of", "read", "value_of", "with_dashes"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

# words after a switch that are its value, right or wrong
_SAID = frozenset(["true", "false", "none", "yes", "no", "on", "off", "0", "1"])
# choices that are longer together are listed in the text of an option
_LONG = 40


def option(
    default: Any,
    description: str,
    *,
    metavar: str = "",
    short: str = "",
    positional: bool = False,
    usual: bool = False,
    **bounds: Any,
) -> Any:
    """Return a dataclass field that is an option of a command.

    Args:
        default: its default; `dataclasses.MISSING`: it must be given.
        description: its help.
        metavar: what stands for its value in the help.
        short: a second spelling, such as "-o".
        positional: whether it is an argument without a name.
        usual: whether the line of the usage names it although it has a default.
        **bounds: its range, as for `setting`.
    """
    field = setting(default, description, **bounds)
    shown = {"metavar": metavar, "short": short, "positional": positional, "usual": usual}
    field.metadata = types.MappingProxyType({**field.metadata, **shown})
    return field


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and whose help fits 80 columns."""

    def __init__(self, *, prog: str, description: str, usage: str | None = None) -> None:
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=_Help,
        )
        # argparse itself takes -1e-3 for an option
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\Z")

    def error(self, message: str) -> NoReturn:
        """Raise the error that argparse found."""
        way = "write one that begins with - as in --run=-x, or " if "expected" in message else ""
        raise UnmaskError(f"{_command(self.prog)}: {message}; {way}run `{self.prog} --help` for the options")

    def known(self, arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Return the values of the options, by their names, and the words that belong to none.

        Raises:
            UnmaskError: an unknown option, with the most similar one, or one without its value.
        """
        switched = self._switched(arguments)
        self._tell_of_repeated(switched)
        found, words = self.parse_known_args(switched)
        for word in words:
            if word.startswith("-") and len(word) > 1:
                name = word.partition("=")[0]
                raise UnmaskError(f"{_command(self.prog)}: {name} is not an option; {self.advice_for(name)}")
        return vars(found), words

    def _switched(self, arguments: Sequence[str]) -> list[str]:
        """Return `--lowercase`, `--lowercase false` and `--no-lowercase` with `=true` or `=false`, for argparse."""
        switches = [action for action in self._actions if hasattr(action, "turned_off")]
        on = {spelling for action in switches for spelling in action.option_strings}
        off = {action.turned_off: action.option_strings[0] for action in switches}
        words: list[str] = []
        left = list(arguments)
        while left:
            word = left.pop(0)
            if word in on:
                said = left.pop(0) if left and left[0].lower() in _SAID else "true"
                word = f"{word}={said}"
            name, equals, value = word.partition("=")
            if name in off:
                if equals or (left and left[0].lower() in _SAID):
                    raise UnmaskError(
                        f"{_command(self.prog)}: {name} takes no value, got {value if equals else left[0]!r}; write "
                        f"{name} alone, or {off[name]}=true or {off[name]}=false"
                    )
                word = f"{off[name]}=false"
            words.append(word)
        return words

    def _tell_of_repeated(self, words: Sequence[str]) -> None:
        """Say which of two values counts if an option that takes one is given twice."""
        of_one = {name: action for action in self._actions for name in action.option_strings if action.nargs is None}
        given = Counter(
            of_one[name].option_strings[0] for name in (word.partition("=")[0] for word in words) if name in of_one
        )
        for name, times in given.items():
            if times > 1:
                _log.warning(f"{_command(self.prog)}: {name} is given {times} times; the last one counts")

    def advice_for(self, word: str) -> str:
        """Return what to do about an unknown option: the most similar one, or where all are."""
        names = [name for action in self._actions for name in action.option_strings if action.help != argparse.SUPPRESS]
        nearest = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
        return f"did you mean {nearest[0]}?" if nearest else f"run `{self.prog} --help` for the options"


class _Help(argparse.HelpFormatter):
    """Paragraphs of a description stay apart; an option's help begins in column 24."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=24, width=max(40, shutil.get_terminal_size().columns) - 1)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = (" ".join(one.split()) for one in text.split("\n\n"))
        filled = (textwrap.fill(one, width, break_on_hyphens=False, break_long_words=False) for one in paragraphs)
        return textwrap.indent("\n\n".join(filled), indent)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False, break_long_words=False)


def read(options: type[T], *, prog: str, arguments: Sequence[str]) -> T:
    """Parse the arguments into an instance of the dataclass `options`. Print the help and exit if they ask for it.

    Raises:
        UnmaskError: a word is no option, or a value is missing, of the wrong type or out of range.
    """
    parser = parser_of(options, prog=prog)
    values, stray = parser.known([with_dashes(word) for word in arguments])
    if stray:
        way_of = getattr(options, "way_of_stray", None)
        way = "" if way_of is None else f"{way_of(stray[0], list(map(with_dashes, arguments)))}, or "
        raise UnmaskError(
            f"{_command(prog)}: {stray[0]!r} belongs to no option; {way}run `{prog} --help` for the options"
        )
    hints = hints_of(options)
    try:
        return options(**{name: value_of(hints[name], text) for name, text in values.items()})
    except SettingError as error:
        fields = dataclasses.fields(options)  # type: ignore[arg-type]
        field = next(one for one in fields if one.name == error.setting.partition(".")[0])
        raise UnmaskError(f"{_command(prog)}: {_spelling(field)[0]} {error.problem}") from None


def parser_of(options: type[Any], *, prog: str) -> Parser:
    """Return the parser of a dataclass of options; its docstring describes the command."""
    fields = dataclasses.fields(options)
    named = [one for one in fields if not one.metadata["positional"]]
    needed = [one for one in named if _default(one) is dataclasses.MISSING or one.metadata["usual"]]
    words = [f"--{one.name.replace('_', '-')} {one.metadata['metavar'] or 'VALUE'}" for one in needed]
    words += ["[OPTIONS]"] * (len(needed) + sum(one.metadata["positional"] for one in fields) < len(fields))
    given = [(one.metadata["metavar"], _default(one)) for one in fields if one.metadata["positional"]]
    words += [f"[{metavar}]" if default is None else metavar for metavar, default in given]
    parser = Parser(prog=prog, description=inspect.getdoc(options) or "", usage=" ".join([prog, *words]))
    for field in fields:
        add_option(parser, _spelling(field), field.name, hints_of(options)[field.name], field, default=_default(field))
    return parser


def add_option(
    group: "argparse._ActionsContainer",
    spelling: Sequence[str],
    name: str,
    hint: Any,
    field: "dataclasses.Field[Any]",
    *,
    default: Any,
    more: str = "",
    hidden: bool = False,
) -> None:
    """Add an option to a parser or to a group of one.

    Args:
        group: where to.
        spelling: as it is typed; the name of an argument without one.
        name: under which its value is found.
        hint: its type.
        field: its field, with help and range.
        default: for the help; `MISSING` if it must be given.
        more: a sentence that the help adds to the field's own.
        hidden: leave it out of the help.
    """
    kind, several = _kind(hint), _is_list(hint)
    shown = (
        "" if default in (None, dataclasses.MISSING) or default in ([], {}, ()) else f" (default: {_shown(default)})"
    )
    text = argparse.SUPPRESS if hidden else (field.metadata["description"] + more + shown).replace("%", "%%")
    metavar = field.metadata.get("metavar") or _metavar(hint)
    if field.metadata.get("positional"):
        count = "*" if several else "?" if default is not dataclasses.MISSING else None
        added = group.add_argument(name, nargs=count, metavar=metavar, help=text)
    elif kind is bool:
        added = group.add_argument(*spelling, dest=name, metavar="[true|false]", help=text)
        section, dot, last = spelling[0].removeprefix("--").rpartition(".")
        added.turned_off = f"--{section}.no_{last}" if dot else f"--no-{last}"  # type: ignore[attr-defined]
    elif several:
        added = group.add_argument(*spelling, dest=name, nargs="+", action="extend", metavar=metavar, help=text)
    else:
        required = default is dataclasses.MISSING
        added = group.add_argument(*spelling, dest=name, metavar=metavar, help=text, required=required)
    if typing.get_origin(kind) is Literal or kind is bool:
        added.values = list(typing.get_args(kind)) or ["true", "false"]  # type: ignore[attr-defined]
    if kind is Path or field.metadata.get("is_path"):
        complete_files(added)


def complete_files(action: argparse.Action) -> None:
    """Have a shell complete the value of an option as the name of a file; shtab reads this."""
    action.complete = {"bash": "_shtab_compgen_files", "zsh": "_files"}  # type: ignore[attr-defined]


def with_dashes(word: str) -> str:
    """Return `--text-field` for `--text_field`."""
    name, equals, value = word.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if word.startswith("--") else word


def value_of(hint: Any, given: Any) -> Any:
    """Return the value that words of a command line stand for; words that stand for none stay, and are refused later.

    Text is taken as it is written. Numbers may be written as in YAML: `1e6` is a whole number. `None` is none where a
    setting may have no value.
    """
    if isinstance(given, list):
        members = typing.get_args(hint) or (str,)
        if (typing.get_origin(hint) or hint) in (dict, Mapping):
            if len(given) % 2:
                raise UnmaskError(f"{' '.join(given)!r} must be pairs of a name and a number, got {len(given)} words")
            twice = next((name for name in given[::2] if given[::2].count(name) > 1), None)
            if twice is not None:
                raise UnmaskError(f"{twice!r} must stand once, got it several times")
            pairs = zip(given[::2], given[1::2], strict=True)
            return {name: value_of(members[1], value) for name, value in pairs}
        values = [value_of(members[0], one) for one in given]
        return tuple(values) if typing.get_origin(hint) is tuple else values
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if types.NoneType in kinds and given == "None":
        return None
    kind = _kind(hint)
    if kind is Path:
        return Path(expanded(given))
    if kind is bool:
        return {"true": True, "false": False}.get(given.lower(), given)
    if kind in (int, float):
        return _number(kind, given)
    return given


def _number(kind: Any, text: str) -> Any:
    try:
        if kind is int and text.lstrip("+-").isdigit():
            return int(text)
        number = float(text)
    except ValueError:
        return text
    if kind is int:
        return int(number) if number.is_integer() else text
    return number


def _kind(hint: Any) -> Any:
    """Return the type of a hint that is not None."""
    if isinstance(hint, types.UnionType):
        return next(one for one in typing.get_args(hint) if one is not types.NoneType)
    return hint


def _is_list(hint: Any) -> bool:
    return (typing.get_origin(hint) or hint) in (list, tuple, dict, Mapping)


def _metavar(hint: Any) -> str:
    kind = _kind(hint)
    if typing.get_origin(kind) is Literal:
        choices = ",".join(map(str, typing.get_args(kind)))
        return f"{{{choices}}}" if len(choices) < _LONG else "NAME"
    names = {int: "N", float: "X", str: "TEXT", Path: "PATH", bool: "true|false"}
    if _is_list(hint):
        members = typing.get_args(hint)
        if typing.get_origin(hint) in (dict, Mapping):
            return "NAME X"
        return names.get(members[0], "VALUE")
    return names.get(kind, "VALUE")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return " ".join(map(_shown, value))
    return str(value)


def _spelling(field: "dataclasses.Field[Any]") -> list[str]:
    if field.metadata.get("positional"):
        return [field.metadata["metavar"]]
    return [*filter(None, [field.metadata.get("short")]), f"--{field.name.replace('_', '-')}"][::-1]


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _command(prog: str) -> str:
    """Return "prepare" for "unmask prepare", as errors begin."""
    return prog.split()[1]
