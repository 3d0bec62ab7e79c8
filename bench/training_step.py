"""Both training steps that are compared, ours and that of `transformers`, and the inputs that they share.

`transformers` gets the documents as its collator pads and masks them. Ours gets the same ids and the same masked
tokens, packed without the padding. `documents.py` says where documents come from. Without the package `transformers`,
NumPy draws the masks, and our step runs alone.

Batches grouped by length hold other documents of the same source: a batch is one of the sampler's, whose documents have
similar lengths. `GROUPED_UPDATES` of them, spread evenly over an epoch from its short batches to its long ones, stand
for the epoch.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench.documents import BERT_SPECIAL_IDS, Documents
from bench.transformers_step import Collator, Setting, TransformersStep, length_grouped
from torch import Tensor

from unmask.batch import PackedBatch, assemble

__all__ = [
    "FORMS",
    "GROUPED_UPDATES",
    "HAS_TRANSFORMERS",
    "MAX_LENGTH",
    "SIZES",
    "STEP_OPERATIONS",
    "GroupedInputs",
    "Size",
    "StepInputs",
    "check_agreement",
    "make_grouped",
    "make_inputs",
    "ours",
    "theirs",
]

MAX_LENGTH = 512
STEP_OPERATIONS = ("attention", "embedding", "gelu", "layer_norm", "mlm_loss")
"""The operations of `unmask_kernels` in a training step."""
FORMS = {"eager": "unmask", "compiled": "unmask, compiled", "graph": "unmask, CUDA graphs"}
"""The forms of our step, and the names of their variants: as it is, under `torch.compile`, replayed on a GPU."""
AGREEMENT = 1e-5
HAS_TRANSFORMERS = all(importlib.util.find_spec(package) is not None for package in ("transformers", "tokenizers"))
"""Whether the step of `transformers` can run here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """Sizes of a model, and `tokens`, the tokens without padding of a step that suits it on a CPU."""

    vocab: int
    layers: int
    hidden: int
    heads: int
    intermediate: int
    tokens: int


SIZES = {
    "nano": Size(vocab=2_000, layers=1, hidden=64, heads=2, intermediate=128, tokens=1024),
    "mini": Size(vocab=30_522, layers=4, hidden=256, heads=4, intermediate=1024, tokens=4096),
    "minilm": Size(vocab=30_522, layers=6, hidden=384, heads=12, intermediate=1536, tokens=2048),
    "base": Size(vocab=30_522, layers=12, hidden=768, heads=12, intermediate=3072, tokens=2048),
}
GROUPED_UPDATES = 4
"""Updates of a round of `transformers` with batches grouped by length."""
_EPOCH_BATCHES = 200
# the sampler sorts 50 batches at a time where there are four times as many, as in any corpus of real size


@dataclass(frozen=True, slots=True)
class StepInputs:
    """The documents of one step.

    Attributes:
        lengths: tokens of each document.
        padded: input_ids, attention_mask and labels for `transformers`, each (documents, longest document).
        packed: the batch for ours.
    """

    lengths: list[int]
    padded: dict[str, Tensor]
    packed: PackedBatch


@dataclass(frozen=True, slots=True)
class GroupedInputs:
    """The updates of one round of `transformers` with batches grouped by length.

    Attributes:
        padded: the batch of each update, from short documents to long ones.
        real_tokens: tokens without padding of all of them.
    """

    padded: list[dict[str, Tensor]]
    real_tokens: int


def make_inputs(
    documents: Documents, vocab: int, tokens: int, count: int, device: torch.device, multiple: int | None = None
) -> list[StepInputs]:
    """Make the inputs of `count` steps, each of other documents with exactly `tokens` tokens without padding.

    `vocab` is the model's, from which masking draws random words; `multiple` is the collator's pad_to_multiple_of.
    """
    collate = _collator(documents, vocab, multiple)
    drawn = [documents.fill(tokens, seed) for seed in range(count)]
    slots = max(map(len, drawn))
    made = []
    for seed, ids in enumerate(drawn):
        sizes = [len(document) for document in ids]
        padded = collate(ids, seed)
        packed = to_packed(padded, sizes, slots, seed).to(device)
        made.append(StepInputs(sizes, {name: value.to(device) for name, value in padded.items()}, packed))
    return made


def make_grouped(
    documents: Documents, vocab: int, batch: int, count: int, device: torch.device, multiple: int | None = None
) -> list[GroupedInputs]:
    """Make the batches of `count` rounds, of `batch` documents each, as `LengthGroupedSampler` makes them."""
    collate = _collator(documents, vocab, multiple)
    pool = documents.pool(batch * _EPOCH_BATCHES, 0)
    batches = length_grouped(pool.lengths, min(batch, len(pool.lengths)), 0)
    batches.sort(key=lambda chosen: sum(pool.lengths[index] for index in chosen))
    made = []
    for round_ in range(count):
        # each round has one batch of each quarter of the epoch; all rounds together cover every quarter evenly
        shares = [(part + (round_ + 0.5) / count) / GROUPED_UPDATES for part in range(GROUPED_UPDATES)]
        chosen = [batches[int(share * len(batches))] for share in shares]
        padded = [collate(pool.read(indices), round_) for indices in chosen]
        real = sum(pool.lengths[index] for indices in chosen for index in indices)
        made.append(GroupedInputs([{name: value.to(device) for name, value in one.items()} for one in padded], real))
    return made


