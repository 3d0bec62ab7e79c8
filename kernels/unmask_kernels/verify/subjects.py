"""How each family is run: its public function, what its results are compared with, and a document of a call alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import attention, embedding, gelu, layer_norm, linear_gelu, masking, mlm_loss
from ..attention import reference as attention_reference
from ..documents import Documents
from ..embedding import reference as embedding_reference
from ..gelu import reference as gelu_reference
from ..layer_norm import reference as layer_norm_reference
from ..linear_gelu import reference as linear_gelu_reference
from ..testing.attention import plain_attention
from ..testing.distill import plain_distill, reference_distill, run_distill
from ..testing.embedding import plain_embedding
from ..testing.gelu import plain_gelu
from ..testing.inputs import Inputs
from ..testing.layer_norm import plain_layer_norm
from ..testing.linear_gelu import plain_linear_gelu
from ..testing.mlm_loss import plain_mlm_loss
from ..testing.optimizer import plain_optimizer, run_updates

__all__ = ["SUBJECTS", "Subject"]

Results = dict[str, Tensor]


class Subject(NamedTuple):
    """A family under test.

    Attributes:
        function: takes the arguments of a case by name, and `backend`; returns a tensor, or several.
        truth: the definition; it is run in fp64.
        plain: the same as PyTorch users write it, in the dtype under test; None where a result has no rounding, and has
            to be that of the definition bit for bit.
        by_token: names of the arguments whose first dimension is tokens.
        by_document: names of those whose first dimension is documents.
        alone: names of the results that a document must give alone too, bit for bit.
        exact: backends whose bits are the same alone; libraries may sum in another order.
    """

    function: Callable[..., Any]
    truth: Callable[..., Any]
    plain: Callable[..., Any] | None
    by_token: tuple[str, ...] = ()
    by_document: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    exact: tuple[str, ...] = ("triton", "cuda")

    def document_of(self, packed: Inputs, lengths: Sequence[int]) -> Callable[[slice, int], Inputs]:
        """The function that makes the call on one document, given its tokens and its index."""

        def alone(tokens: slice, index: int) -> Inputs:
            rows = {**dict.fromkeys(self.by_token, tokens), **dict.fromkeys(self.by_document, slice(index, index + 1))}
            given = packed.arguments
            cut: dict[str, Any] = {name: given[name][some] for name, some in rows.items() if given[name] is not None}
            documents = packed.arguments.get("documents")
            if isinstance(documents, Documents):
                offsets = torch.tensor([0, lengths[index]], dtype=torch.int32, device=documents.keys.device)
                keys = documents.keys[index : index + 1]
                cut["documents"] = Documents.build(offsets, keys, tokens=lengths[index], max_seqlen=lengths[index])
            return packed.change(**cut)

        return alone


def _scaled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda qkv, **rest: function(qkv, scale=qkv.shape[-1] ** -0.5, **rest)


def _loss(*arguments: Any, **named: Any) -> Tensor:
    return mlm_loss(*arguments, **named).loss_sum


def _as_tuple(*arguments: Any, **named: Any) -> tuple[Tensor, ...]:
    return tuple(masking(*arguments, **named))


SUBJECTS: Mapping[str, Subject] = {
    "attention": Subject(
        attention,
        _scaled(attention_reference.attention),
        _scaled(plain_attention),
        by_token=("qkv",),
        alone=("y", "dqkv"),
    ),
    "distill": Subject(
        run_distill,
        reference_distill,
        plain_distill,
        by_token=("student_q", "student_k", "teacher_q", "teacher_k"),
        by_document=("weights",),
        alone=("dstudent_q", "dstudent_k"),
    ),
    "layer_norm": Subject(
        layer_norm,
        layer_norm_reference.layer_norm,
        plain_layer_norm,
        by_token=("x", "residual", "row_keys"),
        alone=("y", "dx", "dresidual"),
    ),
    "embedding": Subject(
        embedding,
        partial(embedding_reference.embedding, eps=1e-12),
        plain_embedding,
        by_token=("ids", "segments"),
        alone=("y",),
    ),
    "gelu": Subject(gelu, gelu_reference.gelu, plain_gelu, by_token=("x",), alone=("y", "dx")),
    "linear_gelu": Subject(
        linear_gelu, linear_gelu_reference.linear_gelu, plain_linear_gelu, by_token=("x",), alone=("y",)
    ),
    "mlm_loss": Subject(_loss, partial(_loss, backend="reference"), plain_mlm_loss),
    "masking": Subject(
        _as_tuple,
        partial(_as_tuple, backend="reference"),
        None,
        by_token=("ids", "word_starts"),
        alone=("y0",),
    ),
    "optimizer": Subject(run_updates, partial(run_updates, backend="reference"), plain_optimizer),
}
"""Every family by name."""
