"""A suite of benchmarks: each folder is found, run as its recipe says, and stands in the table beside the paper."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from advice import follow
from unmask.cli import main
from unmask.tasks.load import load_finetune_config, task_recipe_names
from unmask.tasks.suite_run import read_suite, run_suite
from unmask.tasks.suites import SUITES
from unmask.tasks.tasks import task_of

SHORT = ["--train.epochs", "0.5", "--input.max_length", "16", "--train.batch_size", "4"]


@pytest.fixture
def glue(tmp_path: Path) -> Path:
    """CoLA in its own form, SST-2 as GLUE has it, and MNLI with both of its dev files."""
    folder = tmp_path / "GLUE"
    for name in ("CoLA", "sst2", "MNLI"):
        (folder / name).mkdir(parents=True)
    acceptable = "".join(f"gj04\t{number % 2}\t*\tthe cat sat on the wall {number}\n" for number in range(8))
    for part in ("train", "dev"):
        (folder / f"CoLA/in_domain_{part}.tsv").write_text(acceptable)
        (folder / f"sst2/{part}.tsv").write_text(
            "sentence\tlabel\n" + "".join(f"a river {number}\t{number % 2}\n" for number in range(8))
        )
    labels = ["entailment", "neutral", "contradiction"]
    pairs = "".join(f"the mill {number}\tthe cat\t{labels[number % 3]}\n" for number in range(8))
    for part in ("train", "dev_matched", "dev_mismatched"):
        (folder / f"MNLI/{part}.tsv").write_text("sentence1\tsentence2\tgold_label\n" + pairs)
    return folder


def test_every_benchmark_has_its_recipe_and_its_score() -> None:
    for suite in SUITES.values():
        for task in suite.tasks:
            assert task.recipe in task_recipe_names()
            config = load_finetune_config(task.recipe)
            labels = () if config.task in ("regression", "qa") else ("0", "1")
            assert task.score in task_of(config, labels).score_names


def test_the_table_has_what_was_run_and_what_was_not(
    glue: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = ["--data.folder", str(glue), "--run", str(run), "--seeds", "2", *SHORT]
    assert main(["finetune", "glue", str(base), *options]) == 0
    table = (run / "table.md").read_text()
    assert table in capsys.readouterr().out
    rows = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in table.splitlines()}
    assert rows["sst2"][0] == "accuracy" and rows["sst2"][2] == "93.5"
    for name, parts in {"cola": ["dev"], "sst2": ["dev"], "mnli": ["dev", "test"]}.items():
        scores = json.loads((run / name / "scores.json").read_text())["runs"]["all seeds"]
        score = rows[name][0]
        assert rows[name][1] == " / ".join(
            f"{scores[part][score]['mean']:.1f} ± {scores[part][score]['deviation']:.1f}" for part in parts
        )
    assert rows["qnli"][1] == rows["rte"][1] == "not run"
    assert "mean of 3" in rows
    # the settings are those of the recipe, with those of the command line over them
    config = (run / "mnli/seed-2/finetune.yaml").read_text()
    assert "learning_rate: 2e-05" in config and "epochs: 0.5" in config and "dev_mismatched.tsv" in config


def test_a_suite_that_stopped_goes_on(glue: Path, base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["finetune", "glue", str(base), "--data.folder", str(glue), "--run", str(run), *SHORT]) == 0
    table = (run / "table.md").read_text()
    stays = run / "cola/seed-1/scores.json"
    before = stays.stat().st_mtime_ns
    shutil.rmtree(run / "mnli")
    for name in ("scores.json", "seed-1/scores.json"):
        (run / "sst2" / name).unlink()
    assert main(["finetune", "--resume", str(run)]) == 0
    assert (run / "table.md").read_text() == table
    assert stays.stat().st_mtime_ns == before
    follow(
        lambda: run_suite(read_suite(run)),
        "exists already; continue its runs with `unmask finetune --resume ... or choose another name with --run",
        lambda: run_suite(read_suite(run), resume=run),
    )


def test_refusals(glue: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*words: str) -> str:
        assert main(["finetune", *words]) == 2
        return capsys.readouterr().err

    def good() -> None:
        run = str(tmp_path / "good")
        shutil.rmtree(run, ignore_errors=True)
        assert main(["finetune", "glue", str(base), "--data.folder", str(glue), "--run", run, *SHORT]) == 0

    assert "the suite glue needs the folder that holds its benchmarks; give it as --data.folder FOLDER" in told(
        "glue", str(base)
    )
    assert "--data.train is of one task, and glue has several; leave it out, or fine-tune on one task" in told(
        "glue", str(base), "--data.folder", str(glue), "--data.train", "train.tsv"
    )
    assert "--data.folder is for a suite (glue, chinese), and sst2 is none; give --data.train FILE" in told(
        "sst2", str(base), "--data.folder", str(glue)
    )
    for options in (["--data.folder", str(glue)], ["--data.train", "train.tsv"], ["--help"]):
        assert "no task, recipe, suite or file is called 'glu'; did you mean glue?" in told("glu", str(base), *options)
    assert "GLUF is no folder, " in told("glue", str(base), "--data.folder", str(tmp_path / "GLUF"))
    assert "config: --data.folder elsewhere is no folder; give one that holds a folder for each benchmark" in told(
        "glue", str(base), "--data.folder", "elsewhere"
    )
    (tmp_path / "empty").mkdir()
    assert "has no benchmark of glue, each a folder with a training and a dev file: CoLA, SST-2" in told(
        "glue", str(base), "--data.folder", str(tmp_path / "empty")
    )
    # a folder that is refused only when a run has begun, and a name that is taken back with all that was made for it
    assert "has 24 positions" in told("glue", str(base), "--data.folder", str(glue), "--run", str(tmp_path / "runs/a"))
    assert not (tmp_path / "runs").exists()
    assert main(["finetune", "glue", "--help"]) == 0
    capsys.readouterr()
    (glue / "MNLI/dev_matched.tsv").rename(glue / "MNLI/dev.tsv")
    good()
    assert "mnli | accuracy | not run" in (tmp_path / "good/table.md").read_text()
    (tmp_path / "zh/drcd").mkdir(parents=True)
    for name in ("dev.json", "dev.tsv"):
        (tmp_path / "zh/drcd" / name).write_text("{}")
    message = told("chinese", str(base), "--data.folder", str(tmp_path / "zh"))
    assert "--data.folder has several files dev.* in " in message and "dev.json, dev.tsv; leave one there" in message


def test_a_suite_of_python(glue: Path, base: Path, tmp_path: Path) -> None:
    from unmask.tasks.suite_run import SuiteRun

    def run(length: int) -> Path:
        changes = {"model": str(base), "train.epochs": 0.5, "input.max_length": length}
        folder = str(tmp_path / "run")
        suite = SuiteRun(suite="glue", folder=str(glue), changes=changes, run=folder, seeds=1, values={})
        return run_suite(suite, show=lambda line: None)

    # the name stays free for the second one
    follow(lambda: run(512), "has 24 positions; give --input.max_length 24", lambda: run(24))
