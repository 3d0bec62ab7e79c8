"""The cases of each family that `aot` compiles: the models' widths and vocabularies, with and without dropout."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from unmask_kernels.attention import schedule
from unmask_kernels.testing.attention import attention_case
from unmask_kernels.testing.distill import hidden_case, prediction_case, relation_case, score_case
from unmask_kernels.testing.embedding import embedding_case
from unmask_kernels.testing.gelu import gelu_case
from unmask_kernels.testing.inputs import Case
from unmask_kernels.testing.layer_norm import layer_norm_case
from unmask_kernels.testing.linear_gelu import linear_gelu_case
from unmask_kernels.testing.masking import masking_case
from unmask_kernels.testing.mlm_loss import mlm_loss_case

__all__ = ["CASES", "FORMS"]

MASKS: tuple[dict[str, Any], ...] = ({}, {"window": 64})

CASES: dict[str, list[Case]] = {
    # one document is too long for the fused backward, so every kernel is launched
    "attention": [
        attention_case("packed", [600, 300], heads=12, head_dim=head_dim, window=window, p=p)
        for head_dim in (26, 32, 48, 64, 80, 96, 128)
        for window in (None, 64)
        for p in (0.0, 0.1)
    ],
    # one document is long enough for Gram matrices, and students of TinyBERT have heads of 26 or 64 elements
    "distill": [
        *(
            make("packed", [600, 100], heads=12, head_dim=head_dim, teacher_dim=64, **mask)
            for make in (score_case, relation_case)
            for head_dim in (26, 32, 64)
            for mask in MASKS
        ),
        score_case("wide", [600], heads=6, head_dim=128, teacher_dim=128),
        hidden_case(64, 312, 768),
        hidden_case(64, 384, 384, projected=False),
        prediction_case(64, 3),
        prediction_case(16, 30522),
    ],
    "embedding": [embedding_case([40, 24], width, p=p) for width in (256, 312, 384, 768, 1024) for p in (0.0, 0.1)],
    "gelu": [
        *(gelu_case(64, width, activation=form) for width in (3072, 4096) for form in ("gelu", "gelu_tanh")),
        *(gelu_case(64, width, activation=form) for width in (1152, 2624) for form in ("geglu", "swiglu")),
        gelu_case(64, 1200),
        gelu_case(64, 1152, activation="geglu", bias=False),
    ],
    "layer_norm": [
        *(layer_norm_case(64, width, p=p) for width in (256, 312, 384, 768, 1024) for p in (0.0, 0.1)),
        *(layer_norm_case(64, width, p=0.1, x_bias=True) for width in (312, 768, 1024)),
        *(layer_norm_case(64, width, bias=False) for width in (768, 1024)),
    ],
    "linear_gelu": [
        *(linear_gelu_case(64, d, 4 * d, activation=form) for d in (768, 1024) for form in ("gelu", "gelu_tanh")),
        *(linear_gelu_case(64, 768, 1152, activation=form) for form in ("geglu", "swiglu")),
        linear_gelu_case(64, 768, 1152, activation="geglu", bias=False),
        linear_gelu_case(64, 312, 1200),
    ],
    "masking": [
        masking_case(f"{'tokens' if words is None else 'words'} {length}", [length], words=words)
        for length in (128, 512, 2048, 4096)
        for words in (None, 0.6)
    ],
    "mlm_loss": [mlm_loss_case(f"V {v}", tokens=64, width=16, vocabulary=v, masked=64) for v in (21128, 30522, 50368)],
}


FORMS: dict[str, dict[str, Callable[[], AbstractContextManager[None]]]] = defaultdict(
    lambda: {"": nullcontext}, {"attention": {"": nullcontext, "-drawn": partial(schedule, bitmask_up_to=0)}}
)
"""Context managers that select a form of a family's kernels, by what the form adds to the name of a case."""
