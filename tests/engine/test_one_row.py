"""A packed batch in the hands of other libraries: whole in one process, refused by name in several."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.data import DataLoader, IterableDataset

import unmask
from unmask import Encoder, EncoderConfig, PackedBatch, PretrainingModel, pack
from unmask.batch import Cursor
from unmask_kernels import Documents

accelerate = pytest.importorskip("accelerate")
operations = pytest.importorskip("accelerate.utils.operations")
CONFIG = EncoderConfig(vocab_size=60, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, max_positions=24)
DOCUMENTS = [[2, 5, 6, 7, 3], [2, 8, 3], [2, 9, 3]]


def a_batch(number: int = 0, **fields: Any) -> PackedBatch:
    batch = pack([[2, 5 + number, *([7] * number), 3], *DOCUMENTS], keys=range(4))
    masked, labels = torch.tensor([1, 0, 0]), torch.tensor([9, -100, -100])
    return replace(batch, masked=masked, labels=labels, cursor=Cursor(0, 1, number), **fields)


def leaves(batch: PackedBatch) -> list[Any]:
    return list(tree_flatten(batch)[0])


def same(got: PackedBatch, expected: PackedBatch) -> None:
    for one, other in zip(leaves(got), leaves(expected), strict=True):
        assert type(one) is type(other)
        assert torch.equal(one, other) if isinstance(other, torch.Tensor) else one == other


class Stream(IterableDataset[PackedBatch]):
    def __iter__(self) -> Iterator[PackedBatch]:
        return (a_batch(number) for number in range(6))


def test_a_batch_is_a_pytree_of_its_tensors_and_numbers() -> None:
    batch = a_batch()
    found, spec = tree_flatten(batch)
    assert any(value is batch.documents.tiles for value in found)
    same(tree_unflatten(found, spec), batch)
    doubled = tree_map(lambda value: value * 2 if isinstance(value, torch.Tensor) else value, batch)
    assert torch.equal(doubled.ids, batch.ids * 2) and doubled.word_starts is None and doubled.cursor == Cursor(0, 1, 0)


def test_as_a_mapping_each_tensor_is_one_row_and_nothing_is_lost() -> None:
    batch = a_batch()
    assert batch["ids"].shape == (1, len(batch.ids)) and torch.equal(batch["ids"][0], batch.ids)
    assert batch["documents"]["cu_seqlens"].shape == (1, 5)
    assert batch["max_seqlen"] == 5 and "word_starts" not in batch and "keys" not in batch
    assert len(batch) == len(list(batch)) == len(dict(batch)) == 9
    same(PackedBatch(dict(batch)), batch)
    same(PackedBatch(batch), batch)
    with pytest.raises(KeyError):
        batch["word_starts"]


def test_a_batch_is_equal_to_itself_only_and_can_be_copied_and_pickled() -> None:
    batch = a_batch()
    assert batch == batch and batch != a_batch() and len({batch, a_batch()}) == 2
    for again in (pickle.loads(pickle.dumps(batch)), copy.deepcopy(batch), replace(batch)):
        same(again, batch)
    with pytest.raises(AttributeError):
        batch.ids = batch.ids  # type: ignore[misc]


def test_a_part_that_is_missing_or_unknown_is_named() -> None:
    values = {name: getattr(a_batch(), name) for name in PackedBatch.__dataclass_fields__}
    with pytest.raises(TypeError, match="segments must be given"):
        PackedBatch(**{name: value for name, value in values.items() if name != "segments"})
    with pytest.raises(TypeError, match="weights is no part of a batch; leave it out, a batch has ids, documents"):
        PackedBatch(**values, weights=1)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_one_process_gets_a_batch_whole_whatever_size_accelerate_cuts_to(size: int) -> None:
    batch = a_batch()
    assert operations.find_batch_size(batch) == 1
    around = {"classes": torch.zeros(size), "batch": batch}
    same(operations.slice_tensors(around, slice(0, size))["batch"], batch)
    same(operations.concatenate([batch]), batch)
    same(operations.recursively_apply(torch.clone, batch), batch)
    same(operations.send_to_device(batch, torch.device("cpu")), batch)


@pytest.mark.parametrize("whole", [True, False])
def test_accelerate_gives_the_batches_of_a_streaming_dataset_as_they_are(whole: bool) -> None:
    """A DataLoader of whole batches, and one that collates a list of one batch, as the Trainer's."""
    loader: DataLoader[Any] = (
        DataLoader(Stream(), batch_size=None)
        if whole
        else DataLoader(Stream(), 1, collate_fn=lambda batches: batches[0])
    )
    for number, batch in enumerate(accelerate.Accelerator(cpu=True).prepare(loader)):
        assert isinstance(batch, PackedBatch)
        same(batch, a_batch(number))
    assert number == 5


