"""The facts about a machine that decide which backends can run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unmask_kernels import capability


@pytest.mark.parametrize(
    ("device", "installed", "interpreting", "said"),
    [
        ("cuda", True, False, []),
        ("cpu", True, True, []),
        ("cpu", True, False, ["needs a CUDA tensor, got cpu"]),
        ("xpu", True, False, ["needs a CUDA tensor, got xpu"]),
        ("cuda", False, False, ["package triton is not installed"]),
        ("cpu", False, False, ["package triton is not installed", "needs a CUDA tensor, got cpu"]),
    ],
)
def test_triton_needs_its_package_and_a_gpu_or_the_interpreter(
    device: str, installed: bool, interpreting: bool, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capability, "HAS_TRITON", installed)
    monkeypatch.setattr(capability, "INTERPRETING", interpreting)
    reasons = capability.triton_reasons(device)
    assert [reason.partition(" (")[0] for reason in reasons] == said


def test_triton_kernels_are_not_written_for_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capability, "HAS_TRITON", True)
    assert capability.triton_reasons("cuda", torch.bfloat16) == []
    reasons = capability.triton_reasons("cuda", torch.float64, "hidden")
    assert reasons == ["hidden must be fp16, bf16 or fp32, got float64"]


@pytest.mark.parametrize(("major", "minor", "name"), [(9, 0, "sm_90"), (8, 6, "sm_86"), (12, 0, "sm_120")])
def test_an_architecture_is_named_by_its_compute_capability(
    major: int, minor: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=major, minor=minor))
    on_a_gpu: Any = SimpleNamespace(device=torch.device("cuda:0"))
    assert capability.architecture(on_a_gpu) == name
    assert capability.architecture(torch.zeros(1)) == "cpu"
