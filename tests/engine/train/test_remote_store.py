"""A run over a store at an address: trained, resumed, evaluated; another store in its place is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from unmask import analyse, evaluate, load_config, pretrain
from unmask.data.prepare import prepare
from unmask.errors import CheckpointError, RunError
from unmask.train.run_folder import saved_config

TEXTS = [
    f"the {one} cat sat on the {two} mat while {three} dogs ran"
    for one in "abcde"
    for two in "fghij"
    for three in "klm"
]
SETTINGS: dict[str, Any] = {
    "data.store": "memory://bucket/store",
    "stream.micro_batch_tokens": 128,
    "train.tokens_per_step": 128,
    "stream.max_length": 32,
    "stream.workers": 1,
    "stream.held_out_fraction": 0.1,
    "optimizer.warmup_steps": 1,
    "train.save_every": 2,
    "model.num_layers": 1,
    "model.hidden_size": 32,
    "model.num_heads": 1,
    "model.intermediate_size": 32,
}


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    for name, texts in (("store", TEXTS), ("other", TEXTS[::-1])):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(texts))
        prepare([tmp_path / f"{name}.txt"], tmp_path / name, vocab_size=100, workers=1, blank_line_documents=True)
        system.put(str(tmp_path / name), f"/bucket/{name}", recursive=True)
    yield system
    system.rm("/bucket", recursive=True)


def test_a_run_trains_on_it_goes_on_with_it_and_refuses_another_one(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = {"data.cache_folder": str(tmp_path / "cache")}
    run = tmp_path / "run"
    pretrain(load_config("tiny", {**SETTINGS, **cache, "train.steps": 4, "run": str(run)}))
    here = load_config("tiny", {**SETTINGS, "data.store": str(tmp_path / "store"), "train.steps": 4})
    pretrain(
        load_config(
            "tiny",
            {**SETTINGS, "data.store": str(tmp_path / "store"), "train.steps": 4, "run": str(tmp_path / "local")},
        )
    )
    assert here.data.cache_folder is None
    losses = [
        [line for line in (folder / "log.jsonl").read_text().splitlines() if '"loss"' in line]
        for folder in (run, tmp_path / "local")
    ]
    assert losses[0]
    # another folder: an address is not relative to it
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    pretrain(saved_config(run, {"train.steps": 6, "data.cache_gb": 1.0}), resume=run)
    assert (run / "checkpoints" / "step-6").exists() or list((run / "checkpoints").glob("*6"))
    assert evaluate(run)
    bucket.rm("/bucket/store", recursive=True)
    bucket.put(str(tmp_path / "other"), "/bucket/store", recursive=True)
    with pytest.raises(
        CheckpointError, match=r"was trained on other data.*; put the original store back or start a new run"
    ):
        pretrain(saved_config(run, {"train.steps": 8}), resume=run)
    # the advice
    bucket.rm("/bucket/store", recursive=True)
    bucket.put(str(tmp_path / "store"), "/bucket/store", recursive=True)
    pretrain(saved_config(run, {"train.steps": 8}), resume=run)


def test_analyse_tells_what_to_do_about_it(bucket: Any, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"analyse: memory://bucket/store is on another machine; analyse a run over it, or"
    ):
        analyse("memory://bucket/store")
    settings = {name: value for name, value in SETTINGS.items() if name.startswith("stream")}
    assert analyse(tmp_path / "store", settings=settings, micro_batches=1)
