"""`unmask config [RECIPE|FILE.yaml] [--changed] [--group.field value ...]`: the settings of a run, as YAML."""

import logging

from unmask.cli._settings import read_settings_of
from unmask.config import load_config, to_mapping
from unmask.config.load import changed_settings, unchecked
from unmask.config.yaml_text import dump_yaml
from unmask.errors import ConfigError

__all__ = ["run"]

_log = logging.getLogger(__name__)

_DESCRIPTION = """Print every setting of the run that `unmask pretrain` would start with the same arguments, as YAML,
under the names of today. `unmask config > mine.yaml`, and then `unmask pretrain mine.yaml`, is a way to begin."""


def run(arguments: list[str]) -> None:
    """Print the settings."""
    given = read_settings_of("config", _DESCRIPTION, arguments, may_leave_out=True)
    try:
        settings = to_mapping(load_config(given.source, given.changes))
    except ConfigError as error:
        # a recipe may need a table that is made later, and an old file may lack something
        settings = unchecked(given.source, given.changes)
        _log.warning(f"{error}; until then a run refuses these settings")
    if given.only_changed:
        settings = changed_settings(settings)
    print(dump_yaml(settings) if settings else "# every setting has its default\n", end="")
