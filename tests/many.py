"""Several ranks of one run, each a process of its own, and what they did.

    ended = run_ranks(config, world_size=2)                         # `unmask pretrain` of a small run, twice
    ended = run_ranks(config, world_size=2, at={(1, 5): "SIGKILL"}) # rank 1 kills itself after step 5

The processes are forks of one that has imported everything, since an import takes longer than training. A process that
takes too long is killed, and the test fails with what it said.

Run as a script it is one rank: many.py RANK WORLD_SIZE ADDRESS PORT OUT DOING WORDS..., where DOING is {step: what} in
JSON.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import multiprocessing
import multiprocessing.forkserver
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

FORKS = multiprocessing.get_context("forkserver")
# what a run imports when it first needs it takes longer than the run
_LATE = ["torch._dynamo", "torch.distributed.fsdp", "safetensors.torch", "tokenizers", "fsspec.core"]
FORKS.set_forkserver_preload(["unmask.train.pretrain", "unmask.cli.pretrain", *_LATE])
# its end takes seconds, so it is waited for
atexit.register(multiprocessing.forkserver._forkserver._stop)  # type: ignore[attr-defined]
TINY = Path(__file__).parent / "engine" / "train" / "tiny.py"


class Ended(NamedTuple):
    """A rank after its end.

    Attributes:
        status: exit status, or minus the signal that killed it.
        said: what it wrote to its standard streams.
        seconds: how long it took.
    """

    status: int
    said: str
    seconds: float


def run_ranks(
    arguments: Sequence[str],
    folder: Path,
    *,
    world_size: int,
    at: Mapping[tuple[int, int], str] | None = None,
    timeout: float = 240.0,
) -> list[Ended]:
    """Run `unmask pretrain` on all ranks and wait for their end.

    Args:
        arguments: the words after `unmask pretrain`.
        folder: for what the ranks note; `noted` reads it.
        world_size: number of ranks; with 1, the process is alone.
        at: what a rank does to itself after a step: {(rank, step): a signal, "SIGKILL+0.03" for one 0.03 seconds
            later, "nan", "raise", "wait", or "limit 9000" for files of at most 9000 bytes}; for step 0 words that it
            has besides.
        timeout: seconds after which a rank is killed.
    """
    folder.mkdir(exist_ok=True)
    port = free_port()
    begun = time.monotonic()
    processes = []
    for rank in range(world_size):
        doing = {step: what for (one, step), what in (at or {}).items() if one == rank}
        out = folder / f"said-{rank}"
        place = rank, world_size, "127.0.0.1", port
        process = FORKS.Process(target=work, args=(*place, str(out), list(arguments), doing))
        process.start()
        processes.append((process, out))
    ended = []
    for process, out in processes:
        process.join(timeout=max(0.1, begun + timeout - time.monotonic()))
        late = process.exitcode is None
        if late:
            process.kill()
            process.join()
        said = out.read_text(errors="replace") if out.exists() else ""
        ended.append(
            Ended(process.exitcode or 0, said + ("\nkilled: too late" if late else ""), time.monotonic() - begun)
        )
    return ended


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def noted(folder: Path) -> dict[int, str]:
    """Digests of the micro-batches by their number in the run, from the notes of all ranks."""
    found: dict[int, str] = {}
    for path in folder.glob("said-*.batches"):
        for line in path.read_text().splitlines():
            number, digest = line.split()
            # a step that is done again has the same batches
            assert found.setdefault(int(number), digest) == digest, f"micro-batch {number} differs"
    return found


def work(
    rank: int, world_size: int, address: str, port: int, out: str, arguments: list[str], doing: dict[int, str]
) -> None:
    """Be a rank: `unmask pretrain` with the text of `tiny` in the place of a store."""
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if world_size > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
        os.environ.update({"MASTER_ADDR": address, **{name: str(value) for name, value in place.items()}})
    from unmask import cli

    tiny = sys.modules.get("tiny")
    if tiny is None:
        spec = importlib.util.spec_from_file_location("tiny", TINY)
        assert spec is not None
        assert spec.loader is not None
        tiny = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tiny)
    pretrain = importlib.import_module("unmask.train.pretrain")
    pretrain.open_store = tiny.open_text  # type: ignore[attr-defined]
    _watch(Path(f"{out}.batches"), rank, world_size, doing)
    status = cli.main(["pretrain", *arguments, *doing.get(0, "").split()])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _watch(notes: Path, rank: int, world_size: int, doing: dict[int, str]) -> None:
    """Note each micro-batch of this rank, and do what is to be done after a step."""
    import torch

    from unmask.batch import PackedBatch
    from unmask.train.step import TrainingStep
    from unmask.train.trainer import Trainer

    train_step, call = Trainer._train_step, TrainingStep.__call__

    def noting(trainer: Trainer, batches: list[PackedBatch], tokens: int) -> None:
        first = trainer.data.sizes.before(trainer.state.done)
        with notes.open("a") as file:
            for k, batch in enumerate(batches):
                file.write(f"{first + rank + k * world_size} {digest_of(batch)}\n")
        train_step(trainer, batches, tokens)
        act(doing.get(trainer.state.done, ""))

    def calling(step: TrainingStep, batches: Sequence[PackedBatch]) -> Any:
        if "nan" in doing.values() and not os.environ.get("NAN_DONE"):
            os.environ["NAN_DONE"] = "1"
            parameter = next(step.model.parameters())
            hook = parameter.register_hook(lambda gradient: torch.full_like(gradient, float("nan")))
            report = call(step, batches)
            hook.remove()
            return report
        return call(step, batches)

    Trainer._train_step = noting  # type: ignore[method-assign]
    TrainingStep.__call__ = calling  # type: ignore[method-assign]


def act(what: str) -> None:
    """Do something to this process."""
    if what.startswith("SIG"):
        name, _, seconds = what.partition("+")
        later = threading.Timer(float(seconds or 0.0), os.kill, (os.getpid(), signal.Signals[name]))
        later.start() if seconds else later.run()
    elif what.startswith("limit "):
        most = int(what.removeprefix("limit "))
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    elif what == "wait":
        time.sleep(3600)
    elif what == "raise":
        from unmask.errors import RunError

        raise RunError("loader: it failed for the test; go on without it")


def digest_of(batch: Any) -> str:
    """A digest of the ids, masks, labels and documents of a micro-batch."""
    import hashlib

    found = hashlib.sha256()
    for tensor in (batch.ids, batch.masked, batch.labels, batch.documents.cu_seqlens, batch.documents.keys):
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()[:16]


def rows_of(run: Path, name: str = "log.jsonl") -> list[dict[str, Any]]:
    """The rows of a log of a run."""
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


if __name__ == "__main__":
    rank, size, address, port, out, doing, *words = sys.argv[1:]
    done = {int(step): what for step, what in json.loads(doing).items()}
    work(int(rank), int(size), address, int(port), out, words, done)
