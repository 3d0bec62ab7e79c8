"""`kernels.verify`: the shapes of a run, the records that it chooses by, and what is said before the first step."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from stand_in_kernel import put_in, spoil
from unmask.cli import main
from unmask.config import EncoderConfig, KernelsConfig, MaskingConfig, ObjectiveConfig, RunConfig, load_config
from unmask.errors import RunError
from unmask.train.pretrain import pretrain
from unmask.train.verification import shapes_of
from unmask_kernels import capability
from unmask_kernels.dispatch import Call, Family
from unmask_kernels.verify import Shapes
from unmask_kernels.verify.plan import plan


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A CPU on which gelu has a backend that nobody has verified, in place of a GPU with Triton."""
    put_in(monkeypatch, tmp_path)
    monkeypatch.setattr("unmask.train.pretrain.INTERPRETING", True)
    yield
    os.environ.pop("UNMASK_SHARED_CACHE", None)


def brief(tiny: ModuleType, run: Path, mode: str = "tell") -> RunConfig:
    config: RunConfig = tiny.config(run, steps=2, evaluate_every=2, save_every=2)
    return replace(config, kernels=KernelsConfig(verify=mode))  # type: ignore[arg-type]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Family, Any, str]]:
    """Every call of an operation from now on, with the backend that it gets."""
    made: list[tuple[Family, Any, str]] = []
    choose = Family.choose

    def spy(self: Family, asked: str | None, call: Call) -> str:
        chosen = choose(self, asked, call)
        made.append((self, call, chosen))
        return chosen

    monkeypatch.setattr(Family, "choose", spy)
    return made


