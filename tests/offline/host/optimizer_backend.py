"""The functions of `unmask_kernels._C.optimizer` on the host machine, so that the whole backend runs on a CPU.

`_cuda.step` passes addresses of PyTorch's tensors. The machine gets to know each with its exact size, so that an access
beside it is a fault. A tensor must stay alive as long as the device, since its memory would get a second meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from offline.host.device import Device
from unmask_kernels.optimizer import _cuda
from unmask_kernels.optimizer.arguments import Arguments

__all__ = ["HostKernels", "backend_on"]

# bytes of an element by the number of its dtype; 0 is no tensor
_WIDTHS = {0: 0, 1: 4, 2: 2, 3: 2}


@contextmanager
def backend_on(device: Device) -> Iterator[tuple[Callable[..., None], HostKernels]]:
    """Give the `step` of the CUDA backend, with a device of the host machine in the place of a GPU, and its kernels."""
    kernels, kept = HostKernels(device), list[Arguments]()

    def step(arguments: Arguments, *, backend: str | None = None) -> None:
        kept.append(arguments)
        _cuda.step(arguments)

    changes: dict[str, Any] = {
        "_kernels": lambda index: kernels,
        "_stream": lambda device: 0,
        "_is_capturing": lambda: False,
        "_rows": {},
        "_items": {},
    }
    with ExitStack() as stack:
        for name, value in changes.items():
            stack.enter_context(mock.patch.object(_cuda, name, value))
        yield step, kernels


class HostKernels:
    """What `_cuda` calls; `launches` has the names of what was launched, in order."""

    MAX_GROUPS, ROW_BYTES, ITEM_BYTES, FIRST_ROW_COUNTER = 64, 64, 16, 2

    def __init__(self, device: Device) -> None:
        self._device = device
        self._known: dict[int, int] = {}
        self._chunks: dict[int, int] = {}
        self.launches: list[str] = []
        self.CHUNK = device.call("optimizer_chunk")

    def Group(self, **settings: Any) -> SimpleNamespace:
        return SimpleNamespace(**settings)

    def count_items(self, sizes: Sequence[int], *, two_passes: bool) -> int:
        return self._device.call("optimizer_items", torch.tensor(sizes), len(sizes), int(two_passes), 0)

    def write_items(self, address: int, sizes: Sequence[int], *, two_passes: bool) -> None:
        self._device.call("optimizer_items", torch.tensor(sizes), len(sizes), int(two_passes), address)

    def write_rows(self, *, address: int, elements: Sequence[int], groups: Sequence[int], **given: Any) -> None:
        self.launches.append("write_rows")
        gradient, copy = given["gradient_dtype"], given["copy_dtype"]
        for at, size in enumerate(elements):
            for name, width in (("weights", 4), ("gradients", _WIDTHS[gradient]), ("first", 4), ("second", 4)):
                self._make_known(given[name][at], size * width)
            self._make_known(given["copies"][at], size * _WIDTHS[copy])
            self._make_known(given["steps"][at], 4)
            tensors = [given[name][at] for name in ("weights", "gradients", "first", "second", "copies", "steps")]
            self._device.call("optimizer_row", *tensors, size, groups[at], gradient, copy)
        self._make_known(address, len(elements) * self.ROW_BYTES)
        self._started("optimizer_rows", address)

    def norm(self, *, rows: int, items: int, item_count: int, partials: int, finished: int, **given: Any) -> None:
        self.launches.append("norm")
        self._scalars(given)
        self._make_known(items, item_count * self.ITEM_BYTES)
        self._make_known(partials, item_count * 8)
        self._make_known(finished, 4)
        names = ("grad_scale", "found_inf", "norm", "skipped")
        scalars = [given[name] for name in names]
        self._started("optimizer_norm", rows, items, item_count, partials, finished, *scalars)

    def update(self, *, rule: int, groups: Sequence[Any], rows: int, row_count: int, items: int, **given: Any) -> None:
        self.launches.append("update")
        self._scalars(given)
        count = given["item_count"]
        self._make_known(items, count * self.ITEM_BYTES)
        self._make_known(given["partials"], count // (2 if rule else 1) * 8)
        self._make_known(given["ratios"], row_count * 4)
        self._make_known(given["counters"], (self.FIRST_ROW_COUNTER + row_count) * 4)
        for at, group in enumerate(groups):
            self._make_known(group.learning_rate_at, 4)
            settings = (group.beta1, group.beta2, group.eps, float(group.weight_decay))
            self._device.call(
                "optimizer_group", at, group.learning_rate_at, *settings, int(group.corrects_bias), int(group.adapts)
            )
        tables = (rows, row_count, items, count, given["partials"], given["ratios"], given["counters"])
        scalars = (given["grad_scale"], given["found_inf"], given["norm"], float(given["max_norm"]))
        self._started("optimizer_update", rule, *tables, *scalars)

    def _started(self, name: str, *arguments: Any) -> None:
        if self._device.call(name, *arguments) != 0:
            self._device.report.check()
            raise AssertionError(f"{name} did not start")

    def _scalars(self, given: dict[str, Any]) -> None:
        for name in ("grad_scale", "found_inf", "norm"):
            self._make_known(given[name], 4)

    def _make_known(self, address: int, size: int) -> None:
        if address != 0 and size > self._known.get(address, 0):
            self._known[address] = size
            self._device.lend(address, size)
