"""The dtype in which a call computes, and what an autocast of the user changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unmask_kernels import layer_norm
from unmask_kernels.precision import accumulation_dtype, autocast_dtype, without_autocast

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_are_in_fp32_but_for_fp64(dtype: torch.dtype) -> None:
    assert accumulation_dtype(dtype) == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("asked", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_autocast_gives_its_dtype_to_all_but_fp64(dtype: torch.dtype, asked: torch.dtype) -> None:
    x = torch.zeros(2, dtype=dtype)
    with torch.autocast("cpu", dtype=asked):
        assert autocast_dtype(x) == (dtype if dtype == torch.float64 else asked)
        with without_autocast("cpu"):
            assert not torch.is_autocast_enabled("cpu")
            assert autocast_dtype(x) == dtype
        assert torch.is_autocast_enabled("cpu")
    assert autocast_dtype(x) == dtype


def test_there_is_no_autocast_of_tensors_without_values() -> None:
    x = torch.zeros(2, 8, device="meta")
    with torch.autocast("cpu", dtype=torch.bfloat16), without_autocast("meta"):
        assert autocast_dtype(x) == torch.float32
        assert layer_norm(x, None, x[0], None).shape == (2, 8)


def test_autocast_of_another_device_changes_nothing() -> None:
    on_a_gpu: Any = SimpleNamespace(device=torch.device("cuda:0"), dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert autocast_dtype(on_a_gpu) == torch.float32
