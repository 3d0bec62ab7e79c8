"""Reading and writing a run's configuration.

Precedence: the defaults of `schema` < a recipe or YAML file < the command line. `load_config` merges the three as
mappings and checks the result once: names, types, ranges, and settings that contradict each other. Code that gets a
`RunConfig` from it checks nothing again.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from unmask.config.mappings import build, merge, nest, with_current_names
from unmask.config.recipes import read_recipe
from unmask.config.rules import check, check_changes
from unmask.config.schema import RunConfig
from unmask.config.unused import without_unused
from unmask.config.yaml_text import dump_yaml
from unmask.errors import ConfigError
from unmask.paths import expanded, expanded_input

__all__ = ["load_config", "to_mapping", "to_yaml"]


def load_config(
    recipe_or_yaml: str | Path | None = None, overrides: Mapping[str, Any] | None = None, *, saved: bool = False
) -> RunConfig:
    """Read a recipe or YAML file, lay overrides over it, and check the whole.

    Args:
        recipe_or_yaml: name of a shipped recipe (`tiny`, `bert-mini`, ...) or path of a YAML file; None:
            `tiny`.
        overrides: nested mapping ({"train": {"steps": 200}}), or dotted names ({"train.steps": 200}), or both.
        saved: the file is that of a run to go on with: what it holds that nothing reads stays, and is no error; ranges
            and agreements are checked as ever.
    Raises:
        ConfigError: no such recipe or file, not YAML, an unknown name, a wrong type, a value out of range, a
            contradiction, or a setting that nothing reads.
    """
    mapping = read_recipe("tiny" if recipe_or_yaml is None else recipe_or_yaml)
    changes = with_current_names(nest(overrides or {}))
    below = build(RunConfig, mapping, name="config")
    whole = _at_home(build(RunConfig, merge(mapping, changes), name="config"))
    config = without_unused(whole, below=below, changes=changes, saved=saved)
    check(config)
    check_changes(config, changes, max_length=below.data.max_length)
    return config


def _at_home(config: RunConfig) -> RunConfig:
    """`config` with the home folder in every path."""

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
    """The configuration as plain nested dicts and lists, which `load_config` reads back to an equal one."""
    mapping = asdict(config)
    mapping["data"]["mask_split"] = list(config.data.mask_split)
    return mapping


def to_yaml(config: RunConfig) -> str:
    """The configuration as YAML text, in the order of the fields."""
    return dump_yaml(to_mapping(config))
