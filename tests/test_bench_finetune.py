"""The bench of fine-tuning: both sides have one loss, and it prints the ratios and the accuracies."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXTS = ["the cat sat on the warm wall", "a river runs past the old mill", "the cat", "a river of the old mill"]


def test_both_sides_are_timed_and_trained_on_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    from unmask.data.tokenizer import Tokenizer
    from unmask.model import EncoderConfig, PretrainingModel

    monkeypatch.syspath_prepend(str(ROOT))
    spec = importlib.util.spec_from_file_location("bench_finetune", ROOT / "bench/engine/bench_finetune.py")
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    sys.modules["bench_finetune"] = bench
    spec.loader.exec_module(bench)
    tokenizer = Tokenizer.train(TEXTS, 80)
    tokenizer.save(tmp_path / "model")
    sizes = EncoderConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32
    )
    PretrainingModel(sizes).save_pretrained(tmp_path / "model")
    rows = [f"{text}\t{'cat' if 'cat' in text else 'river'}\n" for text in TEXTS * 4]
    (tmp_path / "train.tsv").write_text("text\tlabel\n" + "".join(rows))
    train = str(tmp_path / "train.tsv")
    bench.main([str(tmp_path / "model"), train, "--batch", "4", "--rounds", "1", "--dev", train])
    out = capsys.readouterr().out
    assert re.search(r"losses differ by \d\.\de[+-]\d\d", out)
    assert re.search(r"accuracy after 12 steps: ours \d+\.\d\d, transformers \d+\.\d\d", out)
    assert len(re.findall(r"times the examples/s of transformers, (random order|grouped) \(1 rounds\)", out)) == 2
