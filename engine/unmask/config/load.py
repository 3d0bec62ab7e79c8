"""Reading and writing a run's configuration.

Precedence: the defaults of `schema` < a recipe or YAML file < the command line. `load_config` merges the three and
checks the result: names, types, ranges, settings that contradict each other, and settings that nothing reads.
"""

import difflib
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from unmask.config.encoder import EncoderConfig
from unmask.config.initial import contradicting_sizes, sizes_from
from unmask.config.mappings import (
    LineOf,
    build,
    changed,
    check_values,
    current_name,
    defaults,
    flat,
    groups_of,
    has_old_names,
    placed,
    setting_name,
)
from unmask.config.schema import BUDGETS, RunConfig
from unmask.config.unused import without_unused
from unmask.config.yaml_text import dump_yaml, lines_of, parse_yaml
from unmask.errors import ConfigError
from unmask.paths import expanded, expanded_input

__all__ = [
    "changed_settings",
    "load_config",
    "read_settings",
    "recipe_names",
    "to_mapping",
    "to_yaml",
    "unchecked",
]

_log = logging.getLogger(__name__)

_PATHS = (
    *("run", "data.store", "data.cache_folder", "data.tokenizer", "masking.similar_words"),
    *("init.from", "distillation.teacher"),
)


def load_config(
    recipe_or_yaml: str | Path | None = None, overrides: Mapping[str, Any] | None = None, *, saved: bool = False
) -> RunConfig:
    """Read a recipe or YAML file, lay overrides over it, and check the result.

    Example:
        >>> import unmask
        >>> config = unmask.load_config("bert-mini", {"data.store": "store", "train.steps": 1000})
        >>> config.train.steps
        1000

    Args:
        recipe_or_yaml: name of a shipped recipe (`tiny`, `bert-mini`, ...) or path of a YAML file. Default: `tiny`.
        overrides: nested mapping ({"train": {"steps": 200}}), or dotted names ({"train.steps": 200}), or both.
        saved: whether the file was saved by a run. Settings in it that nothing reads are then kept and are no error.
    Raises:
        ConfigError: no such recipe or file, not YAML, an unknown name, a wrong type, a value out of range, a
            contradiction, or a setting that nothing reads.
    """
    file = read_settings("tiny" if recipe_or_yaml is None else recipe_or_yaml)
    below, changes = file.settings, _with_one_budget(flat({} if overrides is None else overrides))
    asked = {name if name in defaults() else name.rsplit(".", 2)[0] for name in changes}
    line_of = _lines(file, asked=asked)
    whole = _at_home(check_values(changed(below, changes), source=file.source, line_of=line_of))
    if whole.get("init.from") and not saved:
        whole |= _sizes_of_checkpoint(whole, asked=asked, source=file.source, line_of=line_of)
    with_read = without_unused(
        whole, below=_right_ones(below), changes=asked, saved=saved, source=file.source, line_of=line_of
    )
    config = build(with_read, source=file.source, line_of=line_of)
    _require_length_read(config, asked, below)
    return config


def _lines(file: "SettingsFile", *, asked: set[str]) -> LineOf:
    """Return what gives the line of a setting in the user's file; None for one that the overrides give."""

    def line_of(name: str) -> int | None:
        # a list has a line, its items have none of their own
        while name not in defaults() and name.count(".") > 1:
            name = name.rpartition(".")[0]
        is_asked = any(one == name or one.startswith(f"{name}.") for one in asked)
        return None if is_asked or file.source in recipe_names() else file.line_of(name)

    return line_of


def _sizes_of_checkpoint(
    settings: Mapping[str, Any], *, asked: set[str], source: str, line_of: LineOf
) -> dict[str, Any]:
    """Return the settings of `model` for a run that starts from the checkpoint that flat settings name.

    The sizes of a shipped recipe give way to the checkpoint's, since nobody can leave them out.

    Args:
        settings: the recipe or file with the overrides.
        asked: names of the overrides.
        source: the recipe or file.
        line_of: gives the line of a setting in the file.
    Raises:
        ConfigError: a size in `settings` is not the checkpoint's.
        CheckpointError, RunError: the checkpoint cannot be read.
    """
    # by their names, since what reads checkpoints stands above the configuration
    folder = import_module("unmask.interop.find_model").find_model(settings["init.from"]).path
    sizes: EncoderConfig = import_module("unmask.interop.config_json").read_config(folder)
    giving_way = []
    for name, problem in contradicting_sizes(settings, sizes):
        if name not in asked and source in recipe_names():
            giving_way.append(name)
            continue
        with placed(source, name, line_of):
            raise ConfigError(f"config: {name} {problem}")
    if giving_way:
        _log.info(f"config: {', '.join(giving_way)} of recipe {source} give way to the sizes of init.from")
    return sizes_from({name: value for name, value in settings.items() if name not in giving_way}, sizes)


