"""A fine-tuning step beside that of `transformers`: examples a second on a file of texts, at equal settings.

    random order        batches of the same examples, padded to the longest, as the Trainer makes them by default
    grouped by length   batches of LengthGroupedSampler, of nearly equal length; those of ours are in random order

Both sides have the same weights, the same tokens, dropout, fused AdamW and clipping. Their losses are compared first,
without dropout. A round times each side once over one reading of the examples; a ratio is of times of the processor in
one round, and the median over the rounds counts. With --dev the two are also trained on the same batches and scored.

    PYTHONPATH=engine:kernels:. python bench/engine/bench_finetune.py MODEL train.tsv --text sentence --out auto
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import pairs
from bench.pairs import Pair, Seconds, timed
from bench.transformers_step import length_grouped

from unmask.config import OptimizerConfig
from unmask.model.task_model import TaskModel
from unmask.objectives import score_batch
from unmask.tasks.finetune import block_sizes
from unmask.tasks.initial_model import InitialModel
from unmask.tasks.inputs import ModelInputs, order_of_epoch
from unmask.tasks.load import load_finetune_config
from unmask.tasks.objectives import task_objective
from unmask.tasks.optimizer import set_rates, task_adamw
from unmask.tasks.outputs import outputs_of
from unmask.tasks.task import Task, head_of
from unmask.tasks.tasks import open_training_file
from unmask.train.schedule import StepSchedule
from unmask.train.step import TrainingStep
from unmask_kernels.tuned import using_values

AGREEMENT = 1e-5
ORDERS = ("random order", "grouped by length, ours at random")


class Ours:
    """Our step over packed examples."""

    def __init__(self, model: TaskModel, inputs: ModelInputs, config: Any) -> None:
        self.model, self.inputs = model.train(), inputs
        self.optimizer = task_adamw(model, config.optimizer)
        self.step = TrainingStep(
            model=model, objectives=[(task_objective(model.head.task), 1.0)], optimizer=self.optimizer
        )

    def __call__(self, batch: Sequence[int], *, rate: float, epoch: int = 0) -> float:
        set_rates(self.optimizer, rate)
        return float(self.step([self.inputs.batch(np.array(batch), epoch=epoch)]).loss)


class Theirs:
    """The step of `transformers` over padded examples."""

    def __init__(self, folder: Path, ours: TaskModel, inputs: ModelInputs, config: Any) -> None:
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        ours.save_pretrained(folder)
        self.model = transformers.BertForSequenceClassification.from_pretrained(folder, attn_implementation="sdpa")
        self.model.train()
        self.inputs = inputs
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.optimizer.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, eps=config.optimizer.eps, fused=True)

    def padded(self, inputs: ModelInputs, batch: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return inputs as its collator pads them."""
        spans = [slice(inputs.ends[one] - inputs.lengths[one], inputs.ends[one]) for one in batch]
        ids, kinds, mask = (
            torch.nn.utils.rnn.pad_sequence([torch.from_numpy(values[span]) for span in spans], batch_first=True)
            for values in (inputs.ids, inputs.segments, np.ones_like(inputs.ids))
        )
        return {"input_ids": ids, "token_type_ids": kinds, "attention_mask": mask}

    def __call__(self, batch: Sequence[int], *, rate: float, epoch: int = 0) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        assert self.inputs.targets is not None
        labels = torch.from_numpy(self.inputs.targets[np.array(batch)])
        loss = self.model(**self.padded(self.inputs, batch), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())


def check_agreement(ours: Ours, theirs: Theirs, batch: Sequence[int]) -> float:
    """Return the relative difference of both losses without dropout; an error if it is above `AGREEMENT`."""
    packed = ours.inputs.batch(np.array(batch))
    ours.model.eval(), theirs.model.eval()
    with torch.no_grad():
        (tally,) = score_batch(ours.model, ours.step.objectives, packed)
        loss = float(tally.loss_sum / tally.count)
        expected = float(theirs.model(**theirs.padded(ours.inputs, batch), labels=packed.targets).loss)
    ours.model.train(), theirs.model.train()
    difference = abs(loss - expected) / expected
    assert difference <= AGREEMENT, f"the losses must agree within {AGREEMENT}, got {loss} and {expected}"
    return difference


def in_batches(order: Sequence[int], size: int) -> list[list[int]]:
    """Return whole batches of an order."""
    return [list(order[at : at + size]) for at in range(0, len(order) - size + 1, size)]


def seconds(step: Callable[..., float], batches: Sequence[Sequence[int]]) -> Seconds:
    """Return the seconds of these batches."""
    return timed(lambda: [step(batch, rate=1e-5) for batch in batches])


