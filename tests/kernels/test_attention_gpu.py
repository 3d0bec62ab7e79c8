"""attention on a GPU: nothing waits for the device, CUDA graphs hold it, and the installed flash-attn is right."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from unmask_kernels import BackendUnavailable
from unmask_kernels import attention as public
from unmask_kernels.attention import FAMILY, choice, reference, schedule
from unmask_kernels.testing import contracts
from unmask_kernels.testing.attention import attention_case, described, plain_attention
from unmask_kernels.testing.compare import compare, same_bits
from unmask_kernels.testing.contracts import Target, targets
from unmask_kernels.testing.gpu import captured, no_waiting
from unmask_kernels.testing.inputs import Case, run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

CASES = [
    attention_case("graph", [300, 17, 0, 64, 129]),
    attention_case("graph", [300, 17, 0, 64, 129], causal=True, window=40),
    attention_case("graph", [300, 17, 0, 64, 129], p=0.1),
]
on_gpus = pytest.mark.parametrize(
    "target", [target for target in targets("attention") if target.device == "cuda"], ids=str
)


def forward_and_backward(target: Target, case: Case) -> tuple[Tensor, partial[tuple[Tensor, Tensor]]]:
    """qkv, and the call on it that gives out and dqkv; skips what the backend refuses to have captured."""
    a = dict(case.make(torch.bfloat16, target.device).arguments)
    if reasons := FAMILY.backends[target.backend].refuses(described(**a)._replace(captured=True)):
        pytest.skip("; ".join(reasons))
    qkv = a.pop("qkv").requires_grad_()
    incoming = torch.randn(qkv.shape[0], *qkv.shape[2:], dtype=qkv.dtype, device=qkv.device)

    def both() -> tuple[Tensor, Tensor]:
        out = public(qkv, backend=target.backend, **a)
        return out.detach(), torch.autograd.grad(out, qkv, incoming)[0]

    return qkv, partial(both)


@on_gpus
def test_dropout_drawn_in_the_kernels_is_in_a_cuda_graph_too(target: Target) -> None:
    if target.backend != "triton":
        pytest.skip("the triton backend has both ways to draw")
    with schedule(bitmask_up_to=0):
        test_nothing_waits_for_the_device(CASES[2], target)
        test_a_cuda_graph_gives_the_bits_of_a_call(CASES[2], target)


@on_gpus
@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_waits_for_the_device(case: Case, target: Target) -> None:
    _, both = forward_and_backward(target, case)
    both()  # compiling may wait
    with no_waiting():
        both()


@on_gpus
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_cuda_graph_gives_the_bits_of_a_call(case: Case, target: Target) -> None:
    qkv, both = forward_and_backward(target, case)
    graph, replayed = captured(both)
    with torch.no_grad():
        qkv.copy_(qkv.flip(0))
    graph.replay()
    for name, ours, expected in zip(("out", "dqkv"), replayed, both(), strict=True):
        same_bits({name: ours}, {name: expected}, "replayed and called")


def test_groups_are_refused_while_a_graph_is_captured() -> None:
    a = attention_case("dropout", [300, 17], p=0.1).make(torch.bfloat16, "cuda").arguments
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), pytest.raises(BackendUnavailable, match="reads the lengths on the host"):
        public(backend="torch", **a)


@pytest.mark.parametrize("version", choice.FLASH_ATTN_INSTALLED)
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128])
@pytest.mark.parametrize(("causal", "window"), [(False, None), (True, None), (False, 30), (True, 30)])
def test_every_flash_attn_here_matches_fp64_truth(
    version: int, head_dim: int, causal: bool, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "FLASH_ATTN_INSTALLED", (version,))
    case = attention_case("flash", [300, 17, 0, 64, 129], head_dim=head_dim, causal=causal, window=window)
    inputs = case.make(torch.bfloat16, "cuda")
    if reasons := FAMILY.backends["flash"].refuses(described(**inputs.arguments)):
        pytest.skip("; ".join(reasons))
    scale = head_dim**-0.5
    truth = run(partial(reference.attention, scale=scale), inputs.double())
    ours = partial(public, backend="flash")
    compare(run(ours, inputs), run(partial(plain_attention, scale=scale), inputs), truth)
    contracts.deterministic(ours, inputs)
