"""Every operation wants its tensors on one device, and names a tensor that is on another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from unmask_kernels import FAMILIES, attention, embedding, gelu, layer_norm, linear_gelu, masking, mlm_loss
from unmask_kernels.documents import Documents
from unmask_kernels.testing import contracts
from unmask_kernels.testing.attention import attention_case
from unmask_kernels.testing.embedding import embedding_case
from unmask_kernels.testing.gelu import gelu_case
from unmask_kernels.testing.inputs import Case
from unmask_kernels.testing.layer_norm import layer_norm_case
from unmask_kernels.testing.linear_gelu import linear_gelu_case
from unmask_kernels.testing.masking import masking_case
from unmask_kernels.testing.mlm_loss import mlm_loss_case

CALLS: dict[str, tuple[Callable[..., Any], Case, str]] = {
    "attention": (attention, attention_case("here", [5], p=0.1), "qkv"),
    "embedding": (embedding, embedding_case([5], 8, p=0.1), "ids"),
    "gelu": (gelu, gelu_case(5, 8), "x"),
    "layer_norm": (layer_norm, layer_norm_case(5, 8, p=0.1, x_bias=True), "x"),
    "linear_gelu": (linear_gelu, linear_gelu_case(5, 8, 8), "x"),
    "masking": (masking, masking_case("here", [5], words=0.5), "ids"),
    "mlm_loss": (mlm_loss, mlm_loss_case("here", tokens=5, width=8, vocabulary=9, masked=2), "hidden"),
}


def test_every_family_is_here() -> None:
    # test_optimizer.py has the optimizer, whose arguments are lists, and test_distill.py the losses of distill
    assert CALLS.keys() | {"optimizer", "distill"} == FAMILIES.keys()


@pytest.mark.parametrize("family", CALLS)
def test_a_tensor_elsewhere_is_named(family: str) -> None:
    function, case, first = CALLS[family]
    inputs = case.make(torch.float32)
    elsewhere = [name for name, value in inputs.arguments.items() if isinstance(value, torch.Tensor) and name != first]
    assert elsewhere
    for name in elsewhere:
        message = f"{family}: {name} must be on cpu, the device of {first}, got meta"
        contracts.refuses(function, inputs, {name: inputs.arguments[name].to("meta")}, ValueError, message)


@pytest.mark.parametrize("family", ["attention", "embedding", "masking"])
def test_documents_elsewhere_are_named_by_their_offsets(family: str) -> None:
    function, case, first = CALLS[family]
    inputs = case.make(torch.float32)
    documents: Documents = inputs.arguments["documents"]
    message = f"{family}: cu_seqlens must be on cpu, the device of {first}, got meta"
    contracts.refuses(function, inputs, {"documents": documents.to("meta")}, ValueError, message)