def of_rank(rank: int) -> list[PackedBatch]:
    """The batches of one of two processes that load their own."""
    from accelerate.data_loader import prepare_data_loader

    loader = DataLoader(Stream(), 1, collate_fn=lambda batches: batches[0])
    return list(prepare_data_loader(loader, num_processes=2, process_index=rank, dispatch_batches=False))


def test_batches_that_several_processes_would_share_are_refused_and_the_advice_works() -> None:
    message = r"PackedBatch: a batch must stay by itself, but a loader {}; set dispatch_batches=False"
    with pytest.raises(ValueError, match=message.format("joined 2 of them")):
        operations.concatenate([a_batch(), a_batch()])
    with pytest.raises(ValueError, match=message.format("divided it among processes")):
        operations.slice_tensors(a_batch(), slice(0, 0))
    parts = [of_rank(rank) for rank in (0, 1)]
    assert [len(part) for part in parts] == [3, 3]
    for place, part in enumerate(parts):
        for step, batch in enumerate(part):
            same(batch, a_batch(2 * step + place))


def test_a_batch_that_accelerate_describes_to_another_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    same(operations.concatenate([a_batch()]), a_batch())
    operations.get_data_structure(a_batch())  # one process
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="a loader sends it to 2 processes; set dispatch_batches=False"):
        operations.get_data_structure(a_batch())
    monkeypatch.undo()
    assert len(of_rank(0)) == 3


def test_a_loader_that_stacks_batches_is_refused_and_the_advice_works() -> None:
    with pytest.raises(ValueError, match=r"a loader stacked 2 of them; give the DataLoader batch_size=None, or .*=1"):
        next(iter(DataLoader([a_batch(), a_batch()], batch_size=2)))
    same(next(iter(DataLoader(Stream(), batch_size=None))), a_batch())
    same(next(iter(DataLoader(Stream(), batch_size=1, collate_fn=lambda batches: batches[0]))), a_batch())


class Streamed(nn.Module):
    """A model for the Trainer, which calls it with the entries of a batch."""

    accepts_loss_kwargs = True

    def __init__(self) -> None:
        super().__init__()
        self.model = PretrainingModel(CONFIG)

    def forward(self, num_items_in_batch: torch.Tensor | None = None, **inputs: Any) -> dict[str, torch.Tensor]:
        batch = PackedBatch(inputs)
        assert batch.labels is not None
        result = self.model.mlm_loss(self.model(batch, rows=batch.masked), batch.labels)
        return {"loss": result.loss_sum / (result.count if num_items_in_batch is None else num_items_in_batch)}


def test_the_trainer_of_transformers_streams_packed_batches(tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")
    model = Streamed()
    before = model.model.encoder.embeddings.word.weight.detach().clone()
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        max_steps=3,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        remove_unused_columns=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=Stream(), data_collator=lambda batches: batches[0])
    trainer.train()
    assert trainer.state.global_step == 3
    assert not torch.equal(model.model.encoder.embeddings.word.weight, before)


@pytest.mark.parametrize("strict", [False, True])
def test_torch_export_takes_documents_and_agrees_on_other_ones_of_the_same_sizes(strict: bool) -> None:
    encoder = Encoder(CONFIG).eval()
    one, other = (
        unmask.pack(documents, tokens=16, max_seqlen=8)
        for documents in (DOCUMENTS, [[2, 20, 21, 22, 23, 24, 3], [2, 3], [2, 9, 3]])
    )
    program = torch.export.export(encoder, (one.ids, one.documents, one.segments), strict=strict)
    for batch in (one, other):
        inputs = (batch.ids, batch.documents, batch.segments)
        torch.testing.assert_close(program.module()(*inputs), encoder(*inputs), rtol=0, atol=0)


def test_documents_are_shown_though_they_hold_no_tensors() -> None:
    described = tree_map(lambda value: "x", a_batch())
    assert repr(described.documents) == "Documents(of what stands for its tensors)"
    assert repr(described).startswith("PackedBatch(x real tokens in Documents(of what")
    assert isinstance(described.documents, Documents)
