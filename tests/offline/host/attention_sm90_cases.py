"""What the attention backward for sm_90 must compute on the host machine."""

from __future__ import annotations

from functools import partial

import torch

from offline.host import attention_sm90
from offline.host.attention_sm90 import SOURCE, gradients, problem, solved
from offline.host.device import Device
from offline.host.subject import Subject
from unmask_kernels.testing.compare import Measure, compare

__all__ = ["LENGTHS", "SUBJECT", "against_fp64"]

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


def _case(device: Device, lengths: tuple[int, ...], heads: int, p: float) -> None:
    against_fp64(device, lengths, heads=heads, p=p)


SUBJECT = Subject(
    name="attention_sm90",
    folder=SOURCE.parents[1],
    files=(str(SOURCE.relative_to(SOURCE.parents[1])),),
    build=attention_sm90.build,
    cases={
        "by row": partial(_case, lengths=(1, 37), heads=4, p=0.2),
        "by column": partial(_case, lengths=(65, 0, 70), heads=1, p=0.2),
        "one tile": partial(_case, lengths=(64,), heads=1, p=0.0),
        "two tiles of columns": partial(_case, lengths=(129, 128), heads=1, p=0.0),
        "three tiles of columns": partial(_case, lengths=(330,), heads=1, p=0.0),
    },
    equivalent={},
)
"""The kernel, and few documents for each of its branches."""
