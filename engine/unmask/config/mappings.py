"""From nested or dotted mappings to flat settings, `{"train.steps": 200}`, and from these to a `RunConfig`.

A setting is known by its dotted name. Earlier versions had other names for some; files, saved runs and command lines
may still use them. The error for an unknown name gives the most similar one. A name that Python keeps for itself has an
underscore as a field: the setting `init.from` is the field `from_` of `InitConfig`.
"""

import copy
import dataclasses
import difflib
import functools
import keyword
import logging
import os
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from numbers import Integral, Real
from typing import Any

from unmask.config.schema import RunConfig
from unmask.config.settings import check_value, described, hints_of
from unmask.errors import ConfigError, SettingError, SettingTypeError

__all__ = [
    "ITEMS",
    "build",
    "changed",
    "check_values",
    "current_name",
    "defaults",
    "flat",
    "groups_of",
    "has_old_names",
    "nearest_setting",
    "old_names",
    "placed",
    "setting_name",
    "settings_beside",
    "settings_of",
    "starred",
    "unit_of",
]

LineOf = Callable[[str], int | None]

_log = logging.getLogger(__name__)

# Settings that had another name in an earlier version: old name, new name. A star is the number of an item in a list.
_RENAMED = {
    "data.longest": "stream.max_length",
    "train.phases.*.longest": "train.phases.*.max_length",
    **{f"data.{name}": f"stream.{name}" for name in ("max_length", "workers")},
    "data.held_out": "stream.held_out_fraction",
    **{f"train.{name}": f"stream.{name}" for name in ("micro_batch_tokens", "max_documents")},
    "data.compose": "composition.strategy",
    **{
        f"data.{name}": f"composition.{name}"
        for name in ("scope", "weights", "short_pairs", "bm25_walk", "bm25_buffer", "bm25_query_terms")
    },
    "data.masking": "masking.strategy",
    "data.mask_rate": "masking.rate",
    "data.mask_rate_end": "masking.rate_end",
    "data.mask_split": "masking.split",
    "data.mask_on": "masking.place",
    **{f"data.{name}": f"masking.{name}" for name in ("similar_words", "static_masks")},
    **{
        f"train.{name}": f"optimizer.{name}"
        for name in ("learning_rate", "warmup_steps", "weight_decay", "beta1", "beta2", "eps", "clip_norm")
    },
}

# What other programs call a setting, by the last part of the name. An unknown name is compared with these too.
_ELSEWHERE = {
    "lr": "optimizer.learning_rate",
    "wd": "optimizer.weight_decay",
    "adam_beta1": "optimizer.beta1",
    "adam_beta2": "optimizer.beta2",
    "adam_epsilon": "optimizer.eps",
    "max_grad_norm": "optimizer.clip_norm",
    "warmup": "optimizer.warmup_steps",
    "batch_size": "train.tokens_per_step",
    "per_device_train_batch_size": "stream.micro_batch_tokens",
    "max_steps": "train.steps",
    "num_train_epochs": "train.epochs",
    "logging_steps": "train.log_every",
    "eval_steps": "train.evaluate_every",
    "save_steps": "train.save_every",
    "num_workers": "stream.workers",
    "max_seq_length": "stream.max_length",
    "max_len": "stream.max_length",
    "mlm_probability": "masking.rate",
    "output_dir": "run",
    "num_hidden_layers": "model.num_layers",
    "num_attention_heads": "model.num_heads",
    "max_position_embeddings": "model.max_positions",
    "type_vocab_size": "model.num_segments",
    "hidden_dropout_prob": "model.hidden_dropout",
    "attention_probs_dropout_prob": "model.attention_dropout",
    "bf16": "train.dtype",
    "fp16": "train.dtype",
    "train_file": "data.input",
    "whole_word_mask": "masking.strategy",
    "wwm": "masking.strategy",
    "warmup_ratio": "optimizer.warmup_steps",
    "model_name_or_path": "init.from",
    "pretrained_model_name_or_path": "init.from",
    "init_checkpoint": "init.from",
}


def _no_line(name: str) -> None:
    return None


def settings_of(cls: Any = RunConfig) -> dict[str, tuple["dataclasses.Field[Any]", Any]]:
    """Return the field and the type of each setting by its dotted name: "train.steps"."""
    return _settings_of(cls)


@functools.cache
def _settings_of(cls: Any) -> dict[str, tuple["dataclasses.Field[Any]", Any]]:
    found: dict[str, tuple[dataclasses.Field[Any], Any]] = {}
    for field in dataclasses.fields(cls):
        hint = hints_of(cls)[field.name]
        if dataclasses.is_dataclass(hint):
            found |= {f"{field.name}.{name}": one for name, one in settings_of(hint).items()}
        else:
            found[setting_name(field.name)] = field, hint
    return found


