"""Outputs whose logits are computed when they are read.

In training with labels a trainer reads the loss. The logits of all tokens, (B, L, V), are most of the memory of such a
step, and nobody reads them. So they are computed when somebody does:

    outputs.logits, outputs["logits"], outputs[1], outputs.to_tuple(), outputs.get("logits"), pickle, print

What walks over `values()` or `items()` sees a `Deferred` in their place. DDP and accelerate do so in every step, to
find the loss.

The logits are those of the weights of the forward pass. If the optimizer has changed the weights, reading is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any
from weakref import WeakSet

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers.modeling_outputs import MaskedLMOutput
from transformers.models.bert.modeling_bert import BertForPreTrainingOutput

__all__ = ["Deferred", "DeferredMaskedLMOutput", "DeferredPreTrainingOutput"]


class Deferred:
    """Logits that are not computed yet.

    Args:
        compute: what computes them.
        parameters: the weights that they depend on.
    """

    def __init__(self, compute: Callable[[], Tensor], parameters: Iterable[Tensor]) -> None:
        self._compute = compute
        self.weights = set(map(id, parameters))
        self.too_late = False
        _watch_optimizers()
        _waiting.add(self)

    def __repr__(self) -> str:
        return "Deferred(logits that are computed when the outputs are asked for them)"

    def read(self, name: str) -> Tensor:
        """Compute the logits, which outputs have under this name.

        Raises:
            ValueError: the weights have changed.
        """
        if self.too_late:
            raise ValueError(
                f"drop_in: outputs.{name} must be read before the weights change, and the optimizer has made a step "
                f"since the forward pass; read outputs.{name} before optimizer.step(), or call the model without "
                "labels, which computes them at once"
            )
        return self._compute()


_waiting: WeakSet[Deferred] = WeakSet()


@cache
def _watch_optimizers() -> None:
    # fused optimizers of PyTorch 2.13 do not count versions of the weights that they change
    register_optimizer_step_post_hook(_after_step)


def _after_step(optimizer: Optimizer, *_: Any) -> None:
    if _waiting:
        changed = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for one in _waiting:
            one.too_late |= not changed.isdisjoint(one.weights)


class _ReadsLate:
    """Outputs that compute a `Deferred` when it is read."""

    keys: Any

    def __getitem__(self, name: Any) -> Any:
        if isinstance(name, str):
            value = super().__getitem__(name)  # type: ignore[misc]
            return getattr(self, name) if isinstance(value, Deferred) else value
        names = tuple(self.keys())[name]
        return tuple(self[one] for one in names) if isinstance(name, slice) else self[names]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an output, or the default."""
        try:
            return self[name]
        except KeyError:
            return default

    def __reduce__(self) -> Any:
        self[:]
        return super().__reduce__()


def _read_late(name: str) -> Any:
    """Return a property that computes a `Deferred` of this name and keeps the result."""

    def get(outputs: Any) -> Any:
        value = outputs.__dict__.get(name)
        if isinstance(value, Deferred):
            outputs[name] = value = value.read(name)
        return value

    def set_(outputs: Any, value: Any) -> None:
        outputs.__dict__[name] = value

    return property(get, set_)


class DeferredMaskedLMOutput(_ReadsLate, MaskedLMOutput):
    """A `MaskedLMOutput` that computes its logits when they are read."""

    logits = _read_late("logits")


class DeferredPreTrainingOutput(_ReadsLate, BertForPreTrainingOutput):
    """A `BertForPreTrainingOutput` that computes its prediction logits when they are read."""

    prediction_logits = _read_late("prediction_logits")
