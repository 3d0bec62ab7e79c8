"""Time and memory of a training step with one fusion switched off at a time: how much does each fusion save?

    python bench/engine/bench_ablation.py --size mini                 prints a table
    python bench/engine/bench_ablation.py --size base --out auto      also writes a result file

    everything               the backends that the families choose here
    without <family>         that family with the next simpler backend: PyTorch's kernels instead of a fused one, or the
                             reference instead of PyTorch's kernels
    last layer on all rows   the last layer also computes the rows that nothing reads
    with PyTorch's products  on a GPU: autograd differentiates the products, without `unmask_kernels.product`
    with linear_gelu         on a GPU: the activation in the epilogue of its product

All variants have the same documents, masks and weights; rounds are interleaved. Before the timing, the loss of the
first step of every variant must agree with that of "everything" within 2 %, since bf16 rounds differently in each.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path += [path for path in (str(ROOT), str(ROOT / "engine"), str(ROOT / "kernels")) if path not in sys.path]

from bench import machine, record  # noqa: E402
from bench.clock import DeviceClock, interleave, peak_bytes  # noqa: E402
from bench.documents import from_distribution  # noqa: E402
from bench.lengths import DISTRIBUTIONS  # noqa: E402
from bench.training_step import MAX_LENGTH, SIZES, STEP_OPERATIONS, StepInputs, make_inputs, ours  # noqa: E402

from unmask_kernels import FAMILIES, product, using  # noqa: E402

EVERYTHING = "everything"
ALL_ROWS = "last layer on all rows"
PLAIN_PRODUCTS = "with PyTorch's products"
WITH_EPILOGUE = "with linear_gelu"
AGREEMENT = 2e-2


def plain_form(family: str, chosen: str) -> str:
    """What stands for `family` without its fusion: the next plainer of its backends."""
    return "reference" if chosen == "torch" or "torch" not in FAMILIES[family].backends else "torch"


def variants(device: torch.device, backend: str | None) -> dict[str, tuple[bool, dict[str, str]]]:
    """By name: whether the last layer works on all rows, and the backends asked for."""
    fused = backend or ("torch" if device.type == "cpu" else "triton")
    base = dict.fromkeys(STEP_OPERATIONS, backend) if backend else {}
    plain = {f"without {name}": (False, base | {name: plain_form(name, fused)}) for name in STEP_OPERATIONS}
    # chosen by nobody until this row and its own bench say that it pays
    epilogue = {WITH_EPILOGUE: (False, base | {"linear_gelu": "triton"})} if fused == "triton" else {}
    products = {} if device.type == "cpu" else {PLAIN_PRODUCTS: (False, base)}
    return {EVERYTHING: (False, base), ALL_ROWS: (True, base), **products, **plain, **epilogue}


def measure(
    name: str,
    *,
    dropout: float,
    rounds: int,
    lengths: str,
    device: torch.device,
    tokens: int | None = None,
    backend: str | None = None,
) -> list[dict[str, Any]]:
    """Compare the first losses, time all variants, and return result entries, "everything" first."""
    size = SIZES[name]
    tokens = tokens or size.tokens
    inputs = make_inputs(
        from_distribution(DISTRIBUTIONS[lengths], size.vocab), size.vocab, tokens, min(rounds, 4), device
    )
    settings = variants(device, backend)

    def fresh(all_rows: bool) -> Callable[[StepInputs], Tensor]:
        step = ours(size, dropout, machine.fast_dtype(), device, all_rows=all_rows)
        return lambda made: step(made.packed)

    def run(variant: str, step: Callable[[StepInputs], Tensor], made: StepInputs) -> Tensor:
        plain = mock.patch.object(product, "applies_to", return_value=False)
        with using(**settings[variant][1]), plain if variant == PLAIN_PRODUCTS else nullcontext():
            return step(made)

    losses = {variant: float(run(variant, fresh(all_rows), inputs[0])) for variant, (all_rows, _) in settings.items()}
    for variant, loss in losses.items():
        difference = abs(loss - losses[EVERYTHING]) / losses[EVERYTHING]
        assert difference <= AGREEMENT, f"bench_ablation: the loss {variant} differs by {difference:.1%}"
    # what is timed does not depend on the weights, so variants share a model
    steps = {all_rows: fresh(all_rows) for all_rows in (False, True)}
    calls = {
        variant: lambda at, variant=variant, step=steps[all_rows]: run(variant, step, inputs[at % len(inputs)])
        for variant, (all_rows, _) in settings.items()
    }
    times = interleave(calls, DeviceClock(device), rounds=rounds, warmup=1)
    return [
        record.benchmark_entry(
            f"ablation of a training step, {name}",
            variant,
            times[variant],
            case=f"{lengths}, dropout {dropout:g}" + (f", {backend}" if backend else ""),
            baseline=EVERYTHING,
            tokens=tokens,
            peak_bytes=peak_bytes(lambda call=calls[variant]: call(0), device),  # type: ignore[misc]
            threads=torch.get_num_threads(),
            note="Ratio below 1: the step is slower without the fusion.",
        )
        for variant in settings
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """The script."""
    parser = argparse.ArgumentParser(description="A training step with one fusion switched off at a time.")
    parser.add_argument("--size", choices=sorted(SIZES), default="mini")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, help="real tokens of a step (default: by size)")
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0])
    parser.add_argument(
        "--lengths", choices=[n for n, c in DISTRIBUTIONS.items() if c.max_length <= MAX_LENGTH], default="docstrings"
    )
    parser.add_argument("--backend", help="ask for this one in every family, such as triton before it is verified")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="result file to write ('auto' for bench/results)")
    options = parser.parse_args(arguments)
    rows = []
    for dropout in options.dropout:
        measured = measure(
            options.size,
            dropout=dropout,
            rounds=options.rounds,
            lengths=options.lengths,
            tokens=options.tokens,
            device=torch.device(options.device),
            backend=options.backend,
        )
        record.flush(measured)
        rows += measured
    medians = {row["extra_info"]["variant"]: row["stats"]["median"] for row in rows}
    for row in rows:
        info, median = row["extra_info"], row["stats"]["median"]
        peak, ratio = info["peak_bytes"] / 2**20, medians[EVERYTHING] / median
        print(f"{info['case']:<28}{info['variant']:<26}{median:>9.3f} s{ratio:>7.2f}{peak:>9,.0f} MiB")
    if options.out:
        path = record.result_path(f"ablation-{options.size}") if str(options.out) == "auto" else options.out
        record.save(path, record.benchmark_file(rows))


if __name__ == "__main__":
    main()
