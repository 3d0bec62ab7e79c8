"""Reading and writing a run's configuration.

Precedence: the defaults of `schema` < a recipe or YAML file < the command line. `load_config` merges the three as
mappings and checks the result: names, types, ranges, and settings that contradict each other. Code that receives a
`RunConfig` from it need not check anything again.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from unmask.config.mappings import build, merge, nest, with_current_names
from unmask.config.rules import check, check_changes, several_budgets
from unmask.config.schema import BUDGETS, RunConfig
from unmask.config.unused import without_unused
from unmask.config.yaml_text import dump_yaml, parse_yaml
from unmask.errors import ConfigError
from unmask.paths import expanded, expanded_input

__all__ = ["load_config", "read_recipe", "recipe_names", "to_mapping", "to_yaml"]


def load_config(
    recipe_or_yaml: str | Path | None = None, overrides: Mapping[str, Any] | None = None, *, saved: bool = False
) -> RunConfig:
    """Read a recipe or YAML file, lay overrides over it, and check the result.

    Args:
        recipe_or_yaml: name of a shipped recipe (`tiny`, `bert-mini`, ...) or path of a YAML file. Default: `tiny`.
        overrides: nested mapping ({"train": {"steps": 200}}), or dotted names ({"train.steps": 200}), or both.
        saved: whether the file was saved by a run. Settings in it that nothing reads are then kept and are no error.
    Raises:
        ConfigError: no such recipe or file, not YAML, an unknown name, a wrong type, a value out of range, a
            contradiction, or a setting that nothing reads.
    """
    changes = _with_one_budget(with_current_names(nest(overrides or {})))
    mapping = read_recipe("tiny" if recipe_or_yaml is None else recipe_or_yaml)
    below = build(RunConfig, mapping, name="config")
    whole = _at_home(build(RunConfig, merge(mapping, changes), name="config"))
    config = without_unused(whole, below=below, changes=changes, saved=saved)
    check(config)
    check_changes(config, changes, max_length=below.data.max_length)
    return config


def _with_one_budget(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings in which the budget that they give takes the place of the others.

    So `--train.epochs 3` works with a recipe that gives steps, and with the default.

    Raises:
        ConfigError: they give two budgets.
    """
    train = settings.get("train")
    if not isinstance(train, Mapping):
        return dict(settings)
    given = [name for name in BUDGETS if train.get(name) is not None]
    if len(given) > 1:
        raise ConfigError(f"config: {several_budgets(given)}")
    others = {name: None for name in BUDGETS if given and name not in given}
    return {**settings, "train": {**train, **others}}


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in files("unmask.recipes").iterdir() if entry.name.endswith(".yaml")
    )


def read_recipe(recipe_or_path: str | Path) -> dict[str, Any]:
    """Read the settings of a shipped recipe, or of the YAML file at a path.

    Raises:
        ConfigError: there is no such recipe or file, or the file cannot be read as UTF-8 YAML.
    """
    wanted = str(recipe_or_path)
    if wanted in recipe_names():
        text = files("unmask.recipes").joinpath(f"{wanted}.yaml").read_text("utf-8")
        return _with_one_budget(parse_yaml(text, source=f"recipe {wanted}"))
    path = Path(expanded(wanted))
    if not path.exists():
        close = difflib.get_close_matches(wanted, recipe_names(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"recipes are {', '.join(recipe_names())}"
        raise ConfigError(f"config: no recipe or file is called {wanted!r}; {hint}")
    try:
        return _with_one_budget(with_current_names(parse_yaml(path.read_text("utf-8"), source=wanted)))
    except UnicodeDecodeError as error:
        raise ConfigError(f"config: {wanted} is not UTF-8 at byte {error.start}; save it as UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"config: {wanted} cannot be read ({error.strerror}); give a YAML file that can") from None


def _at_home(config: RunConfig) -> RunConfig:
    """Return `config` with ~ expanded in every path."""

    def path(setting: str, given: str, expand: Callable[[str], str] = expanded) -> str:
        try:
            return expand(given)
        except ConfigError as error:
            raise ConfigError(f"config: {setting}: {error}") from None

    data = config.data
    data = replace(
        data,
        store=data.store and path("data.store", data.store),
        input=[path("data.input", given, expanded_input) for given in data.input],
        tokenizer=data.tokenizer and path("data.tokenizer", data.tokenizer),
        similar_words=data.similar_words and path("data.similar_words", data.similar_words),
    )
    return replace(config, run=config.run and path("run", config.run), data=data)


def to_mapping(config: RunConfig) -> dict[str, Any]:
    """Return the configuration as nested dicts and lists. `load_config` reads them back to an equal configuration."""
    mapping = asdict(config)
    mapping["data"]["mask_split"] = list(config.data.mask_split)
    return mapping


def to_yaml(config: RunConfig) -> str:
    """Return the configuration as YAML text, in the order of the fields."""
    return dump_yaml(to_mapping(config))
