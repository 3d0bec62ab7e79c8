"""How a family's operations are registered: schemas from records, records for backends, tensors for the backward."""

from __future__ import annotations

import importlib
from typing import get_type_hints

import pytest
import torch

from unmask_kernels import FAMILIES, layer_norm, masking
from unmask_kernels.testing.layer_norm import layer_norm_case
from unmask_kernels.testing.masking import masking_case

DIRECTIONS = ("forward", "backward")
# a loss of distill has its gradients with its value
LOSSES = tuple(f"{loss}_forward" for loss in ("score", "relation", "hidden", "prediction"))
WRITTEN = [
    (name, backend, direction)
    for name, family in FAMILIES.items()
    for backend in family.backends
    for direction in (LOSSES if name == "distill" else DIRECTIONS)
    # masking is not differentiated; an update has one direction and changes its arguments
    if not (direction == "backward" and name == "masking") and name != "optimizer"
]


@pytest.mark.parametrize(("name", "backend", "direction"), WRITTEN)
def test_a_backend_takes_what_the_operation_is_registered_with(name: str, backend: str, direction: str) -> None:
    if backend == "triton":
        pytest.importorskip("triton")
    module = FAMILIES[name].module(backend)
    if not hasattr(module, direction):
        assert backend == "reference" or (name, backend) == ("linear_gelu", "torch"), "a backend lacks a direction"
        pytest.skip("not registered: made of operations that are")
    fake = getattr(importlib.import_module(f"unmask_kernels.{name}.op"), f"_{direction}_fake")
    hints = get_type_hints(fake)
    assert hints.pop("backend") is str
    assert list(hints) == ["arguments", "return"]
    assert get_type_hints(getattr(module, direction)) == hints


def test_a_schema_names_the_fields_of_a_record_one_by_one() -> None:
    assert str(torch.ops.unmask.layer_norm_fwd.default._schema) == (
        "unmask::layer_norm_fwd(Tensor x, Tensor? residual, Tensor? x_bias, Tensor weight, Tensor? bias, Tensor? key, "
        "Tensor? row_keys, float eps, float p, str backend) "
        "-> (Tensor, Tensor, Tensor, Tensor)"
    )
    schema = str(torch.ops.unmask.masking_fwd.default._schema)
    assert "float rate, float[] split, SymInt mask_id" in schema
    assert str(torch.ops.unmask.attention_bwd.default._schema).endswith("SymInt bitmask_up_to, str backend) -> Tensor")


def test_a_tensor_of_the_arguments_that_changes_before_the_backward_is_refused() -> None:
    arguments = dict(layer_norm_case(5, 8, p=0.5).make(torch.float32).arguments)
    arguments["x"].requires_grad_()
    y = layer_norm(backend="torch", **arguments)
    arguments["key"].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_what_the_backward_takes_is_saved_and_nothing_else() -> None:
    arguments = dict(layer_norm_case(5, 8, p=0.5, x_bias=True).make(torch.float32).arguments)
    arguments["x"].requires_grad_()
    places: set[int] = set()

    def note(tensor: torch.Tensor) -> torch.Tensor:
        places.add(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = layer_norm(backend="torch", **arguments)
    assert places >= {arguments[name].data_ptr() for name in ("x", "residual", "x_bias", "weight", "key", "row_keys")}
    assert not places & {arguments["bias"].data_ptr(), y.data_ptr()}


def test_a_family_without_gradients_has_no_backward() -> None:
    masked = masking(**masking_case("", [12, 9]).make(torch.float32).arguments)
    assert not masked.ids.requires_grad
    assert not hasattr(torch.ops.unmask, "masking_bwd")
