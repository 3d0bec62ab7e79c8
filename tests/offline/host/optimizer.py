"""The optimizer's CUDA kernels on the host machine, called like a backend: with the record of an update."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from offline.host.build import HOST
from offline.host.device import Device, Machine
from unmask_kernels.optimizer.arguments import Arguments
from unmask_kernels.testing import optimizer as cases
from unmask_kernels.testing.inputs import Inputs, run

__all__ = ["FILES", "SOURCES", "build", "run_on", "step", "table_of_rows"]

SOURCES = HOST.parents[2] / "csrc"
"""The folder of CUDA C++."""

FILES = ("optimizer/optimizer.cu", "optimizer/optimizer.h", "common/device.cuh")
"""The files with the family's kernels."""

_DTYPES = {torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}
_ROW_BYTES, _ITEM_BYTES = 64, 16
_RULES = {("adamw", False): 0, ("adamw", True): 1, ("lamb", False): 2}


def build(folder: Path = SOURCES) -> Machine:
    """Compile the kernels, or a changed copy of them in another folder."""
    files = (folder / "optimizer" / "optimizer.cu", folder / "optimizer" / "work_items.cpp")
    glue, changed = HOST / "kernels" / "optimizer.cpp", folder != SOURCES
    return Machine.build(*files, glue, include=[folder], strict=not changed, to=folder if changed else None)


def run_on(device: Device, inputs: Inputs) -> dict[str, Tensor]:
    """Run the updates of a case of `unmask_kernels.testing.optimizer` on a device."""
    with mock.patch.object(cases, "step", partial(_as_backend, device)):
        return run(cases.run_updates, inputs)


def _as_backend(device: Device, arguments: Arguments, *, backend: str | None) -> None:
    step(device, arguments)


def step(device: Device, arguments: Arguments) -> None:
    """Update the parameters with at most two launches, behind those that write the table of rows.

    Tensors are copied to the device and back.

    Raises:
        AssertionError: the launches fail, or leave counters that are not zero.
    """
    rows = len(arguments.params)
    changed = [arguments.params, arguments.exp_avg, arguments.exp_avg_sq, arguments.steps]
    params, firsts, seconds, steps = ([_placed(device, x) for x in each] for each in changed)
    grads = [_placed(device, x, read_only=True) for x in arguments.grads]
    copies = [device.empty(tuple(x.shape), x.dtype, offset=x.data_ptr() % 16) for x in arguments.copies]
    elements = torch.tensor([x.numel() for x in params])
    rates = {rate.data_ptr(): device.tensor(rate.float(), read_only=True) for rate in arguments.lr}
    groups = list(zip([rate.data_ptr() for rate in arguments.lr], arguments.weight_decay, arguments.trust, strict=True))
    rule = _RULES[arguments.algorithm, arguments.clip_update]
    known = [*dict.fromkeys(groups)]
    for index, (rate, decay, trust) in enumerate(known):
        settings = (arguments.beta1, arguments.beta2, arguments.eps, float(decay))
        device.call("optimizer_group", index, rates[rate], *settings, arguments.bias_correction, trust or rule == 1)
    for index in range(rows):
        tensors = (params[index], grads[index], firsts[index], seconds[index], copies[index] if copies else 0)
        dtypes = (_DTYPES[grads[index].dtype], _DTYPES[copies[index].dtype] if copies else 0)
        numbers = (int(elements[index]), known.index(groups[index]), *dtypes)
        device.call("optimizer_row", *tensors, steps[index], *numbers)
    launched = _Launches(device, table_of_rows(device, rows), elements)
    scale, skip = (_scalar(device, x) for x in (arguments.grad_scale, arguments.found_inf))
    norm = None
    if arguments.norm is not None:
        norm = device.empty((), torch.float32)
        launched.norm(scale, skip, norm)
        arguments.norm.copy_(norm)
    launched.update(rule, scale, skip, 0 if norm is None else norm, arguments.max_norm)
    for mine, theirs in zip((params, firsts, seconds, steps, copies), (*changed, arguments.copies), strict=True):
        for source, to in zip(mine, theirs, strict=True):
            to.copy_(source)


def table_of_rows(device: Device, rows: int) -> Tensor:
    """Write the rows that were noted by the library's `optimizer_row` into a table on the device."""
    table = device.empty((rows * _ROW_BYTES,), torch.uint8)
    assert device.call("optimizer_rows", table) == 0, "the rows are not written"
    return table


class _Launches:
    """The two launches over one table of rows."""

    def __init__(self, device: Device, rows: Tensor, elements: Tensor) -> None:
        self._device, self._rows, self._elements = device, rows, elements

    def norm(self, scale: Any, skip: Any, norm: Any) -> None:
        items, count, chunks = self._items(two_passes=False)
        finished = self._device.tensor(torch.zeros(1, dtype=torch.int32))
        partials, skipped = (self._device.empty((size,), torch.float32) for size in (chunks, 1))
        self._call("optimizer_norm", self._rows, items, count, partials, finished, scale, skip, norm, skipped)
        assert int(finished) == 0, "the norm leaves its counter"

    def update(self, rule: int, scale: Any, skip: Any, norm: Any, max_norm: float) -> None:
        items, count, chunks = self._items(two_passes=rule > 0)
        rows = len(self._elements)
        counters = self._device.tensor(torch.zeros(2 + rows, dtype=torch.int32))
        # AdamW has none of these two
        shapes = ((chunks, 2), (rows,))
        partials, ratios = (self._device.empty(shape, torch.float32) if rule else 0 for shape in shapes)
        launch = (rule, self._rows, rows, items, count, partials, ratios, counters, scale, skip, norm, max_norm)
        self._call("optimizer_update", *launch)
        assert not counters.any(), "the update leaves its counters"

    def _items(self, two_passes: bool) -> tuple[Tensor, int, int]:
        """Return the items, how many there are, and how many chunks."""
        rows = len(self._elements)
        count = self._device.call("optimizer_items", self._elements, rows, two_passes, 0)
        items = torch.zeros(count * _ITEM_BYTES, dtype=torch.uint8)
        self._device.call("optimizer_items", self._elements, rows, two_passes, items)
        return self._device.tensor(items, read_only=True), count, count // (2 if two_passes else 1)

    def _call(self, name: str, *arguments: Any) -> None:
        if self._device.call(name, *arguments) != 0:
            self._device.report.check()
            raise AssertionError(f"{name} did not start")


def _placed(device: Device, x: Tensor, *, read_only: bool = False) -> Tensor:
    """Copy a tensor to a place that is aligned as it is."""
    return device.tensor(x, offset=x.data_ptr() % 16, read_only=read_only)


def _scalar(device: Device, x: Tensor | None) -> Tensor | int:
    return 0 if x is None else device.tensor(x, read_only=True)
