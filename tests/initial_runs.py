"""Runs that start from a checkpoint, small enough for a test: their settings, and their trainers before a step."""

from pathlib import Path
from typing import Any

import torch

from unmask.cli import main
from unmask.config import load_config
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.initial import InitialCheckpoint
from unmask.train.logging.progress import Display
from unmask.train.pretrain import build_trainer, pretrain
from unmask.train.run_folder import RunFolder
from unmask.train.trainer import Trainer

WORDS = "the cat sat on a mat dog ran fast tree house river blue green seven under".split()  # noqa: SIM905
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
SMALL: dict[str, Any] = {
    "stream.max_length": 32,
    "stream.micro_batch_tokens": 256,
    "stream.held_out_fraction": 0.1,
    "stream.workers": 0,
    "model.hidden_dropout": 0.0,
    "model.attention_dropout": 0.0,
    "optimizer.learning_rate": 1e-3,
    "train.tokens_per_step": 256,
    "train.steps": 2,
    "train.dtype": "float32",
    "train.threads": 1,
    "train.log_every": 1,
    "train.evaluate_tokens": 512,
    "train.save_every": 1,
}


def settings(source: Path | str, store: Path | None, run: Path, **changes: Any) -> dict[str, Any]:
    """The settings of a run that starts from `source`; `changes` have `__` for the dot."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    where = {} if store is None else {"data.store": str(store)}
    return {**SMALL, "init.from": str(source), "run": str(run), **where, **named}


def start(source: Path | str, store: Path | None, run: Path, **changes: Any) -> Path:
    """Train, and return the run."""
    return pretrain(load_config(None, settings(source, store, run, **changes)))


def trainer(source: Path | str, store: Path | None, run: Path, **changes: Any) -> Trainer:
    """The trainer of a run before its first step."""
    config = load_config(None, settings(source, store, run, **changes))
    folder = RunFolder.create(config)
    initial = InitialCheckpoint.open(config)
    here = initial.with_tokenizer(folder.config)
    return build_trainer(here, run, Checkpoints(folder=run / "checkpoints"), Display(), initial=initial)


def table(trainer: Trainer) -> torch.Tensor:
    """The word embeddings."""
    return trainer.state.model.encoder.embeddings.word.weight.detach()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a model's folder."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def extended_by_command(model: Path, corpus: Path, store: Path) -> None:
    """Prepare the text with the tokenizer of a model and three new entries."""
    words = store.parent / "words.txt"
    words.write_text("Catran\ndogred\nthe\n##house\n")
    command = ["prepare", "--input", str(corpus / "text.jsonl"), "--tokenizer", str(model), "--add-words", str(words)]
    assert main([*command, "--out", str(store)]) == 0
