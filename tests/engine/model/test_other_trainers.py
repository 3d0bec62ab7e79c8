"""The encoder in somebody else's trainer: autocast, activation checkpointing, several processes, the compiler."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from unmask import Encoder, EncoderConfig, PackedBatch, PretrainingModel, pack
from unmask.objectives import build_objectives, score_batch

CONFIG = EncoderConfig(vocab_size=60, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, max_positions=24)
DOCUMENTS = [[2, 5, 6, 7, 3], [2, 8, 3], [2, 9, 10, 11, 12, 13, 14, 15, 3], [2, 9, 3]]


def batch_of(documents: list[list[int]]) -> PackedBatch:
    return pack(documents, keys=[sum(ids) for ids in documents])


def loss_of(hidden: Tensor) -> Tensor:
    return (hidden.float().sin() * torch.arange(hidden.shape[1])).sum()


def gradients_of(encoder: Encoder, hidden: Tensor) -> dict[str, Tensor]:
    encoder.zero_grad()
    loss_of(hidden).backward()  # type: ignore[no-untyped-call]
    return {name: x.grad.clone() for name, x in encoder.named_parameters() if x.grad is not None}


def hidden_of(encoder: Any, batch: PackedBatch) -> Tensor:
    hidden: Tensor = encoder(batch.ids, batch.documents, batch.segments)
    return hidden


def same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].dtype == value.dtype and torch.equal(got[name], value), name


def test_foreign_autocast_gives_the_bits_of_the_compute_dtype() -> None:
    batch = batch_of(DOCUMENTS)
    narrow = Encoder(CONFIG, compute_dtype=torch.bfloat16, pooler=False)
    expected = hidden_of(narrow, batch)
    wide = Encoder(CONFIG, pooler=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = hidden_of(wide, batch)
    assert got.dtype == torch.bfloat16 and torch.equal(got, expected)
    same(gradients_of(wide, got), gradients_of(narrow, expected))


def test_foreign_autocast_gives_the_loss_of_the_compute_dtype() -> None:
    objectives = build_objectives({"mlm": 1.0})
    batch = batch_of(DOCUMENTS)
    fields = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
    batch = PackedBatch(**{**fields, "masked": torch.tensor([1, 7, 12]), "labels": torch.tensor([20, 21, 22])})
    narrow = PretrainingModel(CONFIG, compute_dtype=torch.bfloat16)
    (expected,) = score_batch(narrow, objectives, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (got,) = score_batch(PretrainingModel(CONFIG), objectives, batch)
    assert torch.equal(got.loss_sum, expected.loss_sum) and got.loss_sum.dtype == torch.float32


def test_a_forward_that_checkpointing_repeats_drops_the_same_elements() -> None:
    encoder, batch = Encoder(CONFIG, pooler=False), batch_of(DOCUMENTS)
    expected = gradients_of(encoder, hidden_of(encoder, batch))
    inputs = (batch.ids, batch.documents, batch.segments)
    repeated = checkpoint(encoder, *inputs, use_reentrant=False, preserve_rng_state=False)
    same(gradients_of(encoder, repeated), expected)


def test_two_processes_average_their_gradients_by_ddp_and_by_fsdp(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    mp.spawn(_one_of_two, args=(address, tmp_path), nprocs=2)
    encoder = Encoder(CONFIG, pooler=False)
    each = [gradients_of(encoder, hidden_of(encoder, batch_of(DOCUMENTS[rank::2]))) for rank in (0, 1)]
    for wrapper in ("ddp", "fsdp"):
        got = torch.load(tmp_path / wrapper)
        assert got.keys() == each[0].keys()
        for name, gradient in got.items():
            torch.testing.assert_close(gradient, (each[0][name] + each[1][name]) / 2)


def _one_of_two(rank: int, address: str, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    batch = batch_of(DOCUMENTS[rank::2])
    encoder = Encoder(CONFIG, pooler=False)
    wrapped = DistributedDataParallel(encoder)
    ddp = gradients_of(encoder, hidden_of(wrapped, batch))
    encoder = Encoder(CONFIG, pooler=False)
    mesh = init_device_mesh("cpu", (2,))
    for layer in encoder.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(encoder, mesh=mesh)
    fsdp = gradients_of(encoder, hidden_of(encoder, batch))
    whole = {name: gradient.full_tensor() for name, gradient in fsdp.items()}  # type: ignore[attr-defined]
    if rank == 0:
        torch.save(ddp, folder / "ddp")
        torch.save(whole, folder / "fsdp")
    dist.destroy_process_group()


@pytest.mark.slow
def test_batches_that_vary_in_size_soon_need_no_new_graph() -> None:
    encoder = Encoder(CONFIG, pooler=False)
    graphs: list[Any] = []

    def counted(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(encoder, fullgraph=True, backend=counted)
    known = []
    for number in (4, 3, 2, 4, 3, 2):
        batch = batch_of([[*ids, *[number] * len(known)] for ids in DOCUMENTS[:number]])
        assert torch.equal(hidden_of(compiled, batch), hidden_of(encoder, batch))
        known.append(len(graphs))
    assert known[-1] == known[2] <= 3
