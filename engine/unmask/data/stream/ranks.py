"""Which share of the micro-batches a process gets: its rank among all, by torch.distributed or as given."""

import sys

import torch.distributed

__all__ = ["check_place", "rank_and_world_size"]


def check_place(who: str, rank: int | None, world_size: int | None) -> None:
    """Raise ValueError unless rank and world_size are both None, or a place among all processes."""
    if rank is None and world_size is None:
        return
    if rank is None or world_size is None or not 0 <= rank < world_size:
        raise ValueError(
            f"{who}: rank and world_size must be given together, rank in [0, world_size), got {rank} and {world_size}; "
            "leave both out to take those of torch.distributed"
        )


def rank_and_world_size(who: str, *, setting: str, alone: tuple[int, int] = (0, 1)) -> tuple[int, int]:
    """Return rank and number of processes by torch.distributed.

    Args:
        who: what the error begins with.
        setting: what accelerate needs to share out the batches itself, for the error.
        alone: the result where torch.distributed is not initialised.
    Raises:
        ValueError: accelerate runs with several processes, so it is open who shares out the micro-batches.
    """
    group = torch.distributed
    if not (group.is_available() and group.is_initialized()):
        return alone
    if group.get_world_size() > 1 and _accelerate_runs():
        raise ValueError(
            f"{who}: rank and world_size must be given beside accelerate, which may share out the micro-batches too; "
            "give rank=0, world_size=1 if accelerate or the Trainer of transformers prepares the loader, with "
            f"{setting}, else rank=accelerator.process_index, world_size=accelerator.num_processes"
        )
    return group.get_rank(), group.get_world_size()


def _accelerate_runs() -> bool:
    state = sys.modules.get("accelerate.state")
    return state is not None and bool(state.PartialState._shared_state)
