"""Activation checkpointing of the layers (Chen et al. 2016, arXiv:1604.06174), by the methods that trainers call.

Of a layer only its input is kept, and the backward pass computes the layer again: less memory, about a third more time.
Loss and gradients have the same bits, because dropout is a function of addresses and not of a generator's state.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

__all__ = ["Checkpointed", "LayerCheckpointing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerCheckpointing:
    """Which layers are computed again, and how.

    Attributes:
        every_n_layers: 2 takes every second layer.
        offload: whether the inputs that are kept wait in the host's memory.
        options: of `torch.utils.checkpoint.checkpoint`.
    """

    every_n_layers: int = 1
    offload: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def run(self, index: int, layer: nn.Module, x: Tensor, *arguments: Any) -> Tensor:
        """Call a layer so that the backward pass computes it again."""
        if index % self.every_n_layers:
            return layer(x, *arguments)
        with save_on_cpu(pin_memory=x.device.type == "cuda") if self.offload else nullcontext():
            done: Tensor = checkpoint(layer, x, *arguments, use_reentrant=False, **self.options)
        return done


class Checkpointed(nn.Module):
    """A module whose encoder can compute its layers again in the backward pass. Training mode alone does it."""

    supports_gradient_checkpointing = True

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Keep only the input of each layer in training, and compute the layer again in the backward pass.

        Args:
            activation_checkpointing_kwargs: options of `torch.utils.checkpoint.checkpoint`.
            every_n_layers: 2 takes every second layer.
            offload: whether the inputs that are kept wait in the host's memory.
        Raises:
            ValueError: `use_reentrant` is True.
        """
        options = dict(activation_checkpointing_kwargs or {})
        if options.pop("use_reentrant", False):
            raise ValueError(
                "activation_checkpointing_enable: use_reentrant must be False, got True; reentrant checkpointing loses "
                "gradients where the input of a layer needs none, as under LoRA; leave use_reentrant out"
            )
        if every_n_layers < 1:
            raise ValueError(
                f"activation_checkpointing_enable: every_n_layers must be at least 1, got {every_n_layers}; 1 takes "
                "every layer"
            )
        self._set(LayerCheckpointing(every_n_layers=every_n_layers, offload=offload, options=options))

    def activation_checkpointing_disable(self) -> None:
        """Keep all activations again."""
        self._set(None)

    @property
    def is_activation_checkpointing(self) -> bool:
        """Whether layers are computed again in the backward pass."""
        return any(getattr(module, "layer_checkpointing", None) is not None for module in self.modules())

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Call `activation_checkpointing_enable`, whose older name this is."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, every_n_layers, offload)

    def gradient_checkpointing_disable(self) -> None:
        """Call `activation_checkpointing_disable`, whose older name this is."""
        self.activation_checkpointing_disable()

    @property
    def is_gradient_checkpointing(self) -> bool:
        """The older name of `is_activation_checkpointing`."""
        return self.is_activation_checkpointing

    def _set(self, value: LayerCheckpointing | None) -> None:
        for module in self.modules():
            if hasattr(module, "layer_checkpointing"):
                setattr(module, "layer_checkpointing", value)  # noqa: B010
