"""A whole MLM training step, ours against `transformers` BertForMaskedLM, in real tokens per second.

    python bench/engine/bench_step.py --size mini --rounds 5        prints a table
    python bench/engine/bench_step.py --documents STORE             text of a store that `unmask prepare` made
    python bench/engine/bench_step.py --size base --out FILE.json   also writes a result file
    python bench/engine/bench_step.py --forms eager compiled        forms of our step side by side, without the peer
    pytest bench/engine/bench_training_step.py                      mini on a CPU, base on a GPU, five rounds

Each side runs as is best for it on this machine. Ours takes the dtype that `train.dtype: auto` chooses. `transformers`
is tried in fp32 and bf16, with SDPA and eager attention, and the fastest of the four is timed twice: on the documents
of ours, and with its own batches grouped by length. Every update has forward, loss, backward, clipping and AdamW.

The first two variants have the same documents and masks. The collator of `transformers` draws the masks and pads to the
longest document of the batch; ours gets the documents packed. Grouped batches have as many documents on average, of the
same source. A round times `GROUPED_UPDATES` of them, and counts the seconds for as many real tokens as the others have.
Only tokens of documents count. Collating is timed separately. Rounds rotate up to eight sets of documents.

Forms of our step are eager, compiled by `torch.compile`, and replayed from CUDA graphs. Each trains a model of its own
from the same weights on the same documents. Their first losses must agree within 1e-5 in fp32, 1e-2 in bf16. The ratio
is the median over rounds of the time of the eager step over that of the other form in the same round.

Before the timing, the losses of the two models with the same weights, in fp32 without dropout, must agree within 1e-5.
Without `transformers`, or with `--no-peer`, ours runs alone, and the result says so.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path += [path for path in (str(ROOT), str(ROOT / "engine"), str(ROOT / "kernels")) if path not in sys.path]

from bench import machine, record  # noqa: E402
from bench.clock import DeviceClock, interleave, peak_bytes  # noqa: E402
from bench.documents import Documents, from_distribution, from_store  # noqa: E402
from bench.lengths import DISTRIBUTIONS  # noqa: E402
from bench.roofline import bert_step_flops, matmul_rate  # noqa: E402
from bench.training_step import (  # noqa: E402
    AGREEMENT,
    FORMS,
    HAS_TRANSFORMERS,
    MAX_LENGTH,
    SIZES,
    STEP_OPERATIONS,
    Size,
    StepInputs,
    check_agreement,
    make_grouped,
    make_inputs,
    ours,
    theirs,
)
from bench.transformers_step import SETTINGS, Setting, TransformersStep, fastest  # noqa: E402

from unmask_kernels import FAMILIES, BackendUnavailable, using  # noqa: E402

OURS, THEIRS, GROUPED = FORMS["eager"], "transformers", "transformers, grouped by length"
"""The variants."""

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}

SHORT_CASES = [name for name, case in DISTRIBUTIONS.items() if case.max_length <= MAX_LENGTH]

_SMALL_TOKENS = 64
"""Tokens of the small step that decides which dtypes are tried at full size."""


def documents_of(size: Size, lengths: str, store: Path | None) -> tuple[Size, Documents]:
    """Return where documents come from, and the size with the vocabulary of the store, if one is given."""
    if store is None:
        return size, from_distribution(DISTRIBUTIONS[lengths], size.vocab)
    documents = from_store(store, MAX_LENGTH)
    assert documents.vocab is not None
    return replace(size, vocab=documents.vocab), documents


def measure(
    name: str,
    *,
    dropout: float,
    rounds: int,
    tokens: int | None = None,
    device: torch.device,
    dtype: torch.dtype | None = None,
    variants: Sequence[str] = (OURS, THEIRS, GROUPED),
    multiple: int | None = None,
    lengths: str = "lognormal-512",
    store: Path | None = None,
    backend: str | None = None,
    profile: bool = False,
    forms: Sequence[str] = ("eager",),
    of_process: bool = False,
) -> list[dict[str, Any]]:
    """Compare, time, and return result entries, ours first.

    Args:
        name: of the size.
        dropout: of both sides, in all places that have it.
        rounds: timed rounds.
        tokens: real tokens of a step; by default those of the size.
        device: where both run.
        dtype: of the activations of both sides; by default each has its own best.
        variants: those to time; without `transformers`, ours alone.
        multiple: `pad_to_multiple_of` of the collator of `transformers`.
        lengths: name of the distribution of random documents.
        store: folder of a token store, in place of random documents.
        backend: asked for in all of our operations.
        profile: first print where one step of ours spends its time.
        forms: of our step, the eager one first; several are timed without `transformers`.
        of_process: whether to count CPU seconds of this process, see `DeviceClock`.
    """
    size, documents = documents_of(SIZES[name], lengths, store)
    tokens = tokens or size.tokens
    note = "" if HAS_TRANSFORMERS else " transformers is not installed here: no peer, masks drawn with NumPy."
    variants = [variant for variant in variants if variant == OURS or HAS_TRANSFORMERS]
    start = time.perf_counter()
    inputs = make_inputs(documents, size.vocab, tokens, min(rounds, 8), device, multiple)
    collate_seconds = (time.perf_counter() - start) / len(inputs)
    pad_id = documents.special_ids["[PAD]"]
    steps: dict[str, Callable[[int], object]] = {}
    facts: dict[str, dict[str, Any]] = {}
    agreement = None
    if OURS in variants:
        agreement = check_agreement(size, inputs[0], device, pad_id) if len(variants) > 1 else None
        own_dtype = dtype or machine.fast_dtype()
        asked = dict.fromkeys(STEP_OPERATIONS, backend) if backend else {}

        def make(form: str) -> Callable[[int], Tensor]:
            own = ours(size, dropout, own_dtype, device, form=form)

            def unmask(at: int) -> Tensor:
                with using(**asked):
                    return own(inputs[at % len(inputs)].packed)

            return unmask

        made = {form: make(form) for form in forms}
        for form, call in made.items():
            steps[FORMS[form]], facts[FORMS[form]] = call, {"dtype": machine.SHORT[own_dtype]}
        if len(forms) > 1:
            require_agreement({form: float(call(0)) for form, call in made.items()}, own_dtype)
        if profile:
            print_kernels(lambda: made["eager"](0))
    scale: dict[str, list[float]] = {}
    if variants != [OURS]:
        setting, trials = best_setting(size, dropout, inputs[0], dtype, device, pad_id)
        peer = theirs(size, dropout, setting, device, pad_id)
        known = {"dtype": machine.SHORT[setting.dtype], "attention": setting.attention, "trials": trials}
        others = "; ".join(f"{other.removeprefix('transformers ')} {result}" for other, result in trials.items())
        note += f" {setting}; tried as well: {others}." if others else f" {setting}."
        if THEIRS in variants:
            steps[THEIRS], facts[THEIRS] = lambda at: peer(inputs[at % len(inputs)].padded), known
        if GROUPED in variants:
            batch = max(1, round(fmean(len(made.lengths) for made in inputs)))
            grouped = make_grouped(documents, size.vocab, batch, min(rounds, 8), device, multiple)

            def update(at: int) -> None:
                for padded in grouped[at % len(grouped)].padded:
                    peer(padded)

            steps[GROUPED], facts[GROUPED] = update, known
            scale[GROUPED] = [tokens / grouped[at % len(grouped)].real_tokens for at in range(rounds)]
    times = interleave(steps, DeviceClock(device, of_process=of_process), rounds=rounds, warmup=1)
    note += " Times are CPU seconds of the process." if of_process else ""
    largest = {variant: lambda step=steps[variant]: step(0) for variant in steps}  # type: ignore[misc]
    if GROUPED in steps:
        largest[GROUPED] = lambda: peer(grouped[-1].padded[-1])
    peaks = {variant: peak_bytes(call, device) for variant, call in largest.items()}
    # a product that is timed while others use the machine is no ceiling
    rates = {
        variant: matmul_rate(str(device), _named(fact["dtype"])) for variant, fact in facts.items() if not of_process
    }
    flops = fmean(step_flops(size, made) for made in inputs)
    whole = [1.0] * rounds
    real = fmean(made.packed.real_tokens / made.padded["input_ids"].numel() for made in inputs)
    shape = f"layers {size.layers}, hidden {size.hidden}, vocabulary {size.vocab:,}"
    return [
        record.benchmark_entry(
            f"{'training step' if len(forms) == 1 else 'forms of a training step'}, {name}: {shape}",
            variant,
            [seconds * share for seconds, share in zip(times[variant], scale.get(variant, whole), strict=True)],
            case=f"{documents.name}, dropout {dropout:g}"
            + (f", padded to {multiple}" if multiple else "")
            + (f", {backend}" if backend else ""),
            baseline=THEIRS if THEIRS in steps else OURS if len(forms) > 1 else None,
            tokens=tokens,
            flops=flops,
            floor_seconds=flops / rates[variant] if rates else None,
            ceiling=f"{facts[variant]['dtype']} matrix product of this run, {rates[variant] / 1e12:.2f} TFLOP/s"
            if rates
            else None,
            peak_bytes=peaks[variant],
            real_share_of_padded_batch=real,
            collate_seconds=collate_seconds,
            loss_agreement=agreement,
            threads=torch.get_num_threads(),
            note=f"{tokens:,} real tokens a step; {100 * real:.0f} % of the padded batch is real.{note}"
            + "".join(paired(times, FORMS[form]) for form in forms[1:]),
            **facts[variant],
        )
        for variant in steps
    ]


def require_agreement(losses: dict[str, float], dtype: torch.dtype) -> None:
    """Raise unless the first losses of the forms of a step agree; then nothing may be timed."""
    first, bound = next(iter(losses.values())), AGREEMENT if dtype == torch.float32 else 1e-2
    for form, loss in losses.items():
        assert abs(loss - first) <= bound * first, f"bench_step: {form} has loss {loss}, eager has {first}"


def paired(times: dict[str, list[float]], variant: str) -> str:
    """Return the sentence about the eager step beside another form, from rounds in pairs."""
    ratios = [eager / other for eager, other in zip(times[OURS], times[variant], strict=True)]
    return f" The eager step takes {median(ratios):.2f} times the time of {variant!r} (median of {len(ratios)} pairs)."


def best_setting(
    size: Size, dropout: float, made: StepInputs, dtype: torch.dtype | None, device: torch.device, pad_id: int
) -> tuple[Setting, dict[str, str]]:
    """Find the setting in which `transformers` is fastest, of those in `dtype` if it is given; and how others did."""
    small = replace(size, layers=1, vocab=2000)
    little = make_inputs(
        from_distribution(DISTRIBUTIONS["all-128"], small.vocab), small.vocab, _SMALL_TOKENS, 1, device
    )
    clock = DeviceClock(device)

    def best_of_two(peer: TransformersStep, padded: dict[str, Tensor]) -> float:
        return min(clock.seconds(lambda: peer(padded)) for _ in range(2))

    return fastest(
        lambda setting: best_of_two(theirs(small, dropout, setting, device), little[0].padded),
        lambda setting: best_of_two(theirs(size, dropout, setting, device, pad_id), made.padded),
        [setting for setting in SETTINGS if dtype in (None, setting.dtype)],
    )


def step_flops(size: Size, made: StepInputs) -> float:
    """Count the operations of the matrix products of a step."""
    assert made.packed.labels is not None
    masked = int((made.packed.labels != -100).sum())
    parts = {name: value for name, value in asdict(size).items() if name not in ("heads", "tokens")}
    return bert_step_flops(made.lengths, masked=masked, **parts)


def _named(short: str) -> torch.dtype:
    return next(dtype for dtype, name in machine.SHORT.items() if name == short)


def _positive(text: str) -> int:
    """Return a number of at least 1."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def _rate(text: str) -> float:
    """Return a dropout rate, which attention takes up to 1 - 2**-16."""
    if not 0.0 <= (rate := float(text)) <= 1.0 - 2.0**-16:
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 1, got {text}")
    return rate


