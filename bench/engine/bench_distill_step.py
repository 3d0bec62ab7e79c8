"""A step that learns the layers of a teacher, beside the way of the public recipe: examples a second.

    ours      documents one after the other, losses of attention without a matrix of scores
    plain     the recipe in plain PyTorch: examples padded to the maximum length, scores of both models in memory,
              mean squared errors over the padded square, one projection for all states

Both sides have the same weights, losses, AdamW and clipping, without dropout. First their losses are compared on
examples of the maximum length, where nothing is padded. A round times each side once over the same examples; a ratio is
of times of the processor in one round, and the median over the rounds counts.

    PYTHONPATH=engine:kernels:. python bench/engine/bench_distill_step.py TEACHER train.tsv --text sentence --out auto
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from bench import pairs
from bench.pairs import Pair, Seconds, timed
from torch import Tensor

from unmask.config import EncoderConfig
from unmask.config.distillation import DistillationConfig
from unmask.distillation.objectives import learn_states
from unmask.distillation.student import Student
from unmask.distillation.teacher import TeacherFolder
from unmask.model import Encoder
from unmask.tasks.inputs import ModelInputs, order_of_epoch
from unmask.tasks.load import load_finetune_config
from unmask.tasks.tasks import open_training_file
from unmask.train.step import TrainingStep

AGREEMENT = 1e-4


def padded_states(encoder: Encoder, ids: Tensor, kinds: Tensor, real: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return hidden states, (B, L, D) each, and scores before the softmax, (B, H, L, L) each, in plain PyTorch.

    Masked scores are 0 in what is returned, as the recipe compares them.
    """
    tables, config = encoder.embeddings, encoder.config
    batch, length = ids.shape
    x = tables.word(ids) + tables.position.weight[:length] + tables.segment(kinds)
    x = F.layer_norm(x, x.shape[-1:], tables.norm.weight, tables.norm.bias, tables.norm.eps)
    states, scores = [x], []
    hidden = ~real[:, None, None, :]
    for layer in encoder.layers:
        qkv = F.linear(x, layer.qkv.weight, layer.qkv.bias).view(batch, length, 3, config.num_heads, config.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        score = q @ k.mT / config.head_dim**0.5
        scores.append(score.masked_fill(hidden, 0.0))
        weights = score.masked_fill(hidden, float("-inf")).softmax(-1)
        context = (weights @ v).transpose(1, 2).reshape(batch, length, -1)
        z = F.linear(context, layer.attention_output.weight, layer.attention_output.bias)
        norm = layer.attention_norm
        x = F.layer_norm(x + z, x.shape[-1:], norm.weight, norm.bias, norm.eps)
        z = F.linear(F.gelu(F.linear(x, layer.up.weight, layer.up.bias)), layer.down.weight, layer.down.bias)
        x = F.layer_norm(x + z, x.shape[-1:], layer.norm.weight, layer.norm.bias, layer.norm.eps)
        states.append(x)
    return states, scores


class Plain:
    """The step of the recipe."""

    def __init__(self, student: Student, teacher: Encoder, inputs: ModelInputs, *, length: int) -> None:
        self.student, self.teacher, self.inputs, self.length = student, teacher, inputs, length
        self.every = teacher.config.num_layers // student.config.num_layers
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=1e-6, fused=True)

    def loss(self, batch: Sequence[int]) -> Tensor:
        """Return the summed losses of a padded batch."""
        spans = [slice(self.inputs.ends[one] - self.inputs.lengths[one], self.inputs.ends[one]) for one in batch]
        ids, kinds, real = (torch.zeros(len(batch), self.length, dtype=torch.int64) for _ in range(3))
        for row, span in enumerate(spans):
            size = span.stop - span.start
            ids[row, :size] = torch.from_numpy(self.inputs.ids[span])
            kinds[row, :size] = torch.from_numpy(self.inputs.segments[span])
            real[row, :size] = 1
        with torch.no_grad():
            their_states, their_scores = padded_states(self.teacher, ids, kinds, real > 0)
        states, scores = padded_states(self.student.encoder, ids, kinds, real > 0)
        weight, bias = self.student.projections.of("hidden")
        every = self.every
        loss = sum(
            F.mse_loss(F.linear(one, weight, bias), their_states[every * place]) for place, one in enumerate(states)
        )
        attention = sum(F.mse_loss(one, their_scores[every * (place + 1) - 1]) for place, one in enumerate(scores))
        return torch.as_tensor(loss + attention)

    def __call__(self, batch: Sequence[int]) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(batch).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()


