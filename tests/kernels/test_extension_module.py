"""The compiled extension itself, on machines with and without a GPU: its tables, and its refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from unmask_kernels import extension
from unmask_kernels.extension import load_extension

KNOWN = extension.installed()
pytestmark = pytest.mark.skipif(
    KNOWN is None or bool(KNOWN.fault), reason="the CUDA extension is not built here, or not from these sources"
)


def kernels() -> Any:
    return load_extension().optimizer


def items_of(elements: list[int], *, two_passes: bool) -> Tensor:
    """Rows of (row, chunk, slot, second pass), in the order in which blocks take them."""
    module = kernels()
    count = module.count_items(elements, two_passes=two_passes)
    table = torch.full((count, module.ITEM_BYTES // 4), -1, dtype=torch.int32)
    module.write_items(table.data_ptr(), elements, two_passes=two_passes)
    return table


def test_every_chunk_of_every_row_is_an_item_with_a_place_of_its_own() -> None:
    items = items_of([1, 8193, 0, 16384, 8191], two_passes=False)
    assert items.tolist() == [[0, 0, 0, 0], [1, 0, 1, 0], [1, 1, 2, 0], [3, 0, 3, 0], [3, 1, 4, 0], [4, 0, 5, 0]]


@pytest.mark.parametrize("elements", [[1], [8193, 5], [5] * 700, [10_000_000, 1, 3_000_000], [1, 2_500_000] * 3])
def test_the_second_pass_of_a_row_comes_after_all_of_its_first_pass(elements: list[int]) -> None:
    """A block may only wait for blocks that have taken an item before it, or it may wait for ever."""
    items = items_of(elements, two_passes=True)
    first, second = items[items[:, 3] == 0], items[items[:, 3] == 1]
    assert torch.equal(first[:, :3], second[:, :3]), "both passes have the same chunks in the same order"
    places = torch.arange(len(items))
    for row in range(len(elements)):
        mine = items[:, 0] == row
        assert places[mine & (items[:, 3] == 0)].max() < places[mine & (items[:, 3] == 1)].min()


def test_the_second_pass_follows_while_the_row_is_in_the_cache() -> None:
    """Between the passes over a chunk of a small row lies the work of 256 chunks, and of the row itself."""
    items = items_of([80_000] * 200, two_passes=True)
    places = {tuple(item[:2]): place for place, item in enumerate(items.tolist()) if item[3] == 0}
    gaps = [place - places[tuple(item[:2])] for place, item in enumerate(items.tolist()) if item[3] == 1]
    # as many items of second passes lie between
    assert max(gaps) <= 2 * (256 + 10 + 10)


def test_parameters_beyond_31_bits_have_their_chunks() -> None:
    elements = 2**31 + 5
    count = kernels().count_items([elements, 100_000_000], two_passes=False)
    assert count == 2**18 + 1 + 12_208
    items = items_of([elements, 100_000_000], two_passes=False)
    last = items[2**18].tolist()
    assert last == [0, 2**18, 2**18, 0]
    assert last[1] * kernels().CHUNK == 2**31, "the last 5 elements begin here"
    with pytest.raises(ValueError, match=r"there are more than 2\*\*31 - 1 items"):
        kernels().count_items([2**45], two_passes=False)


def rows(**changes: Any) -> dict[str, Any]:
    """Arguments of a call that the checks let pass."""
    given = {name: [4096] for name in ("weights", "gradients", "first", "second", "steps")}
    settings = {"elements": [8], "groups": [0], "gradient_dtype": 1, "copy_dtype": 0, "copies": [0]}
    return {"device": 0, "stream": 0, "address": 4096, **given, **settings, **changes}


@pytest.mark.parametrize(
    ("changes", "said", "mended"),
    [
        ({"weights": [4097]}, "a parameter must be aligned to elements of 4 bytes, got address 4097", 4100),
        ({"gradients": [4097], "gradient_dtype": 2}, "a gradient must be aligned to elements of 2 bytes", 4098),
        ({"second": [0]}, "a second moment must be an address, got 0", 4096),
        ({"steps": [0]}, "a step count must be an address, got 0", 4096),
        ({"groups": [64]}, "a group must be from 0 to 63, got 64", 63),
        ({"gradient_dtype": 4}, r"gradients must be fp32 \(1\), bf16 \(2\) or fp16 \(3\), got 4", 3),
        ({"copy_dtype": 1, "copies": [4096]}, "copies of the weights must be bf16 or fp16, got fp32", 2),
        ({"elements": [8, 8]}, "every list must have one entry for each of 1 rows, got 2", 8),
    ],
)
def test_what_a_row_cannot_have_is_refused_before_a_launch(changes: dict[str, Any], said: str, mended: int) -> None:
    with pytest.raises(ValueError, match=f"^unmask_kernels._C.optimizer: {said}"):
        kernels().write_rows(**rows(**changes))
    if torch.cuda.is_available():
        return
    name = next(iter(changes))
    way = {name: [mended] if isinstance(changes[name], list) else mended}
    # without a GPU a call that is right comes as far as the driver
    with pytest.raises(RuntimeError, match="driver"):
        kernels().write_rows(**rows(**{**changes, **way}))


def test_an_update_needs_groups_a_rule_and_a_norm_above_zero() -> None:
    module = kernels()
    names = ("rows", "items", "partials", "ratios", "counters", "grad_scale", "found_inf", "norm")
    call = dict.fromkeys(names, 4096) | {"device": 0, "stream": 0, "row_count": 1, "item_count": 1}
    group = module.Group(
        learning_rate=0.1, learning_rate_at=0, beta1=0.9, beta2=0.99, eps=1e-6, weight_decay=0.0, corrects_bias=True,
        adapts=True,
    )  # fmt: skip
    right = {"rule": 2, "max_norm": 1.0, "groups": [group]}
    for change, said in (
        ({"rule": 3}, "rule must be 0, 1 or 2, got 3"),
        ({"groups": []}, "there must be 1 to 64 groups, got 0"),
        ({"groups": [group] * 65}, "there must be 1 to 64 groups, got 65"),
        ({"max_norm": 0.0}, "max_norm must be above 0, got 0"),
        ({"item_count": 0}, r"items must be from 1 to 2\*\*31 - 1, got 0"),
        ({"counters": 0}, "counters must be an address, got 0"),
    ):
        with pytest.raises(ValueError, match=said):
            module.update(**{**call, **right, **change})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_driver_a_call_is_an_error_with_the_words_of_cuda() -> None:
    assert load_extension().driver_version() == 0
    with pytest.raises(
        RuntimeError, match=r"^unmask_kernels\._C: .*driver version is insufficient.*InsufficientDriver"
    ):
        kernels().load(0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_every_kernel_is_loaded_and_uses_no_local_memory() -> None:
    major, minor = torch.cuda.get_device_capability()
    for name, registers, local_bytes, architecture in kernels().load(0):
        assert registers > 0 and local_bytes == 0, name
        assert architecture <= 10 * major + minor, name
