"""What a layer starts on a GPU is counted without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from offline import launch_count
from unmask_kernels import gelu, layer_norm
from unmask_kernels.capability import HAS_TRITON, INTERPRETING

pytestmark = [
    pytest.mark.skipif(not HAS_TRITON, reason="package triton is not installed"),
    pytest.mark.skipif(INTERPRETING, reason="an interpreted kernel is not recorded"),
]

PAGE = Path(__file__).parents[2] / "docs" / "measuring.md"


def test_the_page_has_the_table_of_launches() -> None:
    assert "\n".join(launch_count.table()) in PAGE.read_text("utf-8"), (
        "PYTHONPATH=tests python -m offline.launch_count prints the table of docs/measuring.md"
    )


def test_views_and_memory_are_not_counted_and_calls_are() -> None:
    x = torch.empty(4, 6, device="meta")
    with launch_count.count() as found:
        torch.empty_like(x).view(2, 12).t()
        assert not found.kernels
        x.t() @ x.to(torch.float32)  # already fp32: no cast
        x.to(torch.bfloat16)
    assert found.kernels == found.operations == {"mm": 1, "_to_copy": 1}


def test_an_operation_of_ours_counts_as_its_kernels_and_the_calls_around_them() -> None:
    x = torch.empty(4, 32, device="meta", requires_grad=True)
    with launch_count.count() as found:
        gelu(x, torch.empty(32, device="meta", requires_grad=True)).backward(torch.empty_like(x))
    assert found.operations == {"gelu_fwd": 1, "gelu_bwd": 1}
    assert found.kernels == {"gelu forward": 1, "gelu backward": 1, "gelu sum": 1}


def test_a_matrix_that_a_product_adds_is_copied_first_unless_in_place() -> None:
    x, added = torch.empty(4, 4, device="meta"), torch.empty(4, 4, device="meta")
    with launch_count.count() as found:
        torch.addmm(x[0], x, x)
        torch.addmm(added, x, x)
        added.addmm_(x, x)
    assert found.operations == {"addmm": 2, "addmm_": 1}
    assert found.kernels == {"addmm": 1 + 2, "addmm_": 1}


def test_nothing_of_the_count_stays_behind() -> None:
    with launch_count.count() as found:
        pass
    x = torch.ones(2, 8)
    layer_norm(x, None, torch.ones(8), None)  # on the CPU again
    assert not found.operations