def seconds(step: Callable[[Sequence[int]], object], batches: Sequence[Sequence[int]]) -> Seconds:
    """Return the seconds of these batches."""
    return timed(lambda: [step(batch) for batch in batches])


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare both sides, time them and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", help="folder of a BERT encoder")
    parser.add_argument("train", help="file with texts and classes")
    parser.add_argument("--text", default="text", help="column with the text")
    parser.add_argument("--label", default="label", help="column with the class")
    parser.add_argument("--layers", type=int, default=2, help="layers of the student")
    parser.add_argument("--width", type=int, help="width of the student (default: the teacher's)")
    parser.add_argument("--length", type=int, default=64, help="maximum length, to which the recipe pads")
    parser.add_argument("--examples", type=int, default=128, help="examples that are read")
    parser.add_argument("--batch", type=int, default=32, help="examples of a step")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds")
    parser.add_argument("--out", type=Path, help="result file to write ('auto' for bench/results)")
    given = parser.parse_args(arguments)
    device = torch.device("cpu")
    folder = TeacherFolder.open(given.teacher)
    teacher = folder.encoder(dtype=torch.float32, device=device)
    sizes, width = folder.sizes, given.width or folder.sizes.hidden_size
    config = EncoderConfig(
        vocab_size=sizes.token_rows,
        hidden_size=width,
        num_layers=given.layers,
        num_heads=sizes.num_heads,
        intermediate_size=4 * width,
        max_positions=sizes.max_positions,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation=sizes.activation,
        layer_norm_eps=sizes.layer_norm_eps,
    )
    student = Student(config).train()
    objectives = learn_states(student, teacher, DistillationConfig(projection="shared"), seed=0)
    columns = {"text": given.text, "label": given.label, "train": given.train, "train_examples": given.examples}
    task, examples = open_training_file(
        load_finetune_config("classification", {"data": columns, "input.max_length": given.length}), None
    )
    inputs = task.inputs(examples, folder.tokenizer)
    plain = Plain(student, teacher.encoder, inputs, length=given.length)
    step = TrainingStep(
        model=student, objectives=objectives, optimizer=torch.optim.AdamW(student.parameters(), lr=1e-6, fused=True)
    )

    full = ModelInputs.of([[5] * given.length] * 2, None, range(2))
    _, sums, _ = step.accumulate([full.batch(np.arange(2))])
    counts = torch.stack([objective.count(full.batch(np.arange(2))).float() for objective, _ in objectives])
    ours = float((sums / counts).sum())
    theirs = float(Plain(student, teacher.encoder, full, length=given.length).loss([0, 1]).detach())
    assert abs(ours - theirs) <= AGREEMENT * theirs, f"the losses must agree within {AGREEMENT}, got {ours}, {theirs}"
    print(f"losses of full examples differ by {abs(ours - theirs) / theirs:.1e}")

    def packed(batch: Sequence[int]) -> object:
        return step([inputs.batch(np.array(batch))])

    print(f"mean length {inputs.lengths.mean():.1f} of {given.length}, {sizes.num_layers} layers teach {given.layers}")
    pair = Pair(task="step of distillation of layers", order="random order", stock="the plain recipe")
    for at in range(given.rounds + 1):
        order = order_of_epoch(len(inputs), seed=1, epoch=at).tolist()
        batches = [order[place : place + given.batch] for place in range(0, len(order) - given.batch + 1, given.batch)]
        count = len(batches) * given.batch
        mine, others = seconds(packed, batches), seconds(plain, batches)
        rates = count / mine.processor, count / others.processor
        print(f"round {at}: examples/s ours {rates[0]:.1f}, plain {rates[1]:.1f}", flush=True)
        # the first round warms up
        if at:
            pair.add(others, mine, count=count)
    print(pair)
    if given.out:
        setting = (
            f"BERT of {sizes.num_layers} layers, hidden {sizes.hidden_size}, teaches {given.layers} layers, hidden "
            f"{width}, float32, without dropout; stock side: the recipe in plain PyTorch, padded to {given.length}; "
            f"{pairs.source(given.train)}: {len(inputs)} texts of {inputs.lengths.mean():.1f} tokens; batches of "
            f"{given.batch}"
        )
        command = pairs.command(__file__, sys.argv[1:] if arguments is None else arguments)
        pairs.save(given.out, "distill-step", pair.rows(setting, command))


if __name__ == "__main__":
    main()