def unchecked(recipe_or_yaml: str | Path | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings in their groups as `load_config` would read them, also if they contradict each other.

    Raises:
        ConfigError: a name is unknown, or a value has the wrong type or is out of its range.
    """
    file = read_settings("tiny" if recipe_or_yaml is None else recipe_or_yaml)
    changes = _with_one_budget(flat(overrides))
    line_of = _lines(file, asked={name if name in defaults() else name.rsplit(".", 2)[0] for name in changes})
    checked = check_values(changed(file.settings, changes), source=file.source, line_of=line_of)
    settings = {**defaults(), **checked}
    groups: dict[str, Any] = {}
    for name, value in settings.items():
        group, _, last = name.rpartition(".")
        items = [asdict(one) for one in value] if name == "train.phases" else value
        (groups.setdefault(group, {}) if group else groups)[last] = list(items) if isinstance(items, tuple) else items
    return groups


def _with_one_budget(settings: dict[str, Any]) -> dict[str, Any]:
    """Return flat settings in which the budget that they give takes the place of the others.

    So `--train.epochs 3` works with a recipe that gives steps, and with the default.
    """
    given = [name for name in BUDGETS if settings.get(f"train.{name}") is not None]
    return settings | {f"train.{name}": None for name in BUDGETS if given and name not in given}


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in files("unmask.recipes").iterdir() if entry.name.endswith(".yaml")
    )


class SettingsFile(NamedTuple):
    """The settings of a recipe or a YAML file.

    Attributes:
        source: its name, as given.
        settings: under their dotted names of today.
        line_of: gives the line of one of them; None for others.
    """

    source: str
    settings: dict[str, Any]
    line_of: LineOf


def read_settings(recipe_or_path: str | Path) -> SettingsFile:
    """Read the settings of a shipped recipe, or of the YAML file at a path.

    Raises:
        ConfigError: there is no such recipe or file, the file cannot be read as UTF-8 YAML, or a name in it is unknown.
    """
    wanted = str(recipe_or_path)
    if wanted in recipe_names():
        return _parsed(files("unmask.recipes").joinpath(f"{wanted}.yaml").read_text("utf-8"), wanted)
    path = Path(expanded(wanted))
    if not wanted or not _exists(path):
        other = {".yml": ".yaml", ".yaml": ".yml"}.get(path.suffix)
        if other is not None and _exists(path.with_suffix(other)):
            raise ConfigError(f"config: there is no file {wanted}; did you mean {path.with_suffix(other)}?")
        close = difflib.get_close_matches(wanted.lower(), recipe_names(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"recipes are {', '.join(recipe_names())}"
        raise ConfigError(f"config: no recipe or file is called {wanted!r}; {hint}")
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"config: {wanted} is not UTF-8 at byte {error.start}; save it as UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"config: {wanted} cannot be read ({error.strerror}); give a YAML file that can") from None
    return _parsed(text, wanted)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # a name that is too long for a file
        return False


def _parsed(text: str, source: str) -> SettingsFile:
    def line_of(name: str) -> int | None:
        lines = lines_of(text)
        return lines.get(name) or {current_name(old): line for old, line in lines.items()}.get(name)

    mapping = parse_yaml(text, source=source)
    settings = _with_one_budget(changed({}, flat(mapping, source=source, line_of=line_of)))
    if settings.get("data.lowercase") is True and has_old_names(mapping):
        # 0.1 wrote its default, which had no effect on a given tokenizer
        settings["data.lowercase"] = None
    return SettingsFile(source, settings, line_of)


def _right_ones(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings whose values are right by themselves; the command line mends the others."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        with suppress(ConfigError):
            found |= check_values({name: value})
    return found


def _require_length_read(config: RunConfig, asked: set[str], below: Mapping[str, Any]) -> None:
    """Raise ConfigError if `stream.max_length` was changed and nothing reads it, because the phases have their own.

    A recipe may have both, since a user may remove its phases. It is a mistake to ask for a length that no phase has.
    """
    asked_for = config.stream.max_length
    lengths = [phase.max_length for phase in config.train.phases]
    before = below.get("stream.max_length", defaults()["stream.max_length"])
    if not lengths or "stream.max_length" not in asked or ("train.phases" in asked and asked_for in (before, *lengths)):
        return
    raise ConfigError(
        f"config: stream.max_length {asked_for} would change nothing, because train.phases sets the lengths "
        f"({', '.join(map(str, lengths))}); leave it out, give --train.phases.0.max_length and so on, or other "
        "train.phases ([] for one phase of this length)"
    )


def _at_home(settings: dict[str, Any]) -> dict[str, Any]:
    """Return flat settings with ~ expanded in every path."""

    def path(setting: str, given: str, expand: Callable[[str], str] = expanded) -> str:
        try:
            return expand(given)
        except ConfigError as error:
            raise ConfigError(f"config: {setting}: {error}") from None

    found: dict[str, Any] = {name: path(name, settings[name]) for name in _PATHS if settings.get(name)}
    if "data.input" in settings:
        found["data.input"] = [path("data.input", given, expanded_input) for given in settings["data.input"]]
    return settings | found


def to_mapping(config: RunConfig) -> dict[str, Any]:
    """Return the configuration as nested dicts and lists. `load_config` reads them back to an equal configuration."""
    mapping = asdict(config)
    for group in groups_of():
        mapping[group] = {setting_name(field): value for field, value in mapping[group].items()}
    mapping["masking"]["split"] = list(config.masking.split)
    return mapping


def changed_settings(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of all settings, in their groups, that differ from the defaults; groups without one are left out."""
    plain = to_mapping(RunConfig())
    found: dict[str, Any] = {}
    for name, value in mapping.items():
        if name in groups_of():
            value = {one: given for one, given in value.items() if given != plain[name][one]}
        if value != ({} if name in groups_of() else plain[name]):
            found[name] = value
    return found


def to_yaml(config: RunConfig) -> str:
    """Return the configuration as YAML text, in the order of the fields."""
    return dump_yaml(to_mapping(config))
