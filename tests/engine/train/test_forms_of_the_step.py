"""What a run may make of its step: fp16 with a loss scale, `torch.compile`, a device that is asked for."""

import json
import shutil
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from unmask.config import load_config
from unmask.errors import ConfigError
from unmask.train.checkpoint.state import load_facts
from unmask.train.device import choose_device
from unmask.train.logging.log import read_log
from unmask.train.loss_scale import LossScale
from unmask.train.parallel import ALONE, Ranks
from unmask.train.precision import choose_precision
from unmask.train.run_folder import saved_config
from unmask.train.step import TrainingStep

BRIEF: dict[str, Any] = {"phases": [], "steps": 6, "evaluate_every": 100, "log_every": 1, "save_every": 3}


def scale_of(run: Path, step: int) -> tuple[float, int] | None:
    return load_facts(run / "checkpoints" / f"step-{step:06d}" / "training").loss_scale


def resumed_from_its_third_step(tiny: ModuleType, whole: Path, cut: Path) -> None:
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "step-000006")
    tiny.pretrain(saved_config(cut), resume=cut)


@pytest.fixture
def overflowing(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """From now on the gradient of the second step is infinite, as if its loss had been scaled too much."""
    accumulate, steps = TrainingStep.accumulate, iter(range(100))

    def overflow(self: TrainingStep, batches: Any) -> Any:
        found = accumulate(self, batches)
        if next(steps) == 1:
            grad = self.model.mlm.bias.grad
            assert isinstance(grad, torch.Tensor)
            grad[0] = float("inf")
        return found

    monkeypatch.setattr(TrainingStep, "accumulate", overflow)
    return monkeypatch


def test_an_overflow_of_fp16_skips_the_step_and_halves_the_scale_which_a_resumed_run_has_too(
    tiny: ModuleType, tmp_path: Path, overflowing: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    tiny.pretrain(tiny.config(whole, dtype="float16", **BRIEF))
    assert [row["skipped"] for row in read_log(whole)] == [0, 1, 0, 0, 0, 0]
    assert (scale_of(whole, 3), scale_of(whole, 6)) == ((2.0**15, 1), (2.0**15, 4))
    overflowing.undo()
    overflowing.setattr("unmask.train.pretrain.open_store", tiny.open_text)
    resumed_from_its_third_step(tiny, whole, cut)
    assert scale_of(cut, 6) == (2.0**15, 4)
    tiny.assert_same_end(cut, whole)


def test_fp16_learns_what_fp32_learns(tiny: ModuleType, tmp_path: Path) -> None:
    losses = {}
    for dtype in ("float32", "float16"):
        tiny.pretrain(tiny.config(tmp_path / dtype, dtype=dtype, **BRIEF))
        losses[dtype] = [row["loss"] for row in read_log(tmp_path / dtype)]
    assert losses["float16"] != losses["float32"]
    assert losses["float16"] == pytest.approx(losses["float32"], rel=5e-3)


def test_the_state_of_other_dtypes_has_no_scale(unbroken: Path) -> None:
    text = next((unbroken / "checkpoints").glob("step-*/training/state.json")).read_text()
    assert "loss_scale" not in json.loads(text)


def test_the_scale_doubles_after_two_thousand_finite_steps() -> None:
    scale = LossScale("cpu")
    scale.restore((8.0, 1998))
    for skipped, expected in ((0.0, (8.0, 1999)), (0.0, (16.0, 0)), (1.0, (8.0, 0)), (0.0, (8.0, 1))):
        scale.update(torch.tensor(skipped))
        assert scale.state() == expected


@pytest.fixture
def quickly_compiled(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The compiler makes its graphs and writes no code for them; returns what it was asked for."""
    compile_, asked = torch.compile, []

    def quickly(function: Any, **settings: Any) -> Any:
        asked.append(settings)
        return partial(compile_, backend="aot_eager")(function, **settings)

    monkeypatch.setattr(torch, "compile", quickly)
    return asked


def test_a_compiled_run_has_the_losses_of_an_eager_one_and_resumes_with_its_own_bits(
    tiny: ModuleType, tmp_path: Path, quickly_compiled: list[dict[str, Any]]
) -> None:
    settings = BRIEF | {"steps": 30, "save_every": 27}
    for name, compiles in (("eager", False), ("whole", True)):
        tiny.pretrain(tiny.config(tmp_path / name, compile=compiles, **settings))
    assert quickly_compiled == [{"fullgraph": True, "dynamic": False}]
    eager, whole = (tiny.without_times(tmp_path / name) for name in ("eager", "whole"))
    assert len([row for row in whole if "learning_rate" in row]) == 30
    for one, other in zip(whole, eager, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-000030")
    tiny.pretrain(saved_config(tmp_path / "cut"), resume=tmp_path / "cut")
    assert len(quickly_compiled) == 2
    tiny.assert_same_end(tmp_path / "cut", tmp_path / "whole")


def test_a_required_graph_is_refused_on_a_cpu_and_the_advice_trains(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match=r"'require', but the run trains on cpu, and .*; give --train\.graph auto"):
        tiny.pretrain(tiny.config(tmp_path / "run", graph="require", **BRIEF))
    assert not (tmp_path / "run").exists()
    # before any text is read
    assert not any(message.startswith("data:") for message in caplog.messages)
    tiny.pretrain(tiny.config(tmp_path / "run", graph="auto", **BRIEF))


def test_a_run_may_go_on_with_another_form_of_its_step(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.pretrain(tiny.config(tmp_path / "run", **BRIEF))
    config = tiny.config(tmp_path / "run", **BRIEF | {"steps": 7}, graph="never", device="cpu")
    tiny.pretrain(config, resume=tmp_path / "run")
    assert saved_config(tmp_path / "run").train.graph == "never"


class OnGPUs(Ranks):
    """A process that has a CUDA device, or one of several."""

    def device(self) -> torch.device:
        return torch.device("cuda", 0)


def test_the_device_is_the_one_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert choose_device("auto", ALONE) == choose_device("cpu", ALONE) == torch.device("cpu")
    assert caplog.messages == []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("mps", ALONE) == torch.device("mps")
    assert choose_device("auto", ALONE) == torch.device("cpu")
    assert caplog.messages == ["train.device: the CPU trains; --train.device mps takes the GPU of this computer"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("cuda", OnGPUs()) == choose_device("auto", OnGPUs()) == torch.device("cuda", 0)
    assert choose_device("cpu", OnGPUs()) == torch.device("cpu")


@pytest.mark.parametrize("asked", ["cuda", "mps"])
def test_a_device_that_is_not_here_is_refused_and_auto_takes_the_one_that_is(
    asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"'{asked}', but PyTorch finds no .* give --train.device auto"):
        choose_device(asked, ALONE)
    assert choose_device("auto", ALONE) == torch.device("cpu")


def test_several_processes_do_not_share_the_gpu_of_an_apple_computer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="'mps', which trains one process, but there are 2; start one, or give"):
        choose_device("mps", Ranks(0, 2))
    assert choose_device("mps", ALONE) == torch.device("mps")
    assert choose_device("cpu", Ranks(0, 2)) == torch.device("cpu")


def test_a_gpu_without_bf16_is_told_of_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    assert choose_precision("auto", "cuda").reason == (
        "Tesla T4 (sm_75) has no bf16 tensor cores; its fp16 ones are faster: --train.dtype float16, in a new run"
    )
    # what it advises
    assert load_config(None, {"train.dtype": "float16"}).train.dtype == "float16"
    assert choose_precision("float16", "cuda").dtype == torch.float16
