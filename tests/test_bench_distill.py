"""The benches of distillation: both sides of a step have one loss, and the table of ways has a row for each."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXTS = ["the cat sat on the warm wall", "a river runs past the old mill", "the cat", "a river of the old mill"]


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    from unmask.data.tokenizer import Tokenizer
    from unmask.model import EncoderConfig, PretrainingModel

    tokenizer = Tokenizer.train(TEXTS, 80)
    tokenizer.save(tmp_path / "teacher")
    sizes = EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        intermediate_size=32,
        max_positions=128,
        initializer_range=0.3,
    )
    PretrainingModel(sizes).save_pretrained(tmp_path / "teacher")
    rows = [f"{text}\t{'cat' if 'cat' in text else 'river'}\n" for text in TEXTS * 4]
    (tmp_path / "train.tsv").write_text("text\tlabel\n" + "".join(rows))
    return tmp_path / "teacher"


def test_a_step_and_the_plain_recipe_have_one_loss_and_are_timed(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.engine import bench_distill_step as bench

    words = [str(teacher), str(tmp_path / "train.tsv"), "--layers", "1", "--width", "8", "--length", "32"]
    bench.main([*words, "--batch", "4", "--rounds", "1", "--out", str(tmp_path / "result.json")])
    out = capsys.readouterr().out
    found = re.search(r"losses of full examples differ by (\d\.\de[+-]\d\d)", out)
    assert found is not None and float(found[1]) < 1e-5
    assert re.search(r"\d+\.\d\d times the examples/s of the plain recipe, random order \(1 rounds\)", out)
    stock, ours = (row["extra_info"] for row in json.loads((tmp_path / "result.json").read_text())["benchmarks"])
    assert (stock["variant"], ours["variant"], ours["baseline"]) == ("the plain recipe", "unmask", "the plain recipe")
    assert "padded to 32; test_a_step" in ours["setting"] and ours["units"] == 16


def test_each_way_of_the_table_is_trained_and_a_second_call_trains_nothing(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from unmask.data.prepare import prepare

    (tmp_path / "text.txt").write_text("\n\n".join(TEXTS * 20))
    prepare([tmp_path / "text.txt"], tmp_path / "store", tokenizer=teacher, blank_line_documents=True, workers=1)
    from bench.engine import bench_distill_runs as bench

    train = str(tmp_path / "train.tsv")
    words = ["classification", str(teacher), "--train", train, "--dev", train, "--text", "text", "--seeds", "1"]
    words += ["--store", str(tmp_path / "store"), "--student", "tiny", "--steps", "2", "--epochs", "1"]
    words += ["--intermediate-epochs", "1", "--augmented", train, "--out", str(tmp_path / "out")]
    # any other option is a setting of general distillation
    words += ["--model.num_layers", "1", "--model.hidden_size", "8", "--model.intermediate_size", "16"]
    words += ["--stream.micro_batch_tokens", "128", "--train.tokens_per_step", "128", "--stream.workers", "0"]
    bench.main(words)
    table = capsys.readouterr().out.partition("| way |")[2]
    ways = ["teacher", "scratch", "fine-tuned", "predictions", "both stages", "both, augmented"]
    assert re.findall(r"^\| ([a-z, -]+?) \| \d", table, re.MULTILINE) == ways
    rows = json.loads((tmp_path / "out" / "table.json").read_text())
    assert rows["metric"] == "accuracy" and list(rows["scores"]) == ways
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("log.jsonl")}
    bench.main(words)
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("log.jsonl")}
