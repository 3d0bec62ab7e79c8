"""`python -m unmask_kernels.verify`: `unmask verify` without the engine, for the shapes that the options give."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import torch

from ..gelu.arguments import ACTIVATIONS
from . import CannotVerify, Shapes, VerificationProgress, among_ranks, verify, verify_once

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def main(argv: Sequence[str] | None = None) -> int:
    """Verify, print the table, and return the exit status: 0 all right, 1 a kernel has failed, 2 nothing was run."""
    options = _parser().parse_args(argv)
    try:
        shapes = Shapes(
            dtype=_DTYPES[options.dtype],
            num_heads=options.num_heads,
            head_dim=options.head_dim,
            intermediate_size=options.intermediate_size,
            vocab_size=options.vocab_size,
            num_segments=options.num_segments,
            activation=options.activation,
            causal=options.causal,
            windows=(None,) if options.window is None else (None, options.window),
            hidden_dropout=options.hidden_dropout,
            attention_dropout=options.attention_dropout,
            max_lengths=tuple(options.max_length),
            tokens=options.tokens,
        )
        # of the processes of torchrun one verifies, the others wait for it
        report = (verify_once if among_ranks() else verify)(
            shapes,
            device=options.device,
            seconds=options.seconds,
            progress=_show,
            operations=options.operations or None,
        )
    except (ValueError, CannotVerify) as error:
        print(error, file=sys.stderr)
        return 2
    if report is None:
        print("Verified by another process of this machine.")
        return 0
    if options.json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        print(*report.lines(), sep="\n")
        if report.record is not None:
            print(f"recorded in {report.record}")
    if report.failed:
        return 1
    return 2 if report.outcomes and not report.passed else 0


def _show(progress: VerificationProgress) -> None:
    bar = "#" * (progress.done * 20 // progress.total)
    left = progress.limit - progress.seconds
    line = f"call {progress.done + 1} of {progress.total}, {progress.doing}, {left:.0f} s left"
    if sys.stderr.isatty():
        print(f"\r{f'[{bar:20}] {line}'[:110]:110}", end="\r", file=sys.stderr)
    else:
        print(line, file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    base = Shapes()
    parser = argparse.ArgumentParser(
        prog="python -m unmask_kernels.verify",
        description="Verify the kernels on the GPU at hand and record what has passed. The defaults are BERT-base.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("operations", nargs="*", metavar="OPERATION", help="those to verify; none: all")
    parser.add_argument("--dtype", choices=_DTYPES, default="bfloat16", help="of activations")
    for name, text in (
        ("num_heads", "heads of a layer"),
        ("head_dim", "elements of a head"),
        ("intermediate_size", "columns of the feed-forward layer"),
        ("vocab_size", "rows of the token table"),
        ("num_segments", "rows of the segment table"),
        ("tokens", "tokens of the largest case"),
    ):
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=int, default=getattr(base, name), metavar="N", help=text
        )
    parser.add_argument("--activation", choices=ACTIVATIONS, default=base.activation, help="of the feed-forward layer")
    parser.add_argument("--causal", action="store_true", help="causal attention")
    parser.add_argument("--window", type=int, metavar="N", help="tokens on either side in local layers")
    parser.add_argument("--hidden-dropout", type=float, default=base.hidden_dropout, metavar="P", help="of rows")
    parser.add_argument(
        "--attention-dropout", type=float, default=base.attention_dropout, metavar="P", help="of scores"
    )
    parser.add_argument(
        "--max-length", type=int, nargs="+", default=base.max_lengths, metavar="N", help="of each phase"
    )
    parser.add_argument("--device", default="cuda", help="GPU, or cpu with TRITON_INTERPRET=1")
    parser.add_argument("--seconds", type=float, default=120.0, metavar="S", help="time limit")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
