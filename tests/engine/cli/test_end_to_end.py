"""From text to an exported model through the command line alone, at a size of seconds."""

import json
import random
import re
import sys
from pathlib import Path

import pytest

from unmask.cli import main
from unmask.train.logging.log import read_log

SMALL = [
    *("--model.num-layers", "1", "--model.hidden-size", "32", "--model.num-heads", "2"),
    *("--model.intermediate-size", "64", "--model.max-positions", "32", "--stream.max_length", "32"),
    *("--train.tokens-per-step", "512", "--stream.micro_batch_tokens", "256", "--optimizer.warmup_steps", "5"),
    *("--optimizer.learning_rate", "1e-2", "--train.log-every", "5", "--train.evaluate-every", "20"),
    *("--train.evaluate-tokens", "1024", "--train.save-every", "20", "--stream.held_out_fraction", "0.1"),
]


def write_corpus(file: Path) -> None:
    """Sentences of a small grammar: each subject has its own place, so that there is something to learn."""
    draw = random.Random(1)
    places = {"the river": "valley", "the cat": "garden", "the miller": "mill", "the boat": "harbour"}
    lines = []
    for _ in range(400):
        subjects = draw.choices(sorted(places), k=draw.randint(1, 4))
        lines.append(" ".join(f"{subject} is in the {places[subject]}." for subject in subjects))
    file.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), "utf-8")


def test_text_to_predictions_plot_and_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    corpus, store, run, out = (tmp_path / name for name in ("docs.jsonl", "store", "run", "exported"))
    write_corpus(corpus)
    assert main(["prepare", "--input", str(corpus), "--vocab-size", "120", "--out", str(store)]) == 0
    pretrain = ["pretrain", "--data.store", str(store), "--train.steps", "40", "--run", str(run), *SMALL]
    assert main(pretrain) == 0, capsys.readouterr().err

    rows = read_log(run)
    assert [row["step"] for row in rows] == list(range(5, 41, 5))
    assert {"step", "loss", "learning_rate", "tokens_per_second", "data_wait"} <= rows[0].keys()
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]

    # a finished run: a second start is refused, resuming it changes nothing, a run directory is never overwritten
    capsys.readouterr()
    assert main(pretrain) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["pretrain", "--resume", str(run)]) == 0
    assert read_log(run) == rows

    assert main(["plot", str(run)]) == 0
    assert (run / "loss.png").stat().st_size > 1000
    assert main(["export", str(run), str(out)]) == 0
    assert (out / "tokenizer.json").is_file()
    capsys.readouterr()
    for model in (run, out):
        assert main(["fill-mask", str(model), "the cat is in the [MASK].", "--top", "3"]) == 0
    told = capsys.readouterr().out.splitlines()
    # the run and its export predict the same, and the head line of the run knows its steps
    assert told[2:6] == told[-4:]
    assert told[0].endswith("trained for 40 steps")


def test_a_refused_run_leaves_its_name_to_the_one_that_follows_the_advice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, run = tmp_path / "docs.jsonl", tmp_path / "run"
    corpus.write_text("".join(json.dumps({"text": f"the cat sat on mat {n}"}) + "\n" for n in range(12)), "utf-8")
    pretrain = ["pretrain", "--data.input", str(corpus), "--data.vocab-size", "120", "--train.steps", "5"]
    pretrain += ["--run", str(run), *SMALL]
    assert main(pretrain) == 2
    told = capsys.readouterr().err
    advice = re.search(r"lower stream\.micro_batch_tokens to at most (\d+)", told)
    assert advice is not None, told
    assert not run.exists()
    size = str(int(advice[1]) // 2)
    smaller = ["--stream.micro_batch_tokens", size, "--train.tokens-per-step", size]
    assert main([*pretrain, *smaller]) == 0, capsys.readouterr().err
    assert (run / "checkpoints" / "step-000005").is_dir()


def test_missing_tensorboard_is_noticed_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main(["pretrain", "--train.tensorboard", "--run", str(tmp_path / "run"), *SMALL]) == 2
    told = capsys.readouterr()
    assert "pip install 'unmask[tensorboard]'" in told.err
    assert told.out == ""
    assert not (tmp_path / "run").exists()


def test_store_that_does_not_exist_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--data.store", str(tmp_path / "absent"), "--run", str(tmp_path / "run")]) == 2
    assert "absent" in capsys.readouterr().err
