"""The moving average of the weights: its formula, a resumed run, and what is evaluated and exported."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from unmask.errors import CheckpointError
from unmask.train.checkpoint.state import load_tensors, state_bytes
from unmask.train.evaluate import score_model
from unmask.train.logging.log import read_evaluations
from unmask.train.run_folder import saved_config
from unmask.train.step import TrainingStep

# (1 + t) / (10 + t) is below it up to update number 8
DECAY = 0.5


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_the_average_is_that_of_a_loop_by_hand(tiny: ModuleType, tmp_path: Path) -> None:
    trainer = tiny.trainer(tiny.config(tmp_path, ema_decay=DECAY), tmp_path)
    expected = {name: value.double() for name, value in weights(trainer.state.model).items()}
    for done, batches in zip(range(16), trainer.data.steps(0), strict=False):
        trainer._train_step(batches, 0)
        decay = min(DECAY, (1 + done) / (10 + done))
        for name, value in weights(trainer.state.model).items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double()
    assert trainer.state.average is not None
    found = weights(trainer.state.average.model)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-7)


def test_the_decay_stops_growing_at_what_is_asked_for(tiny: ModuleType, tmp_path: Path) -> None:
    trainer = tiny.trainer(tiny.config(tmp_path, ema_decay=DECAY), tmp_path)
    assert trainer.state.average is not None
    before = weights(trainer.state.average.model)
    with torch.no_grad():
        for parameter in trainer.state.model.parameters():
            parameter.add_(1.0)
    trainer.state.average.update(trainer.state.model, 1000)
    for name, value in weights(trainer.state.average.model).items():
        torch.testing.assert_close(value - before[name], torch.full_like(value, 1 - DECAY), rtol=1e-4, atol=1e-5)


def test_the_weights_are_trained_as_without_an_average(tiny: ModuleType, tmp_path: Path) -> None:
    plain = tiny.trainer(tiny.config(tmp_path), tmp_path)
    averaged = tiny.trainer(tiny.config(tmp_path, ema_decay=DECAY), tmp_path)
    for trainer in (plain, averaged):
        for _, batches in zip(range(4), trainer.data.steps(0), strict=False):
            trainer._train_step(batches, 0)
    for (name, one), (_, other) in zip(
        plain.state.model.named_parameters(), averaged.state.model.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name


def test_a_resumed_run_repeats_the_average_and_its_weights(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    tiny.pretrain(tiny.config(whole, ema_decay=DECAY))
    count = 0
    original = TrainingStep.update

    def update(step: TrainingStep) -> Any:
        nonlocal count
        count += 1
        if count == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(step)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingStep, "update", update)
        tiny.pretrain(tiny.config(run, ema_decay=DECAY))
    assert count == 7
    tiny.pretrain(saved_config(run), resume=run)
    # the exported weights are the average, the log has the loss of the others
    tiny.assert_same_end(run, whole)


def test_the_average_is_evaluated_and_exported(tiny: ModuleType, tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny.pretrain(tiny.config(run, ema_decay=DECAY, steps=8))
    trainer = tiny.trainer(saved_config(run), run)
    assert trainer.state.average is not None
    newest = run / "checkpoints" / "step-000008"
    load_tensors(newest / "training", trainer.state.model, trainer.state.optimizer, trainer.state.average.model)
    averaged, last = weights(trainer.state.average.model), weights(trainer.state.model)
    assert any(not torch.equal(averaged[name], last[name]) for name in averaged)
    exported = tiny.parameters(run)
    # under the names of transformers
    word = exported["bert.embeddings.word_embeddings.weight"]
    assert torch.equal(word, trainer.state.average.model.encoder.embeddings.word.weight)
    assert not torch.equal(word, trainer.state.model.encoder.embeddings.word.weight)

    def loss(model: Any) -> float:
        stream = trainer.data.held_out(trainer.data.phases[-1])
        [score] = score_model(model, trainer.objectives, stream.batches(), tokens=512)
        return score.loss

    assert read_evaluations(run)[-1]["loss"] == pytest.approx(loss(trainer.state.average.model), abs=1e-6)
    assert loss(trainer.state.model) != pytest.approx(loss(trainer.state.average.model), abs=1e-4)


def test_a_checkpoint_without_an_average_is_refused_and_with_the_settings_of_the_run_it_is_read(
    tiny: ModuleType, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    tiny.pretrain(tiny.config(run, steps=4, phases=[]))
    folder = run / "checkpoints" / "step-000004" / "training"
    averaged = tiny.trainer(tiny.config(run, ema_decay=DECAY), run)
    with pytest.raises(CheckpointError, match=r"lacks average/.*; put config\.yaml of the run back as it was"):
        load_tensors(folder, averaged.state.model, averaged.state.optimizer, averaged.state.average.model)
    plain = tiny.trainer(saved_config(run), run)
    load_tensors(folder, plain.state.model, plain.state.optimizer)


def test_the_size_of_a_checkpoint_counts_the_average(tiny: ModuleType, tmp_path: Path) -> None:
    trainer = tiny.trainer(tiny.config(tmp_path), tmp_path)
    count = sum(parameter.numel() for parameter in trainer.state.model.parameters())
    assert state_bytes(trainer.state.model, averaged=True) - state_bytes(trainer.state.model) == 4 * count
