"""Sentence order prediction learns an order that the text shows, from text to a held-out accuracy."""

import json
import random
from pathlib import Path

import pytest

from unmask.cli import main
from unmask.train.logging.log import read_evaluations

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
NUMBERS += ["eleven", "twelve", "thirteen", "fourteen"]
NOUNS = ["river", "cat", "miller", "boat", "fox", "ship", "tree", "house", "road", "bird"]


@pytest.mark.slow
def test_numbered_sentences_are_put_in_order(tmp_path: Path) -> None:
    draw = random.Random(0)
    with (tmp_path / "docs.jsonl").open("w", encoding="utf-8") as out:
        for _ in range(3000):
            first, count = draw.randint(0, 6), draw.randint(4, 9)
            sentences = [
                f"Part {NUMBERS[first + i]} tells of the {draw.choice(NOUNS)} and the {draw.choice(NOUNS)}."
                for i in range(count)
            ]
            out.write(json.dumps({"text": " ".join(sentences)}) + "\n")
    store, run = str(tmp_path / "store"), tmp_path / "run"
    assert main(["prepare", "--input", str(tmp_path / "docs.jsonl"), "--vocab-size", "200", "--out", store]) == 0
    settings = {
        "--data.store": store,
        "--composition.strategy": "pairs",
        "--stream.max_length": "64",
        "--stream.held_out_fraction": "0.05",
        "--objective.sop": "1",
        "--train.steps": "500",
        "--optimizer.warmup_steps": "50",
        "--optimizer.learning_rate": "1e-3",
        "--train.evaluate-every": "500",
    }
    words = [word for setting in settings.items() for word in setting]
    assert main(["pretrain", "--run", str(run), *words]) == 0
    assert read_evaluations(run)[-1]["sop_accuracy"] > 0.8  # a coin has 0.5
