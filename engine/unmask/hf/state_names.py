"""The state dict of a model of `unmask.hf` has the names of the files that it is saved in, those of BERT.

A trainer saves `model.state_dict()` and gives a file's tensors to `load_state_dict`. Two hooks translate: queries, keys
and values are one projection in the model, and three in the files. Names that are not BERT's, as those of LoRA
adapters, stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from unmask.interop.names import Parameter

__all__ = ["name_as_in_files"]


def name_as_in_files(module: nn.Module, parameters: Iterable[Parameter]) -> None:
    """Make `state_dict` and `load_state_dict` of a module use the names in files.

    Args:
        module: the module.
        parameters: our name in the module, and their names.
    """
    table = tuple(parameters)
    module.register_state_dict_post_hook(_ToTheirs(table))
    module.register_load_state_dict_pre_hook(_ToOurs(table))


class _Names:
    """Parameters by both names. An object can be pickled with its module, a function in a function cannot."""

    def __init__(self, table: tuple[Parameter, ...]) -> None:
        self._table = table


class _ToTheirs(_Names):
    def __call__(self, module: nn.Module, state: MutableMapping[str, Any], prefix: str, *_: Any) -> None:
        for parameter in self._table:
            value = state.pop(prefix + parameter.ours, None)
            if value is not None:
                names = [prefix + name for name in parameter.theirs]
                state.update(zip(names, value.tensor_split(len(names)), strict=True))


class _ToOurs(_Names):
    def __call__(self, module: nn.Module, state: MutableMapping[str, Tensor], prefix: str, *_: Any) -> None:
        for parameter in self._table:
            names = [prefix + name for name in parameter.theirs]
            if all(name in state for name in names):
                parts = [state.pop(name) for name in names]
                state[prefix + parameter.ours] = torch.cat(parts) if len(parts) > 1 else parts[0]
