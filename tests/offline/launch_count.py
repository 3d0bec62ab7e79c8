"""Count what a layer of the encoder starts on a GPU: operations, and launches of kernels, forward and backward.

    PYTHONPATH=tests python -m offline.launch_count                 the table of docs/measuring.md
    PYTHONPATH=tests python -m offline.launch_count --operations    each call and kernel, with its number of launches

The layer runs on tensors of the `meta` device, which have shapes and no values. Each call of PyTorch counts unless it
only makes a view or allocates memory. An operation of `unmask_kernels` counts as what its Triton backend starts: its
kernels, and the calls of PyTorch around them.

A product counts as one launch, although the library may split it into two. `addmm` counts as two where it adds a matrix
and is not in place, since CUDA then copies the matrix first. "PyTorch's autograd" means: without
`unmask_kernels.product`, and autograd adds the gradients of a later micro-batch.
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from offline.recorder import redirected
from unmask import EncoderConfig
from unmask.model.layer import Layer
from unmask.train.step import take_gradients
from unmask_kernels import FAMILIES, Documents, narrow, product, using

__all__ = ["ALLOCATIONS", "Launches", "count", "of_layer", "table"]

ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "_unsafe_view"}
"""Calls of PyTorch that start nothing, beside views."""

_TOKENS, _LENGTH = 16_384, 512


@dataclass
class Launches:
    """What was started.

    Attributes:
        operations: calls from outside: of PyTorch, and of the operations of `unmask_kernels`, by name.
        kernels: launches by name: of a call of PyTorch, or of a kernel of ours with its family.
    """

    operations: Counter[str] = field(default_factory=Counter)
    kernels: Counter[str] = field(default_factory=Counter)


class _Counting(TorchDispatchMode):
    def __init__(self, found: Launches) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = found
        self.family = ""

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = function.name().split("::")[1].split(".")[0]
        if function.namespace == "unmask":
            self.found.operations[name] += 1
            with self:
                return self._run_backend(name, args)
        starts = not function.is_view and name not in ALLOCATIONS
        if starts and not self.family:
            self.found.operations[name] += 1
        if starts:
            copies = name == "addmm" and args[0].dim() == 2 and (kwargs or {}).get("out") is not args[0]
            self.found.kernels[f"{self.family} {name}".strip()] += 2 if copies else 1
        return function(*args, **(kwargs or {}))

    def _run_backend(self, name: str, args: Sequence[Any]) -> Any:
        """Run the backend that was chosen, as the registered implementation does."""
        family, direction = name.rsplit("_", 1)
        records = importlib.import_module(f"unmask_kernels.{family}.arguments")
        takes, run = ("Arguments", "forward") if direction == "fwd" else ("BackwardArguments", "backward")
        before, self.family = self.family, family
        results = getattr(FAMILIES[family].module(args[-1]), run)(getattr(records, takes)(*args[:-1]))
        self.family = before
        return results[0] if len(results) == 1 else tuple(results)


@contextmanager
def count() -> Iterator[Launches]:
    """Count what the block starts. Its tensors are on the `meta` device, and the backends are those of a GPU.

    Raises:
        RuntimeError: the process interprets kernels.
    """
    found = Launches()
    counting = _Counting(found)

    def launched(launch: Any, values: dict[str, Any], grid: Any) -> None:
        found.kernels[f"{counting.family} {launch.name.strip('_').removesuffix('_kernel')}"] += 1

    with redirected(launched, 90), using("triton", linear_gelu="torch"), counting:
        yield found


def of_layer(
    *, p: float = 0.1, dtype: torch.dtype = torch.bfloat16, plain: bool = False, copies: bool = True
) -> dict[str, Launches]:
    """Return what a layer of BERT-base starts: `forward`, `backward`, and `later`, the backward of a later micro-batch.

    Args:
        p: of dropout, in both places.
        dtype: of activations; parameters are fp32.
        plain: whether PyTorch's autograd multiplies, and adds the gradients of micro-batches.
        copies: whether the optimizer writes the weights in the dtype of activations too.
    """
    config = EncoderConfig(vocab_size=100, hidden_dropout=p, attention_dropout=p)
    layer = Layer(config).to("meta")
    ends = torch.arange(0, _TOKENS + 1, _LENGTH, dtype=torch.int32)
    documents = Documents.build(ends).to("meta")
    keys = torch.empty(3, dtype=torch.int64, device="meta") if p > 0.0 else None
    x = torch.empty(_TOKENS, config.hidden_size, dtype=dtype, device="meta", requires_grad=True)
    dy = torch.empty_like(x)
    if copies:
        for parameter in layer.parameters():
            narrow.keep(parameter, dtype).version = parameter._version
    results: dict[str, Launches] = {}
    totals: dict[Tensor, Tensor] = {}
    with mock.patch.object(product, "applies_to", return_value=False) if plain else nullcontext():
        for name in ("backward", "later"):
            x.grad = None
            with count() as results["forward"]:
                y = layer(x, documents, keys)
            with count() as results[name]:
                y.backward(dy)
                if not plain:
                    take_gradients(layer.parameters(), totals)
    return results


def table() -> Iterator[str]:
    """Yield the lines of a Markdown table: operations and launches of a layer."""
    yield "| a layer of BERT-base in bf16, dropout 0.1 | operations | launches | launches with PyTorch's autograd |"
    yield "|---|---:|---:|---:|"
    rows = {
        "forward": (0.1, True, ["forward"]),
        "backward": (0.1, True, ["backward"]),
        "**together**": (0.1, True, ["forward", "backward"]),
        "**together**, of a later micro-batch": (0.1, True, ["forward", "later"]),
        "**together**, without dropout": (0.0, True, ["forward", "backward"]),
        "**together**, without copies of the weights": (0.1, False, ["forward", "backward"]),
    }
    for name, (p, copies, parts) in rows.items():
        ours, theirs = of_layer(p=p, copies=copies), of_layer(p=p, plain=True)
        operations = sum(ours[part].operations.total() for part in parts)
        launches = (sum(found[part].kernels.total() for part in parts) for found in (ours, theirs))
        yield f"| {name} | {operations} | {' | '.join(map(str, launches))} |"


def _main(arguments: Sequence[str]) -> int:
    if "--operations" not in arguments:
        print("\n".join(table()))
        return 0
    for direction, found in of_layer().items():
        print(f"{direction}: {found.operations.total()} operations, {found.kernels.total()} launches")
        for name, times in sorted(found.kernels.items()):
            print(f"    {times} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
