"""What the backward of attention in CUDA C++ must compute on the host machine, for documents up to 256 tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from offline.host import attention
from offline.host.device import Device
from offline.host.subject import Subject
from unmask_kernels.attention import reference
from unmask_kernels.documents import Documents
from unmask_kernels.testing.attention import attention_case, plain_attention
from unmask_kernels.testing.compare import Measure, compare, same_bits
from unmask_kernels.testing.inputs import Case, Inputs, run

__all__ = ["CASES", "SUBJECT", "against_fp64", "gradient_of", "low_scores", "nan_in_a_neighbour", "packed_equals_alone"]

_SCALE = 64**-0.5


def against_fp64(device: Device, case: Case, dtype: torch.dtype) -> Measure | None:
    """Run a case and compare it by the criterion; return its largest error."""
    plain, truth = _expected(case.name, case, dtype)
    found = compare(run(attention.attention_on(device), case.make(dtype)), plain, truth)
    _no_conflicts(device)
    return found


@lru_cache(maxsize=64)
def _expected(_: str, case: Case, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return _plain_and_truth(case.make(dtype))


def _plain_and_truth(inputs: Inputs) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    plain = run(partial(plain_attention, scale=_SCALE), inputs)
    return plain, run(partial(reference.attention, scale=_SCALE), inputs.double())


def _no_conflicts(device: Device) -> None:
    assert device.report.bank_conflicts == 0, "accesses to shared memory wait for one another"


def gradient_of(device: Device, inputs: Inputs) -> Tensor:
    """Return dqkv of a case."""
    return run(attention.attention_on(device), inputs)["dqkv"]


def packed_equals_alone(device: Device, lengths: tuple[int, ...], p: float, dtype: torch.dtype) -> None:
    """Check that each document gets the bits that it gets alone."""
    inputs = _case("packed", lengths, p=p).make(dtype)
    qkv, documents = inputs.arguments["qkv"], inputs.arguments["documents"]
    whole = gradient_of(device, inputs)
    # the gradient of the output is drawn for the whole row: the same values for a document alone
    incoming = torch.randn(len(qkv), *qkv.shape[2:], generator=torch.Generator().manual_seed(1)).bfloat16().to(dtype)
    start = 0
    for index, length in enumerate(lengths):
        some = slice(start, start + length)
        boundary = torch.tensor([0, length], dtype=torch.int32)
        alone = inputs.change(qkv=qkv[some], documents=Documents.build(boundary, documents.keys[index, None]))
        found = run(attention.attention_on(device), alone, incoming=partial(_given, incoming[some]))["dqkv"]
        same_bits({"dqkv": whole[some]}, {"dqkv": found}, "packed and alone")
        start += length


def _given(gradient: Tensor, _: Tensor) -> Tensor:
    return gradient


def nan_in_a_neighbour(device: Device, lengths: tuple[int, ...], p: float) -> None:
    """Check that NaN of every second document changes no bit of the others."""
    inputs = _case("neighbours", lengths, p=p).make(torch.bfloat16)
    ill = torch.cat([torch.full((length,), index % 2 == 1) for index, length in enumerate(lengths)])
    poisoned = inputs.arguments["qkv"].clone()
    poisoned[ill] = float("nan")
    clean, found = gradient_of(device, inputs), gradient_of(device, inputs.change(qkv=poisoned))
    assert bool(found[ill].isnan().all()), "NaN of a document is lost"
    same_bits({"dqkv": found[~ill]}, {"dqkv": clean[~ill]}, "with and without NaN in neighbours")


def low_scores(device: Device) -> None:
    """Check documents whose scores are so low that 2 to the power of -lse overflows."""
    inputs = _case("low", (5, 70, 33, 140)).make(torch.bfloat16)
    qkv = 0.1 * inputs.arguments["qkv"]
    qkv[:, 0] += 5
    qkv[:, 1] -= 5
    inputs = inputs.change(qkv=qkv)
    plain, truth = _plain_and_truth(inputs)
    compare(run(attention.attention_on(device), inputs), plain, truth)


@lru_cache
def _case(name: str, lengths: tuple[int, ...], **how: Any) -> Case:
    return attention_case(f"{name}-{len(lengths)}", [*lengths], **how)


_FP64: dict[str, dict[str, Any]] = {
    "one token": {"lengths": (1,), "p": 0.1, "dtype": torch.float16},
    "empty documents": {"lengths": (0, 7, 0, 0, 13, 0)},
    "tiles": {"lengths": (32, 64, 128), "heads": 1},
    "a tile and one more": {"lengths": (33, 65), "p": 0.1},
    "mixed": {"lengths": (33, 5, 64, 1, 40), "heads": 3, "p": 0.1, "dtype": torch.float16},
    "primes": {"lengths": (101, 67), "p": 0.1},
    "a prime over 128": {"lengths": (131,), "heads": 1, "p": 0.1},
    "256": {"lengths": (256,), "heads": 1, "p": 0.1},
    "more items than blocks": {"lengths": (8,) * 40, "heads": 1},
    "skewed": {"lengths": (225, 3, 3, 2, 1), "heads": 1, "dtype": torch.float16},
}


def _fp64(device: Device, *, name: str, dtype: torch.dtype = torch.bfloat16, **how: Any) -> None:
    against_fp64(device, _case(name, **how), dtype)


CASES: dict[str, Callable[[Device], None]] = {
    **{name: partial(_fp64, name=name, **how) for name, how in _FP64.items()},
    "packed equals alone": partial(packed_equals_alone, lengths=(40, 3, 90), p=0.1, dtype=torch.bfloat16),
    "NaN in a neighbour": partial(nan_in_a_neighbour, lengths=(40, 3, 90, 33, 20), p=0.1),
    "low scores": low_scores,
}

_EQUIVALENT = {
    "if (column + COLUMNS >= item.length) {": "no column is masked then",
    "if ((column + COLUMNS > item.length) || true) {": "every score is compared, at a cost",
    "if (column <= length) {": "rows past the end are not stored",
    "if ((column < length) || true) {": "rows past the end are not stored",
    "const long long most = (most_items);": "blocks that find no item end",
    "const long long most = (static_cast<long long>(multiprocessors) * blocks);": "blocks that find no item end",
    "const long long most = std::min(most_items, multiprocessors * blocks);": "there are less than 2**31 blocks",
    "const long long width = p.heads * WIDTH, stride = 3 * width;": "a token has less than 2**31 elements",
    "const long long stride = p.heads * WIDTH, begin = item.start * stride + item.head * WIDTH;": (
        "a token has less than 2**31 elements"
    ),
    "return in_global_memory(p.keep)[(word * p.heads + item.head) * p.tokens + item.start +": (
        "there are less than 2**31 pairs of a word and a head; the product with the tokens has 64 bits"
    ),
}

SUBJECT = Subject(
    name="attention",
    folder=attention.SOURCES,
    files=attention.FILES,
    build=attention.build,
    cases=CASES,
    equivalent=_EQUIVALENT,
)
"""The backward of attention for sm_80."""
