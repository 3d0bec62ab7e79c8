"""A registered model in the Trainer: 20 steps have the losses of a plain loop, on padded and on packed batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from unmask import EncoderConfig, PackedBatch, PretrainingModel, pack, packed_inputs

CONFIG = EncoderConfig(
    vocab_size=60,
    hidden_size=32,
    num_layers=2,
    num_heads=2,
    intermediate_size=64,
    max_positions=24,
    hidden_dropout=0.0,
    attention_dropout=0.0,
)
STEPS, DOCUMENTS = 20, 4
PREDICTED = 3
"""Token of each document that is predicted."""


def examples(step: int) -> list[dict[str, list[int]]]:
    """The documents of a step, with a mask at one token of each."""
    generator = torch.Generator().manual_seed(step)
    made = []
    for _ in range(DOCUMENTS):
        length = int(torch.randint(4, 12, (), generator=generator))
        ids = torch.randint(5, 60, (length,), generator=generator).tolist()
        labels = [-100] * length
        labels[PREDICTED], ids[PREDICTED] = ids[PREDICTED], 4
        made.append({"input_ids": ids, "labels": labels})
    return made


def packed(documents: list[dict[str, list[int]]]) -> PackedBatch:
    batch = pack([one["input_ids"] for one in documents], keys=range(len(documents)))
    labels = torch.tensor([label for one in documents for label in one["labels"]])
    rows = (labels != -100).nonzero().flatten()
    return replace(batch, masked=rows, labels=labels[rows])


def padded(documents: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    rows = {name: [torch.tensor(one[name]) for one in documents] for name in ("input_ids", "labels")}
    ids, labels = (
        nn.utils.rnn.pad_sequence(rows[name], batch_first=True, padding_value=fill)
        for name, fill in (("input_ids", 0), ("labels", -100))
    )
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(one) for one in rows["input_ids"]])[:, None]
    return {"input_ids": ids, "labels": labels, "attention_mask": mask.long()}


class Packed(IterableDataset[PackedBatch]):
    def __iter__(self) -> Iterator[PackedBatch]:
        return (packed(examples(step)) for step in range(STEPS))


def loss_of(model: nn.Module, batch: PackedBatch) -> Tensor:
    assert isinstance(model, PretrainingModel) and batch.labels is not None
    result = model.mlm_loss(model(batch, rows=batch.masked), batch.labels)
    return result.loss_sum / result.count


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


@pytest.fixture(scope="module")
def expected() -> list[float]:
    """The losses of a plain loop."""
    model = PretrainingModel(CONFIG, seed=3).train()
    optimizer = optimizer_of(model)
    losses = []
    for batch in Packed():
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert len(losses) == STEPS and losses[-1] < losses[0]
    return losses


def registered() -> Any:
    """A model of transformers with the weights that the plain loop begins with."""
    from unmask.hf import UnmaskConfig, UnmaskForMaskedLM

    model = UnmaskForMaskedLM(UnmaskConfig.of(CONFIG))
    model.model.load_state_dict(PretrainingModel(CONFIG, seed=3).state_dict())
    return model.train()


@pytest.mark.parametrize("streaming", [False, True], ids=["map-style", "streaming"])
def test_the_trainer_of_transformers(streaming: bool, expected: list[float], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    losses: list[float] = []

    class Recording(transformers.Trainer):  # type: ignore[name-defined, misc]
        def compute_loss(self, *arguments: Any, **options: Any) -> Any:
            loss = super().compute_loss(*arguments, **options)
            losses.append(float(loss))
            return loss

        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[attr-defined]

    model = registered()
    optimizer = optimizer_of(model)
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        max_steps=STEPS,
        per_device_train_batch_size=1 if streaming else DOCUMENTS,
        remove_unused_columns=False,
        max_grad_norm=0.0,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    documents = [one for step in range(STEPS) for one in examples(step)]
    Recording(
        model,
        arguments,
        train_dataset=Packed() if streaming else documents,
        data_collator=(lambda batches: batches[0]) if streaming else padded,
        optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)),
    ).train()
    assert losses == pytest.approx(expected, abs=1e-5)


def arguments_of(folder: Path, **options: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    common: dict[str, Any] = {"use_cpu": True, "disable_tqdm": True, "max_grad_norm": 0.0, "logging_steps": 1}
    common |= {"per_device_train_batch_size": DOCUMENTS, "max_steps": 4, "report_to": [], "save_strategy": "no"}
    return transformers.TrainingArguments(str(folder), **(common | options))


def all_examples() -> list[dict[str, list[int]]]:
    return [one for step in range(STEPS) for one in examples(step)]


def test_a_run_of_the_trainer_resumes_from_the_files_that_the_model_wrote(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")

    def finished(folder: str, resume: str | None = None, **options: Any) -> Any:
        arguments = arguments_of(tmp_path / folder, **options)
        trainer = transformers.Trainer(registered(), arguments, train_dataset=all_examples(), data_collator=padded)
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model.state_dict()

    expected = finished("whole", save_strategy="steps", save_steps=2)
    found = finished("again", resume=str(tmp_path / "whole/checkpoint-2"))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)


class Mine(PretrainingModel):
    """A model of a user's own class, with the configuration and the methods of the model."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        inputs = packed_inputs(input_ids, attention_mask)
        flat = inputs.take(labels)
        rows = (flat != -100).nonzero().flatten()
        hidden = super().forward(inputs.batch, rows=rows)
        return {"loss": self.mlm_loss(hidden, flat[rows]).loss_sum / len(rows)}


def test_the_trainer_writes_and_reads_the_configuration_and_switches_checkpointing_on(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("tensorboard")
    model = Mine(CONFIG, seed=3).train()
    arguments = arguments_of(tmp_path, report_to=["tensorboard"], gradient_checkpointing=True, max_steps=2)
    trainer = transformers.Trainer(model, arguments, train_dataset=all_examples(), data_collator=padded)
    trainer.train()
    assert model.is_gradient_checkpointing and list(tmp_path.rglob("events.out.tfevents*"))
    assert model.config == CONFIG and trainer.state.global_step == 2
