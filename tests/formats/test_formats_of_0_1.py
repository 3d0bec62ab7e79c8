"""What version 0.1 wrote opens as it is: a token store, runs stopped half way, YAML files, arguments.

`make.py` made the fixtures with that version. Whole numbers are compared exactly: tokens, order, masks, where the data
stands. Losses and weights are compared within a tolerance, because another processor rounds otherwise.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from unmask.config import RunConfig, load_config

HERE = Path(__file__).parent
MADE = HERE / "0.1"

_SPEC = importlib.util.spec_from_file_location("formats_make", HERE / "make.py")
assert _SPEC is not None
assert _SPEC.loader is not None
make = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make)

EXPECTED = json.loads((MADE / "expected.json").read_text(encoding="utf-8"))
NOW = {"longest": "max_length"}
"""Columns and settings of a phase by their name in 0.1, with the name that they have now or may have."""
SINCE = {"unigram_loss", "packing_efficiency"}
"""Columns of an evaluation or of the log that 0.1 did not have."""
MOVED = {
    "data.longest": "stream.max_length",
    "data.held_out": "stream.held_out_fraction",
    "data.workers": "stream.workers",
    "train.micro_batch_tokens": "stream.micro_batch_tokens",
    "train.max_documents": "stream.max_documents",
    "data.compose": "composition.strategy",
    "data.scope": "composition.scope",
    "data.weights": "composition.weights",
    "data.short_pairs": "composition.short_pairs",
    "data.bm25_walk": "composition.bm25_walk",
    "data.bm25_buffer": "composition.bm25_buffer",
    "data.bm25_query_terms": "composition.bm25_query_terms",
    "data.masking": "masking.strategy",
    "data.mask_rate": "masking.rate",
    "data.mask_rate_end": "masking.rate_end",
    "data.mask_split": "masking.split",
    "data.mask_on": "masking.place",
    "data.similar_words": "masking.similar_words",
    "data.static_masks": "masking.static_masks",
    "train.learning_rate": "optimizer.learning_rate",
    "train.warmup_steps": "optimizer.warmup_steps",
    "train.weight_decay": "optimizer.weight_decay",
    "train.beta1": "optimizer.beta1",
    "train.beta2": "optimizer.beta2",
    "train.eps": "optimizer.eps",
    "train.clip_norm": "optimizer.clip_norm",
}
"""Settings by their name in 0.1, with the name that they have now."""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the fixtures, which is the current folder."""
    shutil.copytree(MADE, tmp_path / "0.1")
    for name in make.RUNS:
        shutil.unpack_archive(MADE / f"{name}.zip", tmp_path / "0.1")
    monkeypatch.chdir(tmp_path / "0.1")
    return tmp_path / "0.1"


def test_a_store_opens_with_the_same_tokens_and_fingerprint(made: Path) -> None:
    from unmask.data.store.reader import Store

    assert make.store_digest(Store.open(made / "store")) == EXPECTED["store"]


def test_the_same_text_gives_the_same_store(made: Path) -> None:
    make.unmask("prepare", *make.STORE, "--out", "again", "--workers", "1")
    files = sorted(file.relative_to(MADE / "store") for file in (MADE / "store").rglob("*") if file.is_file())
    assert [
        file for file in files if (made / "again" / file).read_bytes() != (MADE / "store" / file).read_bytes()
    ] == []


def test_a_store_is_an_input(made: Path) -> None:
    make.unmask("prepare", "--input", "store", "--out", "copy")
    assert (made / "copy" / "shard-00000.arrow").read_bytes() == (MADE / "store" / "shard-00000.arrow").read_bytes()


def test_every_way_to_compose_and_mask_gives_the_same_batches(made: Path) -> None:
    for name, batches in make.streams(made).items():
        # since 0.1 the untrained model is scored too, on the batch that the evaluation at the end reads again
        assert batches[0] == batches[-1], name
        assert batches[1:] == EXPECTED["streams"][name], name


@pytest.mark.parametrize("name", make.RUNS)
def test_a_run_resumes_to_the_end_that_it_had(name: str, made: Path) -> None:
    run, expected = made / "runs" / name, EXPECTED["runs"][name]
    composed = {file.name: file.read_bytes() for file in run.glob("composed/*.npz")}
    with make.watched() as batches:
        make.unmask("pretrain", "--resume", str(run))
    end = make.end_of(run)
    assert batches == expected["batches"]
    assert end["state"] == expected["state"]
    assert _by_new_names(_without_new(end["log"])) == _close(_by_new_names(expected["log"]))
    columns = {NOW.get(key, key) for row in expected["evaluation"] for key in row} | SINCE
    assert all(row.keys() <= columns for row in _by_new_names(end["evaluation"]))
    assert _by_new_names(_without_new(end["evaluation"])) == _close(_by_new_names(expected["evaluation"]))
    assert end["weights"].keys() == expected["weights"].keys()
    for weight, sums in expected["weights"].items():
        assert end["weights"][weight] == pytest.approx(sums, rel=1e-2, abs=2e-2), weight
    # sequences that were composed ahead are used, and no other is composed in their place
    assert {file.name: file.read_bytes() for file in run.glob("composed/*.npz")} == composed


