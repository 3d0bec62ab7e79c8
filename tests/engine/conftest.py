"""What many tests start from: a small model folder, a small store, and a Hugging Face Hub on this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from local_hub import LocalHub, serving

TEXTS = [
    "the river runs past the old mill and the mill turns",
    "a cat sat on the warm wall and watched the river",
    "the old cat turns and runs past the wall",
] * 4


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    from unmask.data.tokenizer import Tokenizer
    from unmask.model import EncoderConfig, PretrainingModel

    folder = tmp_path / "model"
    tokenizer = Tokenizer.train(TEXTS, 120)
    tokenizer.save(folder)
    config = EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        intermediate_size=32,
        max_positions=24,
    )
    PretrainingModel(config, seed=3).save_pretrained(folder)
    return folder


@pytest.fixture
def store_folder(tmp_path: Path) -> Path:
    """A token store of the sentences with a tokenizer of its own."""
    from unmask.data.prepare import prepare

    text = tmp_path / "text.txt"
    text.write_text("\n".join(TEXTS), "utf-8")
    prepare([text], tmp_path / "store", vocab_size=120, workers=1)
    return tmp_path / "store"


@pytest.fixture
def run_folder(model_folder: Path, tmp_path: Path) -> Path:
    """A run directory with the checkpoints of steps 10 and 20, which hold the same model."""
    import shutil

    from unmask.train.checkpoint.checkpoints import Checkpoints

    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("seed: 1\n")
    checkpoints = Checkpoints(folder=run / "checkpoints", keep=2)
    for step in (10, 20):
        checkpoints.save(
            step, lambda target: shutil.copytree(model_folder, target, dirs_exist_ok=True) and None, bytes_needed=0
        )
    return run


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where huggingface_hub keeps its cache and its token."""
    return tmp_path / "home"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, home: Path, tmp_path: Path) -> Iterator[LocalHub]:
    """A Hub that huggingface_hub asks, from an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with serving(monkeypatch, home) as served:
        yield served
