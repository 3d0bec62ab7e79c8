"""A corpus, folders of models that transformers made for it, and a run of ours."""

import json
import os
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch

from initial_runs import SIZES, SMALL, WORDS
from unmask.config import load_config
from unmask.data.prepare import prepare
from unmask.data.tokenizer import Tokenizer
from unmask.train.pretrain import pretrain

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def transformers() -> ModuleType:
    return pytest.importorskip("transformers")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text, a tokenizer for it and a store that it made."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = torch.Generator().manual_seed(0)
    with (folder / "text.jsonl").open("w") as out:
        for _ in range(120):
            chosen = torch.randint(len(WORDS), (18,), generator=draw).tolist()
            sentences = [" ".join(WORDS[i] for i in chosen[at : at + 6]).capitalize() + "." for at in (0, 6, 12)]
            out.write(json.dumps({"text": " ".join(sentences)}) + "\n")
    prepare([folder / "text.jsonl"], folder / "store", vocab_size=100, workers=1)
    shutil.copytree(folder / "store" / "tokenizer", folder / "tokenizer")
    return folder


@pytest.fixture(scope="session")
def folders(transformers: ModuleType, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each class of transformers, with the tokenizer of the corpus, by the name of the class."""
    made = {}
    vocab_size = Tokenizer.load(corpus / "tokenizer").vocab_size
    for number, kind in enumerate(("BertModel", "BertForMaskedLM", "BertForPreTraining")):
        torch.manual_seed(number)
        model = getattr(transformers, kind)(transformers.BertConfig(vocab_size=vocab_size, **SIZES))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        made[kind] = tmp_path_factory.mktemp(kind)
        model.save_pretrained(made[kind])
        Tokenizer.load(corpus / "tokenizer").save(made[kind])
    return made


@pytest.fixture
def model_folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A BertForMaskedLM that a test may change."""
    return Path(shutil.copytree(folders["BertForMaskedLM"], tmp_path / "model"))


@pytest.fixture(scope="session")
def first_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ours with local layers and a causal model, which transformers does not have."""
    run = tmp_path_factory.mktemp("runs") / "first"
    model = {"num_layers": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 32, "max_positions": 40}
    model |= {"attention_window": 4, "global_every": 2, "causal": True}
    changes = {f"model.{name}": value for name, value in model.items()}
    return pretrain(load_config(None, {**SMALL, **changes, "run": str(run), "data.store": str(corpus / "store")}))
