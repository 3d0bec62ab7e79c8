"""The torch backend of attention on a CPU: how documents are grouped, how blocks are cut, what it costs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from unmask_kernels import Documents
from unmask_kernels import attention as public
from unmask_kernels.attention import _torch_grouped
from unmask_kernels.attention._torch_grouped import Limits
from unmask_kernels.attention.arguments import Arguments, BackwardArguments, keep_bytes
from unmask_kernels.testing.attention import attention_case
from unmask_kernels.testing.inputs import lengths_to_documents, run

RANDOM = torch.Generator().manual_seed(5)


def lognormal(median: float, sigma: float, shortest: int, longest: int) -> list[int]:
    drawn = median * torch.exp(sigma * torch.randn(300, generator=RANDOM))
    return [int(length) for length in drawn.round().clamp(shortest, longest)]


DISTRIBUTIONS = {
    "lognormal(300) capped at 512": lognormal(300.0, 1.1, 3, 512),
    "lognormal(300) capped at 8192": lognormal(300.0, 1.1, 3, 8192),
    "uniform 16 to 512": torch.randint(16, 513, (300,), generator=RANDOM).tolist(),
    "queries of mean 51": lognormal(39.5, 0.715, 8, 512),
    "a micro-batch of queries": lognormal(39.5, 0.715, 8, 512)[:78],
    "one long document and 500 of 64": [8192, *[64] * 500],
    "empty ones between": [0, 7, 0, 300, 0, 291, 0],
}


@pytest.mark.parametrize("heads", [4, 12])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_padding_is_five_percent_at_most(name: str, heads: int) -> None:
    lengths = DISTRIBUTIONS[name]
    documents = lengths_to_documents(lengths)
    groups = list(_torch_grouped._groups(documents.cu_seqlens, documents.order, heads, Limits()))
    done = sum(len(group.documents) * group.length**2 for group in groups)
    useful = sum(length * length for length in lengths)
    assert useful <= done <= 1.05 * useful
    # and the scores of documents that share a call stay near the cache
    assert all(len(g.documents) == 1 or heads * g.length**2 * len(g.documents) <= Limits().scores for g in groups)
    present = [index for index, length in enumerate(lengths) if length > 0]
    assert sorted(index for group in groups for index in group.documents.tolist()) == present


def test_short_documents_share_calls() -> None:
    documents = lengths_to_documents(DISTRIBUTIONS["queries of mean 51"])
    assert len(list(_torch_grouped._groups(documents.cu_seqlens, documents.order, 12, Limits()))) <= 50


def blocks_of(length: int, causal: bool, window: int) -> Iterator[_torch_grouped._Block]:
    """The blocks of 12 heads of a document; a window of -1 is none."""
    qkv, documents = torch.empty(length, 3, 1, 8), lengths_to_documents([length])
    arguments = arguments_of(qkv, documents, causal=causal, window=None if window < 0 else window)
    return _torch_grouped._blocks(length, 12, arguments._replace(window=window), Limits())


def arguments_of(qkv: Tensor, documents: Documents, **settings: Any) -> Arguments:
    defaults = {"key": None, "p": 0.0, "causal": False, "window": None, "scale": 1.0}
    return Arguments.of(qkv, documents, **defaults | settings)


NOTHING = torch.empty(0, dtype=torch.uint8)


def backward_of(dout: Tensor, arguments: Arguments, limits: Limits, keep: Tensor = NOTHING) -> Tensor:
    """dqkv; neither out nor a log-sum-exp is read, and dropout is drawn again unless a mask is given."""
    given = BackwardArguments(dout=dout, out=dout, lse=dout, keep=keep, **arguments._asdict())
    return _torch_grouped.backward(given, limits)


@pytest.mark.parametrize("window", [-1, 0, 5, 300])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 64, 131, 700])
def test_blocks_hold_every_column_that_a_row_sees(length: int, causal: bool, window: int) -> None:
    blocks = list(blocks_of(length, causal, window))
    assert [blocks[0].rows.start, *[block.rows.stop for block in blocks]][:: len(blocks)] == [0, length]
    assert all(one.rows.stop == other.rows.start for one, other in pairwise(blocks))
    reach = length if window < 0 else window
    for rows, columns in blocks:
        assert columns.start <= max(0, rows.start - reach)
        assert columns.stop >= (rows.stop if causal else min(length, rows.stop + reach))


def test_long_local_and_causal_documents_skip_what_no_row_sees() -> None:
    def work(causal: bool, window: int) -> int:
        blocks = blocks_of(4096, causal, window)
        return sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in blocks)

    assert work(False, -1) == 4096**2
    assert work(True, -1) < 0.63 * 4096**2
    assert work(False, 64) <= 4096 * 3 * 64


@pytest.mark.parametrize(("causal", "window"), [(False, None), (True, None), (False, 9), (True, 70)])
def test_blocks_of_rows_give_what_the_whole_gives(causal: bool, window: int | None) -> None:
    case = attention_case("long", [150, 40, 149], causal=causal, window=window, p=0.1).make(torch.float64)
    settings = dict(case.arguments)
    qkv = settings.pop("qkv").requires_grad_()
    whole = public(qkv, backend="reference", **settings)
    dout = torch.randn(whole.shape, generator=RANDOM, dtype=torch.float64)
    (dqkv,) = torch.autograd.grad(whole, qkv, dout)
    arguments = arguments_of(qkv.detach(), **settings, scale=64**-0.5)
    for limits in (Limits(1 << 10, 1, 1), Limits(1 << 14, 32, 1 << 12), Limits(1 << 21, 64, 1 << 19)):
        keep = torch.zeros(qkv.shape[2], len(qkv), keep_bytes(arguments), dtype=torch.uint8)
        found = _torch_grouped.forward(arguments, keep, limits)
        torch.testing.assert_close(found, whole.detach(), rtol=1e-12, atol=1e-12)
        assert torch.equal(_torch_grouped.forward(arguments, NOTHING, limits), found)
        found = backward_of(dout, arguments, limits, keep)
        torch.testing.assert_close(found, dqkv, rtol=1e-12, atol=1e-12)
        assert torch.equal(backward_of(dout, arguments, limits), found), "the saved mask is the one that is drawn"


@pytest.mark.parametrize("lengths", [[40, 39, 7], [1024]])
def test_a_mask_is_drawn_once_and_no_more_for_documents_up_to_1024(
    lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    draw = _torch_grouped.philox.keep_scores
    monkeypatch.setattr(
        _torch_grouped.philox, "keep_scores", lambda *address: drawn.append(len(address[3])) or draw(*address)
    )
    for more in (0, 1):
        settings = dict(
            attention_case("bits", [*lengths[:-1], lengths[-1] + more], heads=1, p=0.1).make(torch.float32).arguments
        )
        qkv = settings.pop("qkv").requires_grad_()
        out = public(qkv, backend="torch", **settings)
        forward = sum(drawn)
        out.sum().backward()
        assert sum(drawn) == forward * (2 if lengths[-1] + more > 1024 else 1)
        drawn.clear()


def test_gradients_of_many_blocks_are_added_in_fp32() -> None:
    # each of 600 rows, a block of its own, adds a 600th to a sum that bf16 would leave at a half
    qkv = torch.zeros(600, 3, 1, 8, dtype=torch.bfloat16)
    arguments = arguments_of(qkv, lengths_to_documents([600]))
    dqkv = backward_of(torch.ones_like(qkv[:, 0]), arguments, Limits(scores=1))
    torch.testing.assert_close(dqkv[:, 2], torch.ones_like(dqkv[:, 2]))


def test_padding_that_sees_padding_only_leaves_no_trace() -> None:
    # 40 and 39 share a call; the last row of the shorter one is padding, and its window of one column too
    case = attention_case("padded", [40, 39], head_dim=32, window=0).make(torch.float32)
    results = run(partial(public, backend="torch"), case)
    assert all(value.isfinite().all() for value in results.values())
    expected = case.arguments["qkv"][:, 2]  # a token that sees only itself gets its own value
    torch.testing.assert_close(results["y"], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_padding_is_hidden_however_low_the_scores(dtype: torch.dtype) -> None:
    case = attention_case("low", [40, 39], head_dim=32).make(dtype)  # which share a call
    case.arguments["qkv"][:, 0], case.arguments["qkv"][:, 1] = 200.0, -200.0  # scores of -226,274
    found = public(backend="torch", **case.arguments)
    torch.testing.assert_close(found, public(backend="reference", **case.arguments))


def test_memory_is_linear_in_the_length() -> None:
    # One document of 8,192 tokens and 4 heads has 1 GiB of scores in fp32; the block in work has 8 MiB. A process of
    # its own, so that its peak is the call's own. What the allocator keeps differs from run to run: 108 to 313 MiB.
    program = """
import resource, torch
from unmask_kernels import Documents, attention
warm = torch.zeros(64, 3, 4, 16, requires_grad=True)
attention(warm, Documents.build(torch.tensor([0, 64], dtype=torch.int32))).sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
x = torch.zeros(8192, 3, 4, 16, requires_grad=True)
attention(x, Documents.build(torch.tensor([0, 8192], dtype=torch.int32))).sum().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    kibibytes = int(done.stdout)
    assert kibibytes < 640 * 1024, f"peak grew by {kibibytes // 1024} MiB"
