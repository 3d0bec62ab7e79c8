"""`unmask pretrain [RECIPE|FILE.yaml] [--group.field value ...] [--resume RUN|auto]`.

Precedence: defaults < recipe or YAML < command line. With `--resume RUN`, the saved configuration takes the place of
the recipe, and only a few settings may change. `--resume auto` goes on with the run of `--run` if there is one, and
else starts it; so a scheduler can give the same command again and again.

Exit status: 75 if SIGTERM or SIGUSR1 stopped the run before its end, as for any process that is to be started again.
"""

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from unmask.cli._settings import read_settings_of
from unmask.config import RunConfig, load_config
from unmask.config.load import unchecked
from unmask.launch import place

__all__ = ["parse", "run", "start_training"]

_AUTO = "auto"
# EX_TEMPFAIL of sysexits.h: what failed may succeed later
_LATER = 75

_DESCRIPTION = """Pre-train an encoder. Every setting of a run is an option; RECIPE or FILE.yaml gives those that differ
from the defaults. `unmask config` prints them all."""


def run(arguments: list[str]) -> None:
    """Start a run or resume one."""
    here = place()
    if here is not None:
        # of a rank that is lost, one sentence tells enough; PyTorch reads this when it is imported
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        if here.rank > 0:
            # rank 0 has the same messages
            logging.getLogger("unmask").setLevel(logging.ERROR)
    start_training(*parse(arguments))


def start_training(config: RunConfig, resume: Path | str | None = None) -> None:
    """Train, and end the process with the status of one that is to be started again if a scheduler stopped it."""
    from unmask.train.pretrain import train_run
    from unmask.train.signals import TO_GO_ON

    if train_run(config, resume=resume).stopped in TO_GO_ON:
        raise SystemExit(_LATER)


def parse(arguments: list[str]) -> tuple[RunConfig, Path | str | None]:
    """Return the checked configuration that the arguments ask for, and the run to resume, "auto" or None."""
    given = read_settings_of("pretrain", _DESCRIPTION, arguments, may_resume=True)
    if given.resume is None:
        return load_config(given.source, given.changes), None
    if str(given.resume) == _AUTO:
        return _start_or_go_on(given.source, given.changes), _AUTO
    from unmask.train.run_folder import saved_config

    return saved_config(given.resume, given.changes), given.resume


def _start_or_go_on(source: str | None, changes: dict[str, Any]) -> RunConfig:
    """Return the configuration of a run that is there or not. The checkpoint that it began from may be gone by now."""
    asked = unchecked(source, changes)
    run, begins_from = asked["run"], asked["init"]["from"]
    if run is None or begins_from is None or not (Path(run) / "config.yaml").is_file():
        return load_config(source, changes)
    from unmask.train.run_folder import saved_config

    saved = saved_config(Path(run))
    if saved.init.from_ != begins_from:
        return load_config(source, changes)
    config = load_config(source, {**changes, "init.from": None, "init.vocabulary": "keep"})
    return replace(config, init=saved.init, model=saved.model)
