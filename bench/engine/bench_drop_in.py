"""A model of `transformers` as it is and with `unmask.drop_in`: training steps a second, and losses with dropout.

    classify    fine-tuning on texts with classes: the same batches, padded as the Trainer pads them, in random order
                and grouped by length; both sides have dropout, fused AdamW and clipping
    mlm         masked-LM training in the Trainer: real tokens a second, with the collator of transformers and batches
                grouped by length, and with PackedCollator and drop_in
    dropout     fine-tuning with dropout over several seeds: the mean and the deviation of the last losses

A round times both sides, one after the other. A ratio is of times of the processor in one round, and the median over
the rounds counts. Losses are compared first, without dropout. Rows of a file are a text and its class, with a heading;
of a file of JSON lines, each paragraph is a text.

    PYTHONPATH=engine:kernels:. python bench/engine/bench_drop_in.py classify MODEL train.tsv --out auto
    PYTHONPATH=engine:kernels:. python bench/engine/bench_drop_in.py mlm MODEL docs.jsonl --text text --out auto
    PYTHONPATH=engine:kernels:. python bench/engine/bench_drop_in.py dropout MODEL train.tsv --steps 60 --out auto
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench import pairs
from bench.pairs import Pair, Seconds, timed
from bench.transformers_step import length_grouped

import unmask

AGREEMENT = 1e-5


def read_rows(path: Path, text: str, label: str, count: int) -> tuple[list[str], list[str]]:
    """Return texts and their classes; of a file of JSON lines the paragraphs, without classes."""
    lines = path.read_text("utf-8").splitlines()
    if path.suffix == ".jsonl":
        paragraphs = [one.strip() for line in lines for one in json.loads(line)[text].split("\n\n")]
        return [one for one in paragraphs if one][:count], []
    names = lines[0].split("\t")
    rows = [dict(zip(names, line.split("\t"), strict=False)) for line in lines[1 : count + 1]]
    return [row[text] for row in rows], [row[label] for row in rows]


def load(given: argparse.Namespace, head: str, **options: Any) -> tuple[Any, Any]:
    """Return the model with a new head and with dropout, and a copy with `drop_in`."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    rates = {"hidden_dropout_prob": given.dropout, "attention_probs_dropout_prob": given.dropout}
    torch.manual_seed(0)
    model = getattr(transformers, head).from_pretrained(given.model, **rates, **options)
    return model, unmask.drop_in(copy.deepcopy(model))


def check_agreement(models: Sequence[Any], batch: dict[str, torch.Tensor]) -> None:
    """Print the relative difference of the losses without dropout; an error if it is above `AGREEMENT`."""
    with torch.no_grad():
        expected, found = (float(model.eval()(**batch).loss) for model in models)
    difference = abs(found - expected) / expected
    assert difference <= AGREEMENT, f"the losses must agree within {AGREEMENT}, got {found} and {expected}"
    print(f"losses differ by {difference:.1e}", flush=True)


