"""Settings that nothing reads under the given configuration.

Many settings are read only under a certain value of another setting. For example, `data.short_pairs` is read only if
`data.compose` is `pairs`. A setting that differs from its default and that nothing reads is refused: whoever gave it
expects it to have an effect.

There is one exception. If a recipe or file gives the setting together with the value that reads it, and the command
line then changes that value, the setting returns to its default. So `--data.compose mix` works with every recipe.
Defaults are always accepted, because a saved configuration holds all settings.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from unmask.config.schema import RunConfig
from unmask.errors import ConfigError
from unmask.folders import is_store
from unmask.limits import JOINING
from unmask.paths import name_and_location

__all__ = ["without_unused"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    """Settings that are read only under some values of another setting.

    Attributes:
        settings: their names.
        choice: name of the setting that decides whether they are read.
        reads: whether a configuration reads them.
        why: the reason why they are not read, for the error.
        way: what to do to have them read, for the error.
    """

    settings: tuple[str, ...]
    choice: str
    reads: Callable[[RunConfig], bool]
    why: str
    way: str


def _absent(setting: str) -> Callable[[RunConfig], bool]:
    return lambda config: attrgetter(setting)(config) is None


def _is_store(given: str) -> bool:
    """Return whether an input, `path` or `name=path`, is a token store."""
    return is_store(Path(name_and_location(given)[1]))


_READ = (
    *(
        _Read(
            settings=("data.vocab_size", "data.lowercase", "data.strip_accents"),
            choice=choice,
            reads=_absent(choice),
            why="which keeps its own vocabulary",
            way=f"leave {choice} out, to train one,",
        )
        for choice in ("data.store", "data.tokenizer")
    ),
    _Read(
        settings=("data.vocab_size", "data.lowercase", "data.strip_accents"),
        choice="data.input",
        reads=lambda config: not any(map(_is_store, config.data.input)),
        why="where a store keeps its own vocabulary",
        way="give text alone as data.input, to train one,",
    ),
    _Read(
        settings=(
            *("data.text_field", "data.blank_line_documents", "data.split_at"),
            *("data.encoding", "data.delimiter", "data.drop_duplicates"),
        ),
        choice="data.input",
        reads=lambda config: bool(config.data.input),
        why="so no text is read here",
        way="give the text as data.input",
    ),
    _Read(
        settings=("data.bm25_walk", "data.bm25_buffer", "data.bm25_query_terms"),
        choice="data.compose",
        reads=lambda config: config.data.compose == "bm25",
        why="which compares no documents",
        way="set data.compose to 'bm25'",
    ),
    _Read(
        settings=("data.short_pairs",),
        choice="data.compose",
        reads=lambda config: config.data.compose == "pairs",
        why="which makes no pairs",
        way="set data.compose to 'pairs'",
    ),
    _Read(
        settings=("data.scope",),
        choice="data.compose",
        reads=lambda config: config.data.compose in JOINING,
        why="whose sequences hold one document each",
        way=f"set data.compose to one of {', '.join(JOINING)}",
    ),
    _Read(
        settings=(
            "data.masking",
            "data.mask_rate",
            "data.mask_rate_end",
            "data.mask_split",
            "data.mask_on",
            "data.static_masks",
            "data.similar_words",
        ),
        choice="objective.clm",
        reads=lambda config: not config.objective.clm > 0,
        why="which masks nothing",
        way="set objective.clm to 0",
    ),
    _Read(
        settings=("data.similar_words",),
        choice="data.masking",
        reads=lambda config: config.data.masking == "mac",
        why="which replaces no word by a similar one",
        way="set data.masking to 'mac'",
    ),
    _Read(
        settings=("kernels.masking",),
        choice="data.mask_on",
        reads=lambda config: config.data.mask_on == "device",
        why="so the workers mask and no kernel does",
        way="set data.mask_on to 'device'",
    ),
    _Read(
        settings=("model.attention_window",),
        choice="model.num_layers",
        reads=lambda config: config.model.num_layers > 1 or config.model.global_every == 0,
        why="so the only layer is the first, which is global",
        way="set model.global_every to 0",
    ),
    _Read(
        settings=("train.evaluate_every", "train.evaluate_tokens"),
        choice="data.held_out",
        reads=lambda config: config.data.held_out > 0,
        why="so there is nothing to evaluate on",
        way="set data.held_out to a share above 0",
    ),
    _Read(
        settings=("kernels.mlm_loss",),
        choice="objective.mlm",
        reads=lambda config: config.objective.mlm > 0 or config.objective.clm > 0,
        why="so no token is predicted",
        way="give objective.mlm a weight",
    ),
    _Read(
        settings=("model.global_every",),
        choice="model.attention_window",
        reads=lambda config: config.model.attention_window is not None,
        why="so every layer is global",
        way="give model.attention_window a number of tokens",
    ),
)


def without_unused(
    config: RunConfig, *, below: RunConfig, changes: Mapping[str, Any], saved: bool = False
) -> RunConfig:
    """Return `config`, with settings of the recipe or file at their defaults if `changes` made them unread.

    Args:
        config: the recipe or file with the changes; its types are checked.
        below: the configuration of the recipe or file alone.
        changes: the changes, as a nested mapping.
        saved: whether the file was saved by a run. Its settings then stay as they are, read or not.
    Raises:
        ConfigError: `changes` or the file gives a setting that nothing reads.
    """
    for row in _READ:
        # An earlier row may have reset the choice of this row, so `config` and not the original is asked.
        for setting in _unread(config, row):
            group, name = setting.split(".")
            asked = name in (changes.get(group) or {})
            if not asked and saved:
                continue
            if asked or setting in _unread(below, row):
                value, chosen = attrgetter(setting)(config), attrgetter(row.choice)(config)
                problem = f"{setting} is {value!r} but {row.choice} is {chosen!r}, {row.why}"
                raise ConfigError(f"config: {problem}; {row.way} or leave {setting} out")
            default = attrgetter(setting)(RunConfig())
            config = replace(config, **{group: replace(getattr(config, group), **{name: default})})
    return config


def _unread(config: RunConfig, row: _Read) -> list[str]:
    """Return the settings of the row that differ from their defaults and that nothing in `config` reads."""
    if row.reads(config):
        return []
    return [name for name in row.settings if attrgetter(name)(config) != attrgetter(name)(RunConfig())]
