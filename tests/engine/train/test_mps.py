"""What can be known of a step on the GPU of an Apple computer without one: PyTorch has a kernel there for each of its
operations, and no backend but those of PyTorch takes the device.
"""

import re
from dataclasses import replace
from pathlib import Path

import torch
import torchgen

from unmask.batch import pack
from unmask.config import OptimizerConfig
from unmask.model import EncoderConfig, PretrainingModel
from unmask.objectives import build_objectives
from unmask.train.optim import build_optimizer, set_learning_rate
from unmask.train.step import TrainingStep
from unmask_kernels import FAMILIES, philox, using

# what checks ask of tensors on a CPU alone, and where values of the host come in
ON_A_CPU = {"aten::aminmax", "aten::item", "aten::_local_scalar_dense", "aten::is_nonzero"}


def with_a_kernel_for_mps() -> set[str]:
    """Names of operations that PyTorch's own table gives a kernel for mps, or one for all devices."""
    table = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
    found, delegates = set(), {}
    for block in table.read_text().split("\n- func: ")[1:]:
        function = block.split("(", 1)[0]
        delegate = re.search(r"^  structured_delegate: (\S+)", block, re.MULTILINE)
        if delegate:
            delegates[function] = delegate[1]
        elif "\n  dispatch:" not in block or re.search(r"^    [\w, ]*(MPS|Composite)", block, re.MULTILINE):
            found.add(function)
    found |= {function for function, delegate in delegates.items() if delegate in found}
    return {f"aten::{function.partition('.')[0]}" for function in found}


def operations_of_a_step() -> set[str]:
    """Names of all operations of ATen in two steps by the backends `torch`, inside of our own operations too."""
    config = EncoderConfig(
        vocab_size=60, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32, max_positions=32
    )
    model = PretrainingModel(config, heads=("mlm", "nsp"), seed=3).train()
    step = TrainingStep(
        model=model,
        objectives=build_objectives({"mlm": 1.0}),
        optimizer=build_optimizer(model, OptimizerConfig()),
    )
    batch = pack([[2, *range(5, 5 + length), 3] for length in (3, 9, 9, 20)], keys=[1, 2, 3, 4])
    batch = replace(batch, masked=torch.tensor([1, 7, 0]), labels=torch.tensor([6, 9, -100]))
    with torch.profiler.profile() as profiled, using("torch"):
        for _ in range(2):
            set_learning_rate(step.optimizer, 1e-3)
            step([batch])
        # a CPU draws dropout with NumPy
        key = philox.dropout_keys(torch.tensor(1), 1, 1)[0, 0]
        philox._rows_by_torch(key, batch.documents.row_keys, 16, 0.1)
        philox._scores_by_torch(key, batch.documents.keys, 2, 0, 4, 4, 0.1)
    return {event.key for event in profiled.key_averages() if event.key.startswith("aten::")}


def test_pytorch_has_a_kernel_for_mps_for_each_operation_of_a_step() -> None:
    found = operations_of_a_step()
    assert {"aten::addmm", "aten::bmm", "aten::_fused_adamw_", "aten::bitwise_xor"} <= found
    assert found - with_a_kernel_for_mps() - ON_A_CPU == set()


def test_the_table_knows_what_mps_lacks() -> None:
    assert not {"aten::_sparse_semi_structured_mm", "aten::geqrf"} & with_a_kernel_for_mps()
    assert {"aten::mm", "aten::linear", "aten::clamp_"} <= with_a_kernel_for_mps()


def test_backends_of_triton_and_cuda_refuse_mps_and_those_of_pytorch_take_it() -> None:
    for name in ("attention", "layer_norm", "gelu", "mlm_loss", "embedding"):
        family = FAMILIES[name]
        call = family.example("mps", "mps", torch.float32)
        assert family.chosen(call) == "torch", family.explain(call)
        assert "mps" in "".join(family.reasons(call)["triton"])
