"""`unmask config [RECIPE|FILE.yaml] [--group.field value ...]`: all settings of a run, as YAML."""

import logging

from unmask.cli._settings import read_settings_of
from unmask.config import load_config, to_yaml
from unmask.config.load import unchecked
from unmask.config.yaml_text import dump_yaml
from unmask.errors import ConfigError

__all__ = ["run"]

_log = logging.getLogger(__name__)

_DESCRIPTION = """Print every setting of the run that `unmask pretrain` would start with the same arguments, as YAML,
under the names of today. `unmask config > mine.yaml`, and then `unmask pretrain mine.yaml`, is a way to begin."""


def run(arguments: list[str]) -> None:
    """Print the settings."""
    given = read_settings_of("config", _DESCRIPTION, arguments)
    try:
        text = to_yaml(load_config(given.source, given.changes))
    except ConfigError as error:
        # a recipe may need a table that is made later, and an old file may lack something
        text = dump_yaml(unchecked(given.source, given.changes))
        _log.warning(f"{error}; until then a run refuses these settings")
    print(text, end="")
