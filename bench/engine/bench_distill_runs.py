"""What each part of distillation brings: one student trained in several ways, with several seeds, as a table.

    teacher              the fine-tuned teacher
    scratch              the student with new weights, fine-tuned on the labels
    fine-tuned           the student of general distillation, fine-tuned on the labels
    predictions          the same student learns the teacher's predictions alone
    both stages          it learns the teacher's layers, then its predictions
    both, augmented      the same, with the file of `unmask augment` in the first stage
    without embedding, hidden, attention, predictions    both stages without this loss (with --ablation)

All ways have the same examples, batches and epochs of the second stage. Runs that are finished are not made again, so
the command goes on where it stopped.

    PYTHONPATH=engine:kernels:. python bench/engine/bench_distill_runs.py classification TEACHER --train train.tsv \
        --dev dev.tsv --text sentence --store STORE --layers 1 3 6 --seeds 3 --out results/distill
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import unmask
from unmask.cli.distill import parse_general
from unmask.config import to_mapping
from unmask.config.yaml_text import dump_yaml
from unmask.tasks.finetune import SCORES
from unmask.train.logging.log import read_evaluations

LOSSES = ("embedding", "hidden", "attention")


def ways(given: argparse.Namespace, tuned: Path, general: Path, scratch: Path) -> dict[str, dict[str, Any]]:
    """Return the settings of each way by its name."""
    teacher = {"distillation.teacher": str(tuned), **_of_layers(given)}
    both = {"model": str(general), **teacher}
    found: dict[str, dict[str, Any]] = {
        "scratch": {"model": str(scratch)},
        "fine-tuned": {"model": str(general)},
        "predictions": {**both, "distillation.intermediate_epochs": 0},
        "both stages": both,
    }
    if given.augmented:
        found["both, augmented"] = {**both, "data.train": given.augmented, "distillation.prediction_data": given.train}
    if given.ablation:
        found |= {f"without {name}": {**both, f"distillation.{name}": 0.0} for name in LOSSES}
    return found


def _of_layers(given: argparse.Namespace) -> dict[str, Any]:
    return {
        "distillation.intermediate_epochs": given.intermediate_epochs,
        "distillation.intermediate_learning_rate": given.intermediate_learning_rate,
    }


def tune(given: argparse.Namespace, run: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Make a fine-tuning run, or go on with it, and return its scores."""
    if not (run / SCORES).exists():
        common = {
            "data.train": given.train,
            "data.dev": given.dev,
            "train.epochs": given.epochs,
            "optimizer.learning_rate": given.learning_rate,
            "train.dtype": "float32",
            **{f"data.{name}": getattr(given, name) for name in ("text", "pair", "label") if getattr(given, name)},
            **({"data.train_examples": given.examples} if given.examples else {}),
        }
        if (run / "finetune.yaml").exists():
            unmask.finetune(resume=run)
        else:
            config = unmask.load_finetune_config(given.task, {**common, **settings, "run": str(run)})
            unmask.finetune(config)
    found: dict[str, Any] = json.loads((run / SCORES).read_text())
    return found


def student_of(given: argparse.Namespace, run: Path, *, steps: int) -> Path:
    """Return a student of general distillation, or with 1 step and no rate to speak of, one with new weights."""
    if not (run / "checkpoints").exists():
        words = [given.teacher, "--data.store", given.store, "--run", str(run), "--train.steps", str(steps)]
        words += ["--student", given.student, *given.settings]
        if steps == 1:
            words += ["--optimizer.learning_rate", "1e-12"]
        unmask.pretrain(parse_general(words))
    return run


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="a task or a recipe")
    parser.add_argument("teacher", help="the pre-trained teacher")
    parser.add_argument("--train", required=True, help="file to train on")
    parser.add_argument("--dev", required=True, help="file that the runs are scored on")
    parser.add_argument("--store", required=True, help="text of general distillation, read by the teacher's tokenizer")
    parser.add_argument("--augmented", help="file of `unmask augment`, for the first stage")
    parser.add_argument("--text", help="column with the text")
    parser.add_argument("--pair", help="column with the second text")
    parser.add_argument("--label", help="column with the label")
    parser.add_argument("--examples", type=int, help="examples of the training files that are used, the first ones")
    parser.add_argument("--student", default="tinybert-4", help="recipe of the student")
    parser.add_argument("--steps", type=int, default=1000, help="steps of general distillation")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each way")
    parser.add_argument("--epochs", type=float, default=3, help="epochs of the second stage, and of fine-tuning")
    parser.add_argument("--learning-rate", type=float, default=3e-5, help="of these epochs")
    parser.add_argument("--intermediate-epochs", type=float, default=10, help="epochs of the first stage")
    parser.add_argument("--intermediate-learning-rate", type=float, default=5e-5, help="of the first stage")
    parser.add_argument("--ablation", action="store_true", help="also leave out one loss at a time")
    parser.add_argument("--out", required=True, type=Path, help="folder of the runs and of table.json")
    given, given.settings = parser.parse_known_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    teacher = tune(given, given.out / "teacher", {"model": given.teacher})
    general = student_of(given, given.out / "general", steps=given.steps)
    scratch = student_of(given, given.out / "scratch", steps=1)
    metric = teacher["metric"]
    rows: dict[str, list[float]] = {"teacher": [teacher["dev"][metric]]}
    for name, settings in ways(given, given.out / "teacher", general, scratch).items():
        folder = given.out / name.replace(", ", "-").replace(" ", "-")
        for seed in range(1, given.seeds + 1):
            scores = tune(given, folder / f"seed-{seed}", {**settings, "seed": seed})
            rows.setdefault(name, []).append(scores["dev"][metric])
            (given.out / "table.json").write_text(json.dumps({"metric": metric, "scores": rows}, indent=1) + "\n")
    last = read_evaluations(general)[-1:]
    print(f"general distillation: {last[0] if last else 'no held-out text'}")
    print(f"\n| way | {metric} | deviation | runs |\n|---|---|---|---|")
    for name, found in rows.items():
        deviation = statistics.stdev(found) if len(found) > 1 else 0.0
        print(f"| {name} | {statistics.mean(found):.2f} | {deviation:.2f} | {len(found)} |")
    (given.out / "general.yaml").write_text(
        dump_yaml(to_mapping(unmask.load_config(general / "config.yaml", saved=True)))
    )


if __name__ == "__main__":
    main()