def setting_name(field: str) -> str:
    """Return the name of the setting that a field holds: `from` for `from_`, others as they are."""
    name = field.removesuffix("_")
    return name if keyword.iskeyword(name) else field


def _field_name(setting: str) -> str:
    return f"{setting}_" if keyword.iskeyword(setting) else setting


def groups_of() -> dict[str, Any]:
    """Return the configurations of the groups of settings by their names."""
    return {name: hint for name, hint in hints_of(RunConfig).items() if dataclasses.is_dataclass(hint)}


def _items_of_lists() -> dict[str, tuple["dataclasses.Field[Any]", Any]]:
    found: dict[str, tuple[dataclasses.Field[Any], Any]] = {}
    for name, (_, hint) in settings_of().items():
        member = next(iter(typing.get_args(hint)), None)
        if typing.get_origin(hint) is list and dataclasses.is_dataclass(member):
            found |= {f"{name}.*.{one}": field for one, field in settings_of(member).items()}
    return found


@functools.cache
def old_names() -> dict[str, str]:
    """Return the settings of today by the names that they had in an earlier version."""
    return {old: new for old, new in _RENAMED.items() if new in settings_of()}


@functools.cache
def defaults() -> Mapping[str, Any]:
    """Return the default of each setting."""
    return {name: _get(RunConfig(), name) for name in settings_of()}


ITEMS = _items_of_lists()
"""The settings of an item of a list, under "train.phases.*.share"."""


def current_name(setting: str) -> str:
    """Return the name that a setting has today: "composition.strategy" for "data.compose", others as they are."""
    steps = setting.split(".")
    renamed = _RENAMED.get(starred(setting))
    if renamed is None:
        return setting
    numbers = iter(step for step in steps if _is_number(step))
    return ".".join(next(numbers, step) if step == "*" else step for step in renamed.split("."))


def flat(mapping: Mapping[str, Any], *, source: str = "", line_of: LineOf = _no_line) -> dict[str, Any]:
    """Return settings under their dotted names of today, given in groups or under dotted names.

    Args:
        mapping: `{"train": {"steps": 200}}`, `{"train.steps": 200}`, or both.
        source: the file that it comes from, for errors and for the notice about names of an earlier version.
        line_of: gives the line of a name in the file, for errors; None for a name that is not there.
    Raises:
        ConfigError: a name is unknown, or a setting is given twice.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(
            f"config: settings must be a mapping such as {{'train.steps': 200}}, got {described(mapping)}"
        )
    found: dict[str, Any] = {}
    old: dict[str, str] = {}
    leaves = list(_leaves(mapping))
    for place, (name, value) in enumerate(leaves):
        here = current_name(name)
        if here != name:
            old[name] = here
        if here in found:
            also = next((one for one, new in old.items() if new == here), name)
            twice = (
                f"{also} is the old name of {here}, which is given too" if also != here else f"{here} is given twice"
            )
            raise ConfigError(f"config: {twice}; leave one out")
        with placed(source, name, line_of):
            _require_no_comma(leaves, place)
            _require_known(here, name)
        found[here] = _current_items(here, value)
    if old:
        _notice(old, source)
    return found


def _require_no_comma(leaves: Sequence[tuple[str, Any]], place: int) -> None:
    """Raise ConfigError where braces hold a text with a comma: YAML reads `{text_field: title,text}` as two names."""
    name, value = leaves[place]
    if value is not None or _is_known(current_name(name)) or place == 0:
        return
    before, text = leaves[place - 1]
    if isinstance(text, str) and before.rpartition(".")[0] == name.rpartition(".")[0]:
        parts = [text]
        for one, nothing in leaves[place:]:
            if nothing is not None:
                break
            parts.append(one.rpartition(".")[2].strip())
        raise ConfigError(
            f"config: {name} is not a setting; if it is of {before}, put the text in quotes, since a comma parts the "
            f"settings in braces: {before.rpartition('.')[2]}: {','.join(parts)!r}"
        )


def has_old_names(mapping: Mapping[str, Any]) -> bool:
    """Return whether settings are given under names of an earlier version."""
    return any(current_name(name) != name for name, _ in _leaves(mapping))


def _leaves(mapping: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if key in groups_of():
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                value = {setting_name(name): one for name, one in dataclasses.asdict(value).items()}
            if value is not None and not isinstance(value, Mapping):
                raise ConfigError(f"config: {key} must be a group of settings, got {described(value)}")
            for name, one in (value or {}).items():
                # a name with a dot within a group is no setting
                yield f"{key}.{name}", one
        else:
            yield str(key), value


def _current_items(setting: str, value: Any) -> Any:
    """Return a list of groups with the names of today in each item; other values as they are."""
    if not isinstance(value, list | tuple) or not any(item.startswith(f"{setting}.*.") for item in ITEMS):
        return value
    items = []
    for number, item in enumerate(value):
        if isinstance(item, Mapping):
            names = {name: current_name(f"{setting}.{number}.{name}") for name in item}
            if len(set(names.values())) < len(names):
                raise ConfigError(
                    f"config: {setting}.{number} has a setting under its old name and its new one; leave one out"
                )
            for name, new in names.items():
                _require_known(new, f"{setting}.{number}.{name}")
            item = {new.rpartition(".")[2]: item[name] for name, new in names.items()}
        items.append(item)
    return items


def _notice(old: Mapping[str, str], source: str) -> None:
    shown = [f"{name} is now {new}" for name, new in list(old.items())[:3]]
    more = f" and {len(old) - len(shown)} more" if len(old) > len(shown) else ""
    way = f"; `unmask config {source}` prints the file under the names of today" if source else ""
    _log.warning(f"config: {', '.join(shown)}{more}; the old names still work{way}")


def changed(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return flat settings with changes over them; "train.phases.0.max_length" changes one item of a list.

    Raises:
        ConfigError: the list has no such item.
    """
    result = {**settings, **{name: value for name, value in changes.items() if name in settings_of()}}
    for name, value in changes.items():
        if name in settings_of():
            continue
        group, number, last = name.rsplit(".", 2)
        held = result.get(group) or []
        if not isinstance(held, list | tuple):
            # no list at all, which is refused later
            continue
        items = [dict(item) if isinstance(item, Mapping) else item for item in held]
        if int(number) >= len(items) or not isinstance(items[int(number)], dict):
            raise ConfigError(
                f"config: {name} changes an item of {group}, which has {len(items)}; give the whole list, as in "
                f"--{group} '[{{share: 0.9, max_length: 128}}, {{share: 0.1, max_length: 512}}]'"
            )
        items[int(number)][last] = value
        result[group] = items
    return result


