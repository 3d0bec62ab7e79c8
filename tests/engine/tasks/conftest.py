"""A tiny model, and files of sentences about a cat or about a river, which a bag of words tells apart."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

TEXTS = ["the cat sat on the warm wall", "a river runs past the old mill", "the mill turns and the cat watched"] * 3


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pre-trained model: two layers, 32 wide."""
    from unmask.data.tokenizer import Tokenizer
    from unmask.model import EncoderConfig, PretrainingModel

    folder = tmp_path_factory.mktemp("base")
    tokenizer = Tokenizer.train(TEXTS, 120)
    tokenizer.save(folder)
    config = EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        intermediate_size=64,
        max_positions=24,
        initializer_range=0.2,
    )
    PretrainingModel(config, seed=3).save_pretrained(folder)
    return folder


def sentences() -> Iterator[tuple[str, str]]:
    """Sentences and their classes."""
    places = ["the wall", "the old mill", "the warm mill", "a wall"]
    for thing, verb, place, end in itertools.product(
        ["cat", "river"], ["sat", "runs", "turns"], places, ["", " and turns"]
    ):
        yield f"the {thing} {verb} past {place}{end}", thing


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file to train on, one to choose by, and one without labels."""
    folder = tmp_path_factory.mktemp("files")
    rows = list(sentences())
    parts = {"train": rows[::2] + rows[1::4], "dev": rows[3::4]}
    found = {}
    for name, part in parts.items():
        found[name] = folder / f"{name}.tsv"
        found[name].write_text("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in part))
    found["blind"] = folder / "blind.tsv"
    found["blind"].write_text("sentence\n" + "".join(f"{text}\n" for text, _ in parts["dev"]))
    return found


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def settings(base: Path, files: dict[str, Path], tmp_path: Path) -> dict[str, Any]:
    """Settings of a short run that learns the task."""
    return {
        "model": str(base),
        "run": str(tmp_path / "run"),
        "data.train": str(files["train"]),
        "data.dev": str(files["dev"]),
        "data.text": "sentence",
        "input.max_length": 16,
        "optimizer.learning_rate": 1e-2,
        "train.epochs": 4,
        "train.batch_size": 8,
        "train.log_every": 5,
        "train.dtype": "float32",
    }
