"""`unmask config [RECIPE|FILE.yaml] [--group.field value ...]`: all settings of a run, as YAML."""

from unmask.cli._settings import read_settings_of
from unmask.config import load_config, to_yaml

__all__ = ["run"]

_DESCRIPTION = """Print every setting of the run that `unmask pretrain` would start with the same arguments, as YAML,
under the names of today. `unmask config > mine.yaml`, and then `unmask pretrain mine.yaml`, is a way to begin."""


def run(arguments: list[str]) -> None:
    """Print the settings."""
    given = read_settings_of("config", _DESCRIPTION, arguments)
    print(to_yaml(load_config(given.source, given.changes)), end="")