@pytest.mark.parametrize("name", make.RUNS)
def test_every_command_reads_a_run(name: str, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(made / "runs" / name)
    make.unmask("fill-mask", run, "the mill by the [MASK]")
    assert "%" in capsys.readouterr().out
    make.unmask("export", run, str(made / "exported"))
    assert (made / "exported" / "model.safetensors").is_file()
    make.unmask("plot", run)
    assert (made / "runs" / name / "loss.png").is_file()
    make.unmask("analyse", run, "--micro-batches", "2")
    assert any((made / "runs" / name / "analysis").iterdir())


@pytest.mark.parametrize("name", make.RUNS)
def test_the_configuration_of_a_run_is_the_one_it_was_started_with(name: str, made: Path) -> None:
    saved = yaml.safe_load((made / "runs" / name / "config.yaml").read_text(encoding="utf-8"))
    assert _differences(load_config(made / "runs" / name / "config.yaml", saved=True), saved) == []
    # the file holds every setting that 0.1 had, at least these
    assert len(list(_leaves(saved))) >= 75


@pytest.mark.parametrize("name", ["masked", "device", "pairs", "causal"])
def test_a_file_with_the_settings_of_0_1_means_the_same(name: str, made: Path) -> None:
    file = made / "settings" / f"{name}.yaml"
    config = load_config(file)
    assert _differences(config, yaml.safe_load(file.read_text(encoding="utf-8"))) == []
    assert config != load_config(None)


def test_the_arguments_of_0_1_mean_the_same(made: Path) -> None:
    short = ["--train.steps", "1", "--train.warmup_steps", "0", "--data.workers", "0"]
    small = ["--train.tokens_per_step", "128", "--train.micro_batch_tokens", "128"]
    make.unmask("pretrain", "--data.store", "store", "--data.longest", "40", "--run", "one", *short, *small)
    assert _differences(load_config("one/config.yaml", saved=True), {"data": {"longest": 40}}) == []
    phases = {"train": {"steps": 2, "warmup_steps": 0, "phases": [{"share": 0.5, "longest": 24}] * 2}}
    (made / "phases.yaml").write_text(yaml.safe_dump(phases), encoding="utf-8")
    first = ["pretrain", "phases.yaml", "--train.phases.0.longest", "16", "--data.store", "store", "--run", "two"]
    make.unmask(*first, "--data.workers", "0", *small)
    lengths = [{"share": 0.5, "longest": 16}, {"share": 0.5, "longest": 24}]
    assert _differences(load_config("two/config.yaml", saved=True), {"train": {"phases": lengths}}) == []


def test_a_difference_is_found(made: Path) -> None:
    config = load_config(made / "settings" / "masked.yaml")
    found = _differences(config, {"data": {"longest": 33}, "train": {"phases": [{"longest": 32}, {"longest": 47}]}})
    assert found == ["data.longest is 32, was 33", "train.phases.1.longest is 48, was 47"]
    assert _differences(config, {"data": {"lost": 1}}) == ["data.lost is gone"]


def _differences(config: RunConfig, saved: dict[str, Any]) -> list[str]:
    """What `config` has otherwise than a mapping with the names of 0.1."""
    found = []
    for path, value in _leaves(saved):
        held: Any = config
        moved = MOVED.get(".".join(path[:2]))
        for name in (*moved.split("."), *path[2:]) if moved else path:
            if isinstance(held, list):
                held = held[int(name)]
            elif isinstance(held, dict):
                held = held[name]
            else:
                held = getattr(held, name, getattr(held, NOW.get(name, ""), "gone"))
        held = list(held) if isinstance(held, tuple) else held
        # PyYAML reads 1e-12 as text
        value = float(value) if isinstance(held, float) else value
        if path == ("data", "lowercase") and value is True:
            # the default of 0.1, which said nothing about a given tokenizer and is None today
            value = None
        if held != value:
            found.append(f"{'.'.join(path)} is {held if held == 'gone' else f'{held}, was {value}'}")
    return found


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    groups = isinstance(value, list) and value and isinstance(value[0], dict)
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if groups else ()
    inner = [(str(name), item) for name, item in pairs]
    if not inner:
        yield path, value
    for name, item in inner:
        yield from _leaves(item, (*path, name))


def _without_new(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in SINCE} for row in rows]


def _by_new_names(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{NOW.get(key, key): value for key, value in row.items()} for row in rows]


def _close(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with every broken number near enough, and every whole one exact."""
    return [
        {
            key: pytest.approx(value, rel=2e-2, abs=1e-3) if isinstance(value, float) else value
            for key, value in row.items()
        }
        for row in rows
    ]
