"""A whole MLM training step, ours against `transformers` BertForMaskedLM, in real tokens per second.

    python bench/engine/bench_step.py --size mini --rounds 5        prints a table
    python bench/engine/bench_step.py --size base --out FILE.json   also writes a result file
    pytest bench/engine/bench_training_step.py                      mini on a CPU, base on a GPU, five rounds

Ours runs in the dtype that `train.dtype: auto` chooses; `transformers` runs in that dtype and in fp32. Both sides make
one update from the same documents with the same masks: forward, loss, backward, clipping and AdamW. Unless `--lengths`
names another distribution, lengths are lognormal (median 300, sigma 1.1, at most 512). Ids are random; the collator of
`transformers` draws the masks. `transformers` reads documents padded to the longest of the batch, ours packed without
padding. Only tokens of documents count. Rounds rotate up to eight sets of documents. Collating is timed separately.

Before the timing, the losses of the two models with the same weights, in fp32 without dropout, must agree within 1e-5.
Without `transformers`, or with `--no-peer`, ours runs alone, and the result says so.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path += [path for path in (str(ROOT), str(ROOT / "engine"), str(ROOT / "kernels")) if path not in sys.path]

from bench import machine, record  # noqa: E402
from bench.clock import DeviceClock, interleave, peak_bytes  # noqa: E402
from bench.lengths import DISTRIBUTIONS  # noqa: E402
from bench.roofline import bert_step_flops, matmul_rate  # noqa: E402
from bench.training_step import (  # noqa: E402
    HAS_TRANSFORMERS,
    MAX_LENGTH,
    SIZES,
    STEP_OPERATIONS,
    StepInputs,
    check_agreement,
    make_inputs,
    ours,
    theirs,
)

from unmask_kernels import using  # noqa: E402

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}

SHORT_CASES = [name for name, case in DISTRIBUTIONS.items() if case.max_length <= MAX_LENGTH]


def measure(
    name: str,
    *,
    dropout: float,
    rounds: int,
    tokens: int | None = None,
    device: torch.device,
    dtype: torch.dtype | None = None,
    peers: Sequence[str] | None = None,
    include_ours: bool = True,
    multiple: int | None = None,
    lengths: str = "lognormal-512",
    backend: str | None = None,
    profile: bool = False,
) -> list[dict[str, Any]]:
    """Compare, time, and return result entries, ours first; `backend` is asked for in all of our operations.

    `dtype` is that of activations, by default the machine's fast one; `peers` are by default those of `peers_in`. With
    `profile` first print where one step of ours spends its time.
    """
    size = SIZES[name]
    dtype = dtype or machine.fast_dtype()
    peers = peers_in(dtype) if peers is None else peers
    tokens = tokens or size.tokens
    note = "" if HAS_TRANSFORMERS else " transformers is not installed here: no peer, masks drawn with NumPy."
    peers = peers if HAS_TRANSFORMERS else ()
    start = time.perf_counter()
    inputs = make_inputs(size, tokens, min(rounds, 8), device, multiple, lengths)
    collate_seconds = (time.perf_counter() - start) / len(inputs)
    steps: dict[str, Callable[[StepInputs], Tensor]] = {}
    agreement = None
    if include_ours:
        agreement = check_agreement(size, inputs[0], device) if peers else None
        own = ours(size, dropout, dtype, device)
        asked = dict.fromkeys(STEP_OPERATIONS, backend) if backend else {}

        def unmask(made: StepInputs) -> Tensor:
            with using(**asked):
                return own(made.packed)

        steps[ours_in(dtype)] = unmask
        if profile:
            print_kernels(lambda: unmask(inputs[0]))
    for peer_name in peers:
        peer = theirs(size, dropout, peer_name.endswith("bf16"), device)
        steps[peer_name] = lambda made, peer=peer: peer(made.padded)  # type: ignore[misc]
    calls = {key: lambda at, step=step: step(inputs[at % len(inputs)]) for key, step in steps.items()}
    ceiling = matmul_rate(str(device), dtype)
    times = interleave(calls, DeviceClock(device), rounds=rounds, warmup=1)
    masked = fmean(int((made.packed.labels != -100).sum()) for made in inputs)  # type: ignore[union-attr]
    flops = fmean(
        bert_step_flops(
            made.lengths,
            masked=round(masked),
            layers=size.layers,
            hidden=size.hidden,
            intermediate=size.intermediate,
            vocab=size.vocab,
        )
        for made in inputs
    )
    real = fmean(made.packed.real_tokens / made.padded["input_ids"].numel() for made in inputs)
    shape = f"layers {size.layers}, hidden {size.hidden}, vocabulary {size.vocab:,}"
    return [
        record.benchmark_entry(
            f"training step, {name}: {shape}",
            variant,
            times[variant],
            case=f"{lengths}, dropout {dropout:g}"
            + (f", padded to {multiple}" if multiple else "")
            + (f", {backend}" if backend else ""),
            baseline=peers[0] if peers else None,
            tokens=tokens,
            flops=flops,
            floor_seconds=flops / ceiling,
            ceiling=f"{machine.SHORT[dtype]} matrix product of this run, {ceiling / 1e12:.2f} TFLOP/s",
            peak_bytes=peak_bytes(lambda call=calls[variant]: call(0), device),  # type: ignore[misc]
            real_share_of_padded_batch=real,
            collate_seconds=collate_seconds,
            loss_agreement=agreement,
            threads=torch.get_num_threads(),
            note=f"{tokens:,} real tokens a step; {100 * real:.0f} % of the padded batch is real.{note}",
        )
        for variant in steps
    ]


def ours_in(dtype: torch.dtype) -> str:
    """The name of our variant."""
    return f"unmask {machine.SHORT[dtype]}"


def peers_in(dtype: torch.dtype) -> list[str]:
    """The peers of a step in `dtype`: the same dtype, against which ratios are taken, and fp32."""
    return [f"transformers {name}" for name in dict.fromkeys((machine.SHORT[dtype], "fp32"))]


def main(arguments: Sequence[str] | None = None) -> None:
    """The script."""
    parser = argparse.ArgumentParser(description="Real tokens per second of a training step, ours and transformers'.")
    parser.add_argument("--size", choices=sorted(SIZES), default="mini")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, help="real tokens of a step (default: by size)")
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--lengths", choices=SHORT_CASES, default="lognormal-512", help="lengths of the documents")
    parser.add_argument("--backend", help="ask for this one in every operation, as triton before it is verified")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="of activations (default: the one that is fast here)")
    parser.add_argument("--pad-to-multiple-of", type=int, help="as in the collator of transformers")
    parser.add_argument("--no-float32", action="store_true", help="leave out the row for transformers in fp32")
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--only-peer", action="store_true", help="time transformers alone")
    alone.add_argument("--no-peer", action="store_true", help="time ours alone")
    parser.add_argument("--profile", action="store_true", help="print where a step of ours spends its time")
    parser.add_argument("--out", type=Path, help="result file to write ('auto' for bench/results)")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    dtype = DTYPES.get(options.dtype, machine.fast_dtype())
    peers = peers_in(dtype)
    rows = []
    for dropout in options.dropout:
        rows += measure(
            options.size,
            dropout=dropout,
            rounds=options.rounds,
            tokens=options.tokens,
            device=torch.device(options.device),
            dtype=dtype,
            peers=() if options.no_peer else peers[:1] if options.no_float32 else peers,
            include_ours=not options.only_peer,
            multiple=options.pad_to_multiple_of,
            lengths=options.lengths,
            backend=options.backend,
            profile=options.profile,
        )
    print_table(rows)
    if options.out:
        path = options.out
        if str(path) == "auto":
            path = record.result_path(f"step-{options.size}-{options.lengths}")
        record.save(path, record.benchmark_file(rows))


def print_kernels(step: Callable[[], Tensor]) -> None:
    """What PyTorch's profiler sees in one step after two others, kernels by their own time."""
    for _ in range(2):
        step()
    on_gpu = torch.cuda.is_available()
    with torch.profiler.profile() as profiled:
        # reading the loss waits for the device
        float(step())
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    print(profiled.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=60))


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """A line for each case and variant: median, real tokens/s, share of the ceiling, ratio to the baseline."""
    medians = {(r["extra_info"]["case"], r["extra_info"]["variant"]): r["stats"]["median"] for r in rows}
    print(f"{'case':<28}{'variant':<20}{'median s':>10}{'IQR s':>9}{'tokens/s':>11}{'ceiling':>9}{'ratio':>7}")
    for row in rows:
        info, stats = row["extra_info"], row["stats"]
        taken = stats["median"]
        ratio = medians.get((info["case"], info["baseline"]), float("nan")) / taken
        print(
            f"{info['case']:<28}{info['variant']:<20}{taken:>10.3f}{stats['iqr']:>9.3f}{info['tokens'] / taken:>11,.0f}"
            f"{info['floor_seconds'] / taken:>9.0%}{ratio:>7.2f}"
        )


if __name__ == "__main__":
    main()
