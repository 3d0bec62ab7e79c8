"""`python -m unmask_kernels.tune`: tune this machine for the sizes of an encoder, without the engine."""

from __future__ import annotations

import argparse
import math
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import torch

from ..verify.shapes import Shapes
from .choices import contests
from .report import conclusion, table
from .session import Session, TuningProgress

__all__ = ["main"]

_COMMAND = "python -m unmask_kernels.tune"


def main(words: Sequence[str] | None = None) -> int:
    """Tune, print the table, and return the exit status."""
    asked = _parser().parse_args(words)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        shapes = Shapes(
            tokens=(16384 if device.type == "cuda" else 2048) if asked.tokens is None else asked.tokens,
            max_lengths=(asked.max_length,),
            vocab_size=asked.vocab_size,
            num_layers=asked.num_layers,
            dtype=getattr(torch, asked.dtype or ("bfloat16" if device.type == "cuda" else "float32")),
            num_heads=asked.num_heads,
            head_dim=asked.head_dim,
            intermediate_size=asked.intermediate_size,
            hidden_dropout=asked.dropout,
            attention_dropout=asked.dropout,
        )
    except ValueError as error:
        print(str(error).replace("verify:", "tune:", 1), file=sys.stderr)
        return 2
    if not 0.0 < asked.minutes < math.inf:
        print(
            f"tune: minutes must be a number above 0, got {asked.minutes}; leave it out, and it is 2", file=sys.stderr
        )
        return 2
    session = Session(device=device, minutes=asked.minutes, again=asked.again, tell=_tell)
    before = signal.signal(signal.SIGTERM, _interrupt)
    status = 0
    try:
        session.hold(list(contests(shapes, device)))
    except KeyboardInterrupt as interruption:
        status = 128 + (interruption.args[0] if interruption.args else signal.SIGINT)
        print(f"interrupted; run `{_COMMAND}` again to go on", file=sys.stderr)
    finally:
        signal.signal(signal.SIGTERM, before)
    for line in (*table(session.findings), *conclusion(session, _COMMAND)):
        print(line)
    return status


def _parser() -> argparse.ArgumentParser:
    sizes = Shapes()
    parser = argparse.ArgumentParser(prog=_COMMAND, description="Measure the choices that only this machine can make.")
    parser.add_argument("--minutes", type=float, default=2.0, help="minutes after which no further choice is measured")
    parser.add_argument("--again", action="store_true", help="measure also what is recorded already")
    parser.add_argument("--tokens", type=int, help="tokens of a micro-batch (default: 2048, on a GPU 16384)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="dtype of activations")
    parser.add_argument("--dropout", type=float, default=sizes.hidden_dropout, help="dropout rates")
    for name in ("max_length", "num_layers", "num_heads", "head_dim", "intermediate_size", "vocab_size"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(sizes, name), metavar="N")
    return parser


def _tell(progress: TuningProgress) -> None:
    name, shape = progress.contest.key
    print(f"{progress.number + 1}/{progress.contests}  {name}, {shape}", file=sys.stderr)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    sys.exit(main())
