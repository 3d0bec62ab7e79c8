"""The argument checks that all operations share: what they accept, and what they say otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unmask_kernels import checks

LONG = torch.tensor(5)


@pytest.mark.parametrize(("dims", "right"), [("(M,)", 1), ("(T, D)", 2), ("(T, 3, H, K)", 4)])
def test_a_rank_is_neither_more_nor_less(dims: str, right: int) -> None:
    for rank in range(6):
        x = torch.zeros([2] * rank)
        if rank == right:
            checks.rank("sum", "x", x, dims)
            continue
        with pytest.raises(ValueError) as raised:
            checks.rank("sum", "x", x, dims)
        assert str(raised.value) == f"sum: x must have shape {dims}, got {tuple(x.shape)}"


@pytest.mark.parametrize("shape", [(3,), (4, 3), (3, 4, 1), (3, 5), (2, 4), (12,)])
def test_a_shape_is_exact(shape: tuple[int, ...]) -> None:
    checks.shape("sum", "x", torch.zeros(3, 4), (3, 4), "as y")
    with pytest.raises(ValueError, match=r"sum: x must have shape \(3, 4\), as y, got \("):
        checks.shape("sum", "x", torch.zeros(shape), (3, 4), "as y")


def test_dtypes_are_listed_as_in_a_sentence() -> None:
    allowed = (torch.float16, torch.bfloat16, torch.float32)
    for count, words in ((1, "float16"), (2, "float16 or bfloat16"), (3, "float16, bfloat16 or float32")):
        with pytest.raises(TypeError, match=f"^sum: x must be {words}, got float64$"):
            checks.dtype("sum", "x", torch.zeros(1).double(), allowed[:count])


def test_a_tensor_without_elements_may_have_any_strides() -> None:
    checks.last_dim_contiguous("sum", "x", torch.zeros(0, 3, 2).mT)
    with pytest.raises(ValueError, match=r"got strides \(6, 1, 2\); call x.contiguous\(\)"):
        checks.last_dim_contiguous("sum", "x", torch.zeros(1, 3, 2).mT)


@pytest.mark.parametrize(("p", "said"), [(-1e-9, "below 1"), (1.0, "below 1"), (1 - 2**-17, "at most 1 - 2"), (2, "1")])
def test_a_probability_that_16_bits_cannot_tell_from_1_is_refused(p: float, said: str) -> None:
    for right in (0.0, 2.0**-17, 0.5, 1 - 2**-16):
        checks.probability("sum", "p", right)
    with pytest.raises(ValueError, match=f"sum: p must be .*{said}"):
        checks.probability("sum", "p", p)


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        ({"key": None, "row_keys": LONG}, ValueError, "p is 0.5, so key is needed"),
        ({"key": LONG, "row_keys": None}, ValueError, "p is 0.5, so row_keys is needed"),
        ({"key": LONG.int(), "row_keys": LONG}, TypeError, "key must be int64, got int32"),
        ({"key": LONG, "row_keys": LONG.int()}, TypeError, "row_keys must be int64, got int32"),
        ({"key": LONG[None], "row_keys": LONG}, ValueError, r"key must be a scalar tensor, got shape \(1,\)"),
    ],
)
def test_dropout_asks_for_a_whole_address_of_64_bits(address: Any, error: type[Exception], said: str) -> None:
    checks.random_address("sum", 0.5, LONG, row_keys=LONG)
    checks.random_address("sum", 0.0, **address)
    with pytest.raises(error, match=f"sum: {said}"):
        checks.random_address("sum", 0.5, **address)


@pytest.mark.parametrize(("values", "found"), [([0, 5], 5), ([-1, 2], -1), ([-2, 9], -2), ([4, 6], 6)])
def test_contents_lie_in_a_half_open_range(values: list[int], found: int) -> None:
    for right in ([], [0], [4, 0, 2]):
        checks.contents("sum", "ids", torch.tensor(right, dtype=torch.int64), 5, "the rows of word")
    with pytest.raises(ValueError, match=rf"sum: ids must be in \[0, 5\), the rows of word, got {found}$"):
        checks.contents("sum", "ids", torch.tensor(values), 5, "the rows of word")


def test_devices_are_compared_and_what_is_missing_is_not() -> None:
    x, elsewhere = torch.zeros(1), torch.zeros(1, device="meta")
    checks.same_device("sum", "x", x, y=x, z=None)
    with pytest.raises(ValueError, match=r"sum: z must be on cpu, the device of x, got meta; move it with z.to\('cpu'"):
        checks.same_device("sum", "x", x, y=x, z=elsewhere)
