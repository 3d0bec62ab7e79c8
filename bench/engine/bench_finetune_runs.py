"""A recipe of fine-tuning by `unmask finetune` and by the Trainer of `transformers`: scores of each seed, and speed.

    unmask         `unmask finetune` with the recipe
    transformers   its Trainer from the same weights, on the same tokens, at the same settings (`trainer_finetune.py`)
    new weights    with --from-scratch: `unmask finetune` of the same architecture, with new weights

The model of the best dev score is scored on the test file; without a dev file, the one of the last step. Seconds are of
training alone, by the clock. Runs that are finished are not made again, so the command goes on where it stopped. Any
other option is a setting of `unmask finetune`.

    PYTHONPATH=engine:kernels:. python bench/engine/bench_finetune_runs.py mrpc MODEL --data.train train.tsv \
        --data.dev dev.tsv --seeds 5 --work FOLDER --out auto
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from bench import finetune_page, machine, pairs, record
from bench.finetune_page import NEW, OURS, STOCK
from bench.trainer_finetune import save_initial, train_theirs

import unmask
from unmask.cli._arguments import value_of
from unmask.cli.finetune import finetune_parser
from unmask.config.mappings import settings_of
from unmask.config.yaml_text import parse_yaml
from unmask.tasks.config import FinetuneConfig
from unmask.tasks.finetune import SCORES, absolute_settings
from unmask.tasks.initial_model import InitialModel
from unmask.tasks.load import finetune_yaml
from unmask.tasks.tasks import open_training_file


def split_articles(given: Path, share: float, folder: Path) -> tuple[Path, Path]:
    """Write the first `share` of the articles of a file of questions into one file, the others into another one."""
    articles = json.loads(given.read_text("utf-8"))["data"]
    count = round(share * len(articles))
    if not 0 < count < len(articles):
        sys.exit(f"bench_finetune_runs: --split-articles {share} leaves a part of {len(articles)} articles empty")
    parts = (folder / "train.json", articles[:count]), (folder / "test.json", articles[count:])
    for path, part in parts:
        path.write_text(json.dumps({"version": "1.1", "data": part}, ensure_ascii=False), "utf-8")
    return parts[0][0], parts[1][0]


def join_pairs(given: Sequence[Path], folder: Path) -> Path:
    """Write the pairs of XML files of RTE into one file."""
    whole = ElementTree.Element("entailment-corpus")
    for path in given:
        whole.extend(ElementTree.parse(path).getroot().iter("pair"))
    ElementTree.ElementTree(whole).write(folder / "train.xml", "utf-8")
    return folder / "train.xml"


def settings_and_data(given: argparse.Namespace, words: Sequence[str]) -> tuple[FinetuneConfig, str]:
    """Return the settings of the runs, after splitting or joining files, and what the data is in words."""
    values, stray = finetune_parser().known(list(words))
    if stray:
        sys.exit(f"bench_finetune_runs: unknown words {' '.join(stray)}")
    known = settings_of(FinetuneConfig)
    overrides = {name: value_of(known[name][1], text) for name, text in values.items()}
    config = absolute_settings(unmask.load_finetune_config(given.recipe, {**overrides, "model": given.model}))
    if config.data.train is None or not (given.split_articles or config.data.dev or config.data.test):
        sys.exit("bench_finetune_runs: give --data.train, and --data.dev, --data.test or --split-articles")
    file, data = Path(config.data.train), config.data
    shown = pairs.source(file)
    if given.split_articles:
        train, test = split_articles(file, given.split_articles, given.work)
        shown += f", the first {given.split_articles:.0%} of its articles; tested on the others"
        data = replace(data, train=str(train), test=str(test))
    elif given.join:
        shown = " and ".join(map(pairs.source, [file, *given.join]))
        data = replace(data, train=str(join_pairs([file, *given.join], given.work)))
    if data.train_examples:
        shown += f", the first {data.train_examples:,} examples"
    for part, path in (("dev", data.dev), ("test", None if given.split_articles else data.test)):
        shown += f"; {part} {pairs.source(path)}" if path else ""
    return replace(config, data=data), shown


def inputs_read(config: FinetuneConfig) -> int:
    """Return how many inputs a run reads: texts, sentences or windows of questions, in all of its steps."""
    task, examples = open_training_file(config, None)
    count, size = len(task.inputs(examples, InitialModel.open(config).tokenizer)), config.train.batch_size
    epochs, rest = divmod(max(1, round(config.train.epochs * -(-count // size))), -(-count // size))
    return epochs * count + rest * size


def train_ours(config: FinetuneConfig, run: Path) -> dict[str, Any]:
    """Make a run of ours, or go on with it, and return its scores with the seconds of training."""
    if not (run / SCORES).exists():
        if (run / "finetune.yaml").exists():
            unmask.finetune(resume=run)
        else:
            unmask.finetune(replace(config, run=str(run)))
    if not (run / SCORES).exists():
        sys.exit("bench_finetune_runs: stopped; the same command goes on")
    for name in ("checkpoints", "best"):
        shutil.rmtree(run / name, ignore_errors=True)
    seconds, done = 0.0, 0
    for row in map(json.loads, (run / "log.jsonl").read_text().splitlines()):
        if "seconds_per_step" in row:
            seconds += row["seconds_per_step"] * (row["step"] - done)
            done = row["step"]
    scores = json.loads((run / SCORES).read_text())
    kept = {name: scores[name] for name in ("seed", "best_step", "dev", "test", "intervals") if name in scores}
    return {**kept, "seconds": seconds}


def train_side(side: str, config: FinetuneConfig, folder: Path) -> dict[str, Any]:
    """Train a side with the seed of the settings, unless it is finished, and return its scores and seconds."""
    kept = folder / f"{side.replace(' ', '-')}-{config.seed}.json"
    if kept.exists():
        known: dict[str, Any] = json.loads(kept.read_text())
        return known
    run = kept.with_suffix("")
    initial = folder / f"initial-{side.replace(' ', '-')}-{config.seed}"
    if side == STOCK:
        # a side of theirs that did not finish begins anew
        shutil.rmtree(initial, ignore_errors=True)
        found = train_theirs(config, initial)
    else:
        if side == NEW:
            if not run.exists():
                save_initial(config, initial, new_weights=True)
            config = replace(config, model=str(initial), head=replace(config.head, new=False))
        found = train_ours(config, run)
    kept.write_text(json.dumps(found) + "\n")
    shutil.rmtree(initial, ignore_errors=True)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both sides with each seed, and write the scores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("recipe", help="a task or a recipe")
    parser.add_argument("model", help="the model to start from")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps what is finished")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each side (default: %(default)s)")
    parser.add_argument("--peer", choices=["trainer", "none"], default="trainer", help="the other side")
    parser.add_argument("--from-scratch", action="store_true", help="also train the architecture with new weights")
    parser.add_argument(
        "--split-articles",
        type=float,
        metavar="SHARE",
        help="train on the first articles of --data.train, test on the rest",
    )
    parser.add_argument("--join", type=Path, nargs="+", default=[], help="more files of RTE's XML to train on")
    parser.add_argument("--out", type=Path, help="result file to write ('auto' for bench/results)")
    given, words = parser.parse_known_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    config, data = settings_and_data(given, words)
    settings = given.work / "settings.yaml"
    if settings.exists() and settings.read_text() != finetune_yaml(config):
        sys.exit(f"bench_finetune_runs: --work {given.work} holds runs with other settings; give another folder")
    settings.write_text(finetune_yaml(config))
    # else the runs of one process would not have the threads of each other
    torch.set_num_threads(config.train.threads or torch.get_num_threads())
    sides = [OURS, *([STOCK] if given.peer == "trainer" else []), *([NEW] if given.from_scratch else [])]
    content: dict[str, Any] = {
        "finetuning": given.recipe,
        "model": pairs.source(given.model),
        "data": data,
        "metric": config.train.metric or open_training_file(config, None)[0].metric,
        "inputs": inputs_read(config),
        "settings": record.without_folders(parse_yaml(finetune_yaml(config), source="settings.yaml")),
        "command": pairs.command(__file__, sys.argv[1:] if arguments is None else arguments),
        "sides": {side: [] for side in sides},
    }
    for number in range(given.seeds):
        seeded = replace(config, seed=config.seed + number)
        # the sides take turns to be the first
        for side in sides[:: 1 if number % 2 == 0 else -1]:
            content["sides"][side].append(train_side(side, seeded, given.work))
        print(finetune_page.table([content]), flush=True)
        if given.out:
            auto = record.RESULTS / machine.name() / f"finetune-{given.recipe}.json"
            record.save(auto if str(given.out) == "auto" else given.out, record.stamp() | content)


if __name__ == "__main__":
    main()