def check_values(settings: Mapping[str, Any], *, source: str = "", line_of: LineOf = _no_line) -> dict[str, Any]:
    """Return flat settings with their types; each value alone is checked, the agreement of several is not.

    Args:
        settings: under their names of today.
        source: the file that some come from, for errors.
        line_of: gives the line of one of these in the file; None for others.
    Raises:
        ConfigError: a value has the wrong type or is out of its range.
    """
    result = {}
    for name, value in settings.items():
        field, hint = settings_of()[name]
        with placed(source, name, line_of), _named(name.rpartition(".")[0]):
            result[name] = _converted(hint, value, name)
            try:
                check_value("", field, hint, result[name])
            except SettingTypeError:
                # the error shows the value as it was given
                check_value("", field, hint, value)
                raise
    return result


def build(settings: Mapping[str, Any], *, source: str = "", line_of: LineOf = _no_line) -> RunConfig:
    """Make a configuration from flat settings that `check_values` returned. Missing ones have their defaults.

    Args:
        settings: under their names of today.
        source: the file that some come from, for errors.
        line_of: gives the line of one of these in the file; None for others.
    Raises:
        ConfigError: two settings contradict each other.
    """
    # a list of one configuration is not that of the next one
    whole = copy.deepcopy({**defaults(), **settings})
    groups: dict[str, Any] = {}
    for group, cls in groups_of().items():
        with _named(group, source, line_of):
            groups[group] = cls(**{name: whole[f"{group}.{setting_name(name)}"] for name in hints_of(cls)})
    with _named("", source, line_of):
        return RunConfig(**{name: value for name, value in whole.items() if "." not in name}, **groups)


@contextmanager
def placed(source: str, name: str, line_of: LineOf) -> Iterator[None]:
    """Name the file and the line in an error about one of its settings."""
    try:
        yield
    except ConfigError as error:
        line = line_of(name)
        if line is not None:
            error.args = (f"config: {source}, line {line}: {str(error).removeprefix('config: ')}",)
        raise


@contextmanager
def _named(group: str, source: str = "", line_of: LineOf = _no_line) -> Iterator[None]:
    """Name the setting by its dotted name in the error of a component, with its line if it has one."""
    try:
        yield
    except SettingError as error:
        setting = ".".join(map(setting_name, error.setting.split(".")))
        name = f"{group}{'.' if group else ''}{setting}"
        with placed(source, name, line_of):
            raise ConfigError(f"config: {name} {error.problem}") from None


