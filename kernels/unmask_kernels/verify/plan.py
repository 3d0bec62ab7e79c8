"""What is run: for each backend that a run may choose, the calls as the choice sees them, with cases for each.

The most valuable ones come first, since the time may end before the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch

from ..dispatch import known
from ..gelu.arguments import GATED
from ..testing.attention import attention_case
from ..testing.distill import hidden_case, prediction_case, relation_case, score_case
from ..testing.embedding import embedding_case
from ..testing.gelu import gelu_case
from ..testing.inputs import Case
from ..testing.layer_norm import layer_norm_case
from ..testing.linear_gelu import linear_gelu_case
from ..testing.masking import masking_case
from ..testing.mlm_loss import mlm_loss_case
from ..testing.optimizer import optimizer_case
from .shapes import Shapes

__all__ = ["Check", "Sample", "plan", "refusals"]

_SMALL_DOCUMENTS = (17, 0, 1, 22)
_MASKED = 0.15


class Sample(NamedTuple):
    """A case.

    Attributes:
        case: makes its arguments.
        lengths: of documents that are also run alone; empty: none is.
    """

    case: Case
    lengths: tuple[int, ...] = ()


class Check(NamedTuple):
    """A call of a backend that is to be verified.

    Attributes:
        family, backend: by name.
        call: as the choice sees it.
        samples: its cases; the largest has about so many tokens.
    """

    family: str
    backend: str
    call: Any
    samples: Callable[[int], list[Sample]]

    def __str__(self) -> str:
        told = (_told(name, value) for name, value in self.call._asdict().items() if name not in _UNTOLD)
        return f"{self.family} {self.backend} ({', '.join(filter(None, told))})"


_UNTOLD = ("device", "architecture", "captured")
_WORDS = {"p": "dropout", "max_seqlen": "documents up to"}


def _told(name: str, value: Any) -> str:
    """A fact of a call in words; empty for what the call does not have, such as a window."""
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, bool):
        return name if value else ""
    if isinstance(value, str):
        return value
    absent = value < 0 or (name == "p" and value == 0.0)
    return "" if absent else f"{_WORDS.get(name, name.replace('_', ' '))} {value:g}"


def plan(shapes: Shapes, device: str, architecture: str, operations: Collection[str] | None = None) -> list[Check]:
    """Every call that is worth verifying on such a device, the most valuable first.

    Args:
        shapes: of the run.
        device: "cuda", or "cpu" for the interpreter.
        architecture: such as "sm_90".
        operations: those to verify. Default: all.
    """
    checks: dict[Any, Check] = {}
    for name, samples_of in _CALLS.items():
        if operations is not None and name not in operations:
            continue
        family = known[name]
        for change, samples in samples_of(shapes):
            call = family.example(device, architecture, shapes.dtype)._replace(**change)  # type: ignore[attr-defined]
            for backend, each in family.backends.items():
                # a library, or plain PyTorch, is trusted, and ours need not be run again
                young = each.verified is not None and architecture not in each.verified
                if young and not each.refuses(call):
                    # two windows that reach every token are one call
                    checks.setdefault((name, backend, call), Check(name, backend, call, samples))
    return list(checks.values())


def refusals(
    shapes: Shapes, device: str, architecture: str, operations: Collection[str] | None = None
) -> dict[tuple[str, str], list[str]]:
    """Why a backend that would have to be verified cannot run a call of the run, by family and backend."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, samples_of in _CALLS.items():
        if operations is not None and name not in operations:
            continue
        for change, _ in samples_of(shapes):
            call = known[name].example(device, architecture, shapes.dtype)._replace(**change)  # type: ignore[attr-defined]
            for backend, each in known[name].backends.items():
                if each.verified is not None and (reasons := each.refuses(call)):
                    found.setdefault((name, backend), reasons)
    return found


_Samples = Iterator[tuple[dict[str, Any], Callable[[int], list[Sample]]]]


def _dropouts(p: float) -> list[float]:
    """Training has dropout, evaluation has none."""
    return [p, 0.0] if p > 0.0 else [0.0]


def _lengths(max_length: int, tokens: int) -> list[int]:
    """Documents of all lengths up to the maximum, about as many tokens as asked for."""
    generator = torch.Generator().manual_seed(5)
    lengths = [max_length]
    while sum(lengths) < tokens:
        # as many short documents as long ones
        lengths.append(max(1, int(max_length ** float(torch.rand(1, generator=generator)))))
    return lengths


