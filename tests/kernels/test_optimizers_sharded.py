"""`AdamW` and `LAMB` on parameters in shards (FSDP2), on two processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from unmask_kernels import LAMB, AdamW, BackendUnavailable

PROCESSES = 2
MADE: dict[str, Any] = {
    "adamw": lambda params: AdamW(params, lr=0.03),
    "adamw, clipped": lambda params: AdamW(params, lr=0.03, max_norm=0.3),
    "stable": lambda params: AdamW(params, lr=0.03, clip_update=True, betas=(0.9, 0.9)),
    "lamb": lambda params: LAMB(params, lr=0.03, max_norm=0.3),
}


def network() -> nn.Module:
    torch.manual_seed(3)
    # one row more than there are processes, so that the shards are uneven
    return nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 1))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    x = torch.linspace(-1, 1, 40).view(8, 5)
    for _ in range(steps):
        optimizer.zero_grad()
        ((model(x) - x.sin().sum(1, keepdim=True)) ** 2).mean().backward()
        optimizer.step()


def _process(rank: int, folder: Path) -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor, Partial, Shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=PROCESSES, init_method=f"file://{folder}/meeting")
    mesh = init_device_mesh("cpu", (PROCESSES,))
    found: dict[str, Any] = {}
    for name, make in MADE.items():
        model = network()
        fully_shard(model, mesh=mesh)
        optimizer = make(model.parameters())
        train(model, optimizer, 4)
        # a state dict of PyTorch's distributed checkpoints, into another optimizer
        state = get_optimizer_state_dict(model, optimizer)
        optimizer = make(model.parameters())
        set_optimizer_state_dict(model, optimizer, state)
        train(model, optimizer, 4)
        found[name] = [parameter.full_tensor().detach() for parameter in model.parameters()]  # type: ignore[attr-defined]
        if optimizer.norm is not None:
            found[f"{name}, norm"] = optimizer.norm
    model = network()
    fully_shard(model, mesh=mesh)
    try:
        train(model, LAMB(model.parameters(), backend="reference"), 1)
    except BackendUnavailable as error:
        found["refused"] = str(error)
    train(model, LAMB(model.parameters(), backend="torch"), 1)
    narrow = network().bfloat16()
    fully_shard(narrow, mesh=mesh)
    try:
        AdamW(narrow.parameters())
    except ValueError as error:
        found["narrow"] = str(error)
    AdamW(narrow.parameters(), master_weights=False)
    parts = DTensor.from_local(torch.ones(4), mesh, [Partial()])
    try:
        AdamW([nn.Parameter(parts)])
    except ValueError as error:
        found["partial"] = str(error)
    AdamW([nn.Parameter(parts.redistribute(placements=[Shard(0)]))])
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this PyTorch has no gloo")
    folder = tmp_path_factory.mktemp("shards")
    before = os.environ.get("GLOO_SOCKET_IFNAME")
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        mp.spawn(_process, args=(folder,), nprocs=PROCESSES)  # type: ignore[no-untyped-call]
    finally:
        os.environ.pop("GLOO_SOCKET_IFNAME") if before is None else os.environ.update(GLOO_SOCKET_IFNAME=before)
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


@pytest.mark.parametrize("name", MADE)
def test_shards_are_updated_as_whole_parameters_are(name: str, found: list[dict[str, Any]]) -> None:
    model = network()
    optimizer = MADE[name](model.parameters())
    train(model, optimizer, 8)
    for process in found:
        for ours, whole in zip(process[name], model.parameters(), strict=True):
            torch.testing.assert_close(ours, whole.detach(), rtol=1e-4, atol=1e-5)
        if optimizer.norm is not None:
            torch.testing.assert_close(process[f"{name}, norm"], optimizer.norm, rtol=1e-4, atol=1e-6)


def test_what_has_no_sums_over_processes_is_refused_by_name(found: list[dict[str, Any]]) -> None:
    assert found[0]["refused"] == (
        "optimizer: backend 'reference' cannot run this call: norms of sharded parameters (DTensor) are sums over "
        "processes; leave it out, or use 'torch'"
    )
    assert found[0]["partial"] == (
        "AdamW: params are partial sums (DTensor); redistribute them, as param.redistribute(placements=[Shard(0)])"
    )
    assert found[0]["narrow"] == (
        "AdamW: params are sharded (DTensor) in bfloat16, for which there are no master weights; shard fp32 "
        "parameters, with MixedPrecisionPolicy(param_dtype=...), or set master_weights=False"
    )
