"""What the attention backward for sm_90 must compute on the host machine."""

from __future__ import annotations

from functools import partial

import torch

from offline.host import attention_sm90
from offline.host.attention_sm90 import SOURCE, gradients, problem, solve, solved
from offline.host.device import Device
from offline.host.subject import Subject
from unmask_kernels.testing.compare import Measure, compare

__all__ = ["LENGTHS", "SUBJECT", "against_fp64", "low_scores"]

LENGTHS = {
    "one-token": (1,),
    "primes": (101, 67, 131),
    "a-tile": (64, 128),
    "a-tile-and-one-more": (65, 129),
    "the-longest": (512,),
    "40x8": (8,) * 40,
    "500x8": (8,) * 500,
    "skewed": (420, 3, 3, 3, 2, 1),
    "empty-documents": (0, 7, 0, 0, 130, 0),
}


def against_fp64(
    device: Device, lengths: tuple[int, ...], dtype: torch.dtype = torch.bfloat16, heads: int = 2, p: float = 0.0
) -> Measure | None:
    """Run the kernel on a problem and compare the gradients by the criterion; return the largest error."""
    right = solved(lengths, dtype, heads, p)
    ours = gradients(device, problem(lengths, dtype, heads, p), right)
    return compare({"dqkv": ours}, {"dqkv": right.plain}, {"dqkv": right.truth})


def low_scores(device: Device) -> None:
    """Check documents whose columns past the end have an infinite P, because lse of all rows is below -128."""
    given = problem((30, 70), torch.bfloat16, 1)
    qkv = given.qkv.clone()
    qkv[:, 0], qkv[:, 1] = 4.0 + 0.1 * qkv[:, 0], -8.0 + 0.1 * qkv[:, 1]
    low = given._replace(qkv=qkv)
    right = solve(low)
    assert right.lse.max() < -128
    compare({"dqkv": gradients(device, low, right)}, {"dqkv": right.plain}, {"dqkv": right.truth})


def _case(device: Device, lengths: tuple[int, ...], heads: int, p: float, dtype: torch.dtype = torch.bfloat16) -> None:
    against_fp64(device, lengths, dtype, heads, p)


_EQUIVALENT = {
    "for (int half = 0; half <= 2; ++half) {": "a third word has bits that nobody reads",
    "if (tile <= tiles) load_rows(shared.q[tile % 3], shared.document.q, tile, 3);": (
        "rows past the end are zeros, which nobody reads, and are waited for"
    ),
    "if ((HAS_WGMMA) || true) {": "it is true where the kernel is launched",
    "const auto blocks = static_cast<unsigned>(most_items <= multiprocessors ? most_items : multiprocessors);": (
        "the two are equal then"
    ),
    "const auto blocks = ((static_cast<unsigned>(most_items < multiprocessors) || true) ? most_items "
    ": multiprocessors);": ("blocks that find no item end"),
    "for (int column = 0; column <= shared.document.length; column += COLUMNS) {": (
        "a tile of columns past the end adds zeros, and nothing of it is stored"
    ),
}

SUBJECT = Subject(
    name="attention_sm90",
    folder=SOURCE.parents[1],
    files=(str(SOURCE.relative_to(SOURCE.parents[1])),),
    build=attention_sm90.build,
    cases={
        "by row": partial(_case, lengths=(1, 32), heads=4, p=0.2),
        "by column": partial(_case, lengths=(65, 0, 96), heads=1, p=0.2),
        "low scores": low_scores,
        "fp16": partial(_case, lengths=(64,), heads=1, p=0.0, dtype=torch.float16),
        "one tile": partial(_case, lengths=(64,), heads=1, p=0.0),
        "two tiles of columns": partial(_case, lengths=(129, 128), heads=1, p=0.0),
        "three tiles of columns": partial(_case, lengths=(330,), heads=1, p=0.0),
    },
    equivalent=_EQUIVALENT,
)
"""The kernel, and few documents for each of its branches."""