def _edges(max_length: int) -> list[int]:
    """No token, one, and around each length where a kernel changes."""
    bounds = [length for power in range(4, 16) for length in ((1 << power) - 1, 1 << power, (1 << power) + 1)]
    near = [length for length in bounds if length in (64, 65, 128, 129, 256, 257, 512, 513) and length < max_length]
    return [*(min(length, max_length) for length in (3, 0, 1, 22)), *near, max_length]


def _attention(shapes: Shapes) -> _Samples:
    max_length = shapes.max_length
    for window in dict.fromkeys(shapes.windows):
        # a window that reaches every token is none
        seen = None if window is None or window >= max_length - 1 else window
        for p in _dropouts(shapes.attention_dropout):
            make = partial(attention_case, head_dim=shapes.head_dim, causal=shapes.causal, window=window, p=p)

            def samples(tokens: int, make: Callable[..., Case] = make) -> list[Sample]:
                # every case has a document of the maximum length, so that each is a call like the one verified
                edges = _edges(max_length)
                return [
                    Sample(make("edges", edges), tuple(edges)),
                    Sample(make("filled", _lengths(max_length, tokens), heads=shapes.num_heads)),
                ]

            change = {"head_dim": shapes.head_dim, "causal": shapes.causal, "p": p, "max_seqlen": max_length}
            yield {**change, "window": -1 if seen is None else seen}, samples


def _layer_norm(shapes: Shapes) -> _Samples:
    width = shapes.hidden_size

    def samples(tokens: int) -> list[Sample]:
        documents = _SMALL_DOCUMENTS
        found = [Sample(layer_norm_case(sum(documents), width, p=0.1, x_bias=True), documents)]
        for p in _dropouts(shapes.hidden_dropout):
            found += [Sample(layer_norm_case(tokens, width, p=p, x_bias=x_bias)) for x_bias in (True, False)]
        found += [Sample(layer_norm_case(rows, width, residual=False, x_bias=True)) for rows in (37, 1)]
        return [*found, Sample(layer_norm_case(41, width, bias=False))]

    yield {"width": width}, samples


def _embedding(shapes: Shapes) -> _Samples:
    max_length = shapes.max_length

    def samples(tokens: int) -> list[Sample]:
        small = [min(length, max_length) for length in _SMALL_DOCUMENTS]
        # a table as large as the largest of tokens, so that most of its rows are read at least once
        words = min(shapes.vocab_size, max(64, tokens))
        make = partial(embedding_case, width=shapes.hidden_size, vocabulary=words, segments=shapes.num_segments)
        p = shapes.hidden_dropout
        return [
            Sample(make(small, p=p, positions=max_length), tuple(small)),
            *(Sample(make(_lengths(max_length, tokens), p=p, text=True)) for p in _dropouts(p)),
            Sample(make(small, frequent=0.95, ids_dtype=torch.int32)),
        ]

    yield {"width": shapes.hidden_size, "segments": shapes.num_segments}, samples


def _gelu(shapes: Shapes) -> _Samples:
    # the head of masked language modelling has an activation of its own, without gates
    plain = shapes.activation if shapes.activation not in GATED else "gelu"
    calls = [(shapes.activation, shapes.intermediate_size), (plain, shapes.hidden_size)]
    for activation, width in dict.fromkeys(calls):

        def samples(tokens: int, activation: str = activation, width: int = width) -> list[Sample]:
            make = partial(gelu_case, width=width, activation=activation)
            return [
                Sample(make(sum(_SMALL_DOCUMENTS)), _SMALL_DOCUMENTS),
                *(Sample(make(tokens, bias=bias)) for bias in (True, False)),
                Sample(make(1, scale=1e2)),
            ]

        yield {"activation": activation, "width": width * 2 if activation in GATED else width}, samples


def _linear_gelu(shapes: Shapes) -> _Samples:
    depth, width, activation = shapes.hidden_size, shapes.intermediate_size, shapes.activation

    def samples(tokens: int) -> list[Sample]:
        make = partial(linear_gelu_case, depth=depth, width=width, activation=activation)
        documents = _SMALL_DOCUMENTS
        return [
            Sample(make(sum(documents)), documents),
            *(Sample(make(rows, bias=bias)) for rows, bias in ((tokens, True), (129, False), (1, True))),
        ]

    yield {"activation": activation, "depth": depth, "width": 2 * width if activation in GATED else width}, samples


