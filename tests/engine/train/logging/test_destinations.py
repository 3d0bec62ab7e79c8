"""Where the rows go besides the files: each package reads back what was sent, and none holds up or ends a run."""

import json
import logging
import sqlite3
import struct
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from unmask.train.logging import destinations
from unmask.train.logging.destinations import LOGGERS
from unmask.train.logging.log import RunLog, read_log
from unmask.train.run_folder import saved_config

SETTINGS = {
    "seed": 1,
    "train": {"steps": 3, "phases": []},
    **{f"group{number}": {"a": number} for number in range(120)},
}


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No package asks the network, or writes to the home folder."""
    for name in ("WANDB_PROJECT", "WANDB_NAME", "MLFLOW_EXPERIMENT_NAME", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "TRACKIO_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")


def write_twice(folder: Path, name: str) -> list[dict[str, Any]]:
    """Send rows, and go on as a run that is resumed from step 2; return the rows of the log."""
    folder.mkdir()
    log = RunLog(folder, to=[name], settings=SETTINGS)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": 4.0 - step, "nothing": None, "much": float("inf")})
    log.close()
    known = names(folder)
    log = RunLog(folder, done=2, to=[name], settings=SETTINGS)
    log.write({"step": 3, "loss": 0.5})
    log.write_evaluation({"step": 3, "loss": 0.25})
    log.close()
    assert names(folder) == known
    return read_log(folder)


def names(folder: Path) -> dict[str, str]:
    file = folder / LOGGERS
    return json.loads(file.read_text()) if file.exists() else {}


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write_twice(tmp_path / "run", "tensorboard")
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    # the rows behind the step of the resumed run are purged
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 3.0), (2, 2.0), (3, 0.5)]
    assert [(e.step, e.value) for e in events.Scalars("evaluate/loss")] == [(3, 0.25)]
    assert events.Tags()["scalars"] == ["train/loss", "evaluate/loss"]


def test_mlflow_gets_the_same_numbers_and_goes_on_with_the_same_run(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    write_twice(tmp_path / "run", "mlflow")
    client = mlflow.MlflowClient()
    found = client.search_runs([client.get_experiment_by_name("unmask").experiment_id])
    assert [run.info.run_id for run in found] == [names(tmp_path / "run")["mlflow"]]
    assert (found[0].info.run_name, found[0].info.status) == ("run", "FINISHED")
    assert found[0].data.params["train.steps"] == "3"
    assert len(found[0].data.params) == 123
    history = client.get_metric_history(found[0].info.run_id, "train/loss")
    assert sorted((one.step, one.value) for one in history) == [(1, 3.0), (2, 2.0), (3, 0.5), (3, 1.0)]
    assert [one.value for one in client.get_metric_history(found[0].info.run_id, "evaluate/loss")] == [0.25]


def test_weights_and_biases_gets_the_same_numbers_offline_under_one_name(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    write_twice(tmp_path / "run", "wandb")
    name = names(tmp_path / "run")["wandb"]
    files = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*/run-{name}.wandb"))
    assert len(files) == 2
    rows = [row for file in files for row in wandb_rows(file)]
    losses = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert sorted(losses) == [(1, 3.0), (2, 2.0), (3, 0.5), (3, 1.0)]
    assert [row["evaluate/loss"] for row in rows if "evaluate/loss" in row] == [0.25]
    assert not any("train/nothing" in row or "train/much" in row for row in rows)


def wandb_rows(file: Path) -> list[dict[str, Any]]:
    """The rows in a file of Weights & Biases, as `wandb sync` would send them."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    for data in leveldb_records(file.read_bytes()[7:]):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            rows.append(
                {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            )
    return rows


def leveldb_records(log: bytes) -> Iterator[bytes]:
    """The records of a log of LevelDB, behind the 7 bytes with which wandb begins: blocks of 32 KiB."""
    place, block, parts = 0, 32768, b""
    while place + 7 <= len(log):
        left = block - (place + 7) % block
        if left < 7:
            place += left
            continue
        size, kind = struct.unpack("<HB", log[place + 4 : place + 7])
        parts += log[place + 7 : place + 7 + size]
        place += 7 + size
        # whole, or the last part of one
        if kind in (1, 4):
            yield parts
            parts = b""


def test_trackio_gets_the_same_numbers_under_one_name(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    write_twice(tmp_path / "run", "trackio")
    [file] = (tmp_path / "TRACKIO_DIR").glob("unmask*.db")
    with sqlite3.connect(file) as database:
        found = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
    assert {row[0] for row in found} == {names(tmp_path / "run")["trackio"]}
    losses = [(step, json.loads(text)["train/loss"]) for _, step, text in found if b"train/loss" in text]
    assert losses == [(1, 3.0), (2, 2.0), (3, 1.0), (3, 0.5)]


class Broken:
    """A destination that is there at first."""

    name = None

    def __init__(self, run: object) -> None:
        self.left = 1

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        if not self.left:
            raise ConnectionError("no route\nto the host")
        self.left -= 1

    def close(self) -> None:
        raise AssertionError("it is gone")


def unreachable(run: object) -> Broken:
    raise OSError("no such server")


@pytest.mark.parametrize(
    ("opens", "reason"), [(Broken, "ConnectionError: no route to the host"), (unreachable, "OSError")]
)
def test_a_destination_that_fails_is_told_once_and_the_run_goes_on(
    opens: Any,
    reason: str,
    tmp_path: Path,
    tiny: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(destinations.DESTINATIONS, "mlflow", ("json", opens))
    run = tiny.pretrain(tiny.config(tmp_path / "run", mlflow=True, steps=12, log_every=2, save_every=12, phases=[]))
    told = [record.message for record in caplog.records if "train.mlflow" in record.message]
    assert len(told) == 1 and f"rows cannot be sent ({reason}" in told[0]
    assert told[0].endswith("training goes on without, and log.jsonl has them all")
    assert [row["step"] for row in read_log(run)] == [2, 4, 6, 8, 10, 12]


def test_a_destination_that_hangs_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="unmask")
    answers = threading.Event()

    def hangs(run: object) -> Broken:
        answers.wait()
        return Broken(run)

    monkeypatch.setitem(destinations.DESTINATIONS, "mlflow", ("json", hangs))
    monkeypatch.setattr(destinations, "_CLOSE_SECONDS", 0.05)
    log = RunLog(tmp_path, to=["mlflow"])
    log.write({"step": 1, "loss": 2.0})
    log.close()
    assert "train.mlflow: not all rows are sent after 0.05 seconds, and the run does not wait" in caplog.text
    assert read_log(tmp_path) == [{"step": 1, "loss": 2.0}]
    answers.set()


def test_a_resumed_run_may_take_up_another_destination(tmp_path: Path, tiny: ModuleType) -> None:
    pytest.importorskip("mlflow")
    run = tiny.pretrain(tiny.config(tmp_path / "run", steps=5, phases=[]))
    tiny.pretrain(saved_config(run, {"train.steps": 10, "train.mlflow": True}), resume=run)
    assert set(names(run)) == {"mlflow"}