def _converted(hint: Any, value: Any, name: str) -> Any:
    """Return 1000000 for 1e6 where a whole number is needed, 1.0 for 1 where any number is, and groups for mappings."""
    # a path, or a store in the place of its folder
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    # NumPy's numbers are no numbers of YAML
    if isinstance(value, Real) and type(value).__module__ != "builtins":
        value = int(value) if isinstance(value, Integral) else float(value)
    members = typing.get_args(hint)
    kinds = members if isinstance(hint, types.UnionType) else (hint,)
    if isinstance(value, float) and int in kinds and float not in kinds and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds:
        # a number that is too large stays, and is refused
        with suppress(OverflowError):
            return float(value)
    if isinstance(value, Mapping):
        return {key: _converted(members[-1], one, name) for key, one in value.items()} if members else value
    if isinstance(value, list | tuple) and members:
        items = [_item(members[0], one, f"{name}.{number}") for number, one in enumerate(value)]
        return tuple(items) if typing.get_origin(hint) is tuple else items
    return value


def _item(hint: Any, value: Any, name: str) -> Any:
    if not dataclasses.is_dataclass(hint) or not isinstance(value, Mapping):
        return _converted(hint, value, name)
    lacking = next((one.name for one in dataclasses.fields(hint) if one.name not in value), None)
    if lacking is not None:
        raise ConfigError(f"config: {name}.{lacking} is missing; give it a value")
    with _named(name):
        return typing.cast(Any, hint)(**{key: _converted(hints_of(hint)[key], one, name) for key, one in value.items()})


def _get(config: Any, name: str) -> Any:
    return functools.reduce(getattr, map(_field_name, name.split(".")), config)


def _require_known(name: str, given: str) -> None:
    """Raise ConfigError, with the nearest known name, unless `name` is a setting or one of an item of a list."""
    if _is_known(name):
        return
    nearest = nearest_setting(name)
    if nearest is not None:
        raise ConfigError(f"config: {given} is not a setting; did you mean {nearest}{unit_of(name, nearest)}?")
    raise ConfigError(f"config: {given} is not a setting; {settings_beside(name)}")


def _is_known(name: str) -> bool:
    return name in settings_of() or starred(name) in ITEMS


def settings_beside(name: str) -> str:
    """Return a clause with the settings of the group of an unknown name, or with the groups if there is no such one."""
    group = name.rpartition(".")[0]
    known = [one.rpartition(".")[2] for one in (*settings_of(), *ITEMS) if one.rpartition(".")[0] == starred(group)]
    if not group or not known:
        return f"there are the groups {', '.join(groups_of())}"
    return f"{group} has {', '.join(known)}"


def nearest_setting(name: str) -> str | None:
    """Return the setting that is most similar to an unknown name; None if none is."""
    group, _, last = name.rpartition(".")
    names = (*_RENAMED, *settings_of(), *ITEMS)
    inside = {one.rpartition(".")[2]: one for one in names if one.rpartition(".")[0] == starred(group)}
    everywhere = _ELSEWHERE | {one.rpartition(".")[2]: one for one in (*groups_of(), *settings_of())}
    if last in _ELSEWHERE and last not in inside:
        inside = {}
    for known, cutoff in ((inside, 0.6), (everywhere, 0.7)):
        close = difflib.get_close_matches(last, known, n=1, cutoff=cutoff)
        if close:
            numbers = iter(step for step in name.split(".") if _is_number(step))
            steps = current_name(known[close[0]]).split(".")
            return ".".join(next(numbers) if step == "*" else step for step in steps)
    # init_from for init.from
    whole = difflib.get_close_matches(name, settings_of(), n=1, cutoff=0.85)
    return whole[0] if whole else None


def unit_of(name: str, nearest: str) -> str:
    """Return a clause about the unit of a setting that other programs count in sequences; empty for others."""
    counted = name.rpartition(".")[2] in _ELSEWHERE and nearest in (
        "train.tokens_per_step",
        "stream.micro_batch_tokens",
    )
    return ", which counts tokens (32 sequences of 128 are 4096)" if counted else ""


def starred(name: str) -> str:
    """Return "train.phases.*.share" for "train.phases.0.share"."""
    return ".".join("*" if _is_number(step) else step for step in name.split("."))


def _is_number(step: str) -> bool:
    """Return whether a part of a name is the number of an item."""
    return step.isascii() and step.isdecimal() and len(step) < 10
