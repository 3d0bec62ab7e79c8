"""Where the numbers of a run go besides its files: TensorBoard, Weights & Biases, trackio and MLflow.

    tensorboard   events in the folder `tensorboard` of the run
    wandb         Weights & Biases, online or offline (WANDB_MODE=offline), project WANDB_PROJECT
    trackio       trackio's files on this machine, project TRACKIO_PROJECT
    mlflow        the server or folder of MLFLOW_TRACKING_URI, experiment MLFLOW_EXPERIMENT_NAME

Each package reads its own environment variables for addresses and keys. Project and experiment are called `unmask`
unless such a variable says otherwise.

A `Sender` opens its destination and writes to it in a thread of its own, so a slow network never holds up a step. If a
destination fails, the sender says so once and drops what comes after; log.jsonl has every row. The run keeps the name
that it has at each destination in `loggers.json`, so a resumed run goes on there. Rows after the step that it resumes
from are sent again, with the same steps.
"""

import importlib
import json
import logging
import math
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from unmask.errors import ConfigError
from unmask.paths import printable, replace_text

__all__ = ["DESTINATIONS", "LOGGERS", "Sender", "require_installed", "senders"]

LOGGERS = "loggers.json"
"""The file of a run with the name that it has at each destination."""

_log = logging.getLogger(__name__)

# two destinations may write their names at the same time
_NAMES = threading.Lock()

# seconds for which the end of a run waits for rows that are under way
_CLOSE_SECONDS = 30.0
# MLflow takes so many settings in one request, and so many characters of each
_MLFLOW_PARAMETERS, _MLFLOW_CHARACTERS = 100, 500


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """A run as a destination sees it.

    Attributes:
        folder: directory of the run.
        done: steps done so far.
        settings: settings of the run in their groups.
        known: its name at the destination if it was there before; else None.
    """

    folder: Path
    done: int
    settings: Mapping[str, Any]
    known: str | None

    @property
    def title(self) -> str:
        """The name that people see."""
        return printable(self.folder.absolute().name)


class _Destination(Protocol):
    """A place that takes numbers.

    Attributes:
        name: of the run there; None if it needs none to go on.
    """

    name: str | None

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        """Take the numbers of a row."""

    def close(self) -> None:
        """Take no more, once all is written."""


class _TensorBoard:
    def __init__(self, run: _Run) -> None:
        self.name: str | None = None
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self._events = writer(str(run.folder / "tensorboard"), purge_step=run.done + 1)

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        for key, value in numbers.items():
            self._events.add_scalar(key, value, step)
        self._events.flush()

    def close(self) -> None:
        self._events.close()


class _WeightsAndBiases:
    def __init__(self, run: _Run) -> None:
        wandb = importlib.import_module("wandb")
        self.name: str | None = run.known or secrets.token_hex(4)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "unmask"),
            id=self.name,
            name=os.environ.get("WANDB_NAME", run.title),
            dir=str(run.folder),
            config=dict(run.settings),
            resume="allow",
            settings=wandb.Settings(console="off", silent=True),
        )
        # a resumed run sends some steps again, which the counter of wandb would drop
        self._run.define_metric("*", step_metric="step")

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log({**numbers, "step": step})

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    def __init__(self, run: _Run) -> None:
        trackio = importlib.import_module("trackio")
        self.name: str | None = run.known or f"{run.title}-{secrets.token_hex(2)}"
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", "unmask"),
            name=self.name,
            config=dict(run.settings),
            resume="allow",
            embed=False,
        )

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    def __init__(self, run: _Run) -> None:
        mlflow = importlib.import_module("mlflow")
        self._entities = importlib.import_module("mlflow.entities")
        self._client = mlflow.MlflowClient()
        self.name: str | None = run.known
        if run.known is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "unmask")
            found = self._client.get_experiment_by_name(name)
            experiment = self._client.create_experiment(name) if found is None else found.experiment_id
            self.name = self._client.create_run(experiment, run_name=run.title).info.run_id
            settings = [
                self._entities.Param(key, str(value)[:_MLFLOW_CHARACTERS]) for key, value in _dotted(run.settings)
            ]
            for first in range(0, len(settings), _MLFLOW_PARAMETERS):
                self._client.log_batch(self.name, params=settings[first : first + _MLFLOW_PARAMETERS])
        else:
            self._client.update_run(self.name, status="RUNNING")

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        metrics = [self._entities.Metric(key, float(value), now, step) for key, value in numbers.items()]
        self._client.log_batch(self.name, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self.name)