def time_rounds(ours: Ours, theirs: Theirs, *, size: int, rounds: int) -> list[Pair]:
    """Print examples a second and ratios of each round, and their medians; return both orders."""
    count, lengths = len(ours.inputs), ours.inputs.lengths.tolist()
    pair = {order: Pair(task="fine-tuning of classification, `unmask finetune`", order=order) for order in ORDERS}
    for at in range(rounds + 1):
        batches = in_batches(order_of_epoch(count, seed=1, epoch=at).tolist(), size)
        taken = seconds(ours, batches)
        peers = [seconds(theirs, batches), seconds(theirs, length_grouped(lengths, size, at))]
        read = len(batches) * size
        shown = ", ".join(f"{name} {read / one.processor:.1f}" for name, one in zip(ORDERS, peers, strict=True))
        print(f"round {at}: examples/s ours {read / taken.processor:.1f}, transformers {shown}", flush=True)
        # the first round warms up
        for order, one in zip(ORDERS, peers, strict=True) if at else ():
            pair[order].add(one, taken, count=read)
    print(*pair.values(), sep="\n")
    return [*pair.values()]


def train_both(ours: Ours, theirs: Theirs, task: Task, dev: Path, config: Any, tokenizer: Any, size: int) -> None:
    """Train both on the same batches and print both accuracies."""
    count = len(ours.inputs) // size
    steps = round(config.train.epochs * count)
    rates = OptimizerConfig(learning_rate=config.optimizer.learning_rate, warmup_steps=round(0.1 * steps))
    schedule = StepSchedule(rates, steps)
    for done in range(steps):
        epoch, place = divmod(done, count)
        batch = in_batches(order_of_epoch(len(ours.inputs), seed=config.seed, epoch=epoch).tolist(), size)[place]
        for step in (ours, theirs):
            step(batch, rate=schedule(done), epoch=epoch)
    examples = task.read(dev)
    inputs = task.inputs(examples, tokenizer)
    scores = task.scores(task.predictions(outputs_of(ours.model, inputs), inputs, examples), examples)
    theirs.model.eval()
    assert inputs.targets is not None
    right = 0
    with torch.no_grad():
        for some in inputs.cut(np.argsort(inputs.lengths), 4096):
            predicted = theirs.model(**theirs.padded(inputs, some.tolist())).logits.argmax(-1).numpy()
            right += int((predicted == inputs.targets[some]).sum())
    ours_right, theirs_right = scores.values["accuracy"], 100 * right / len(inputs)
    print(f"accuracy after {steps} steps: ours {ours_right:.2f}, transformers {theirs_right:.2f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Time both and print the ratios."""
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a BERT encoder")
    parser.add_argument("train", help="file with texts and classes")
    parser.add_argument("--text", default="text", help="column with the text")
    parser.add_argument("--label", default="label", help="column with the class")
    parser.add_argument("--examples", type=int, default=640, help="examples that are read")
    parser.add_argument("--batch", type=int, default=32, help="examples of a step")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds")
    parser.add_argument("--dropout", type=float, default=0.1, help="dropout of the encoder")
    parser.add_argument("--dev", help="file to score both on, after three epochs of training")
    parser.add_argument("--learning-rate", type=float, default=5e-5, help="of that training")
    parser.add_argument("--out", type=Path, help="result file to write ('auto' for bench/results)")
    given = parser.parse_args(arguments)
    settings = {
        "model": given.model,
        "data": {"train": given.train, "text": given.text, "label": given.label, "train_examples": given.examples},
        "head.encoder_dropout": given.dropout,
        "optimizer.learning_rate": given.learning_rate,
    }
    config = load_finetune_config("classification", settings)
    initial = InitialModel.open(config)
    task, examples = open_training_file(config, None)
    model = initial.build(head_of(task, config, given.dropout), config=config, dtype=torch.float32)
    inputs = task.inputs(examples, initial.tokenizer)
    with tempfile.TemporaryDirectory(prefix="unmask-peer-") as folder, using_values(block_sizes(model, inputs)):
        theirs = Theirs(Path(folder), model, inputs, config)
        ours = Ours(model, inputs, config)
        mean = inputs.lengths.mean()
        print(f"{len(inputs)} examples of {mean:.1f} tokens, {torch.get_num_threads()} threads", flush=True)
        print(f"losses differ by {check_agreement(ours, theirs, range(min(given.batch, len(inputs)))):.1e}", flush=True)
        if given.dev is not None:
            train_both(ours, theirs, task, Path(given.dev), config, initial.tokenizer, given.batch)
        found = time_rounds(ours, theirs, size=given.batch, rounds=given.rounds)
    if given.out:
        setting = (
            f"{pairs.in_words(theirs.model)}, dropout {given.dropout:g}; {pairs.source(given.train)}: {len(inputs)} "
            f"texts of {mean:.1f} tokens; batches of {given.batch}"
        )
        command = pairs.command(__file__, sys.argv[1:] if arguments is None else arguments)
        pairs.save(given.out, "finetune", [row for pair in found for row in pair.rows(setting, command)])


if __name__ == "__main__":
    main()
