"""A quick interpreter works out what Triton's own one does."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("triton")

import triton.language as tl

from offline.quick_interpreter import quicken_interpreter
from unmask_kernels.capability import INTERPRETING

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(not INTERPRETING, reason="a process that compiles kernels has no quick interpreter"),
]

if INTERPRETING:
    quicken_interpreter()

SCALARS = [tl.int1, tl.int32, tl.uint32, tl.int64, tl.bfloat16, tl.float16, tl.float32, tl.float64]
TYPES = [*SCALARS, tl.pointer_type(tl.float16), tl.block_type(tl.bfloat16, [4, 8])]
TYPES += [tl.block_type(tl.pointer_type(tl.float32), [16])]


@pytest.mark.parametrize("type", TYPES, ids=str)
def test_a_tensor_knows_what_triton_tells_it(type: Any) -> None:
    tensors = [tl.tensor(handle, type) for handle in ("first", "second")]
    assert [tensor.handle for tensor in tensors] == ["first", "second"]
    slow = tl.tensor.__new__(tl.tensor)
    tl.tensor.__init__.slowly(slow, "second", type)
    for quick in tensors:
        assert vars(quick).keys() == vars(slow).keys()
        assert quick.type == slow.type and quick.dtype == slow.dtype and quick.numel.value == slow.numel.value
        assert [size.value for size in quick.shape] == [size.value for size in slow.shape]


@pytest.mark.parametrize("type", TYPES, ids=str)
def test_numpy_stores_a_value_in_the_dtype_that_triton_names(type: Any) -> None:
    from triton.runtime import interpreter

    for _ in range(2):
        assert interpreter._get_np_dtype(type) == interpreter._get_np_dtype.slowly(type)


def test_a_block_with_other_elements_has_the_same_shape() -> None:
    block = tl.block_type(tl.int32, [4, 8])
    for scalar in (tl.float16, tl.pointer_type(tl.int8), tl.int32, tl.float16):
        other = block.with_element_ty(scalar)
        assert other == tl.block_type(scalar, [4, 8])
        assert other.with_element_ty(tl.int32) == block
        assert other.to_ir(None) == other
