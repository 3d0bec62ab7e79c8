"""The bench of fine-tuning: both sides have one loss, and it prints the ratios and the accuracies."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXTS = ["the cat sat on the warm wall", "a river runs past the old mill", "the cat", "a river of the old mill"]


def test_both_sides_are_timed_and_trained_on_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    from bench.engine import bench_finetune as bench

    from unmask.data.tokenizer import Tokenizer
    from unmask.model import EncoderConfig, PretrainingModel

    tokenizer = Tokenizer.train(TEXTS, 80)
    tokenizer.save(tmp_path / "model")
    sizes = EncoderConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32
    )
    PretrainingModel(sizes).save_pretrained(tmp_path / "model")
    rows = [f"{text}\t{'cat' if 'cat' in text else 'river'}\n" for text in TEXTS * 4]
    (tmp_path / "train.tsv").write_text("text\tlabel\n" + "".join(rows))
    train = str(tmp_path / "train.tsv")
    written = tmp_path / "result.json"
    words = [str(tmp_path / "model"), train, "--batch", "4", "--rounds", "1", "--dev", train, "--out", str(written)]
    bench.main(words)
    out = capsys.readouterr().out
    assert re.search(r"losses differ by \d\.\de[+-]\d\d", out)
    assert re.search(r"accuracy after 12 steps: ours \d+\.\d\d, transformers \d+\.\d\d", out)
    orders = r"times the examples/s of transformers, (random order|grouped by length, ours at random) \(1 rounds\)"
    assert len(re.findall(orders, out)) == 2
    rows = json.loads(written.read_text())["benchmarks"]
    assert [row["extra_info"]["variant"] for row in rows] == ["transformers", "unmask"] * 2
    info = rows[0]["extra_info"]
    assert info["command"] == "bench_finetune.py model train.tsv --batch 4 --rounds 1 --dev train.tsv"
    assert info["setting"].startswith(
        "BERT of 1 layers, hidden 16, float32, stock side with sdpa attention, dropout 0.1"
    )
    assert rows[1]["extra_info"]["clock_seconds"] == rows[3]["extra_info"]["clock_seconds"]
    assert info["units"] == 16 and info["unit"] == "examples" and str(tmp_path) not in written.read_text()
