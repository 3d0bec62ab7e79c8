"""The examples of other libraries run as they are: both encoders work, and their speeds are printed."""

from __future__ import annotations

import importlib
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("transformers")

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SPEEDS = r" stock: +[\d.]+ texts/s, result [\d.]+\nunmask: +[\d.]+ texts/s, result [\d.]+\n"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of a run of one step with a tiny BERT."""
    from transformers import BertConfig, BertForSequenceClassification

    monkeypatch.syspath_prepend(str(EXAMPLES))
    made_here = importlib.import_module("made_here")
    folder: Path = made_here.small_bert(tmp_path / "bert")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40}
    config = BertConfig.from_pretrained(folder)
    BertForSequenceClassification(BertConfig(**{**config.to_dict(), **sizes})).save_pretrained(folder)
    return ["--model", str(folder), "--out", str(tmp_path / "out"), "--steps", "1", "--batch", "4"]


def example(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("huggingface_trainer", "accelerate"),
        ("accelerate_loop", "accelerate"),
        ("lightning_module", "pytorch_lightning"),
        ("sentence_vectors", "sentence_transformers"),
    ],
)
def test_an_example_trains_with_both_encoders_and_prints_both_speeds(
    name: str, library: str, tiny: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(library)
    ratios = example(name).main(tiny)
    out = capfd.readouterr().out
    assert len(re.findall(SPEEDS, _own(out))) == (2 if name == "sentence_vectors" else 1), out
    assert all(ratio > 0 for ratio in (ratios if isinstance(ratios, tuple) else (ratios,)))


def _own(out: str) -> str:
    """What the example itself prints, without what the trainers do."""
    return "".join(f"{line}\n" for line in out.splitlines() if re.match(r"( stock|unmask):", line))


def test_a_process_trains_with_ddp(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    for variable, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_PORT": port}.items():
        monkeypatch.setenv(variable, str(value))
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    assert example("ddp_torchrun").main(tiny) > 0
    assert re.fullmatch(SPEEDS, _own(capfd.readouterr().out))
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_two_processes_train_with_ddp_under_torchrun(tiny: list[str]) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ended = subprocess.run([*command, str(EXAMPLES / "ddp_torchrun.py"), *tiny], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert re.fullmatch(SPEEDS, _own(ended.stdout))


def test_the_reviews_are_of_two_classes_and_of_mixed_length(tiny: list[str]) -> None:
    made = example("made_here").reviews(400)
    lengths = [len(text.split()) for text, _ in made]
    assert 150 < sum(label for _, label in made) < 250
    assert min(lengths) < 6 and max(lengths) > 120
