"""attention: every backend beside other libraries, on lengths of real documents, with BERT-base's and -large's heads.

Peers are the reference and those of `bench.attention_peers` that run here. "triton, drawn" is the triton backend that
draws its dropout in the kernels instead of before the forward. "triton, two kernels" has the backward of two kernels
instead of the fused one. Operations are counted without padding, as the sum of
s_i^2 over documents, so padding lowers a rate. Two more benches time the making of the lists of a micro-batch, beside
FlexAttention's mask; and whether the static bounds of a call, the maximum length and the number of document slots,
change its time when its documents stay the same.

A machine without a GPU runs a selection of a few minutes, with DRY=1 on a few tokens. `-k lognormal-512` selects one
case, `--rounds 3` fewer rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache, partial
from typing import Any

import pytest
import torch
from bench import attention_peers, machine
from bench.clock import PLAYBACK
from bench.lengths import DISTRIBUTIONS
from bench.roofline import matmul_rate
from bench.variants import checked, timed_calls
from torch import Tensor

from unmask_kernels import Documents, attention
from unmask_kernels.attention import FAMILY, cost, reference, schedule
from unmask_kernels.attention.arguments import SHORT_UP_TO
from unmask_kernels.testing.attention import attention_case, described, plain_attention
from unmask_kernels.testing.compare import compare
from unmask_kernels.testing.inputs import Inputs, run

pytestmark = pytest.mark.benchmark(timer=PLAYBACK)

DTYPE = machine.fast_dtype()
HEAD_DIM = 64
BASE, LARGE = 12, 16
ON_GPU = torch.cuda.is_available()
TOKENS = 16384 if ON_GPU else 512 if machine.DRY else 4096
ROUNDS = 50 if ON_GPU else 5
DIRECTIONS = ("forward", "backward", "both")
MIXED = [8192, *[64] * 500] if ON_GPU else [256, *[64] * 4] if machine.DRY else [2048, *[64] * 32]
MIXED_NAME = f"1x{MIXED[0]}+{len(MIXED) - 1}x64"
LENGTHS = ("lognormal-512", "all-512", "all-128", "uniform-16-512", "queries", "lognormal-8192", MIXED_NAME)
# cases with targets come first, after the two small benches: a run that is cut short has them
SHAPES = [(name, heads, p) for name in LENGTHS for heads in (BASE, LARGE) for p in (0.0, 0.1)]
if not ON_GPU:
    SHAPES = [(name, BASE, 0.0) for name in LENGTHS] + [("lognormal-512", LARGE, 0.0), ("lognormal-512", 4, 0.1)]
DRAWN = "triton, drawn"
FORMS: dict[str, dict[str, int]] = {DRAWN: {"bitmask_up_to": 0}, "triton, two kernels": {"fused_up_to": SHORT_UP_TO}}
"""Other forms of the triton backend, by the arguments of `schedule`."""
VARIANTS = (*attention_peers.NAMES, *FAMILY.backends, *FORMS)


def _lengths(name: str) -> list[int]:
    return MIXED if name == MIXED_NAME else DISTRIBUTIONS[name].fill(TOKENS)


def _backends(inputs: Inputs) -> dict[str, Callable[..., Tensor]]:
    """Return the backends that can run the call, by name."""
    call = described(**inputs.arguments)
    return {
        name: partial(attention, backend=name) for name, backend in FAMILY.backends.items() if not backend.refuses(call)
    }


def _functions(inputs: Inputs) -> dict[str, Callable[..., Tensor]]:
    """Return the backends and peers that can run the call, by name."""
    p = inputs.arguments["p"]
    functions = _backends(inputs)
    if "triton" in functions:
        functions |= {form: functions["triton"] for form in FORMS if p > 0.0 or form != DRAWN}
    return functions | attention_peers.peers(inputs.arguments["documents"], p)


@lru_cache
def _failures(heads: int, p: float, device: torch.device) -> dict[str, Callable[..., Tensor]]:
    """Compare with the truth on a few documents: every backend, and without dropout the output of every peer.

    Returns:
        Those that fail, each as a function that raises the error.
    """
    small = attention_case("small", [300, 17, 129], heads=heads, head_dim=HEAD_DIM, p=p).make(DTYPE, device)
    scale = HEAD_DIM**-0.5
    truth = run(partial(reference.attention, scale=scale), small.double())
    plain = run(partial(plain_attention, scale=scale), small)

    def check(name: str, function: Callable[..., Tensor]) -> None:
        if name not in attention_peers.NAMES:
            with _form(name):
                compare(run(function, small), plain, truth)
        elif p == 0.0:
            compare({"y": run(function, small)["y"]}, {"y": plain["y"]}, {"y": truth["y"]})

    functions = _functions(small)
    judged = checked(functions, check)
    return {name: function for name, function in judged.items() if function is not functions[name]}


def _enter(name: str, heads: int, p: float, device: torch.device, direction: str) -> dict[str, Callable[[int], object]]:
    """Compare, then return calls of full size."""
    lengths = _lengths(name)
    inputs = attention_case("full", lengths, heads=heads, head_dim=HEAD_DIM, p=p).make(DTYPE, device)
    calls = timed_calls(_functions(inputs) | _failures(heads, p, device), inputs, direction)
    calls.update({form: _in_form(form, calls[form]) for form in FORMS if form in calls})
    if name != MIXED_NAME:  # where padding would take a hundred times the memory
        rows = torch.nn.utils.rnn.pad_sequence(inputs.arguments["qkv"].split(lengths), batch_first=True)
        calls.update(timed_calls({"padded": attention_peers.padded}, inputs.change(qkv=rows), direction))
    return calls


def _form(variant: str) -> AbstractContextManager[None]:
    return schedule(**FORMS[variant]) if variant in FORMS else nullcontext()


def _in_form(form: str, call: Callable[[int], object]) -> Callable[[int], object]:
    def inside(at: int) -> object:
        with _form(form):
            return call(at)

    return inside


def _skip_absent(variant: str, lengths: str, heads: int, p: float, device: torch.device) -> None:
    if variant == "padded":
        if lengths == MIXED_NAME:
            pytest.skip("padded: a hundred times the memory")
        return
    if variant in FORMS:
        if variant == DRAWN and p == 0.0:
            pytest.skip(f"{variant}: without dropout nothing is drawn")
        variant = "triton"
    tiny = attention_case("tiny", [2], heads=heads, head_dim=HEAD_DIM, p=p).make(DTYPE, device)
    if variant in FAMILY.backends:
        if variant not in _backends(tiny):
            pytest.skip(f"{variant}: {'; '.join(FAMILY.backends[variant].refuses(described(**tiny.arguments)))}")
    elif variant not in _here(device, p):
        pytest.skip(f"{variant}: not on this machine, or not with this dropout; see bench/attention_peers.py")


def _here(device: torch.device, p: float) -> list[str]:
    documents = Documents.build(torch.tensor([0, 128], dtype=torch.int32)).to(device)
    return list(attention_peers.peers(documents, p))


@pytest.mark.parametrize("variant", ["Documents.build", "create_block_mask"])
@pytest.mark.parametrize("lengths", ["lognormal-512", "queries", MIXED_NAME])
def bench_work_lists(benchmark: Any, side_by_side: Any, device: torch.device, lengths: str, variant: str) -> None:
    """Once per micro-batch, shared by every layer and both directions."""
    drawn = _lengths(lengths)
    documents = attention_case("lists", drawn, heads=1, head_dim=1).make(DTYPE, device).arguments["documents"]

    def build(at: int) -> Documents:
        bounds = {"tokens": documents.tokens, "max_seqlen": documents.max_seqlen}
        return Documents.build(documents.cu_seqlens, documents.keys, **bounds)

    side_by_side.run(
        benchmark,
        group="attention work lists",
        case=f"{lengths}, {sum(drawn)} tokens, {len(drawn)} documents",
        variant=variant,
        enter=lambda: {
            "Documents.build": build,
            "create_block_mask": lambda at: attention_peers.block_mask(documents),
        },
        rounds=ROUNDS,
        extra={"baseline": "create_block_mask"},
    )


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("variant", ["as they are", "max_seqlen 8192", "4096 slots", "max_seqlen 8192, 4096 slots"])
@pytest.mark.parametrize("backend", [name for name in FAMILY.backends if name != "reference"])
def bench_static_bounds(
    benchmark: Any, side_by_side: Any, device: torch.device, backend: str, variant: str, direction: str
) -> None:
    """The same documents under other static bounds: within 2% is the goal."""
    _skip_absent(backend, "lognormal-512", BASE, 0.0, device)

    def enter() -> dict[str, Callable[[int], object]]:
        lengths = _lengths("lognormal-512")
        inputs = attention_case("bounds", lengths, heads=BASE, head_dim=HEAD_DIM).make(DTYPE, device)
        documents = inputs.arguments["documents"]
        bounds = {"as they are": (512, 0), "max_seqlen 8192": (8192, 0), "4096 slots": (512, 4096)}
        bounds["max_seqlen 8192, 4096 slots"] = (8192, 4096)
        functions: dict[str, Callable[..., Tensor]] = {
            name: partial(_with_documents, _bounded(documents, max_seqlen, slots), backend)
            for name, (max_seqlen, slots) in bounds.items()
        }
        return timed_calls(functions, inputs, direction)

    side_by_side.run(
        benchmark,
        group=f"attention static bounds, {direction}",
        case=f"{backend}, lognormal-512, {TOKENS} tokens, {BASE} heads x {HEAD_DIM} {machine.SHORT[DTYPE]}",
        variant=variant,
        enter=enter,
        rounds=ROUNDS,
        extra={"baseline": "as they are"},
    )


def _with_documents(made: Documents, backend: str, qkv: Tensor, documents: Documents, **rest: Any) -> Tensor:
    return attention(qkv, made, backend=backend, **rest)


def _bounded(documents: Documents, max_seqlen: int, slots: int) -> Documents:
    """The same documents with another bound on lengths, and unused slots that repeat the last offset."""
    unused = max(0, slots - len(documents.keys))
    cu_seqlens = torch.cat((documents.cu_seqlens, documents.cu_seqlens[-1:].expand(unused)))
    keys = torch.cat((documents.keys, documents.keys.new_zeros(unused)))
    return Documents.build(cu_seqlens, keys, tokens=documents.tokens, max_seqlen=max_seqlen)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    ("lengths", "heads", "p", "variant"), [(*shape, variant) for shape in SHAPES for variant in VARIANTS]
)
def bench_attention(
    benchmark: Any,
    side_by_side: Any,
    device: torch.device,
    lengths: str,
    heads: int,
    p: float,
    direction: str,
    variant: str,
) -> None:
    _skip_absent(variant, lengths, heads, p, device)
    drawn = _lengths(lengths)
    forward, backward = (count(drawn, heads, HEAD_DIM) for count in (cost.flops_forward, cost.flops_backward))
    flops = {"forward": forward, "backward": backward, "both": forward + backward}[direction]
    rate = matmul_rate(str(device), DTYPE)
    side_by_side.run(
        benchmark,
        group=f"attention {direction}",
        case=f"{lengths}, {sum(drawn)} tokens, {heads} heads x {HEAD_DIM} {machine.SHORT[DTYPE]}, p {p:g}",
        variant=variant,
        enter=lambda: _enter(lengths, heads, p, device, direction),
        rounds=ROUNDS,
        extra={
            "baseline": "reference" if lengths == MIXED_NAME else "padded",
            "flops": flops,
            "floor_seconds": flops / rate,
            "ceiling": f"matrix product of this run, {rate / 1e12:,.2f} TFLOP/s",
        },
    )
