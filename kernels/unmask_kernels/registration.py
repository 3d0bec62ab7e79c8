"""Registering a family's operations with PyTorch: `unmask::<family>_fwd` and, with gradients, `unmask::<family>_bwd`.

An operation takes tensors, then the settings of the call, then the name of a backend, and runs `forward` or `backward`
of that backend. Settings, and the tensors that go with them, may be one record, a NamedTuple: PyTorch passes its fields
one by one, backends and fakes get it whole. The schema is read from the signature of the fake, so it is written once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from .dispatch import Family
from .precision import without_autocast

__all__ = ["register", "save", "saved"]

_LIBRARY = torch.library.Library("unmask", "FRAGMENT")
_SCHEMA_TYPES: dict[Any, str] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    Sequence[float]: "float[]",
    torch.dtype: "ScalarType",
    bool: "bool",
    float: "float",
    int: "SymInt",
    str: "str",
}


def register(family: Family, *, forward: Callable[..., Any], backward: Callable[..., Any] | None = None) -> None:
    """Register the operations of `family`, given the fake of each.

    Args:
        forward, backward: functions that return empty tensors in the shapes and dtypes of the results. Their arguments
            are those of the backends' functions of the same name, and last the name of the backend; all are annotated,
            and so is every tensor that is returned. A record stands before the name of the backend.
    """
    _register(family, "forward", f"{family.name}_fwd", forward)
    if backward is not None:
        _register(family, "backward", f"{family.name}_bwd", backward)


def _register(family: Family, direction: str, name: str, fake: Callable[..., Any]) -> None:
    arguments = get_type_hints(fake)
    results = get_args(arguments.pop("return"))
    record = next((kind for kind in arguments.values() if _is_record(kind)), None)
    before = len(arguments) - 2

    def packed(flat: tuple[Any, ...]) -> tuple[Any, ...]:
        return flat[:-1] if record is None else (*flat[:before], record(*flat[before:-1]))

    def run(*flat: Any) -> Any:
        with without_autocast(flat[0].device.type):
            return getattr(family.module(flat[-1]), direction)(*packed(flat))

    returned = f"({', '.join(_SCHEMA_TYPES[kind] for kind in results)})" if results else "Tensor"
    _LIBRARY.define(f"{name}({', '.join(_schema(arguments))}) -> {returned}")
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"unmask::{name}", lambda *flat: fake(*packed(flat), flat[-1]), lib=_LIBRARY)


def _is_record(kind: Any) -> bool:
    return hasattr(kind, "_fields")


def _schema(arguments: dict[str, Any]) -> Iterator[str]:
    for name, kind in arguments.items():
        if _is_record(kind):
            yield from _schema(get_type_hints(kind))
        else:
            yield f"{_SCHEMA_TYPES[kind]} {name}"


def save(ctx: Any, *values: Any) -> None:
    """Keep what the backward takes: tensors, some of them None, then settings, none of them None."""
    tensors = [value for value in values if value is None or isinstance(value, Tensor)]
    ctx.save_for_backward(*tensors)
    ctx.settings = values[len(tensors) :]


def saved(ctx: Any) -> tuple[Any, ...]:
    """What `save` kept, in its order."""
    return (*ctx.saved_tensors, *ctx.settings)
