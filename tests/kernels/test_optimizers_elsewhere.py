"""`AdamW` and `LAMB` in the place of `torch.optim.AdamW` in accelerate and in the Trainer of transformers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unmask_kernels import LAMB, AdamW

Maker = Callable[[Any], torch.optim.Optimizer]
MAKERS: dict[str, Maker] = {
    "adamw": lambda params: AdamW(params, lr=0.02),
    "lamb": lambda params: LAMB(params, lr=0.02, max_norm=1.0),
}


class Line(nn.Module):
    """A line, with a loss, as a Trainer takes it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.linear = nn.Linear(4, 1)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": ((self.linear(x).squeeze(-1) - labels) ** 2).mean()}


DATA = [{"x": [float((i * j) % 7) / 7 for j in range(1, 5)], "labels": float(i % 5)} for i in range(32)]


@pytest.fixture(autouse=True)
def _accelerate_is_not_left_set_up() -> Iterator[None]:
    yield
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)


def by_hand(make: Maker, steps: int) -> list[Tensor]:
    model = Line()
    optimizer = make(model.parameters())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 8)
    for step in range(steps):
        rows = DATA[4 * step : 4 * step + 4]
        batch = {name: torch.tensor([row[name] for row in rows]) for name in ("x", "labels")}
        optimizer.zero_grad()
        model(**batch)["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("name", MAKERS)
def test_accelerate_wraps_them_with_their_schedule(name: str) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = Line()
    made = MAKERS[name](model.parameters())
    schedule = torch.optim.lr_scheduler.LambdaLR(made, lambda step: 1 - step / 8)
    wrapped, optimizer, scheduler = accelerator.prepare(model, made, schedule)
    for step in range(8):
        rows = DATA[4 * step : 4 * step + 4]
        batch = {key: torch.tensor([row[key] for row in rows]) for key in ("x", "labels")}
        optimizer.zero_grad()
        accelerator.backward(wrapped(**batch)["loss"])
        accelerator.clip_grad_norm_(wrapped.parameters(), 1.0)
        optimizer.step()
        assert not optimizer.step_was_skipped
        scheduler.step()
    for ours, plain in zip(model.parameters(), by_hand(MAKERS[name], 8), strict=True):
        torch.testing.assert_close(ours.detach(), plain)


@pytest.mark.parametrize("name", MAKERS)
def test_the_trainer_of_transformers_trains_and_resumes_with_them(name: str, tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    def train(folder: Path, steps: int, resume: Path | None = None) -> list[Tensor]:
        model = Line()
        made = MAKERS[name](model.parameters())
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=4,
            train_sampling_strategy="sequential",
            save_strategy="steps",
            save_steps=3,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            max_grad_norm=1.0,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(made, lambda step: 1 - step / 8)
        trainer = Trainer(model, arguments, train_dataset=DATA, optimizers=(made, schedule))  # type: ignore[arg-type]
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        return [parameter.detach() for parameter in model.parameters()]

    whole = train(tmp_path / "whole", 8)
    for ours, plain in zip(whole, by_hand(MAKERS[name], 8), strict=True):
        torch.testing.assert_close(ours, plain)
    again = train(tmp_path / "whole", 8, resume=tmp_path / "whole" / "checkpoint-3")
    assert all(torch.equal(one, other) for one, other in zip(again, whole, strict=True))
