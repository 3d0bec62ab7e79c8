"""The bench of `encode`: both encoders give the same vectors, and it prints the ratios."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("sentence_transformers")


def test_both_encoders_give_the_same_vectors_and_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.engine import bench_encode as bench
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    from unmask import EncoderConfig, PretrainingModel
    from unmask.data.tokenizer import Tokenizer

    texts = bench.mixed_texts(30)
    lengths = [len(text.split()) for text in texts]
    assert texts == bench.mixed_texts(30) and max(lengths) > 4 * min(lengths)
    tokenizer = Tokenizer.train(texts, 200)
    tokenizer.save(tmp_path / "bert")
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32, "max_positions": 512}
    PretrainingModel(EncoderConfig(vocab_size=tokenizer.vocab_size, **sizes)).save_pretrained(tmp_path / "bert")
    parts = [Transformer(str(tmp_path / "bert"), max_seq_length=64), Pooling(16)]
    SentenceTransformer(modules=parts, device="cpu").save(str(tmp_path / "model"))
    arguments = ["--model", str(tmp_path / "model"), "--count", "8", "--batch", "4", "--rounds", "1"]
    assert bench.main(arguments) > 0
    (tmp_path / "lines.txt").write_text("the room was cold\nwarm\n")
    bench.main([*arguments, "--texts", str(tmp_path / "lines.txt"), "--out", str(tmp_path / "result.json")])
    out = capsys.readouterr().out
    assert "8 texts of " in out and "2 texts of " in out
    assert (
        len(re.findall(r"^[\d.]+ times as fast by the processor's time, [\d.]+ by the clock", out, re.MULTILINE)) == 2
    )
    stock, ours = (row["extra_info"] for row in json.loads((tmp_path / "result.json").read_text())["benchmarks"])
    assert (stock["variant"], ours["variant"], ours["units"]) == ("sentence-transformers", "unmask", 2)
    assert ours["command"] == "bench_encode.py --model model --count 8 --batch 4 --rounds 1 --texts lines.txt"