def _collator(
    documents: Documents, vocab: int, multiple: int | None
) -> Callable[[Sequence[list[int]], int], dict[str, Tensor]]:
    if HAS_TRANSFORMERS:
        return Collator(vocab, multiple, documents.special_ids)
    return partial(collate_with_numpy, vocab=vocab, special_ids=documents.special_ids)


def collate_with_numpy(
    ids: Sequence[list[int]], seed: int, *, vocab: int, special_ids: Mapping[str, int] = BERT_SPECIAL_IDS
) -> dict[str, Tensor]:
    """Pad and mask as `Collator` does, with NumPy: 15 % of the tokens between [CLS] and [SEP], 80/10/10."""
    random = np.random.Generator(np.random.PCG64(seed))
    lengths = np.array([len(document) for document in ids])
    column = np.arange(lengths.max())
    ordinary = (column > 0) & (column < lengths[:, None] - 1)  # neither [CLS] nor [SEP]
    real = column < lengths[:, None]
    padded = np.full(real.shape, special_ids["[PAD]"], dtype=np.int64)
    padded[real] = np.concatenate([np.asarray(document) for document in ids])
    chosen = ordinary & (random.random(real.shape) < 0.15)
    labels = np.where(chosen, padded, -100)
    kind = random.random(real.shape)
    padded[chosen & (kind < 0.8)] = special_ids["[MASK]"]
    swapped = chosen & (kind >= 0.9)
    padded[swapped] = random.integers(vocab, size=int(swapped.sum()))
    arrays = {"input_ids": padded, "attention_mask": real.astype(np.int64), "labels": labels}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def to_packed(padded: dict[str, Tensor], lengths: Sequence[int], slots: int, seed: int) -> PackedBatch:
    """Pack the collator's batch: the same ids and the same masked tokens, without padding."""
    real = padded["attention_mask"].bool()
    labels = padded["labels"][real].numpy()
    masked = np.flatnonzero(labels != -100)
    tokens = int(real.sum())
    return assemble(
        padded["input_ids"][real].numpy(),
        np.array(lengths),
        keys=np.arange(len(lengths), dtype=np.int64) + (seed << 32),
        tokens=tokens,
        sequences=slots,
        max_seqlen=MAX_LENGTH,
        masked=masked,
        labels=labels[masked],
        # as in a run, where the capacity is fixed and slightly above every count
        masked_capacity=-(-len(masked) // 64) * 64,
    )


def ours(
    size: Size,
    dropout: float,
    dtype: torch.dtype,
    device: torch.device,
    *,
    all_rows: bool = False,
    form: str = "eager",
) -> Callable[[PackedBatch], Tensor]:
    """Make our training step of a newly initialised model; it returns the loss.

    With `all_rows` the last layer computes all rows instead of the masked ones only. `form` is one of `FORMS`.
    """
    from unmask.config import OptimizerConfig
    from unmask.objectives import build_objectives
    from unmask.train.graphs import GraphedStep
    from unmask.train.optim import build_optimizer
    from unmask.train.step import TrainingStep

    model = copy.deepcopy(_initialised(size, dropout, dtype)).to(device).train()
    step = TrainingStep(
        model=model,
        objectives=build_objectives({"mlm": 1.0}),
        optimizer=build_optimizer(model, OptimizerConfig(learning_rate=1e-4)),
        clip_norm=1.0,
        all_rows=all_rows,
        compiles=form == "compiled",
    )
    call = GraphedStep(step, required=True) if form == "graph" else step
    return lambda batch: call([batch]).loss


@lru_cache(maxsize=1)
def _initialised(size: Size, dropout: float, dtype: torch.dtype) -> Any:
    """Initialise a model, once for each size: drawing its weights takes seconds, copying them almost no time."""
    from unmask.model import EncoderConfig, PretrainingModel

    config = EncoderConfig(
        vocab_size=size.vocab,
        hidden_size=size.hidden,
        num_layers=size.layers,
        num_heads=size.heads,
        intermediate_size=size.intermediate,
        max_positions=MAX_LENGTH,
        hidden_dropout=dropout,
        attention_dropout=dropout,
    )
    return PretrainingModel(config, heads=("mlm",), compute_dtype=dtype, seed=0)


def theirs(size: Size, dropout: float, setting: Setting, device: torch.device, pad_id: int = 0) -> TransformersStep:
    """Make the training step of `transformers`."""
    sizes = {name: value for name, value in asdict(size).items() if name != "tokens"}
    return TransformersStep.build(
        **sizes, max_length=MAX_LENGTH, dropout=dropout, setting=setting, device=device, pad_id=pad_id
    )


def check_agreement(size: Size, inputs: StepInputs, device: torch.device, pad_id: int = 0) -> float:
    """Compare the two losses with the same weights and batch, in fp32 without dropout.

    Returns:
        Their relative difference.
    Raises:
        AssertionError: it is above `AGREEMENT`; then nothing may be timed.
    """
    from unmask.model import PretrainingModel
    from unmask.objectives import build_objectives, score_batch

    peer = theirs(size, 0.0, Setting(torch.float32, "sdpa"), device, pad_id)
    with peer.saved() as folder:
        model = PretrainingModel.from_pretrained(Path(folder)).to(device).train()
    with torch.no_grad():
        (tally,) = score_batch(model, build_objectives({"mlm": 1.0}), inputs.packed)
        loss, expected = float(tally.loss_sum / tally.count), float(peer.loss(inputs.padded))
    difference = abs(loss - expected) / expected
    assert difference <= AGREEMENT, f"bench_step: the losses must agree within {AGREEMENT}, got {loss} and {expected}"
    return difference
