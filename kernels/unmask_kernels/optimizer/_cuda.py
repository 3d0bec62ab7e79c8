"""CUDA C++: the norm of all gradients in one launch, the update of all parameters in another.

The kernels find the tensors of a parameter in a *row* of a table in device memory, and the chunk that a block works on
in a table of *items*; `csrc/optimizer/optimizer.h` describes both. No table changes once it is written:

    items    depend on the sizes of the parameters alone: a model has one table for its life
    rows     hold addresses. A step whose tensors lie where those of an earlier step lay takes the table of that step;
             another one gets a new table, which a launch for 60 parameters writes. The last few are kept, since
             training allocates gradients at few places in turn, and for ever those that a CUDA graph was captured with

What may change without another address is read from device memory (learning rates, step counts, grad_scale, found_inf,
norm) or passed with the launch (betas, eps, decays, max_norm). A launch has room for 64 pairs of a learning rate and a
decay; parameters with more of them get more launches.

Traffic is in `cost`, the reasons why it is fast and deterministic are at the head of `csrc/optimizer/optimizer.cu`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..dispatch import BackendUnavailable
from ..extension import load_extension
from .arguments import Arguments

__all__ = ["step"]

_DTYPES = {torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}
_ADAMW, _STABLE_ADAMW, _LAMB = 0, 1, 2
_MOST_TABLES = 16


class _Items(NamedTuple):
    """The work on parameters of some sizes: an item for each chunk and pass."""

    table: Tensor
    length: int


class _Rows(NamedTuple):
    """Addresses of parameters and of all that belongs to them, and memory for their kernels."""

    table: Tensor
    counters: Tensor
    partials: Tensor
    ratios: Tensor


_items: dict[tuple[Any, ...], _Items] = {}
_rows: dict[tuple[Any, ...], _Rows] = {}
# a graph reads the tables that it was captured with at each replay
_captured: list[NamedTuple] = []


def step(arguments: Arguments) -> None:
    """Update all parameters; nothing is read from the device.

    Raises:
        BackendUnavailable: a CUDA graph is captured, and there was no such step before.
    """
    device = arguments.params[0].device
    kernels = _kernels(device.index)
    place = {"device": device.index, "stream": _stream(device)}
    scalars = {name: _address(getattr(arguments, name)) for name in ("grad_scale", "found_inf", "norm")}
    sizes = tuple(x.numel() for x in arguments.params)
    if not any(sizes):
        if arguments.norm is not None:
            arguments.norm.zero_()
        _count(arguments, range(len(sizes)))
        return
    rule = _rule(arguments)
    parts = list(_parts(arguments, kernels.MAX_GROUPS))
    # before the rows, since they may refuse
    norm_items = None if arguments.norm is None else _items_of(kernels, device, sizes, two_passes=False)
    sizes_of = [tuple(sizes[index] for index in part.members) for part in parts]
    work = [_items_of(kernels, device, each, two_passes=rule != _ADAMW) for each in sizes_of]
    tables = [_rows_of(kernels, arguments, place, part) for part in parts]
    if norm_items is not None:
        # with one part, the norm reads its table
        whole = _Part(range(len(sizes)), (0,) * len(sizes), ())
        rows = tables[0] if len(parts) == 1 else _rows_of(kernels, arguments, place, whole)
        kernels.norm(
            rows=rows.table.data_ptr(),
            items=norm_items.table.data_ptr(),
            item_count=norm_items.length,
            partials=rows.partials.data_ptr(),
            finished=rows.counters.data_ptr(),
            skipped=0,
            **place,
            **scalars,
        )
    for part, items, rows in zip(parts, work, tables, strict=True):
        if items.length == 0:
            _count(arguments, part.members)
            continue
        # kept until the launch: a rate in fp64 becomes another tensor
        rates = [arguments.lr[index].float() for index in part.examples]
        kernels.update(
            rule=rule,
            rows=rows.table.data_ptr(),
            row_count=len(part.members),
            items=items.table.data_ptr(),
            item_count=items.length,
            partials=rows.partials.data_ptr(),
            ratios=rows.ratios.data_ptr(),
            counters=rows.counters.data_ptr(),
            max_norm=arguments.max_norm,
            groups=[
                kernels.Group(
                    learning_rate=0.0,
                    learning_rate_at=rate.data_ptr(),
                    beta1=arguments.beta1,
                    beta2=arguments.beta2,
                    eps=arguments.eps,
                    weight_decay=arguments.weight_decay[index],
                    corrects_bias=arguments.bias_correction,
                    adapts=rule == _STABLE_ADAMW or arguments.trust[index],
                )
                for index, rate in zip(part.examples, rates, strict=True)
            ],
            **place,
            **scalars,
        )


class _Part(NamedTuple):
    """Parameters of one launch.

    Attributes:
        members: which parameters.
        groups: of each of them, which of the groups of the launch it belongs to.
        examples: a parameter of each group.
    """

    members: Sequence[int]
    groups: tuple[int, ...]
    examples: tuple[int, ...]


def _parts(arguments: Arguments, most_groups: int) -> Iterator[_Part]:
    """Yield the launches. Parameters of a group share learning rate, decay, and whether they have a trust ratio."""
    known: dict[tuple[Any, ...], int] = {}
    # tensors may be views of one and the same number
    rates = [(rate.data_ptr(), rate.dtype) for rate in arguments.lr]
    settings = zip(rates, arguments.weight_decay, arguments.trust, strict=True)
    groups = [known.setdefault(setting, len(known)) for setting in settings]
    if len(known) <= most_groups:
        yield _Part(range(len(groups)), tuple(groups), tuple(map(groups.index, range(len(known)))))
        return
    for begin in range(0, len(known), most_groups):
        members = [index for index, group in enumerate(groups) if begin <= group < begin + most_groups]
        own = [groups[index] - begin for index in members]
        examples = tuple(members[own.index(group)] for group in range(max(own) + 1))
        yield _Part(members, tuple(own), examples)


def _rows_of(kernels: ModuleType, arguments: Arguments, place: dict[str, int], part: _Part) -> _Rows:
    """The table of the rows of a part, made if there is none."""
    named = ("params", "grads", "exp_avg", "exp_avg_sq", "copies", "steps")
    lists: list[Sequence[Tensor]] = [getattr(arguments, name) for name in named]
    if len(part.members) < len(arguments.params):
        lists = [[each[index] for index in part.members] if each else each for each in lists]
    addresses = [tuple(x.data_ptr() for x in each) for each in lists]
    elements = tuple(x.numel() for x in lists[0])
    dtypes = (arguments.grads[0].dtype, arguments.copies[0].dtype if arguments.copies else None)
    key = (place["device"], *dtypes, *addresses, elements, part.groups)
    capturing = _is_capturing()
    found = _rows.pop(key, None)
    if found is None:
        found = _new_rows(kernels, arguments.params[0].device, elements)
        weights, gradients, first, second, copies, steps = addresses
        kernels.write_rows(
            address=found.table.data_ptr(),
            weights=weights,
            gradients=gradients,
            first=first,
            second=second,
            copies=copies or (0,) * len(weights),
            steps=steps,
            elements=elements,
            groups=part.groups,
            gradient_dtype=_DTYPES[arguments.grads[0].dtype],
            copy_dtype=_DTYPES[arguments.copies[0].dtype] if arguments.copies else 0,
            **place,
        )
        if capturing:
            # it is written when the graph runs, and not before
            _captured.append(found)
            return found
    elif capturing:
        _captured.append(found)
    # the latest is the last
    _rows[key] = found
    if len(_rows) > _MOST_TABLES:
        del _rows[next(iter(_rows))]
    return found


def _new_rows(kernels: ModuleType, device: torch.device, elements: Sequence[int]) -> _Rows:
    chunks = sum(-(-count // kernels.CHUNK) for count in elements)
    return _Rows(
        table=torch.empty(len(elements) * kernels.ROW_BYTES, dtype=torch.uint8, device=device),
        counters=torch.zeros(kernels.FIRST_ROW_COUNTER + len(elements), dtype=torch.int32, device=device),
        partials=torch.empty((chunks, 2), dtype=torch.float32, device=device),
        ratios=torch.empty(len(elements), dtype=torch.float32, device=device),
    )


def _items_of(kernels: ModuleType, device: torch.device, sizes: tuple[int, ...], *, two_passes: bool) -> _Items:
    """The table of the items of parameters of these sizes, made if there is none."""
    key = (device.index, sizes, two_passes)
    if key not in _items:
        _refuse_capture()
        count = kernels.count_items(sizes, two_passes=two_passes)
        host = torch.empty(count * kernels.ITEM_BYTES, dtype=torch.uint8)
        kernels.write_items(host.data_ptr(), sizes, two_passes=two_passes)
        _items[key] = _Items(host.to(device), count)
    return _items[key]


def _count(arguments: Arguments, members: Sequence[int]) -> None:
    """What an update of parameters without elements does: it counts, unless it is skipped."""
    taken = torch.ones_like(arguments.steps[0])
    if arguments.found_inf is not None:
        taken = (arguments.found_inf == 0).float()
    if arguments.norm is not None:
        taken = taken * torch.isfinite(arguments.norm)
    for index in members:
        arguments.steps[index].add_(taken)


def _rule(arguments: Arguments) -> int:
    if arguments.algorithm == "lamb":
        return _LAMB
    return _STABLE_ADAMW if arguments.clip_update else _ADAMW


@cache
def _kernels(device: int) -> ModuleType:
    """The kernels of this family, loaded onto a device."""
    _refuse_capture()
    kernels: ModuleType = load_extension().optimizer
    kernels.load(device)
    return kernels


def _refuse_capture() -> None:
    """Raise if a CUDA graph is captured; what comes next may not be part of one."""
    if _is_capturing():
        raise BackendUnavailable(
            "optimizer: backend 'cuda' must have run before a CUDA graph is captured, on this device with parameters "
            "of these sizes; call step() once before the capture, on the gradients of a warm-up"
        )


def _is_capturing() -> bool:
    return torch.cuda.is_current_stream_capturing()


def _stream(device: torch.device) -> int:
    return int(torch.cuda.current_stream(device).cuda_stream)


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()
