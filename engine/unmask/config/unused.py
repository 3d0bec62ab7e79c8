"""Settings that nothing reads under the given configuration.

Many settings are read only under a certain value of another setting. For example, `composition.short_pairs` is read
only if `composition.strategy` is `pairs`. A setting that differs from its default and that nothing reads is refused:
whoever gave it expects it to have an effect.

There is one exception. If a recipe or file gives the setting together with the value that reads it, and the command
line then changes that value, the setting returns to its default. So `--composition.strategy mix` works with every
recipe. Defaults are always accepted, because a saved configuration holds all settings.
"""

import dataclasses
import glob
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.config.distillation import GeneralDistillationConfig
from unmask.config.mappings import LineOf, defaults, placed
from unmask.errors import ConfigError
from unmask.folders import is_store
from unmask.limits import JOINING
from unmask.paths import address_of, name_and_location

__all__ = ["without_unused"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    """Settings that are read only under some values of another setting.

    Attributes:
        settings: their names.
        choice: name of the setting that decides whether they are read.
        reads: whether all settings, under their dotted names, make something read them.
        why: the reason why they are not read, for the error.
        way: what to do to have them read, for the error.
    """

    settings: tuple[str, ...]
    choice: str
    reads: Callable[[Mapping[str, Any]], bool]
    why: str
    way: str


def _absent(setting: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda settings: settings[setting] is None


def _is_store(given: str) -> bool:
    """Return whether an input, `path` or `name=path`, is a token store, or a pattern that matches one."""
    location = name_and_location(given)[1]
    matches = glob.iglob(location, recursive=True) if glob.has_magic(location) else ()  # noqa: PTH207
    try:
        return is_store(Path(location)) or any(is_store(Path(match)) for match in matches)
    except (UnicodeError, OSError):
        # no file has such a name, which is refused later
        return False


# what only the training of a vocabulary reads
_TRAINED = ("data.vocab_size", "data.strip_accents", "data.keep_indentation")

_MASKING = (
    "masking.strategy",
    "masking.rate",
    "masking.rate_end",
    "masking.split",
    "masking.place",
    "masking.static_masks",
    "masking.similar_words",
)
_OF_A_TEACHER = tuple(field.name for field in dataclasses.fields(GeneralDistillationConfig) if field.name != "teacher")

_READ = (
    *(
        _Read(
            settings=settings,
            choice=choice,
            reads=_absent(choice),
            why="which keeps its own vocabulary",
            way=f"leave {choice} out, to train one,",
        )
        for choice, settings in (("data.store", (*_TRAINED, "data.lowercase")), ("data.tokenizer", _TRAINED))
    ),
    _Read(
        settings=_TRAINED,
        choice="init.from",
        reads=lambda settings: settings["init.from"] is None or settings["init.vocabulary"] == "replace",
        why="which has a vocabulary",
        way="set init.vocabulary to 'replace', to train another one,",
    ),
    _Read(
        settings=("init.vocabulary",),
        choice="init.from",
        reads=lambda settings: settings["init.from"] is not None,
        why="so all weights are new",
        way="give the checkpoint to start from as init.from",
    ),
    _Read(
        settings=("data.allow_unknown",),
        choice="data.store",
        reads=_absent("data.store"),
        why="whose text was read before",
        way="leave data.store out, to prepare text,",
    ),
    _Read(
        settings=(*_TRAINED, "data.lowercase"),
        choice="data.input",
        reads=lambda settings: not any(map(_is_store, settings["data.input"])),
        why="where a store keeps its own vocabulary",
        way="give text alone as data.input, to train one,",
    ),
    _Read(
        settings=(
            *("data.text_field", "data.blank_line_documents", "data.split_at"),
            *("data.encoding", "data.delimiter", "data.drop_duplicates"),
        ),
        choice="data.input",
        reads=lambda settings: bool(settings["data.input"]),
        why="so no text is read here",
        way="give the text as data.input",
    ),
    _Read(
        settings=("data.cache_folder", "data.cache_gb", "data.cache_patience"),
        choice="data.store",
        reads=lambda settings: address_of(settings["data.store"] or "") is not None,
        why="which is not at an address of another machine",
        way="give an address such as s3://bucket/store as data.store",
    ),
    _Read(
        settings=("composition.bm25_walk", "composition.bm25_buffer", "composition.bm25_query_terms"),
        choice="composition.strategy",
        reads=lambda settings: settings["composition.strategy"] == "bm25",
        why="which compares no documents",
        way="set composition.strategy to 'bm25'",
    ),
    _Read(
        settings=("composition.short_pairs",),
        choice="composition.strategy",
        reads=lambda settings: settings["composition.strategy"] == "pairs",
        why="which makes no pairs",
        way="set composition.strategy to 'pairs'",
    ),
    _Read(
        settings=("composition.scope",),
        choice="composition.strategy",
        reads=lambda settings: settings["composition.strategy"] in JOINING,
        why="whose sequences hold one document each",
        way=f"set composition.strategy to one of {', '.join(JOINING)}",
    ),
    _Read(
        settings=_MASKING,
        choice="objective.clm",
        reads=lambda settings: not settings["objective.clm"] > 0,
        why="which masks nothing",
        way="set objective.clm to 0",
    ),
    _Read(
        settings=tuple(f"distillation.{name}" for name in _OF_A_TEACHER),
        choice="distillation.teacher",
        reads=lambda settings: settings["distillation.teacher"] is not None,
        why="so nothing is distilled",
        way="give the model to learn from as distillation.teacher",
    ),
    _Read(
        settings=_MASKING,
        choice="objective.mlm",
        reads=lambda settings: settings["distillation.teacher"] is None or settings["objective.mlm"] > 0,
        why="and a student of a teacher alone reads its text unmasked",
        way="give objective.mlm a weight",
    ),
    _Read(
        settings=("masking.rate_steps",),
        choice="masking.rate_end",
        reads=lambda settings: settings["masking.rate_end"] is not None,
        why="so the mask rate stays",
        way="give masking.rate_end the rate after them",
    ),
    _Read(
        settings=("masking.similar_words",),
        choice="masking.strategy",
        reads=lambda settings: settings["masking.strategy"] == "mac",
        why="which replaces no word by a similar one",
        way="set masking.strategy to 'mac'",
    ),
    _Read(
        settings=("train.spike_rows", "train.spike_limit"),
        choice="train.spike_guard",
        reads=lambda settings: settings["train.spike_guard"] is not None,
        why="so no spike is looked for",
        way="give train.spike_guard the factor of the limit",
    ),
    _Read(
        settings=("optimizer.power",),
        choice="optimizer.schedule",
        reads=lambda settings: settings["optimizer.schedule"] == "polynomial",
        why="which has no power",
        way="set optimizer.schedule to 'polynomial'",
    ),
    _Read(
        settings=("optimizer.decay_share",),
        choice="optimizer.schedule",
        reads=lambda settings: settings["optimizer.schedule"] == "wsd",
        why="which decays over the whole run",
        way="set optimizer.schedule to 'wsd'",
    ),
    _Read(
        settings=("kernels.masking",),
        choice="masking.place",
        reads=lambda settings: settings["masking.place"] == "device",
        why="so the workers mask and no kernel does",
        way="set masking.place to 'device'",
    ),
    _Read(
        settings=("model.attention_window",),
        choice="model.num_layers",
        reads=lambda settings: settings["model.num_layers"] > 1 or settings["model.global_every"] == 0,
        why="so the only layer is the first, which is global",
        way="set model.global_every to 0",
    ),
    _Read(
        settings=("train.evaluate_every", "train.evaluate_tokens"),
        choice="stream.held_out_fraction",
        reads=lambda settings: settings["stream.held_out_fraction"] > 0,
        why="so there is nothing to evaluate on",
        way="set stream.held_out_fraction to a share above 0",
    ),
    _Read(
        settings=("train.growth_steps",),
        choice="train.first_tokens_per_step",
        reads=lambda settings: settings["train.first_tokens_per_step"] is not None,
        why="so all steps have the same tokens",
        way="give train.first_tokens_per_step the tokens of the first step",
    ),
    _Read(
        settings=("kernels.mlm_loss",),
        choice="objective.mlm",
        reads=lambda settings: settings["objective.mlm"] > 0 or settings["objective.clm"] > 0,
        why="so no token is predicted",
        way="give objective.mlm a weight",
    ),
    _Read(
        settings=("optimizer.momentum",),
        choice="optimizer.name",
        reads=lambda settings: settings["optimizer.name"] == "muon",
        why="which has betas",
        way="set optimizer.name to 'muon'",
    ),
    _Read(
        settings=("model.global_every",),
        choice="model.attention_window",
        reads=lambda settings: settings["model.attention_window"] is not None,
        why="so every layer is global",
        way="give model.attention_window a number of tokens",
    ),
)


_DEFAULTS_OF_0_1 = {"data.lowercase": (True,)}


def without_unused(
    settings: Mapping[str, Any],
    *,
    below: Mapping[str, Any],
    changes: Collection[str],
    saved: bool = False,
    source: str = "",
    line_of: LineOf = lambda name: None,
) -> dict[str, Any]:
    """Return flat settings, with those of the recipe or file at their defaults if the changes made them unread.

    Args:
        settings: the recipe or file with the changes; their types are checked.
        below: the recipe or file alone.
        changes: names of the settings that were changed.
        saved: whether the file was saved by a run. Its settings then stay as they are, read or not.
        source: the recipe or file, for errors.
        line_of: gives the line of a setting in it; None for others.
    Raises:
        ConfigError: a change or the file gives a setting that nothing reads.
    """
    result = {**defaults(), **settings}
    for row in _READ:
        # An earlier row may have reset the choice of this row, so the result and not the original is asked.
        for setting in _unread(result, row):
            asked = setting in changes
            if not asked and saved:
                continue
            if asked or setting in _unread({**defaults(), **below}, row):
                value, chosen = result[setting], result[row.choice]
                problem = f"{setting} is {value!r} but {row.choice} is {chosen!r}, {row.why}"
                with placed(source, setting, line_of):
                    raise ConfigError(f"config: {problem}; {row.way} or leave {setting} out")
            result[setting] = defaults()[setting]
    return result


def _unread(settings: Mapping[str, Any], row: _Read) -> list[str]:
    """Return the settings of the row that differ from their defaults and that nothing reads."""
    if row.reads(settings):
        return []
    # `lowercase: true` was the default of 0.1
    return [name for name in row.settings if settings[name] not in (defaults()[name], *_DEFAULTS_OF_0_1.get(name, ()))]
