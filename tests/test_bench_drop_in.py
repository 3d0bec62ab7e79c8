"""The bench of drop_in: both sides have one loss, and it prints the ratios."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXTS = ["the cat sat on the warm wall", "a river runs past the old mill", "the cat", "a river of the old mill"]


def test_both_sides_are_compared_timed_and_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    from bench.engine import bench_drop_in as bench

    from unmask.data.tokenizer import Tokenizer

    tokenizer = Tokenizer.train(TEXTS, 80)
    tokenizer.save(tmp_path / "model")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=tokenizer.vocab_size, **sizes)
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "model")
    rows = [f"{text}\t{'cat' if 'cat' in text else 'river'}\n" for text in TEXTS * 4]
    (tmp_path / "train.tsv").write_text("sentence\tlabel\n" + "".join(rows))
    (tmp_path / "docs.jsonl").write_text(json.dumps({"sentence": "\n\n".join(TEXTS * 4)}) + "\n")
    common = [str(tmp_path / "model"), str(tmp_path / "train.tsv"), "--batch", "4", "--rounds", "1", "--steps", "4"]
    results = {name: tmp_path / f"{name}.json" for name in ("classify", "dropout", "mlm")}
    bench.main(["classify", *common, "--out", str(results["classify"])])
    bench.main(["dropout", *common, "--seeds", "2", "--out", str(results["dropout"])])
    common[1] = str(tmp_path / "docs.jsonl")
    bench.main(["mlm", *common, "--out", str(results["mlm"])])
    out = capsys.readouterr().out
    assert len(re.findall(r"losses differ by \d\.\de[+-]\d\d", out)) == 4
    assert (
        len(re.findall(r"times the examples/s of transformers, (random order|grouped by length) \(1 rounds\)", out))
        == 2
    )
    assert re.search(r"the means differ by \d\.\d{4}, \d+\.\d standard errors", out)
    ratio = r"\d\.\d\d times the real tokens/s of transformers, grouped by length, ours at random \(1 rounds\)"
    assert re.search(ratio, out)
    rows = {name: json.loads(path.read_text())["benchmarks"] for name, path in results.items()}
    assert {name: len(found) for name, found in rows.items()} == {"classify": 4, "dropout": 2, "mlm": 2}
    assert all(row["extra_info"]["baseline"] == "transformers" for found in rows.values() for row in found)
    assert [len(row["stats"]["data"]) for row in rows["dropout"]] == [2, 2]
    # both sides are timed for as many tokens
    assert rows["mlm"][0]["extra_info"]["units"] == rows["mlm"][1]["extra_info"]["units"]
    assert all(str(tmp_path) not in path.read_text() for path in results.values())