def _mlm_loss(shapes: Shapes) -> _Samples:
    def samples(tokens: int) -> list[Sample]:
        masked = max(1, round(_MASKED * tokens))
        make = partial(mlm_loss_case, width=shapes.hidden_size, vocabulary=shapes.vocab_size)
        return [
            Sample(make("gathered", tokens=tokens, masked=masked, unused=3, gathered=True)),
            Sample(make("positions", tokens=min(tokens, 200), masked=min(masked, 30), bias=False)),
            Sample(make("unused", tokens=8, masked=0, unused=2)),
        ]

    yield {"vocabulary": shapes.vocab_size, "width": shapes.hidden_size}, samples


def _distill(shapes: Shapes) -> _Samples:
    """A student of the run's heads beside a teacher of the same ones, and of those of BERT."""
    max_length, width = shapes.max_length, shapes.head_dim
    losses: tuple[tuple[str, Callable[..., Case]], ...] = (("score", score_case), ("relation", relation_case))
    for loss, make_case in losses:
        for teacher_dim in dict.fromkeys((width, 64)):
            make = partial(make_case, head_dim=width, teacher_dim=teacher_dim, causal=shapes.causal, weighted=True)

            def samples(tokens: int, make: Callable[..., Case] = make) -> list[Sample]:
                edges = _edges(max_length)
                return [
                    Sample(make("edges", edges), tuple(edges)),
                    Sample(make("filled", _lengths(max_length, tokens), heads=shapes.num_heads)),
                ]

            widths = {"student_width": width, "teacher_width": teacher_dim}
            yield {"loss": loss, **widths, "banded": shapes.causal, "max_seqlen": max_length}, samples

    def rows(tokens: int) -> list[Sample]:
        size = shapes.hidden_size
        cases = (hidden_case(tokens, size, size), hidden_case(37, size, size, projected=False, weighted=True))
        return [Sample(case) for case in cases]

    widths = dict.fromkeys(("student_width", "teacher_width"), shapes.hidden_size)
    yield {"loss": "hidden", **widths, "max_seqlen": 0}, rows

    def classes(tokens: int) -> list[Sample]:
        return [Sample(prediction_case(37, 3, temperature=2.0)), Sample(prediction_case(tokens, 2, weighted=True))]

    yield {"loss": "prediction", "student_width": 2, "teacher_width": 2, "max_seqlen": 0}, classes


def _masking(shapes: Shapes) -> _Samples:
    for max_length in dict.fromkeys(shapes.max_lengths):

        def samples(tokens: int, max_length: int = max_length) -> list[Sample]:
            small = [min(length, max_length) for length in (40, 3, 23)]
            many = _lengths(max_length, tokens)
            return [
                *(Sample(masking_case("small", [max_length, *small], words=words)) for words in (0.6, None)),
                *(Sample(masking_case("filled", many, words=words, padding=9, spare=5)) for words in (0.6, None)),
                Sample(masking_case("special", [max_length, *small], words=0.7, spelled=0.3, rate=0.4)),
            ]

        yield {"max_seqlen": max_length}, samples


def _optimizer(shapes: Shapes) -> _Samples:
    # a run in 16 bits has copies of that dtype
    narrow = "float16" if shapes.dtype == torch.float16 else "bfloat16"
    for algorithm, clip_update in (("adamw", False), ("lamb", False), ("adamw", True)):

        def samples(tokens: int, algorithm: str = algorithm, clip_update: bool = clip_update) -> list[Sample]:
            make = partial(optimizer_case, algorithm=algorithm, clip_update=clip_update)
            make = partial(make, copies=True, copy_dtype=narrow, fp32=True)
            # matrices and vectors of a layer, with as many rows as there are tokens
            layer = (tokens * shapes.hidden_size, shapes.hidden_size, 3 * shapes.hidden_size, 1)
            return [
                Sample(make("odd", (64, 1, 7, 130, 0, 33, 1025), max_norm=1.0)),
                Sample(make("many", (5,) * 300, max_norm=1e9, bias_correction=False)),
                Sample(make("scaled", (257, 8192), grad_scale=128.0, max_norm=3.0)),
                Sample(make("skipped", (31, 9), max_norm=1.0, spoilt=math.nan)),
                Sample(make("layer", layer, max_norm=1.0)),
            ]

        yield {"algorithm": algorithm, "clip_update": clip_update, "copy_dtype": narrow, "clip_norm": True}, samples


_CALLS: dict[str, Callable[[Shapes], _Samples]] = {
    "attention": _attention,
    "layer_norm": _layer_norm,
    "embedding": _embedding,
    "gelu": _gelu,
    "mlm_loss": _mlm_loss,
    "masking": _masking,
    "linear_gelu": _linear_gelu,
    "optimizer": _optimizer,
    "distill": _distill,
}