def main(arguments: Sequence[str] | None = None) -> None:
    """The script."""
    parser = argparse.ArgumentParser(description="Real tokens per second of a training step, ours and transformers'.")
    parser.add_argument("--size", choices=sorted(SIZES), default="mini")
    parser.add_argument("--rounds", type=_positive, default=5)
    parser.add_argument("--tokens", type=_positive, help="real tokens of a step (default: by size)")
    parser.add_argument("--dropout", type=_rate, nargs="+", default=[0.1], help="one or several (default: 0.1)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--lengths", choices=SHORT_CASES, default="lognormal-512", help="lengths of random documents")
    source.add_argument("--documents", type=Path, metavar="STORE", help="text: a store that `unmask prepare` made")
    backends = [
        name
        for name in FAMILIES["attention"].backends
        if all(name in FAMILIES[one].backends for one in STEP_OPERATIONS)
    ]
    parser.add_argument(
        "--backend", choices=backends, help="ask for this one in every operation, as triton before it is verified"
    )
    parser.add_argument("--threads", type=_positive, help="CPU threads (default: PyTorch's)")
    parser.add_argument(
        "--of-process", action="store_true", help="count CPU seconds of the process, where others use the machine too"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="of both sides (default: the best for each)")
    parser.add_argument("--pad-to-multiple-of", type=_positive, help="as in the collator of transformers")
    parser.add_argument(
        "--forms", choices=FORMS, nargs="+", default=["eager"], help="of our step, eager first; several: without peer"
    )
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--only-peer", action="store_true", help="time transformers alone")
    alone.add_argument("--no-peer", action="store_true", help="time ours alone")
    parser.add_argument("--no-grouped", action="store_true", help="leave out batches grouped by length")
    parser.add_argument("--profile", action="store_true", help="print where a step of ours spends its time")
    parser.add_argument("--out", type=Path, help="result file to write ('auto' for bench/results)")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.forms[0] != "eager" or (len(options.forms) > 1 and options.only_peer):
        parser.error("argument --forms: needs the eager step first, and our step")
    if "graph" in options.forms and not options.device.startswith("cuda"):
        parser.error("argument --forms: graph needs a CUDA device; leave it out, or give --device cuda")
    no_peer = options.no_peer or len(options.forms) > 1
    left_out = {OURS} if options.only_peer else {THEIRS, GROUPED} if no_peer else set()
    left_out |= {GROUPED} if options.no_grouped else set()
    path = options.out
    if str(path) == "auto":
        source_name = options.documents.resolve().name if options.documents else options.lengths
        kind = "step" if len(options.forms) == 1 else "forms"
        path = record.result_path(f"{kind}-{options.size}-{source_name}")
    rows: list[dict[str, Any]] = []
    print(_HEADER, flush=True)
    for dropout in options.dropout:
        try:
            measured = measure(
                options.size,
                dropout=dropout,
                rounds=options.rounds,
                tokens=options.tokens,
                device=torch.device(options.device),
                dtype=DTYPES.get(options.dtype),
                variants=[variant for variant in (OURS, THEIRS, GROUPED) if variant not in left_out],
                multiple=options.pad_to_multiple_of,
                lengths=options.lengths,
                store=options.documents,
                backend=options.backend,
                profile=options.profile,
                forms=options.forms,
                of_process=options.of_process,
            )
        except BackendUnavailable as error:
            parser.error(str(error))
        record.flush(measured)
        print_rows(measured)
        rows += measured
        if path:
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


_HEADER = (
    f"{'case':<30}{'variant':<34}{'dtype':<7}{'median s':>9}{'IQR s':>8}{'tokens/s':>10}{'ceiling':>9}{'ratio':>7}"
)


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Print a line for each variant of a case: median, real tokens/s, share of the ceiling, ratio to the baseline."""
    medians = {row["extra_info"]["variant"]: row["stats"]["median"] for row in rows}
    for row in rows:
        info, stats = row["extra_info"], row["stats"]
        taken = stats["median"]
        ratio = medians.get(info["baseline"], float("nan")) / taken
        print(
            f"{info['case']:<30}{info['variant']:<34}{info['dtype']:<7}{taken:>9.3f}{stats['iqr']:>8.3f}"
            f"{info['tokens'] / taken:>10,.0f}{(info['floor_seconds'] or 0.0) / taken:>9.0%}{ratio:>7.2f}"
        )
    print(rows[0]["extra_info"]["note"], flush=True)


if __name__ == "__main__":
    main()
