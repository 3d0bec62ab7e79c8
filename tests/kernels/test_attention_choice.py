"""attention: which backend a call gets, and what each says that it cannot run."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from unmask_kernels import BackendUnavailable, Documents
from unmask_kernels import attention as public
from unmask_kernels.attention import FAMILY, AttentionCall, choice

CALL = AttentionCall(
    device="cpu",
    architecture="cpu",
    dtype=torch.bfloat16,
    head_dim=64,
    causal=False,
    window=-1,
    p=0.0,
    max_seqlen=512,
    captured=False,
)
ON_H100 = CALL._replace(device="cuda", architecture="sm_90")


@pytest.fixture(autouse=True)
def _a_cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_HAS_VARLEN", True)
    monkeypatch.setattr(choice, "FLASH_ATTN_INSTALLED", ())


def lines_of(call: AttentionCall) -> dict[str, str]:
    """What `explain` says of each backend, and the chosen one under "attention"."""
    pairs = [line.strip().partition(": ")[::2] for line in FAMILY.explain(call).splitlines()]
    return dict(pairs)


def test_a_cpu_gets_the_torch_backend_and_hears_why_not_the_others() -> None:
    lines = lines_of(CALL)
    assert list(lines) == ["attention", *FAMILY.backends]
    assert lines["attention"] == "torch"
    assert lines["torch"] == lines["reference"] == "can run"
    assert lines["flash"] == (
        "needs a CUDA tensor, got cpu; flash-attn is not installed (one of the packages flash_attn_3, flash-attn-4, "
        "flash-attn); has not run on a GPU yet"
    )
    assert lines["triton"].endswith("; has not run on a GPU yet")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"p": 0.1}, "varlen_attn has no dropout, got p 0.1"),
        ({"dtype": torch.float32}, "varlen_attn is for fp16 and bf16, got float32"),
        ({"head_dim": 60}, "varlen_attn has head dims that are multiples of 8 up to 192, got 60"),
        ({"head_dim": 256}, "varlen_attn has head dims that are multiples of 8 up to 192, got 256"),
        ({"architecture": "sm_75"}, "varlen_attn needs sm_80 or newer, this device is sm_75"),
    ],
)
def test_a_captured_call_gets_no_backend_that_reads_lengths(change: dict[str, Any], reason: str) -> None:
    alive, captured = ON_H100._replace(**change), ON_H100._replace(**change, captured=True)
    assert lines_of(alive)["torch"] == "can run"
    waits = "it reads the lengths on the host, which torch.compile and CUDA graphs cannot hold"
    assert lines_of(captured)["torch"] == f"{waits}; {reason}"
    assert lines_of(captured)["reference"] == waits
    with pytest.raises(BackendUnavailable, match="attention: no backend can run this call; mend what one of them"):
        FAMILY.choose(None, captured)
    # what one of them needs
    assert FAMILY.choose(None, alive)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"causal": True},
        {"window": 64},
        {"dtype": torch.float16, "head_dim": 96},
        {"head_dim": 72},
        {"head_dim": 192},
        {"architecture": "sm_80"},
    ],
)
def test_a_captured_call_may_use_varlen_attn(change: dict[str, Any]) -> None:
    assert FAMILY.choose(None, ON_H100._replace(**change, captured=True)) == "torch"


def test_a_captured_call_on_a_cpu_may_read_lengths() -> None:
    assert FAMILY.choose(None, CALL._replace(captured=True)) == "torch"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"head_dim": 129}, "head dim must be at most 128, got 129"),
        ({"dtype": torch.float64}, "activations must be fp16, bf16 or fp32, got float64"),
    ],
)
def test_triton_says_what_its_tiles_do_not_hold(change: dict[str, Any], reason: str) -> None:
    assert reason in lines_of(ON_H100._replace(**change))["triton"]


@pytest.mark.parametrize("head_dim", [1, 26, 48, 80, 127, 128])
def test_triton_runs_every_head_dim_up_to_its_widest(head_dim: int) -> None:
    assert FAMILY.choose("triton", ON_H100._replace(head_dim=head_dim, p=0.1, captured=True)) == "triton"


@pytest.mark.parametrize(
    ("architecture", "refused"),
    [("sm_86", True), ("sm_89", True), ("sm_120", True), ("sm_121", True), ("sm_80", False), ("sm_90", False)],
)
def test_wide_heads_in_fp32_need_more_shared_memory_than_some_gpus_have(architecture: str, refused: bool) -> None:
    call = ON_H100._replace(architecture=architecture, dtype=torch.float32, head_dim=128)
    assert ("147 KB of shared memory" in lines_of(call)["triton"]) == refused
    for change in ({"dtype": torch.bfloat16}, {"head_dim": 64}):
        assert "shared memory" not in lines_of(call._replace(**change))["triton"]


def test_a_pytorch_without_varlen_attn_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_HAS_VARLEN", False)
    assert lines_of(ON_H100._replace(captured=True))["torch"].endswith("built without varlen_attn")


def test_the_log_sum_exp_comes_from_the_backends_that_save_it() -> None:
    saved = {name: choice.saves_lse(name, ON_H100) for name in FAMILY.backends if name != "reference"}
    assert saved == {"triton": True, "flash": True, "torch": True}
    assert not choice.saves_lse("torch", ON_H100._replace(p=0.1))
    assert not choice.saves_lse("torch", CALL)


@pytest.mark.parametrize(
    ("architecture", "installed", "expected"),
    [
        ("sm_90", (3, 4, 2), 3),
        ("sm_90", (4, 2), 4),
        ("sm_90", (2,), 2),
        ("sm_80", (3, 4, 2), 2),
        ("sm_100", (3, 4, 2), 4),
        ("sm_120", (4, 2), 2),
        ("sm_75", (2,), None),
        ("sm_80", (3, 4), None),
    ],
)
def test_each_gpu_gets_the_flash_attn_made_for_it(
    architecture: str, installed: tuple[int, ...], expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "FLASH_ATTN_INSTALLED", installed)
    call = ON_H100._replace(architecture=architecture)
    assert choice.flash_attn_version(call) == expected
    assert (choice._flash_refuses(call) == []) == (expected is not None)


@pytest.mark.parametrize(
    ("installed", "change", "reasons"),
    [
        ((2,), {"p": 0.1}, ["no dropout from addressed random numbers, got p 0.1"]),
        ((3,), {"dtype": torch.float32}, ["activations must be fp16 or bf16, got float32"]),
        (
            (3, 4),
            {"architecture": "sm_80"},
            [
                "flash-attn 3: its backward is for sm_90, this device is sm_80",
                "flash-attn 4: its backward is for sm_90 to sm_110, this device is sm_80",
            ],
        ),
        ((4,), {"head_dim": 192}, ["flash-attn 4: head dim must be a multiple of 8 up to 128, got 192"]),
        ((2,), {"head_dim": 36}, ["flash-attn 2: head dim must be a multiple of 8 up to 192, got 36"]),
    ],
)
def test_flash_attn_refuses_with_its_own_reasons(
    installed: tuple[int, ...], change: dict[str, Any], reasons: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "FLASH_ATTN_INSTALLED", installed)
    assert choice._flash_refuses(ON_H100._replace(**change)) == reasons


@pytest.mark.parametrize(("version", "widest"), [(2, 192), (3, 192), (4, 128)])
def test_flash_attn_runs_its_widest_heads(version: int, widest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "FLASH_ATTN_INSTALLED", (version,))
    assert choice._flash_refuses(ON_H100._replace(head_dim=widest)) == []


def test_flash_attn_that_never_ran_on_a_gpu_is_not_chosen_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "FLASH_ATTN_INSTALLED", (3,))
    told = "not verified on sm_90 yet (`unmask verify` tries it here); runs when asked for by name"
    assert lines_of(ON_H100)["flash"] == told
    assert FAMILY.choose(None, ON_H100) == "torch"
    assert FAMILY.choose("flash", ON_H100) == "flash"


@dataclass
class Spec:
    submodule_search_locations: list[str]


def test_installed_flash_attn_is_found_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cute").mkdir()
    here: dict[str, Any] = {}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: here.get(name))
    assert choice._find_flash_attn() == ()
    here["flash_attn"] = Spec([str(tmp_path)])
    here["flash_attn_2_cuda"] = Spec([])
    assert choice._find_flash_attn() == (2,)
    (tmp_path / "cute" / "interface.py").touch()
    assert choice._find_flash_attn() == (2,), "4 needs CuTe DSL"
    here["cutlass"] = here["flash_attn_interface"] = Spec([])
    assert choice._find_flash_attn() == (3, 4, 2)


def test_a_backend_asked_for_by_name_does_not_fall_back() -> None:
    qkv = torch.zeros(4, 3, 2, 32)
    documents = Documents.build(torch.tensor([0, 4], dtype=torch.int32))
    with pytest.raises(BackendUnavailable, match="attention: backend 'flash' cannot run this call: needs a CUDA"):
        public(qkv, documents, backend="flash")
    with pytest.raises(ValueError, match="attention: backend must be one of 'triton', 'flash', 'torch', 'reference'"):
        public(qkv, documents, backend="numpy")


def test_nothing_runs_where_every_backend_refuses() -> None:
    with pytest.raises(BackendUnavailable, match="nothing: no backend can run this call"):
        type(FAMILY)("nothing", {}, example=lambda *given: CALL).choose(None, CALL)