def test_the_shapes_are_those_of_the_run() -> None:
    run = load_config(
        "bert-base",
        {
            "train.phases": [{"share": 0.9, "max_length": 128}, {"share": 0.1, "max_length": 512}],
            "model.attention_window": 64,
            "model.activation": "gelu_tanh",
        },
    )
    assert shapes_of(run, torch.bfloat16) == Shapes(windows=(None, 64), activation="gelu_tanh", vocab_size=30522)
    assert shapes_of(run, torch.bfloat16, EncoderConfig(vocab_size=99)).vocab_size == 99
    assert shapes_of(load_config("bert-base"), torch.bfloat16) == Shapes()


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"attention_window": 4, "num_layers": 3},
        {"causal": True},
        {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation": "gelu_tanh"},
    ],
    ids=["plain", "local", "causal", "no-dropout"],
)
def test_every_call_of_a_run_is_one_that_is_verified(
    model: dict[str, Any],
    tiny: ModuleType,
    calls: list[tuple[Family, Any, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Training and evaluation on a CPU make the calls that they make on a GPU, but for its name."""
    config = brief(tiny, tmp_path / "run")
    sizes = {"hidden_dropout": 0.1, "attention_dropout": 0.1, **model}
    config = replace(config, model=replace(config.model, **sizes), masking=MaskingConfig(place="device"))
    if config.model.causal:
        config = replace(config, objective=ObjectiveConfig(mlm=0.0, clm=1.0), masking=MaskingConfig())
    pretrain(config)
    vocabulary = tiny.text()[0].vocab_size
    shapes = shapes_of(config, torch.float32, replace(config.model, vocab_size=vocabulary))
    monkeypatch.setattr(capability, "HAS_TRITON", True)
    checks = plan(shapes, "cuda", "sm_90")
    seen = set()
    for family, call, _ in calls:
        on_gpu = call._replace(device="cuda", architecture="sm_90")
        if "triton" in family.backends and not family.backends["triton"].refuses(on_gpu):
            assert any(one.family == family.name and family.covers(one.call, on_gpu) for one in checks), on_gpu
            seen.add(family.name)
    assert seen >= {"attention", "layer_norm", "embedding", "gelu", "mlm_loss"}


def test_a_run_without_a_record_says_so_in_one_line_and_the_command_works(
    stand_in: None,
    tiny: ModuleType,
    calls: list[Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with caplog.at_level(logging.INFO):
        pretrain(brief(tiny, tmp_path / "run"))
    [line] = [message for message in caplog.messages if message.startswith("kernels: ")]
    assert "are not verified on this device for the shapes of this run" in line
    assert "--kernels.verify auto" in line
    assert {chosen for family, _, chosen in calls if family.name == "gelu"} == {"torch"}
    command = line.split("`")[1]
    assert command == f"unmask verify {tmp_path}/run"
    assert main(command.split()[1:]) == 0
    assert "gelu" in capsys.readouterr().out
    caplog.clear()
    calls.clear()
    pretrain(brief(tiny, tmp_path / "next"))
    assert not [message for message in caplog.messages if message.startswith("kernels: ")]
    assert {chosen for family, _, chosen in calls if family.name == "gelu"} == {"young"}


def test_what_is_not_verified_is_verified_by_the_next_run_as_the_line_says(
    stand_in: None, tiny: ModuleType, calls: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pretrain(brief(tiny, tmp_path / "run"))
    assert "kernels: some are not verified on this device" in caplog.text
    assert "verifies them in at most two minutes, or --kernels.verify auto in the next run" in caplog.text
    calls.clear()
    pretrain(brief(tiny, tmp_path / "next", "auto"))
    assert "young" in {chosen for family, _, chosen in calls if family.name == "gelu"}


def test_what_has_failed_is_shown_and_run_again_by_the_command_of_each_message(
    stand_in: None,
    tiny: ModuleType,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def told_and_shown(message: str, run: Path) -> str:
        command = message.partition("; ")[2].split("`")[1]
        assert command == f"unmask verify {run}"
        capsys.readouterr()
        assert main(command.split()[1:]) == 1
        assert "   FAILED\n" in capsys.readouterr().out
        return command

    with monkeypatch.context() as patched:
        spoil(patched)
        pretrain(brief(tiny, tmp_path / "run", "auto"))
        [line] = [one for one in caplog.messages if one.startswith("kernels: PyTorch's operations run in place of")]
        assert line.endswith("(some have failed); `unmask verify {}` shows it".format(tmp_path / "run"))
        told_and_shown(line, tmp_path / "run")
        caplog.clear()
        pretrain(brief(tiny, tmp_path / "next"))
        [line] = [one for one in caplog.messages if one.startswith("kernels: some have failed on this device")]
        assert line.endswith("runs them again and shows what is wrong")
        command = told_and_shown(line, tmp_path / "next")
        require = brief(tiny, tmp_path / "third", "require")
        with pytest.raises(RunError, match=r"not everything has passed on this machine \(some have failed\); ") as no:
            pretrain(require)
        # a run that is refused leaves no directory to verify
        told = "; train with --kernels.verify auto, which takes what has passed, and `unmask verify "
        assert f"{told}{tmp_path}/third` then shows what has not" in str(no.value)
        pretrain(brief(tiny, tmp_path / "third", "auto"))
        told_and_shown(str(no.value), tmp_path / "third")
    # a mended kernel passes, and then every run is content
    assert main(command.split()[1:]) == 0
    caplog.clear()
    pretrain(replace(require, run=str(tmp_path / "fourth")))
    assert not [message for message in caplog.messages if message.startswith("kernels: ")]


@pytest.mark.parametrize("mode", ["auto", "require"])
def test_a_run_verifies_before_its_first_step_if_it_is_asked_to(
    mode: str, stand_in: None, tiny: ModuleType, calls: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        pretrain(brief(tiny, tmp_path / "run", mode))
    begun, line = [message for message in caplog.messages if message.startswith("kernels: ")]
    assert begun == "kernels: verifying those of this run on this device, for at most two minutes"
    assert line.startswith("kernels: verified in ")
    assert line.endswith("s: gelu young")
    assert calls[-1][0].name != ""
    assert "young" in {chosen for family, _, chosen in calls if family.name == "gelu"}
    caplog.clear()
    pretrain(brief(tiny, tmp_path / "next", mode))
    assert not [message for message in caplog.messages if message.startswith("kernels: ")]


def test_a_failure_is_told_and_the_run_goes_on_or_is_refused_if_it_must_pass(
    stand_in: None,
    tiny: ModuleType,
    calls: list[Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil(monkeypatch)
    pretrain(brief(tiny, tmp_path / "run", "auto"))
    told = "\n".join(caplog.messages)
    assert "gelu young" in told
    assert "please open an issue with this file" in told
    assert "PyTorch's operations run in place of what has not passed (some have failed)" in told
    # the checks themselves choose nothing
    assert {chosen for family, _, chosen in calls[-20:] if family.name == "gelu"} <= {"torch"}
    caplog.clear()
    with pytest.raises(
        RunError, match=r"kernels\.verify is require, but not everything has passed on this machine"
    ) as no:
        pretrain(brief(tiny, tmp_path / "next", "require"))
    # the way out works
    assert "; train with --kernels.verify auto, which takes what has passed, and `unmask verify " in str(no.value)
    pretrain(brief(tiny, tmp_path / "next", "auto"))
    # a failure that is known is not looked for again, and told without being asked
    caplog.clear()
    pretrain(brief(tiny, tmp_path / "third"))
    assert "kernels: some have failed on this device" in "\n".join(caplog.messages)


def test_a_run_that_may_not_verify_says_nothing(
    stand_in: None, tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pretrain(brief(tiny, tmp_path / "run", "never"))
    assert not [message for message in caplog.messages if message.startswith("kernels: ")]


def test_a_backend_that_is_named_needs_no_record(
    stand_in: None, tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = brief(tiny, tmp_path / "run", "require")
    pretrain(replace(config, kernels=replace(config.kernels, gelu="reference")))
    assert not (tmp_path / "cache").exists()


def test_a_cpu_has_nothing_to_verify_and_a_run_says_so(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        pretrain(brief(tiny, tmp_path / "run", "require"))
    assert "kernels: kernels.verify is require, and there is nothing to verify on cpu" in caplog.messages


def test_whether_to_verify_is_no_part_of_what_a_run_computes(tiny: ModuleType, tmp_path: Path) -> None:
    assert KernelsConfig(verify="auto").named() == {}
    one, other = (pretrain(brief(tiny, tmp_path / mode, mode)) for mode in ("tell", "never"))
    tiny.assert_same_end(one, other)
    # and it may change when a run is resumed
    assert pretrain(brief(tiny, tmp_path / "tell", "auto"), resume=one) == one
