"""Registering a family's operations with PyTorch: `unmask::<family>_fwd` and, with gradients, `unmask::<family>_bwd`.

The records of the family's `arguments.py` are the only declaration of a call. They are NamedTuples:

    Arguments             what the forward takes
    Results               what it returns, tensors
    BackwardArguments     what the backward takes: the gradient of the first result, then tensors, then settings
    Gradients             what it returns: a field `dx` for an argument `x`

A family of several operations, such as the losses of distill, names each by its part: `unmask::<family>_<part>_fwd`.

PyTorch knows no records: the schema lists their fields one by one, and then the name of a backend. The schema, the call
of a backend, and the `autograd.Function` between the two operations are derived from the records here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, get_type_hints

import torch
from torch import Tensor

from .dispatch import Family
from .precision import without_autocast

__all__ = ["operation"]

_Arguments = TypeVar("_Arguments", bound=tuple[Any, ...])
_Results = TypeVar("_Results", bound=tuple[Any, ...])
_BackwardArguments = TypeVar("_BackwardArguments", bound=tuple[Any, ...])
_Gradients = TypeVar("_Gradients", bound=tuple[Any, ...])

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


def operation(
    family: Family,
    *,
    forward: Callable[[_Arguments, str], _Results],
    backward: Callable[[_BackwardArguments, str], _Gradients] | None = None,
    finish: Callable[[_BackwardArguments, _Gradients], _Gradients] | None = None,
    returned: int = 1,
    part: str = "",
) -> Callable[[_Arguments, str], Any]:
    """Register the operations of `family` and tie them together.

    A field of `BackwardArguments` is an argument or a result of the forward of that name, or `needs_x`: whether the
    gradient of the argument `x` is wanted. What it names is saved, and nothing else.

    Args:
        forward, backward: the fakes: they return empty tensors in the shapes and dtypes of the results. They take a
            record and the name of a backend, and their annotations say which records. A backend's module has functions
            of the same names, which take the record alone.
        finish: changes the gradients of the backward in Python that the compiler sees, such as to give one tensor to
            two arguments.
        returned: how many results the operation returns; the others are for the backward only.
        part: which operation of the family; a backend's functions are then `<part>_forward` and `<part>_backward`.
            Default: its only one.
    Returns:
        A function of (arguments, backend). It returns one tensor, or a tuple of several. It is once differentiable with
        respect to the arguments that `Gradients` names, through the first result.
    """
    part = f"{part}_" if part else ""
    run_forward = _define(family, f"{part}forward", f"{family.name}_{part}fwd", forward)
    if backward is None:
        return lambda arguments, backend: run_forward(*arguments, backend)
    run_backward = _define(family, f"{part}backward", f"{family.name}_{part}bwd", backward)
    takes, makes = _records(forward)
    backward_takes, gradients = _records(backward)
    one_result, one_gradient = len(makes._fields) == 1, len(gradients._fields) == 1

    # Each thing to save is at a place of (*arguments, backend, *results, *needs), tensors first.
    known = [*takes._fields, "backend", *makes._fields, *(f"needs_{name}" for name in takes._fields)]
    places = [known.index(name) for name in (*backward_takes._fields[1:], "backend")]
    is_tensor = [kind in (Tensor, Tensor | None) for kind in get_type_hints(backward_takes).values()]
    assert is_tensor == sorted(is_tensor, reverse=True), f"{family.name}: tensors of the backward come before settings"
    tensors = sum(is_tensor) - 1
    # The gradient of each argument is at a place of the gradients, or there is none.
    sources = [
        gradients._fields.index(f"d{name}") if f"d{name}" in gradients._fields else None for name in takes._fields
    ]

    def run(ctx: Any, *call: Any) -> Any:
        results = run_forward(*call)
        results = (results,) if one_result else results
        values = (*call, *results, *ctx.needs_input_grad)
        saved = [values[place] for place in places]
        ctx.save_for_backward(*saved[:tensors])
        ctx.settings = saved[tensors:]
        return results[0] if returned == 1 else tuple(results[:returned])

    @torch.autograd.function.once_differentiable
    def differentiate(ctx: Any, *incoming: Tensor) -> tuple[Tensor | None, ...]:
        call = (incoming[0], *ctx.saved_tensors, *ctx.settings)
        found = run_backward(*call)
        found = (found,) if one_gradient else found
        if finish is not None:
            found = finish(backward_takes(*call[:-1]), gradients(*found))
        wanted = zip(sources, ctx.needs_input_grad, strict=False)
        return (*(found[source] if needed and source is not None else None for source, needed in wanted), None)

    directions = {"forward": staticmethod(run), "backward": staticmethod(differentiate)}
    tied: Any = type(family.name.title().replace("_", ""), (torch.autograd.Function,), directions)
    return lambda arguments, backend: tied.apply(*arguments, backend)


def _records(fake: Callable[..., Any]) -> tuple[Any, Any]:
    """The record that a fake takes and the one it returns."""
    hints = get_type_hints(fake)
    returned = hints.pop("return")
    return next(iter(hints.values())), returned


def _define(family: Family, function: str, name: str, fake: Callable[..., Any]) -> Any:
    takes, makes = _records(fake)
    single = len(makes._fields) == 1

    def run(*call: Any) -> Any:
        # A graph of torch.export calls the operation without the autograd.Function around it.
        if torch.is_grad_enabled():
            with torch.no_grad():
                return run(*call)
        with without_autocast(call[0].device.type):
            results = getattr(family.module(call[-1]), function)(takes(*call[:-1]))
        return results[0] if single else tuple(results)

    def run_fake(*call: Any) -> Any:
        results = fake(takes(*call[:-1]), call[-1])
        return results[0] if single else tuple(results)

    arguments = [f"{_SCHEMA_TYPES[kind]} {field}" for field, kind in get_type_hints(takes).items()]
    results = ", ".join(_SCHEMA_TYPES[kind] for kind in get_type_hints(makes).values())
    _LIBRARY.define(f"{name}({', '.join(arguments)}, str backend) -> ({results})")
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"unmask::{name}", run_fake, lib=_LIBRARY)
    return getattr(torch.ops.unmask, name).default
