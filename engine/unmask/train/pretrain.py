"""A run from its configuration to its end, new or resumed."""

import logging
from dataclasses import asdict
from pathlib import Path

import torch

from unmask.config import RunConfig
from unmask.model import EncoderConfig, PretrainingModel
from unmask.objectives import build_objectives
from unmask.terminal import messages_through
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.checkpoint.resume import inherit, log_schedule_change
from unmask.train.checkpoint.state import load_facts
from unmask.train.data import RunData
from unmask.train.logging.log import event_writer_class
from unmask.train.logging.progress import Display
from unmask.train.precision import choose_precision
from unmask.train.run_folder import RunFolder, located, saved_config
from unmask.train.store import open_store
from unmask.train.trainer import Trainer
from unmask_kernels import using

__all__ = ["build_trainer", "pretrain"]

_log = logging.getLogger(__name__)


def pretrain(config: RunConfig, *, resume: Path | None = None) -> Path:
    """Train to the last step, or until SIGTERM or Ctrl-C, and return the run directory.

    Args:
        config: configuration of the run. With `resume`, the configuration saved there, in which at most the settings of
            `run_folder.MAY_CHANGE` differ (`run_folder.saved_config` makes one).
        resume: directory of the run to continue. None starts a new run in `config.run`.
    Raises:
        RunError: the directory exists already, is in use, or holds nothing to resume; or the run diverged.
        ConfigError: a setting is wrong.
        CorpusError: the text cannot be used.
        StoreError: the store cannot be used.
        TokenizerError: the tokenizer cannot be used.
        CheckpointError: a checkpoint cannot be read or written.
    """
    if config.train.tensorboard:
        event_writer_class()
    folder = RunFolder.create(config) if resume is None else RunFolder.reopen(Path(resume), config)
    display = Display(steps=config.train.steps)
    with folder.locked(), messages_through(display.show_message):
        try:
            _train(folder, display)
        except Exception:
            if resume is None:
                folder.abandon()
            raise
    return folder.path


def _train(folder: RunFolder, display: Display) -> None:
    """Continue the run in `folder` from its newest checkpoint, or start it, and train to its end."""
    config = folder.config
    checkpoints = Checkpoints(folder=folder.path / "checkpoints", keep=config.train.keep_checkpoints)
    checkpoints.clean()
    newest = checkpoints.latest_valid()
    facts = None if newest is None else load_facts(newest / "training")
    if facts is not None:
        config = inherit(config, facts)
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    torch.manual_seed(config.seed)
    trainer = build_trainer(located(config, folder.path), folder.path, checkpoints, display)
    if newest is not None and facts is not None:
        saved = saved_config(folder.path)
        trainer.restore(newest, facts, saved)
        log_schedule_change(saved.train, config.train, step=facts.step)
    # Until here the changed configuration might have been refused.
    folder.save_config()
    with using(**config.kernels.named()):
        trainer.run()


def build_trainer(config: RunConfig, run: Path, checkpoints: Checkpoints, display: Display) -> Trainer:
    """Build model, objectives and data of the run in `run`, and the trainer over them.

    The text is prepared first if the store does not exist yet.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    store, tokenizer = open_store(config, run)
    data = RunData(store, tokenizer, config, composed=run / "composed")
    stream = data.stream(data.phases[0])
    tokens, steps = stream.tokens_per_epoch, config.train.steps
    epochs = steps * config.train.tokens_per_step / tokens
    _log.info(f"data: {tokens:,} tokens to train on, about {epochs:,.1f} epochs in {steps:,} steps")
    _log.info(f"data: {stream.composition.describe(store.sources)}")
    if data.similar_words is not None:
        _log.info(f"similar words: {data.similar_words.coverage}")
    precision = choose_precision(config.train.dtype, device)
    weights = {name: weight for name, weight in asdict(config.objective).items() if weight > 0}
    objectives = build_objectives(weights)
    heads = sorted({"mlm", *(head for objective, _ in objectives for head in objective.heads)})
    encoder = EncoderConfig(vocab_size=store.vocab_size, **asdict(config.model))
    model = PretrainingModel(encoder, heads=heads, compute_dtype=precision.dtype, seed=config.seed).to(device)
    size = sum(p.numel() for p in model.parameters())
    dtype = str(precision.dtype).removeprefix("torch.")
    _log.info(f"model: {size:,} parameters on {device}, activations in {dtype} ({precision.reason})")
    return Trainer(
        config=config,
        folder=run,
        model=model,
        objectives=objectives,
        data=data,
        checkpoints=checkpoints,
        display=display,
    )
