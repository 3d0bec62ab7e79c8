"""The bench of fine-tuning runs: both sides have scores for each seed, and a second call trains nothing."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TEXTS = ["the cat sat on the warm wall", "a river runs past the old mill", "the cat", "a river of the old mill"]
FAST = ["--train.epochs", "1", "--train.batch_size", "4", "--input.max_length", "32", "--seeds", "2"]


@pytest.fixture
def bench() -> ModuleType:
    from bench.engine import bench_finetune_runs

    return bench_finetune_runs


@pytest.fixture
def model(tmp_path: Path) -> Path:
    from unmask.data.tokenizer import Tokenizer
    from unmask.model import EncoderConfig, PretrainingModel

    tokenizer = Tokenizer.train(TEXTS, 80)
    tokenizer.save(tmp_path / "model")
    sizes = EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        intermediate_size=32,
        max_positions=64,
        initializer_range=0.3,
    )
    PretrainingModel(sizes).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def run(bench: ModuleType, tmp_path: Path, *words: str | Path) -> dict[str, Any]:
    bench.main([*map(str, words), *FAST, "--work", str(tmp_path / "work"), "--out", str(tmp_path / "result.json")])
    found: dict[str, Any] = json.loads((tmp_path / "result.json").read_text())
    return found


def test_both_sides_and_new_weights_have_scores_of_each_seed_and_a_second_call_trains_nothing(
    bench: ModuleType, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{text}\t{'cat' if 'cat' in text else 'river'}\n" for text in TEXTS * 4]
    (tmp_path / "train.tsv").write_text("text\tlabel\n" + "".join(rows))
    train = tmp_path / "train.tsv"
    words = ["classification", model, "--data.train", train, "--data.dev", train, "--from-scratch"]
    words += ["--train.epochs", "2", "--optimizer.learning_rate", "1e-2"]
    found = run(bench, tmp_path, *words)
    assert list(found["sides"]) == ["unmask", "transformers", "new weights"] and found["inputs"] == 16
    for runs in found["sides"].values():
        assert [one["seed"] for one in runs] == [1, 2]
        assert all(one["seconds"] > 0 and 0 <= one["dev"]["accuracy"] <= 100 for one in runs)
    assert found["settings"]["data"]["train"] == "train.tsv" and str(tmp_path) not in json.dumps(found)
    assert "| classification |" in capsys.readouterr().out
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*-[12].json")}
    assert len(kept) == 6 and run(bench, tmp_path, *words)["sides"] == found["sides"]
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    with pytest.raises(SystemExit, match="other settings; give another folder"):
        run(bench, tmp_path, *words, "--optimizer.eps", "1e-5")


def test_questions_are_split_by_article_and_scored_by_both_sides_on_the_rest(
    bench: ModuleType, model: Path, tmp_path: Path
) -> None:
    def article(name: str) -> dict[str, Any]:
        questions = [
            {"id": f"{name}-{number}", "question": "the old mill", "answers": [{"text": "river", "answer_start": 2}]}
            for number in range(2)
        ]
        return {"title": name, "paragraphs": [{"context": TEXTS[1], "qas": questions}]}

    (tmp_path / "all.json").write_text(json.dumps({"data": [article(name) for name in "abcde"]}))
    words = ["squad", model, "--data.train", tmp_path / "all.json", "--split-articles", "0.8"]
    found = run(bench, tmp_path, *words, "--input.max_question", "8")
    parts = [json.loads((tmp_path / "work" / f"{part}.json").read_text())["data"] for part in ("train", "test")]
    assert [[one["title"] for one in part] for part in parts] == [list("abcd"), ["e"]]
    assert "the first 80% of its articles; tested on the others" in found["data"]
    for runs in found["sides"].values():
        assert len(runs) == 2 and all({"exact", "f1"} <= one["test"].keys() and "dev" not in one for one in runs)


def test_words_have_tags_of_both_sides(bench: ModuleType, model: Path, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("the O\ncat B-PER\n\na O\nriver B-LOC\nmill O\n\n" * 4)
    train = tmp_path / "train.txt"
    found = run(bench, tmp_path, "conll2003", model, "--data.train", train, "--data.dev", train)
    assert all(0 <= one["dev"]["f1"] <= 100 for runs in found["sides"].values() for one in runs)


def test_both_sides_begin_with_one_model_so_at_no_rate_to_speak_of_their_scores_are_equal(
    bench: ModuleType, model: Path, tmp_path: Path
) -> None:
    rows = [f"{one},{other},{number}\n" for number, (one, other) in enumerate(pairwise(TEXTS))]
    (tmp_path / "train.csv").write_text("text,other,label\n" + "".join(rows * 2))
    train, words = tmp_path / "train.csv", ["--data.pair", "other", "--optimizer.learning_rate", "1e-12"]
    found = run(bench, tmp_path, "regression", model, "--data.train", train, "--data.test", train, *words)
    ours, theirs = (found["sides"][side] for side in ("unmask", "transformers"))
    for one, other in zip(ours, theirs, strict=True):
        assert one["test"]["mse"] == pytest.approx(other["test"]["mse"], rel=1e-4)
    assert ours[0]["test"]["mse"] != pytest.approx(ours[1]["test"]["mse"], rel=1e-3)


def test_pairs_of_several_files_are_trained_on_together(bench: ModuleType, tmp_path: Path) -> None:
    pair = '<entailment-corpus><pair id="1" value="TRUE"><t>a {0}</t><h>{0}</h></pair></entailment-corpus>'
    for name in ("one", "two"):
        (tmp_path / f"{name}.xml").write_text(pair.format(name))
    joined = bench.join_pairs([tmp_path / "one.xml", tmp_path / "two.xml"], tmp_path).read_text()
    assert joined.count("<pair ") == 2 and "<h>one</h>" in joined and "<h>two</h>" in joined


def test_the_page_of_runs_has_a_row_for_each_recipe_with_mean_and_deviation_or_the_interval_of_one_seed(
    bench: ModuleType, tmp_path: Path
) -> None:
    from bench import record, runs_page

    def side(seconds: float, *scores: float) -> list[dict[str, Any]]:
        return [
            {"dev": {"f1": 1.0}, "test": {"f1": one}, "intervals": {"test": {"f1": [50, 80]}}, "seconds": seconds}
            for one in scores
        ]

    known = {"model": "m", "data": "d", "metric": "f1", "inputs": 100, "command": "c"}
    for name, sides in (
        ("conll2003", {"unmask": side(2, 70.0, 72.0), "transformers": side(4, 69.0, 71.0)}),
        ("squad", {"unmask": side(2, 70.0)}),
    ):
        content = {**record.stamp(), "finetuning": name, **known, "sides": sides}
        record.save(tmp_path / "results" / "box" / f"finetune-{name}.json", content)
    page = runs_page.render(tmp_path / "results", tmp_path / "figures")
    assert "### Fine-tuning\n" in page
    assert "| conll2003 | m | d | f1, test | 2 | 71.00 ± 1.41 | 70.00 ± 1.41 | 50.0 | 25.0 | 2.00 |" in page
    assert "| squad | m | d | f1, test | 1 | 70.00 [50.00, 80.00] |  | 50.0 |  |  |" in page