class Classifier:
    """Fine-tuning steps of one model."""

    def __init__(self, model: Any, examples: list[dict[str, Any]], tokenizer: Any, rate: float) -> None:
        from transformers import DataCollatorWithPadding

        self.model, self.examples, self.collate = model.train(), examples, DataCollatorWithPadding(tokenizer)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=rate, fused=True)

    def batch(self, numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        return dict(self.collate([self.examples[number] for number in numbers]))

    def __call__(self, numbers: Sequence[int]) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.model(**self.batch(numbers)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def train(self, batches: Sequence[Sequence[int]]) -> list[float]:
        return [self(batch) for batch in batches]


def classifiers(given: argparse.Namespace) -> tuple[list[Classifier], list[int]]:
    """Return the steps of both sides, and the lengths of the examples."""
    from transformers import AutoTokenizer

    texts, classes = read_rows(given.data, given.text, given.label, given.examples)
    kinds = sorted(set(classes))
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    encoded = tokenizer(texts, truncation=True, max_length=given.length)["input_ids"]
    examples = [{"input_ids": ids, "labels": kinds.index(kind)} for ids, kind in zip(encoded, classes, strict=True)]
    models = load(given, "AutoModelForSequenceClassification", num_labels=len(kinds))
    sides = [Classifier(model, examples, tokenizer, given.learning_rate) for model in models]
    check_agreement(models, sides[0].batch(range(given.batch)))
    for side in sides:
        side.model.train()
    return sides, [len(ids) for ids in encoded]


def random_batches(count: int, size: int, seed: int) -> list[list[int]]:
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return [order[at : at + size] for at in range(0, count - size + 1, size)]


def in_words(given: argparse.Namespace, model: Any, lengths: Sequence[int]) -> str:
    """Return the setting of both sides."""
    return (
        f"{pairs.in_words(model)}, dropout {given.dropout:g}; {pairs.source(given.data)}: {len(lengths)} texts of "
        f"{statistics.mean(lengths):.1f} tokens, cut to {given.length}; {given.steps} steps of {given.batch}"
    )


def classify(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Time fine-tuning steps, and return the rows."""
    (theirs, ours), lengths = classifiers(given)
    orders: dict[str, Callable[[int], list[list[int]]]] = {
        "random order": lambda seed: random_batches(len(lengths), given.batch, seed),
        "grouped by length": lambda seed: length_grouped(lengths, given.batch, seed),
    }
    found = {name: Pair(task="fine-tuning of classification, drop_in", order=name) for name in orders}
    print(f"{len(lengths)} examples of {statistics.mean(lengths):.1f} tokens, {torch.get_num_threads()} threads")
    for at in range(given.rounds + 1):
        for name, batches_of in orders.items():
            batches = batches_of(at)[: given.steps]
            slow, fast = (timed(partial(side.train, batches)) for side in (theirs, ours))
            count = len(batches) * given.batch
            rates = count / slow.processor, count / fast.processor
            print(f"round {at}, {name}: examples/s {rates[0]:.1f}, with drop_in {rates[1]:.1f}", flush=True)
            # the first round warms up
            if at:
                found[name].add(slow, fast, count=count)
    print(*found.values(), sep="\n")
    setting = in_words(given, theirs.model, lengths)
    return [row for pair in found.values() for row in pair.rows(setting, given.command)]


def mlm(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Time masked-LM training in the Trainer, and return the rows."""
    from transformers import AutoTokenizer, DataCollatorForLanguageModeling, Trainer, TrainingArguments

    from unmask.hf import EpochCallback, PackedCollator

    texts, _ = read_rows(given.data, given.text, given.label, given.examples)
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    encoded = tokenizer(texts, truncation=True, max_length=given.length, return_special_tokens_mask=True)
    examples = [{name: values[row] for name, values in encoded.items()} for row in range(len(texts))]
    theirs, ours = load(given, "AutoModelForMaskedLM")
    packed = PackedCollator(tokenizer, masking="token", seed=1)
    padded = DataCollatorForLanguageModeling(tokenizer, seed=1)
    batch = padded(examples[: given.batch])
    check_agreement((theirs, ours), {name: batch[name] for name in ("input_ids", "attention_mask", "labels")})

    def run(model: Any, collator: Any, folder: str, **options: Any) -> tuple[Seconds, int]:
        """Return the seconds of a training and its real tokens."""
        tokens = 0

        def counted(some: list[dict[str, Any]]) -> Any:
            nonlocal tokens
            tokens += sum(len(one["input_ids"]) for one in some)
            return collator(some)

        arguments = TrainingArguments(
            folder,
            max_steps=given.steps,
            per_device_train_batch_size=given.batch,
            use_cpu=not torch.cuda.is_available(),
            disable_tqdm=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            remove_unused_columns=False,
            **options,
        )
        callbacks = [EpochCallback(packed)]
        trainer = Trainer(model, arguments, train_dataset=examples, data_collator=counted, callbacks=callbacks)
        return timed(trainer.train), tokens

    pair = Pair(
        task="masked LM in the Trainer, drop_in and PackedCollator",
        order="grouped by length, ours at random",
        unit="real tokens",
    )
    with tempfile.TemporaryDirectory(prefix="unmask-bench-") as folder:
        for at in range(given.rounds + 1):
            slow, read = run(theirs, padded, folder, train_sampling_strategy="group_by_length")
            fast, packed_tokens = run(ours, packed, folder)
            rates = read / slow.processor, packed_tokens / fast.processor
            print(f"round {at}: real tokens/s {rates[0]:.0f}, with drop_in {rates[1]:.0f}", flush=True)
            if at:
                pair.add(slow, fast, count=read, our_count=packed_tokens)
    print(pair)
    return pair.rows(in_words(given, theirs, [len(one["input_ids"]) for one in examples]), given.command)


def dropout(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Compare the last losses of runs with dropout, and return the rows."""
    lasts: dict[str, list[float]] = {"transformers": [], pairs.OURS: []}
    for seed in range(given.seeds):
        sides, lengths = classifiers(given)
        for name, side in zip(lasts, sides, strict=True):
            torch.manual_seed(seed)
            batches = random_batches(len(lengths), given.batch, seed)
            losses = side.train([batches[step % len(batches)] for step in range(given.steps)])
            lasts[name].append(statistics.mean(losses[-given.steps // 4 :]))
        print(f"seed {seed}: " + ", ".join(f"{name} {found[-1]:.4f}" for name, found in lasts.items()), flush=True)
    means = {name: (statistics.mean(found), statistics.stdev(found)) for name, found in lasts.items()}
    for name, (mean, deviation) in means.items():
        print(f"{name}: {mean:.4f} +- {deviation:.4f}")
    (one, d1), (other, d2) = means.values()
    error = ((d1**2 + d2**2) / given.seeds) ** 0.5
    print(f"the means differ by {abs(one - other):.4f}, {abs(one - other) / error:.1f} standard errors")
    setting = f"{in_words(given, sides[0].model, lengths)}; the losses are means of the last quarter of the steps"
    return pairs.losses("fine-tuning with dropout over seeds, drop_in", lasts, setting, given.command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of the three, and write its rows if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("classify", "mlm", "dropout"))
    parser.add_argument("model", help="folder of a BERT encoder with its tokenizer")
    parser.add_argument("data", type=Path, help="file with a heading and tabs, or of JSON lines")
    parser.add_argument("--text", default="sentence", help="column with the text")
    parser.add_argument("--label", default="label", help="column with the class")
    parser.add_argument("--examples", type=int, default=640, help="rows that are read")
    parser.add_argument("--length", type=int, default=128, help="tokens to which a text is cut")
    parser.add_argument("--batch", type=int, default=32, help="examples of a step")
    parser.add_argument("--steps", type=int, default=20, help="steps of a side and round, or of a seed")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of dropout")
    parser.add_argument("--dropout", type=float, default=0.1, help="dropout of the encoder")
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--out", type=Path, help="result file to write ('auto' for bench/results)")
    given = parser.parse_args(arguments)
    given.command = pairs.command(__file__, sys.argv[1:] if arguments is None else arguments)
    rows = {"classify": classify, "mlm": mlm, "dropout": dropout}[given.what](given)
    if given.out:
        pairs.save(given.out, f"drop-in-{given.what}", rows)


if __name__ == "__main__":
    main()
