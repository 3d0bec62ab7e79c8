"""`unmask pretrain [RECIPE|FILE.yaml] [--group.field value ...] [--resume RUN]`.

Precedence: defaults < recipe or YAML < command line. With `--resume`, the saved configuration takes the place of the
recipe, and only a few settings may change.
"""

from pathlib import Path

from unmask.cli._settings import read_settings_of
from unmask.config import RunConfig, load_config

__all__ = ["parse", "run"]

_DESCRIPTION = """Pre-train an encoder. Every setting of a run is an option; RECIPE or FILE.yaml gives those that differ
from the defaults. `unmask config` prints them all."""


def run(arguments: list[str]) -> None:
    """Start a run or resume one."""
    config, resume = parse(arguments)
    from unmask.train.pretrain import pretrain

    pretrain(config, resume=resume)


def parse(arguments: list[str]) -> tuple[RunConfig, Path | None]:
    """Return the checked configuration that the arguments ask for, and the run to resume, or None."""
    given = read_settings_of("pretrain", _DESCRIPTION, arguments, may_resume=True)
    if given.resume is None:
        return load_config(given.source, given.changes), None
    from unmask.train.run_folder import saved_config

    return saved_config(given.resume, given.changes), given.resume
