"""embedding: every backend against what a PyTorch user would write, forward and backward.

Documents have up to 512 tokens. An eighth of all tokens is one word, as [MASK] is in training; the others are as
unequal as in text. Tables have BERT's vocabulary in fp32, results the dtype of `machine.fast_dtype`. Peers are the
embeddings of `transformers`, eager and under `torch.compile`: three look-ups and their sum, norm, dropout, each written
to memory, with positions and segments as index tensors. The operation is bound by memory: the floor is the number of
bytes that `cost` counts, divided by the measured copy bandwidth. Half of the backward's bytes are the dense gradient of
the word table.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bench import machine
from bench.clock import PLAYBACK
from bench.lengths import DISTRIBUTIONS
from bench.roofline import copy_bandwidth
from bench.variants import checked, compiled, timed_calls
from torch import Tensor

from unmask_kernels import Documents, embedding
from unmask_kernels.capability import architecture
from unmask_kernels.dispatch import BackendUnavailable
from unmask_kernels.embedding import FAMILY, EmbeddingCall, cost, reference
from unmask_kernels.testing.compare import compare
from unmask_kernels.testing.embedding import embedding_case
from unmask_kernels.testing.inputs import run

pytestmark = pytest.mark.benchmark(timer=PLAYBACK)

DTYPE = machine.fast_dtype()
ON_GPU = torch.cuda.is_available()
VOCABULARY, POSITIONS = 30522, 512
SHAPES = (
    [(65536, 768, 0.1), (16384, 768, 0.1), (16384, 1024, 0.1), (16384, 768, 0.0)]
    if ON_GPU
    else [(64 if machine.DRY else 4096, 768, 0.1)]
)
PEERS = ("eager", "compiled")


def _eager(
    ids: Tensor,
    documents: Documents,
    segments: Tensor,
    word: Tensor,
    position: Tensor,
    segment: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    p: float,
    key: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    h = F.embedding(ids, word) + F.embedding(segments, segment)
    h = h + F.embedding(documents.positions, position)
    return F.dropout(F.layer_norm(h, (word.shape[1],), weight, bias, 1e-12), p).to(dtype)


def _call(device: torch.device, width: int) -> EmbeddingCall:
    return EmbeddingCall(device.type, architecture(torch.empty(0, device=device)), DTYPE, width, 2)


def _functions(device: torch.device, width: int) -> dict[str, Callable[..., Tensor]]:
    """Peers, and the backends that can run here."""
    functions: dict[str, Callable[..., Tensor]] = {"eager": _eager}
    for name, backend in FAMILY.backends.items():
        if not backend.refuses(_call(device, width)):
            functions[name] = partial(embedding, backend=name)
    functions["compiled"] = compiled(_eager)
    return functions


def _enter(
    functions: dict[str, Callable[..., Tensor]], tokens: int, width: int, p: float, device: torch.device, direction: str
) -> dict[str, Callable[[int], object]]:
    """Compare every function with the truth on a small case, then return calls on cold inputs of full size."""
    small = embedding_case([200, 57], width, p=p).make(DTYPE, device)
    exact = partial(reference.embedding, eps=1e-12)
    truth, plain = run(exact, small.double()), run(exact, small)

    def check(name: str, function: Callable[..., Tensor]) -> None:
        if name not in PEERS:
            compare(run(function, small), plain, truth)
        elif name == "eager" and p == 0.0:
            # their dropout draws other numbers; to compile eager for another shape too takes longer than to time it
            compare({"y": run(function, small)["y"]}, {"y": plain["y"]}, {"y": truth["y"]})

    lengths = DISTRIBUTIONS["lognormal-512"].fill(tokens)
    case = embedding_case(lengths, width, vocabulary=VOCABULARY, positions=POSITIONS, p=p, frequent=0.125, text=True)
    return timed_calls(checked(functions, check), case.make(DTYPE, device), direction)


@pytest.mark.parametrize("variant", [*PEERS, *FAMILY.backends])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(("tokens", "width", "p"), SHAPES)
def bench_embedding(
    benchmark: Any,
    side_by_side: Any,
    device: torch.device,
    tokens: int,
    width: int,
    p: float,
    direction: str,
    variant: str,
) -> None:
    functions = _functions(device, width)
    if variant not in functions:
        with pytest.raises(BackendUnavailable) as refusal:
            FAMILY.choose(variant, _call(device, width))
        pytest.skip(str(refusal.value))
    if direction == "forward":
        moved = cost.bytes_forward(tokens, width, DTYPE.itemsize, positions=POSITIONS)
    else:
        moved = cost.bytes_backward(tokens, width, DTYPE.itemsize, vocabulary=VOCABULARY, positions=POSITIONS)
    bandwidth = copy_bandwidth(str(device))
    side_by_side.run(
        benchmark,
        group=f"embedding {direction}",
        case=f"{tokens} x {width} {machine.SHORT[DTYPE]}, V {VOCABULARY}, p {p:g}",
        variant=variant,
        enter=lambda: _enter(functions, tokens, width, p, device, direction),
        rounds=100 if ON_GPU else 20,
        extra={
            "baseline": "eager",
            "bytes": moved,
            "floor_seconds": moved / bandwidth,
            "ceiling": f"copy bandwidth of this run, {bandwidth / 1e9:,.1f} GB/s",
        },
    )