DESTINATIONS: dict[str, tuple[str, Callable[[_Run], _Destination]]] = {
    "tensorboard": ("torch.utils.tensorboard", _TensorBoard),
    "wandb": ("wandb", _WeightsAndBiases),
    "trackio": ("trackio", _Trackio),
    "mlflow": ("mlflow", _MLflow),
}
"""The destinations by their settings in `train`: the module that each needs, and what opens it."""


def require_installed(names: Iterable[str]) -> None:
    """Import what the destinations of these names need.

    Raises:
        ConfigError: a package is not installed.
    """
    for name in names:
        try:
            importlib.import_module(DESTINATIONS[name][0])
        except ImportError as error:
            raise ConfigError(
                f"config: train.{name} needs the package {name}, which is not installed; "
                f"`pip install 'unmask[{name}]'`, or leave it off: log.jsonl holds the same numbers"
            ) from error


def senders(folder: Path, names: Iterable[str], *, done: int, settings: Mapping[str, Any]) -> list["Sender"]:
    """Return a sender for each destination of a run.

    Args:
        folder: directory of the run.
        names: keys of `DESTINATIONS`.
        done: steps done so far.
        settings: settings of the run in their groups.
    Raises:
        ConfigError: a package is not installed.
    """
    names = list(names)
    require_installed(names)
    known = _known(folder)
    return [
        Sender(name, _Run(folder=folder, done=done, settings=settings, known=known.get(name)), DESTINATIONS[name][1])
        for name in names
    ]


class Sender:
    """Sends rows to one destination, in a thread of its own.

    Args:
        name: its setting in `train`.
        run: the run.
        open_: opens the destination.
    """

    def __init__(self, name: str, run: _Run, open_: Callable[[_Run], _Destination]) -> None:
        self._name, self._run, self._open = name, run, open_
        self._rows: queue.SimpleQueue[tuple[dict[str, float], int] | None] = queue.SimpleQueue()
        self._failed = False
        self._thread = threading.Thread(target=self._work, name=f"train.{name}", daemon=True)
        self._thread.start()

    def put(self, group: str, row: Mapping[str, Any]) -> None:
        """Send the finite numbers of a row with its `step`; `group` stands before their names."""
        numbers = {
            f"{group}/{key}": value
            for key, value in row.items()
            if key != "step" and isinstance(value, int | float) and math.isfinite(value)
        }
        if not self._failed:
            self._rows.put((numbers, row["step"]))

    def close(self) -> None:
        """Wait for the rows that are under way, but not for ever."""
        self._rows.put(None)
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            _log.warning(
                f"train.{self._name}: not all rows are sent after {_CLOSE_SECONDS:g} seconds, and the run does not "
                "wait for them; log.jsonl has them all"
            )

    def _work(self) -> None:
        try:
            destination = self._open(self._run)
            if destination.name is not None and destination.name != self._run.known:
                with _NAMES:
                    names = _known(self._run.folder) | {self._name: destination.name}
                    replace_text(self._run.folder / LOGGERS, json.dumps(names, indent=1) + "\n")
            while (row := self._rows.get()) is not None:
                destination.write(*row)
            destination.close()
        # the packages raise errors of their own and of the network
        except Exception as error:
            self._failed = True
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            _log.warning(
                f"train.{self._name}: rows cannot be sent ({reason[:200]}); training goes on without, and log.jsonl "
                "has them all"
            )


def _dotted(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _dotted(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _known(folder: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        found = json.loads((folder / LOGGERS).read_text("utf-8"))
        return {str(name): str(value) for name, value in found.items()}
    return {}
