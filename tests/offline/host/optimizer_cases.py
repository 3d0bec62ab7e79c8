"""What the optimizer's CUDA kernels must compute on the host machine: against fp64, at edges, and far into a tensor."""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from offline.host import optimizer
from offline.host.device import Device
from offline.host.subject import Subject
from unmask_kernels.optimizer.arguments import Arguments
from unmask_kernels.optimizer.reference import step as reference_step
from unmask_kernels.testing.compare import Measure, compare, same_bits
from unmask_kernels.testing.inputs import Case, run
from unmask_kernels.testing.optimizer import optimizer_case, plain_optimizer, run_updates

__all__ = ["SUBJECT", "against_fp64", "far", "skipped"]

_CHUNK = 8192
_TILE = 2048


def against_fp64(device: Device, case: Case, dtype: torch.dtype) -> Measure | None:
    """Run a case and compare it by the criterion; return its largest error."""
    plain, truth = _expected(case.name, case, dtype)
    return compare(optimizer.run_on(device, case.make(dtype)), plain, truth)


@lru_cache(maxsize=64)
def _expected(_: str, case: Case, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    inputs = case.make(dtype)
    return run(plain_optimizer, inputs), run(partial(run_updates, backend="reference"), inputs.double())


def _arguments(sizes: tuple[int, ...], **changes: Any) -> Arguments:
    generator = torch.Generator().manual_seed(5)

    def values(low: float = -1.0) -> list[Tensor]:
        return [torch.empty(size).uniform_(low, 1.0, generator=generator) for size in sizes]

    count = len(sizes)
    known = Arguments(
        params=values(),
        grads=values(),
        exp_avg=values(),
        exp_avg_sq=values(0.0),
        steps=[torch.tensor(3.0) for _ in sizes],
        copies=[],
        norm=None,
        lr=[torch.tensor(0.5)] * count,
        grad_scale=None,
        found_inf=None,
        weight_decay=[0.1] * count,
        trust=[True] * count,
        beta1=0.9,
        beta2=0.99,
        eps=1e-6,
        max_norm=math.inf,
        bias_correction=True,
        clip_update=False,
        algorithm="adamw",
    )
    return known._replace(**changes)


def _copied(arguments: Arguments) -> Arguments:
    """Return the same update of other tensors."""
    lists = ("params", "grads", "exp_avg", "exp_avg_sq", "steps", "copies")
    # all places of a tensor's storage are copied, so that a copy is aligned as the tensor is
    twins: dict[str, Any] = {name: [_twin(x) for x in getattr(arguments, name)] for name in lists}
    return arguments._replace(**twins)


def _twin(x: Tensor) -> Tensor:
    storage = x.untyped_storage().clone()
    return torch.empty(0, dtype=x.dtype).set_(storage, x.storage_offset(), x.shape, x.stride())


def _close(ours: Arguments, theirs: Arguments) -> None:
    for name in ("params", "exp_avg", "exp_avg_sq", "steps", "copies"):
        for index, (one, other) in enumerate(zip(getattr(ours, name), getattr(theirs, name), strict=True)):
            error = f"{name}[{index}]"
            torch.testing.assert_close(one, other, rtol=1e-2 if name == "copies" else 1e-5, atol=1e-6, msg=error)


def _like_the_definition(device: Device, ours: Arguments) -> None:
    theirs = _copied(ours)
    optimizer.step(device, ours)
    reference_step(theirs)
    _close(ours, theirs)


def _copies_in_fp16(device: Device) -> None:
    sizes = (2 * _TILE, 5)
    _like_the_definition(device, _arguments(sizes, copies=[torch.zeros(size, dtype=torch.float16) for size in sizes]))


def _one_misaligned(device: Device) -> None:
    """Whichever tensor of a parameter is not aligned, the result is the same."""
    names = ("params", "exp_avg", "exp_avg_sq", "copies", "grads")
    for name, dtype in (*((name, torch.float32) for name in names), ("grads", torch.bfloat16)):
        copies = [torch.zeros(_TILE, dtype=torch.bfloat16)]
        ours = _arguments((_TILE,), copies=copies, norm=torch.tensor(0.0))
        ours = ours._replace(grads=[ours.grads[0].to(dtype)])
        (values,) = getattr(ours, name)
        change: dict[str, Any] = {name: [torch.empty(_TILE + 1, dtype=values.dtype)[1:].copy_(values)]}
        _like_the_definition(device, ours._replace(**change))


def _no_eps(device: Device) -> None:
    """What lies behind the end of a parameter adds nothing to its norms, although zero by zero is NaN without eps."""
    for changes in ({"algorithm": "lamb"}, {"clip_update": True}):
        _like_the_definition(device, _arguments((5, 1030), eps=0.0, **changes))


def _whole_tiles(device: Device) -> None:
    """Aligned parameters of whole tiles are accessed 16 bytes at a time, and by nothing narrower."""

    def narrow_loads(size: int) -> int:
        before = device.report.counts.loads[4]
        optimizer.step(device, _arguments((size,)))
        return device.report.counts.loads[4] - before

    assert narrow_loads(_TILE) < narrow_loads(1), "a whole tile is loaded by narrow accesses"


def _zeros(device: Device) -> None:
    """A parameter of zeros, and one whose update is zero, have the trust ratio 1."""
    none = [torch.ones(33), torch.zeros(40)]
    squares = [torch.ones(33), torch.zeros(40)]
    weights = [torch.zeros(33), torch.ones(40)]
    changes: dict[str, Any] = {"params": weights, "grads": none, "exp_avg": none, "exp_avg_sq": squares}
    ours = _copied(_arguments((33, 40), algorithm="lamb", weight_decay=[0.0, 0.0], **changes))
    _like_the_definition(device, ours)
    assert bool((ours.params[1] == 1).all()), "an update of zero moves a parameter"


def _at_the_norm(device: Device) -> None:
    """Gradients whose norm is the largest one allowed are not scaled; larger ones are."""
    grads = [torch.tensor([3.0]), torch.tensor([4.0])]
    for most, first in ((5.0, 3.0), (2.5, 1.5)):
        ours = _arguments(
            (1, 1), grads=grads, norm=torch.tensor(0.0), max_norm=most, exp_avg=[torch.zeros(1), torch.zeros(1)]
        )
        optimizer.step(device, ours)
        torch.testing.assert_close(ours.exp_avg[0], torch.tensor([0.1 * first]))


def skipped(device: Device, algorithm: str, reason: str) -> None:
    """Check that an update that is skipped changes nothing but the norm."""
    ours = _arguments((5000, 7), algorithm=algorithm, norm=torch.tensor(0.0), copies=[])
    if reason == "found_inf":
        ours = ours._replace(found_inf=torch.tensor(1.0))
    else:
        ours.grads[0][4321] = float(reason)
    before = _copied(ours)
    optimizer.step(device, ours)
    for name in ("params", "exp_avg", "exp_avg_sq", "steps"):
        for one, other in zip(getattr(ours, name), getattr(before, name), strict=True):
            assert torch.equal(one, other), f"{name} changes although the update is skipped"
    assert bool(torch.isfinite(ours.norm)) == (reason == "found_inf"), "the norm"  # type: ignore[arg-type]


def far(device: Device, rule: int) -> None:
    """Update the end of a parameter of 2**31 + 5000 elements, of which only that end exists.

    The row's addresses lie so far before the tensors that element 2**31 is the first one of each. The result has the
    bits of a parameter with these elements alone.
    """
    count, begin = 5000, 1 << 31
    ours = _arguments((count,))
    near = _copied(ours)._replace(algorithm="lamb" if rule == 2 else "adamw")
    optimizer.step(device, near)
    names = ("params", "grads", "exp_avg", "exp_avg_sq")
    tensors = [device.tensor(getattr(ours, name)[0], read_only=name == "grads") for name in names]
    steps, rate = device.tensor(ours.steps[0]), device.tensor(ours.lr[0], read_only=True)
    device.call("optimizer_group", 0, rate, ours.beta1, ours.beta2, ours.eps, 0.1, True, True)
    addresses = (x.data_ptr() - begin * x.element_size() for x in tensors)
    device.call("optimizer_row", *addresses, 0, steps, begin + count, 0, 1, 0)
    chunks = (begin + count + _CHUNK - 1) // _CHUNK
    # the last chunk, in one or in two passes; its partial sums have the first of two slots, the other chunks' are zero
    items = torch.tensor([[0, chunks - 1, chunks - 1, second] for second in range(2 if rule else 1)], dtype=torch.int32)
    partials, ratios = device.tensor(torch.zeros(chunks, 2)), device.empty((1,), torch.float32)
    counters = device.tensor(torch.tensor([0, 0, chunks - 1 if rule else 0], dtype=torch.int32))
    table, work = optimizer.table_of_rows(device, 1), device.tensor(items, read_only=True)
    launch = (rule, table, 1, work, len(items), partials, ratios, counters, 0, 0, 0, math.inf)
    assert device.call("optimizer_update", *launch) == 0, "the launch fails"
    finished, norm = device.tensor(torch.zeros(1, dtype=torch.int32)), device.empty((), torch.float32)
    partial_sums = device.empty((1,), torch.float32)
    assert device.call("optimizer_norm", table, work, 1, partial_sums, finished, 0, 0, norm, 0) == 0, "the launch fails"
    torch.testing.assert_close(norm, ours.grads[0].norm())
    result = {name: x for name, x in zip(names, tensors, strict=True) if name != "grads"}
    same_bits(result, {name: getattr(near, name)[0] for name in result}, "far and near")


_EDGES = (_CHUNK, _TILE, 3 * _TILE, 2 * _CHUNK + _TILE + 4, 4, 1)
"""Aligned parameters at the edges of tiles and chunks; the last two are shorter than a warp's part of a tile."""

_SIZES = (64, 1, 7, 130, 0, 33, 1025)


def _fp64(device: Device, *, dtype: torch.dtype = torch.float32, name: str, sizes: tuple[int, ...], **how: Any) -> None:
    against_fp64(device, _case(name, sizes, **how), dtype)


@lru_cache
def _case(name: str, sizes: tuple[int, ...], **how: Any) -> Case:
    return optimizer_case(name, sizes, **how)


_FP64: dict[str, dict[str, Any]] = {
    "adamw": {"sizes": _SIZES, "copies": True, "grad_scale": 128.0, "max_norm": 1e9},
    "adamw, edges": {"sizes": _EDGES, "copies": True, "updates": 1},
    "adamw, fp16": {"sizes": _SIZES, "dtype": torch.float16, "bias_correction": False, "max_norm": 1.0},
    "stable, bf16": {"sizes": _SIZES, "dtype": torch.bfloat16, "clip_update": True, "copies": True, "max_norm": 2.0},
    "stable, edges": {"sizes": _EDGES, "clip_update": True, "updates": 2},
    "lamb": {"sizes": _SIZES, "algorithm": "lamb", "bias_correction": False},
    "lamb, edges, bf16": {
        "sizes": _EDGES, "algorithm": "lamb", "dtype": torch.bfloat16, "copies": True, "max_norm": 1.0, "updates": 2,
    },
    "more rows than one launch writes": {"sizes": (2,) * 70, "updates": 1},
    "lamb, many": {"sizes": (5, 1) * 6, "algorithm": "lamb", "max_norm": 1.0, "updates": 2},
}  # fmt: skip

_LOAD = "load_four<WHOLE>(weight[place], chunk.weight + at, chunk.count - at);"
_EQUIVALENT = {
    "for (; at <= count; at += STRIDE) body(Part{}, at);": "of the four elements from the end on none exists",
    "if (p.norm != nullptr && *p.norm >= p.max_norm) gradient *= p.max_norm / *p.norm;": "the factor is 1 then",
    "for (std::size_t begin = 0; begin <= rows.size(); begin += ROWS_AT_ONCE) {": "a launch for no rows writes none",
    f"if ((RULE != Rule::STABLE_ADAMW) || true) {_LOAD}": "StableAdamW loads weights that it does not use, at a cost",
    "add_release(done, 1);": "the block that publishes the factor reads nothing afterwards that others wrote",
    "if ((RULE != Rule::ADAMW) || true) ticket = block_count(p.counters + TICKET, shared);": (
        "blocks that wait for nobody may take items in any order, at the cost of the ticket"
    ),
    "if ((RULE != Rule::ADAMW) || true) p.counters[FIRST_ROW_COUNTER + at] = 0;": "zeros are written over zeros",
    "if ((threadIdx.x == 0) || true) {": "every thread waits for the counter by itself, at a cost",
}

SUBJECT = Subject(
    name="optimizer",
    folder=optimizer.SOURCES,
    files=optimizer.FILES,
    build=optimizer.build,
    cases={
        **{name: partial(_fp64, name=name, **how) for name, how in _FP64.items()},
        "copies in fp16": _copies_in_fp16,
        "one tensor is misaligned": _one_misaligned,
        "whole tiles": _whole_tiles,
        "no eps": _no_eps,
        "zeros": _zeros,
        "at the norm": _at_the_norm,
        "skipped by NaN": partial(skipped, algorithm="lamb", reason="nan"),
        "skipped by found_inf": partial(skipped, algorithm="adamw", reason="found_inf"),
        "far, adamw": partial(far, rule=0),
        "far, lamb": partial(far, rule=2),
    },
    equivalent=_EQUIVALENT,
)
"""AdamW, StableAdamW and LAMB."""
