"""The code that stands in the documentation runs as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from unmask import Encoder, EncoderConfig

ROOT = Path(__file__).resolve().parent.parent
WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "mat", "and", "hello", "world"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model with BERT's ids for its special tokens, in the working directory, as the pages name it."""
    monkeypatch.chdir(tmp_path)
    config = EncoderConfig(
        vocab_size=8_000, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, max_positions=32
    )
    Encoder(config).save_pretrained("folder")
    specials = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    vocabulary = [specials.get(index, f"[unused{index}]") for index in range(104)] + WORDS
    Path("folder/vocab.txt").write_text("\n".join(vocabulary) + "\n")
    Path("texts").mkdir()
    for number in range(20):
        Path(f"texts/{number}.txt").write_text(" ".join(WORDS[(i * number) % len(WORDS)] for i in range(200)))
    Path("folder/tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    return tmp_path


def code_of(page: str) -> str:
    """The Python blocks of a page, one after the other."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    assert blocks, page
    return "\n".join(blocks)


@pytest.mark.parametrize("page", ["README.md", "docs/encoder.md"])
def test_the_code_of_a_page_runs(page: str, folder: Path) -> None:
    names: dict[str, object] = {}
    exec(compile(code_of(page), page, "exec"), names)
    hidden = names["hidden"]
    assert isinstance(hidden, torch.Tensor) and hidden.shape == (7, 32)
    if page == "README.md":
        assert list(Path("runs/mine/checkpoints").glob("step-*"))
    if page == "docs/encoder.md":
        from transformers import BertModel

        names["first"], names["second"], names["vectors"], names["trainer"]
        assert BertModel.from_pretrained("trained/encoder").config.hidden_size == 32
