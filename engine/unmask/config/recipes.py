"""Reading a recipe that ships with the package, or a YAML file of the user."""

import difflib
from importlib.resources import files
from pathlib import Path
from typing import Any

from unmask.config.mappings import with_current_names
from unmask.config.yaml_text import parse_yaml
from unmask.errors import ConfigError
from unmask.paths import expanded

__all__ = ["names", "read_recipe"]


def names() -> list[str]:
    """The shipped recipes, by name."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in files("unmask.recipes").iterdir() if entry.name.endswith(".yaml")
    )


def read_recipe(recipe_or_path: str | Path) -> dict[str, Any]:
    """Settings of a shipped recipe, or of the YAML file at a path.

    Raises:
        ConfigError: neither exists, or the file cannot be read as UTF-8 YAML.
    """
    wanted = str(recipe_or_path)
    if wanted in names():
        text = files("unmask.recipes").joinpath(f"{wanted}.yaml").read_text("utf-8")
        return parse_yaml(text, source=f"recipe {wanted}")
    path = Path(expanded(wanted))
    if not path.exists():
        close = difflib.get_close_matches(wanted, names(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"recipes are {', '.join(names())}"
        raise ConfigError(f"config: no recipe or file is called {wanted!r}; {hint}")
    try:
        return with_current_names(parse_yaml(path.read_text("utf-8"), source=wanted))
    except UnicodeDecodeError as error:
        raise ConfigError(f"config: {wanted} is not UTF-8 at byte {error.start}; save it as UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"config: {wanted} cannot be read ({error.strerror}); give a YAML file that can") from None
