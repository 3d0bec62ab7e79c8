"""Reading the settings of a fine-tuning run: a task or a recipe, a YAML file, and the command line over them.

    unmask finetune classification MODEL --data.train train.tsv --optimizer.learning_rate 2e-5
    unmask finetune sst2 MODEL                                     a recipe, which is a YAML file in `recipes`

Precedence: the defaults of `config` < a recipe or YAML file < the command line.
"""

import difflib
import typing
from collections.abc import Collection, Mapping
from dataclasses import asdict, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from unmask.config.head import HeadTask
from unmask.config.mappings import settings_of
from unmask.config.settings import check_value, hints_of
from unmask.config.yaml_text import dump_yaml, parse_yaml
from unmask.errors import ConfigError, SettingError
from unmask.paths import expanded
from unmask.tasks.config import FinetuneConfig

__all__ = [
    "TASKS",
    "changed_task_settings",
    "distillation_recipe_names",
    "finetune_yaml",
    "load_finetune_config",
    "nearest_task_setting",
    "read_task_settings",
    "task_recipe_names",
]

TASKS: tuple[HeadTask, ...] = typing.get_args(HeadTask)
"""What can be predicted; each is a recipe without settings."""

# where the usual settings of a task are not the defaults
_OF_TASKS = {"qa": {"input.max_length": 384, "train.epochs": 2.0}}
_PATHS = (
    *("run", "model", "data.train", "data.dev", "data.test"),
    *("distillation.teacher", "distillation.prediction_data"),
)
_OF_TASKS_ALONE, _OF_DISTILLATION = "unmask.tasks.recipes", "unmask.distillation.recipes"
# what other programs call a setting
_ELSEWHERE = {
    "lr": "optimizer.learning_rate",
    "warmup_ratio": "optimizer.warmup_share",
    "warmup_steps": "optimizer.warmup_share",
    "max_grad_norm": "optimizer.clip_norm",
    "num_train_epochs": "train.epochs",
    "per_device_train_batch_size": "train.batch_size",
    "max_seq_length": "input.max_length",
    "train_file": "data.train",
    "validation_file": "data.dev",
    "test_file": "data.test",
    "output_dir": "run",
    "doc_stride": "input.stride",
    "bf16": "train.dtype",
    "metric_for_best_model": "train.metric",
}


def task_recipe_names() -> list[str]:
    """Return the names of the recipes for fine-tuning that ship with the package."""
    return _recipes_in(_OF_TASKS_ALONE)


def distillation_recipe_names() -> list[str]:
    """Return the names of the recipes for distillation on a task that ship with the package."""
    return _recipes_in(_OF_DISTILLATION)


def _recipes_in(folder: str) -> list[str]:
    return sorted(one.name.removesuffix(".yaml") for one in files(folder).iterdir() if one.name.endswith(".yaml"))


def load_finetune_config(
    task_or_recipe: str | Path, overrides: Mapping[str, Any] | None = None, *, saved: bool = False
) -> FinetuneConfig:
    """Return the checked settings of a fine-tuning run.

    Args:
        task_or_recipe: a task (`classification`, ...), a shipped recipe (`sst2`, ...) or the path of a YAML file.
        overrides: settings over it, in groups or under dotted names: {"train.epochs": 2}.
        saved: whether a run saved the file, so that its paths stay as they are.
    Raises:
        ConfigError: there is no such task, recipe or file; a name is unknown; or a value is wrong.
    """
    changes = _flat(overrides or {})
    settings = read_task_settings(task_or_recipe, distils=bool(changes.get("distillation.teacher"))) | changes
    for name in _PATHS if not saved else ():
        if isinstance(settings.get(name), str):
            settings[name] = expanded(settings[name])
    return _built(settings)


