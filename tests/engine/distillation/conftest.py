"""A teacher of four layers, a store that its tokenizer read, and settings of a short run that distils."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

WORDS = "the cat sat on a mat dog ran fast tree house river blue green seven under".split()  # noqa: SIM905


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    generator = torch.Generator().manual_seed(0)
    return [
        " ".join(WORDS[index] for index in torch.randint(len(WORDS), (5 + number % 17,), generator=generator).tolist())
        for number in range(200)
    ]


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """The folder of a BertForMaskedLM: four layers, 32 wide, four heads, and dropout."""
    from unmask.data.tokenizer import Tokenizer
    from unmask.model import EncoderConfig, PretrainingModel

    folder = tmp_path_factory.mktemp("models") / "teacher"
    tokenizer = Tokenizer.train(texts, 120)
    tokenizer.save(folder)
    config = EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_layers=4,
        num_heads=4,
        intermediate_size=64,
        max_positions=32,
        hidden_dropout=0.5,
        attention_dropout=0.5,
        initializer_range=0.3,
    )
    PretrainingModel(config, seed=3).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, texts: list[str], teacher: Path) -> Path:
    from unmask.data.prepare import prepare

    folder = tmp_path_factory.mktemp("text")
    (folder / "text.txt").write_text("\n\n".join(texts))
    prepare([folder / "text.txt"], folder / "store", tokenizer=teacher, blank_line_documents=True, workers=1)
    return folder / "store"


@pytest.fixture
def settings(teacher: Path, store: Path, tmp_path: Path) -> dict[str, Any]:
    """Settings of a run of six steps: a student of two layers, 24 wide, with four heads of 6."""
    return {
        "run": str(tmp_path / "run"),
        "data.store": str(store),
        "distillation.teacher": str(teacher),
        "objective.mlm": 0.0,
        "stream.max_length": 24,
        "stream.micro_batch_tokens": 128,
        "stream.held_out_fraction": 0.1,
        "stream.workers": 0,
        "model.num_layers": 2,
        "model.hidden_size": 24,
        "model.num_heads": 4,
        "model.intermediate_size": 32,
        "model.max_positions": 24,
        "train.steps": 6,
        "train.tokens_per_step": 256,
        "train.log_every": 2,
        "train.evaluate_every": 3,
        "train.evaluate_tokens": 256,
        "train.save_every": 3,
        "train.dtype": "float32",
        "train.threads": 1,
        "optimizer.warmup_steps": 1,
        "optimizer.learning_rate": 3e-3,
    }
