"""What the examples for other libraries share: reviews in two classes, a small BERT, and two speeds side by side.

Texts, tokenizer and weights are made here, so that an example needs no network. A review has one to forty sentences,
and about half of a padded batch is padding.
"""

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

import unmask
from unmask.data.tokenizer import Tokenizer

THINGS = ["the room", "the food", "the view", "the music", "our table", "the lake", "the walk", "the old bridge"]
WORDS = (["awful", "cold", "loud", "dull", "sad"], ["lovely", "warm", "calm", "bright", "kind"])
MAX_LENGTH = 256


def reviews(count: int, seed: int = 0) -> list[tuple[str, int]]:
    """Return texts and their classes: 1 where most words are kind."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        label = chance.randrange(2)
        sentences = []
        for _ in range(min(40, 1 + int(chance.expovariate(1 / 8)))):
            word = chance.choice(WORDS[label if chance.random() < 0.8 else 1 - label])
            sentences.append(f"{chance.choice(THINGS)} was {word} .")
        made.append((" ".join(sentences), label))
    return made


def small_bert(folder: Path) -> Path:
    """Write a tokenizer and a BERT of 4 layers with random weights to a folder."""
    tokenizer = Tokenizer.train([text for text, _ in reviews(200)], vocab_size=200)
    tokenizer.save(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=768,
        max_position_embeddings=MAX_LENGTH,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def examples(tokenizer: Any, count: int) -> list[dict[str, Any]]:
    """Return reviews as a tokenizer of transformers reads them, with labels."""
    return [
        {**tokenizer(text, truncation=True, max_length=MAX_LENGTH), "labels": label} for text, label in reviews(count)
    ]


def arguments(description: str, given: list[str] | None) -> argparse.Namespace:
    """Read the arguments that all examples have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a BERT and its tokenizer (default: a new small one)")
    parser.add_argument("--out", type=Path, default=Path("runs/example"), help="folder to make (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="texts of a step (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="steps of each training (default: %(default)s)")
    read = parser.parse_args(given)
    read.out.mkdir(parents=True, exist_ok=True)
    read.model = read.model or small_bert(read.out / "bert")
    return read


def classifier(folder: Path) -> tuple[Any, Any]:
    """Return the tokenizer of a folder, and a function that makes its BERT with a classifier of two classes."""

    def make() -> BertForSequenceClassification:
        torch.manual_seed(0)
        return BertForSequenceClassification.from_pretrained(folder, num_labels=2)

    return AutoTokenizer.from_pretrained(folder), make


def compare(make: Callable[[], Any], work: Callable[[Any, int], float], *, steps: int, texts: int) -> float:
    """Do the same work with the stock encoder and with that of unmask; print both speeds and return their ratio.

    Args:
        make: makes the model.
        work: works with a model for a number of steps, and returns what is printed beside the speed.
        steps: how many; two steps before do not count.
        texts: of a step.
    """
    speeds = {}
    for name in ("stock", "unmask"):
        model = make()
        if name == "unmask":
            unmask.drop_in(model)
        work(model, 2)
        began = time.perf_counter()
        result = work(model, steps)
        speeds[name] = steps * texts / (time.perf_counter() - began)
        print(f"{name:>6}: {speeds[name]:8.1f} texts/s, result {result:.4f}", flush=True)
    ratio = speeds["unmask"] / speeds["stock"]
    print(f"the encoder of unmask is {ratio:.2f} times as fast")
    return ratio
