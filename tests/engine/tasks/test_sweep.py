"""Several runs of one task: their scores are gathered, and what is finished is not trained again."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

import unmask
from advice import follow, refusal
from unmask.cli import main
from unmask.errors import ConfigError, CorpusError
from unmask.tasks.sweep import Sweep, read_sweep, read_values, run_sweep


def sweep_of(settings: dict[str, Any], seeds: int = 2, **values: list[Any]) -> Sweep:
    changes = {"train.epochs": 0.4, "optimizer.learning_rate": 1e-2}
    config = unmask.load_finetune_config("classification", settings | changes)
    return Sweep(config=config, seeds=seeds, values={f"optimizer.{name}": given for name, given in values.items()})


def test_every_seed_and_value_is_run_and_the_best_is_told(settings: dict[str, Any]) -> None:
    shown: list[str] = []
    path = run_sweep(sweep_of(settings, learning_rate=[1e-2, 1e-9]), show=shown.append)
    runs = sorted(str(file.parent.relative_to(path)) for file in path.glob("*/*/scores.json"))
    assert runs == [f"learning_rate-{rate}/seed-{seed}" for rate in ("0.01", "1e-09") for seed in (1, 2)]
    summary = json.loads((path / "scores.json").read_text())
    row = summary["runs"]["learning_rate-0.01"]
    values = [json.loads((path / f"learning_rate-0.01/seed-{s}/scores.json").read_text())["dev"] for s in (1, 2)]
    losses = [one["loss"] for one in values]
    assert row["dev"]["loss"]["values"] == losses and row["dev"]["loss"]["max"] == max(losses)
    assert row["dev"]["loss"]["mean"] == pytest.approx(statistics.fmean(losses))
    assert row["dev"]["loss"]["deviation"] == pytest.approx(statistics.stdev(losses))
    means = {name: one["dev"]["accuracy"]["mean"] for name, one in summary["runs"].items()}
    assert means[summary["best"]] == max(means.values())
    assert len(shown) == 2 and "2 seeds" in shown[0] and "±" in shown[0]
    # the settings of a run are those that its folder names
    assert "learning_rate: 1e-09" in (path / "learning_rate-1e-09/seed-2/finetune.yaml").read_text()


def test_runs_that_stopped_go_on_and_finished_ones_stay(settings: dict[str, Any]) -> None:
    path = run_sweep(sweep_of(settings), show=lambda line: None)
    first = (path / "seed-1" / "scores.json").read_text()
    (path / "scores.json").unlink()
    (path / "seed-2" / "scores.json").unlink()
    again = read_sweep(path)
    assert again.seeds == 2 and [folder for folder, _, _ in again.runs()] == ["seed-1", "seed-2"]
    assert main(["finetune", "--resume", str(path)]) == 0
    assert (path / "seed-1" / "scores.json").read_text() == first
    assert (path / "seed-2" / "scores.json").is_file() and (path / "scores.json").is_file()
    follow(
        lambda: run_sweep(sweep_of(settings)),
        "exists already; continue its runs with `unmask finetune --resume ... or choose another name with --run",
        lambda: run_sweep(read_sweep(path), resume=path, show=lambda line: None),
    )


def test_runs_that_cannot_begin_leave_nothing(settings: dict[str, Any]) -> None:
    with pytest.raises(CorpusError, match="has no column 'letters'"):
        run_sweep(sweep_of(settings | {"data.text": "letters"}))
    assert not Path(settings["run"]).exists()


def test_the_command_line_makes_several_runs(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = [f"--{name}={value}" for name, value in settings.items() if name not in ("model", "run", "train.epochs")]
    run = ["--run", str(tmp_path / "several"), "--train.epochs", "0.2"]
    assert main(["finetune", "classification", settings["model"], *words, *run, "--sweep", "weight_decay=0,0.1"]) == 0
    assert "weight_decay-0.1, dev, 1 seeds: " in capsys.readouterr().out
    assert main(["finetune", "classification", settings["model"], *words, *run, "--seeds", "many"]) == 2
    assert "--seeds must be a whole number from 1, got 'many'; write --seeds 5" in capsys.readouterr().err


def test_words_of_a_sweep_name_settings_and_values() -> None:
    assert read_values(["learning_rate=2e-5,3e-5", "train.epochs=2"]) == {
        "optimizer.learning_rate": ["2e-5", "3e-5"],
        "train.epochs": ["2"],
    }
    for word in ("learning_rate", "learning_rate="):
        follow(
            lambda word=word: read_values([word]),  # type: ignore[misc]
            "--sweep takes a setting and its values, got ... write it as learning_rate=2e-5,3e-5",
            lambda: read_values(["learning_rate=2e-5,3e-5"]),
        )
    with pytest.raises(ConfigError, match=r"did you mean optimizer\.learning_rate\?"):
        read_values(["learning_rat=2e-5"])
    assert "--sweep names 'zzz', which is no setting to vary; write the name of a setting" in refusal(
        lambda: read_values(["zzz=1"])
    )
    read_values(["optimizer.learning_rate=1"])
