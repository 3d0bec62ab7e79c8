"""The place of this process among those that a launcher started, as the launcher's environment variables tell it.

    torchrun    RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT
    srun        SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID, SLURM_STEP_NODELIST, SLURM_JOB_ID

Without them, or with one process in all, the process is alone. The variables of torchrun come first, so that
`srun torchrun ...` is a run of torchrun. MASTER_ADDR and MASTER_PORT win over what follows from Slurm's variables.

Only `unmask pretrain` trains with several processes. In `unmask verify` one of them works and the others wait, and
`unmask doctor` describes the machine of each. Every other command would do its work once for each process, so it is
refused.
"""

import os
import re
import socket
from dataclasses import dataclass

from unmask.errors import RunError

__all__ = ["Place", "place", "require_one_process"]

# each process of these commands knows what to do
_KNOWING = ("doctor", "pretrain", "verify")
_FIRST_PORT, _PORTS = 20_000, 10_000
# set by mpirun, and by srun with an MPI plugin
_OF_MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
_FIRST_HOST = re.compile(r"([^\[,]*)(?:\[(\d+)[^\]]*\])?([^,]*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One process among several.

    Attributes:
        rank: its number, in [0, world_size).
        world_size: number of processes on all nodes, at least 2.
        local_rank: its number on its node.
        address: host of rank 0.
        port: port there, on which rank 0 or torchrun listens.
        one_gpu_each: whether the launcher may have given each process a GPU of its own, so that it sees only that one.
    """

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int
    one_gpu_each: bool = False

    @property
    def name(self) -> str:
        """The process as messages name it: "rank 3 on node7 (process 4711)"."""
        return f"rank {self.rank} on {socket.gethostname()} (process {os.getpid()})"


def place() -> Place | None:
    """Return the place of this process among several; None if it is alone.

    Raises:
        RunError: the variables of a launcher contradict one another, or mpirun started the process.
    """
    size = os.environ.get("WORLD_SIZE", "")
    if size:
        return _of_torchrun(size)
    if _number("SLURM_STEP_NUM_TASKS", least=0) > 1:
        return _of_slurm()
    for name in _OF_MPI:
        if _number(name, least=0) > 1:
            raise RunError(
                f"launch: {name} is {os.environ[name]}, but processes of mpirun do not find one another; start them "
                f"with torchrun or srun, or unset {name} to run this one alone"
            )
    return None


def require_one_process(command: str) -> None:
    """Refuse a command that several processes would each do as a whole.

    Raises:
        RunError: a launcher started several processes.
    """
    if command in _KNOWING:
        return
    here = place()
    if here is None:
        return
    name = "WORLD_SIZE" if "WORLD_SIZE" in os.environ else "SLURM_STEP_NUM_TASKS"
    raise RunError(
        f"launch: `unmask {command}` is one process, but {name} is {here.world_size}, and each process would do all of "
        f"it; start it once, without torchrun or srun, or unset {name} in the process that is to do it"
    )


def _of_torchrun(size: str) -> Place | None:
    world_size = _number("WORLD_SIZE", least=1)
    if world_size == 1:
        return None
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise RunError(
            f"launch: WORLD_SIZE is {size} but {missing[0]} is not set, so the processes cannot find one another; "
            "start them with torchrun, which sets both, or unset WORLD_SIZE to run this one alone"
        )
    rank = _number("RANK", least=0)
    if rank >= world_size:
        raise RunError(
            f"launch: RANK must be below WORLD_SIZE, {world_size}, got {rank}; start the processes with torchrun, or "
            "number them from 0"
        )
    return Place(
        rank=rank,
        world_size=world_size,
        local_rank=_number("LOCAL_RANK", least=0),
        address=os.environ["MASTER_ADDR"],
        port=_number("MASTER_PORT", least=1),
    )


def _of_slurm() -> Place:
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", "")
    address = os.environ.get("MASTER_ADDR") or _first_host(nodes)
    # two steps of a job may share a node, as two jobs may
    default = _FIRST_PORT + (_number("SLURM_JOB_ID", least=0) + 97 * _number("SLURM_STEP_ID", least=0)) % _PORTS
    return Place(
        rank=_number("SLURM_PROCID", least=0),
        world_size=_number("SLURM_STEP_NUM_TASKS", least=1),
        local_rank=_number("SLURM_LOCALID", least=0),
        address=address,
        port=_number("MASTER_PORT", least=1) if os.environ.get("MASTER_PORT") else default,
        one_gpu_each=True,
    )


def _first_host(nodes: str) -> str:
    """Return the first host of a list in Slurm's notation: gpu07 of "gpu[07-12,20],login1"."""
    found = _FIRST_HOST.match(nodes)
    return "".join(part or "" for part in found.groups()) if found and nodes else "localhost"


def _number(name: str, *, least: int) -> int:
    """Return a variable as a number; 0 if it is not set.

    Raises:
        RunError: it is no number, or below `least`.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return 0
    if not text.isdecimal() or int(text) < least:
        raise RunError(
            f"launch: {name} must be a whole number, at least {least}, got {text!r}; start the processes with "
            f"torchrun, or unset {name}"
        )
    return int(text)
