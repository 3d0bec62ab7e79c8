"""`unmask profile`: whole steps under the profiler, their shares, and the trace."""

import json
from pathlib import Path
from typing import Any

import pytest

import advice
import unmask
from unmask.cli import main

SMALL: dict[str, Any] = {
    "stream.max_length": 24,
    "stream.micro_batch_tokens": 96,
    "stream.workers": 0,
    "stream.held_out_fraction": 0,
    "train.tokens_per_step": 192,
    "train.dtype": "float32",
    "train.threads": 1,
    "model.num_layers": 1,
    "model.hidden_size": 16,
    "model.intermediate_size": 32,
}


def test_the_shares_of_all_families_are_the_step(
    store_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    command = ["profile", "tiny", "--data.store", str(store_folder), *words, "--steps", "2"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    families = {one["name"]: one["share"] for one in found["families"]}
    assert {"attention", "products", "layer_norm", "loss", "optimizer", "data", "python"} <= set(families)
    # the clock of the profiler and that of the process differ a little
    assert 0.8 < sum(families.values()) < 1.05
    assert sum(one["share"] for one in found["operations"]) == pytest.approx(sum(families.values()))
    assert (found["steps"], found["trace"]) == (2, "trace.json") and found["tokens"] > 96
    names = [event.get("name") for event in json.loads(Path("trace.json").read_text())["traceEvents"]]
    assert names.count("unmask.step") == names.count("unmask.data") == 2
    # nothing else is left
    assert {path.name for path in tmp_path.iterdir()} == {"store", "text.txt", "trace.json"}
    assert main([*command, "--trace", "other.json"]) == 0
    shown = capsys.readouterr().out
    assert "other.json: 2 steps, for https://ui.perfetto.dev" in shown
    assert "family" in shown and "operation" in shown


def test_a_run_must_have_the_steps(store_folder: Path, tmp_path: Path) -> None:
    settings = SMALL | {"data.store": str(store_folder), "train.steps": 6, "optimizer.warmup_steps": 1}

    def run(steps: int, **more: int) -> None:
        changed = settings | {name.replace("__", "."): value for name, value in more.items()}
        unmask.profile("tiny", changed, steps=steps, trace=tmp_path / "trace.json")

    advice.follow(
        lambda: run(2),
        "profile: the run must have 7 steps, 3 to warm up and twice --steps, and it has 6; give --train.steps 7, or "
        "fewer --steps",
        lambda: run(2, train__steps=7),
        lambda: run(1),
    )


def test_a_trace_needs_a_folder(store_folder: Path, tmp_path: Path) -> None:
    settings = SMALL | {"data.store": str(store_folder)}
    advice.follow(
        lambda: unmask.profile("tiny", settings, steps=1, trace=tmp_path / "gone" / "trace.json"),
        "gone/trace.json has no folder to lie in, so the trace cannot be written; give --trace another place",
        lambda: unmask.profile("tiny", settings, steps=1, trace=tmp_path / "trace.json"),
    )
    advice.follow(
        lambda: unmask.profile("tiny", settings, steps=1, trace=tmp_path),
        "is a folder, so the trace cannot be written; give --trace another place",
    )
