"""A run from its configuration to its end, new or resumed: its directory, what it goes on from, its parts, the loop."""

from pathlib import Path

import torch

from unmask.config import RunConfig
from unmask.train.assembly import assemble
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.checkpoint.resume import inherit, tell_of_schedule
from unmask.train.checkpoint.state import load_facts
from unmask.train.logging.log import event_writer_class
from unmask.train.logging.progress import Display
from unmask.train.run_folder import RunFolder, saved_config
from unmask.train.start_folder import located
from unmask.train.trainer import Trainer
from unmask_kernels import using

__all__ = ["pretrain"]


def pretrain(config: RunConfig, *, resume: Path | None = None) -> Path:
    """Run pre-training to its last step, or to a SIGTERM or Ctrl-C, and return the run directory.

    Args:
        config: the whole run. With `resume`, the configuration saved there with at most the settings of
            `run_folder.MAY_CHANGE` altered (`run_folder.saved_config` makes one).
        resume: directory of the run to continue; None starts a new one in `config.run`.
    Raises:
        RunError: the directory exists already, is in use, holds nothing to resume, or the run diverged.
        ConfigError, CorpusError, StoreError, TokenizerError, CheckpointError: as their sentences say.
    """
    if config.train.tensorboard:
        event_writer_class()
    folder = RunFolder.create(config) if resume is None else RunFolder.reopen(Path(resume), config)
    with folder.locked():
        try:
            _train(folder)
        except Exception:
            if resume is None:
                folder.abandon()
            raise
    return folder.path


def _train(folder: RunFolder) -> None:
    """Take the run in `folder` from its newest checkpoint, or from nothing, to its end."""
    config = folder.config
    display = Display(steps=config.train.steps)
    checkpoints = Checkpoints(folder=folder.path / "checkpoints", keep=config.train.keep_checkpoints, say=display.say)
    checkpoints.clean()
    found = checkpoints.latest_valid()
    facts = None if found is None else load_facts(found / "training")
    if facts is not None:
        config = inherit(config, facts, display.say)
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    torch.manual_seed(config.seed)
    parts = assemble(located(config, folder.path), folder.path, display.say)
    trainer = Trainer(config=config, folder=folder.path, parts=parts, checkpoints=checkpoints, display=display)
    if found is not None and facts is not None:
        saved = saved_config(folder.path)
        trainer.restore(found, facts, saved)
        tell_of_schedule(saved.train, config.train, step=facts.step, say=display.say)
    # Only now is it known that a changed configuration can go on with what is there.
    folder.save_config()
    with using(**config.kernels.named()):
        trainer.run()