def read_task_settings(
    task_or_recipe: str | Path, *, distils: bool = False, others: Collection[str] = ()
) -> dict[str, Any]:
    """Return the flat settings that a task, a recipe or a YAML file gives.

    Args:
        task_or_recipe: its name, or the path of a file.
        distils: whether the run learns from a teacher, for which some tasks have recipes of their own.
        others: names that may be meant besides, as those of suites where a suite can run.
    Raises:
        ConfigError: there is no such task, recipe or file, or a name in it is unknown.
    """
    wanted = str(task_or_recipe)
    if wanted.replace("-", "_") in TASKS:
        task = wanted.replace("-", "_")
        return {"task": task, **_OF_TASKS.get(task, {})}
    for folder in [*([_OF_DISTILLATION] if distils else []), _OF_TASKS_ALONE]:
        if wanted in _recipes_in(folder):
            text = files(folder).joinpath(f"{wanted}.yaml").read_text("utf-8")
            return _flat(parse_yaml(text, source=wanted))
    path = Path(expanded(wanted))
    if not path.is_file():
        known = [*TASKS, *task_recipe_names(), *others]
        close = difflib.get_close_matches(wanted.lower(), known, n=1)
        way = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
        kinds = "task, recipe, suite" if others else "task, recipe"
        raise ConfigError(f"config: no {kinds} or file is called {wanted!r}; {way}")
    try:
        return _flat(parse_yaml(path.read_text("utf-8"), source=wanted))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config: {wanted} cannot be read ({error}); give a YAML file in UTF-8") from None


def finetune_yaml(config: FinetuneConfig) -> str:
    """Return the settings as YAML, which `load_finetune_config` reads back."""
    return dump_yaml(asdict(config))


def changed_task_settings(config: FinetuneConfig) -> dict[str, Any]:
    """Return the settings that differ from the defaults, in their groups, without places on this machine."""
    plain, found = asdict(FinetuneConfig()), dict[str, Any]()
    for name, value in asdict(config).items():
        if isinstance(value, dict):
            changed = {
                one: given
                for one, given in value.items()
                if given != plain[name][one] and f"{name}.{one}" not in _PATHS
            }
            if changed:
                found[name] = changed
        elif name == "task" or (value != plain[name] and name not in _PATHS):
            found[name] = value
    return found


def nearest_task_setting(name: str) -> str | None:
    """Return the setting that is most similar to an unknown name; None if none is."""
    last = name.rpartition(".")[2]
    known = {one.rpartition(".")[2]: one for one in settings_of(FinetuneConfig)} | _ELSEWHERE
    close = difflib.get_close_matches(last, known, n=1, cutoff=0.7)
    return known[close[0]] if close else None


def _flat(mapping: Mapping[str, Any]) -> dict[str, Any]:
    known, found = settings_of(FinetuneConfig), dict[str, Any]()
    for key, value in mapping.items():
        inner = value if isinstance(value, Mapping) and is_dataclass(hints_of(FinetuneConfig).get(str(key))) else None
        for name, one in (
            {str(key): value} if inner is None else {f"{key}.{last}": v for last, v in inner.items()}
        ).items():
            if name not in known:
                nearest = nearest_task_setting(name)
                groups = dict.fromkeys(one.partition(".")[0] for one in known)
                way = f"did you mean {nearest}?" if nearest else f"there are {', '.join(groups)}"
                raise ConfigError(f"config: {name} is not a setting of a fine-tuning run; {way}")
            found[name] = one
    return found


def _built(settings: Mapping[str, Any]) -> FinetuneConfig:
    groups: dict[str, dict[str, Any]] = {"": {}}
    for name, value in settings.items():
        field, hint = settings_of(FinetuneConfig)[name]
        group, _, last = name.rpartition(".")
        groups.setdefault(group, {})[last] = value = _number(hint, value)
        try:
            check_value("", field, hint, value)
        except SettingError as error:
            # a value that stands for several names the setting by its place in the group
            raise ConfigError(f"config: {group}{'.' if group else ''}{error.setting} {error.problem}") from None
    own = groups.pop("")
    hints = hints_of(FinetuneConfig)
    try:
        return FinetuneConfig(**own, **{group: hints[group](**values) for group, values in groups.items()})
    except SettingError as error:
        raise ConfigError(f"config: {error.setting} {error.problem}") from None


def _number(hint: Any, value: Any) -> Any:
    """Return 1.0 for 1 where a number is needed, and 3 for 3.0 where a whole one is."""
    kinds = typing.get_args(hint) or (hint,)
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds:
        return float(value)
    if isinstance(value, float) and int in kinds and float not in kinds and value.is_integer():
        return int(value)
    return list(value) if isinstance(value, tuple) else value
