"""Ranks that hold parts of a model train as one process does, and any number of them goes on from a checkpoint."""

import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from many import noted, rows_of, run_ranks
from unmask.config import RunConfig, load_config, to_yaml
from unmask.errors import ConfigError
from unmask.model import PretrainingModel

STEPS = 20
MUON = (
    "train.parallel is 'fsdp', but optimizer.name is 'muon', which needs whole matrices; choose adamw, stable_adamw or "
    "lamb, or set train.parallel to 'ddp'"
)


def config_file(tiny: ModuleType, run: Path, **changes: Any) -> list[str]:
    """The words of a command that trains with dropout, in four micro-batches a step; the file is beside the run."""
    settings = {"tokens_per_step": 512, "log_every": 1, "evaluate_every": 10, "save_every": 10, "steps": STEPS}
    base: RunConfig = tiny.config(run, **settings | changes)
    config = replace(base, model=replace(base.model, num_layers=2, hidden_dropout=0.1, attention_dropout=0.1))
    file = run.with_suffix(".yaml")
    file.write_text(to_yaml(config))
    return [str(file)]


def assert_close(run: Path, other: Path) -> None:
    """Equal losses, norms and held-out scores to 1e-5, and equal counts."""
    for name in ("log.jsonl", "evaluation.jsonl"):
        ours, theirs = rows_of(run, name), rows_of(other, name)
        assert [row["step"] for row in ours] == [row["step"] for row in theirs]
        for one, two in zip(ours, theirs, strict=True):
            for key in {"loss", "gradient_norm"} & one.keys():
                assert one[key] == pytest.approx(two[key], rel=1e-5), (one["step"], key)
            assert one.get("tokens") == two.get("tokens")


@pytest.fixture(scope="module")
def alone(_tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run by one process; what it noted is beside it."""
    run = tmp_path_factory.mktemp("alone") / "run"
    (ended,) = run_ranks(config_file(_tiny, run), run.with_name("said"), world_size=1)
    assert ended.status == 0, ended.said
    return run


def test_losses_norms_and_scores_of_a_model_in_shards_are_those_of_one_process(
    tiny: ModuleType, tmp_path: Path, alone: Path
) -> None:
    run, said = tmp_path / "run", tmp_path / "said"
    ended = run_ranks(config_file(tiny, run, parallel="fsdp"), said, world_size=2)
    assert [one.status for one in ended] == [0, 0], ended
    assert_close(run, alone)
    assert noted(said) == noted(alone.with_name("said"))
    # the export is a whole model
    newest = f"checkpoints/step-{STEPS:06d}"
    ours, theirs = (PretrainingModel.from_pretrained(one / newest) for one in (run, alone))
    for (name, value), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(value, other, rtol=1e-4, atol=1e-5), name


def test_lamb_takes_its_norms_over_all_shards(tiny: ModuleType, tmp_path: Path) -> None:
    for size in (1, 2):
        words = config_file(tiny, tmp_path / str(size), parallel="fsdp", name="lamb", learning_rate=0.02, steps=6)
        ended = run_ranks(words, tmp_path / f"{size}-said", world_size=size)
        assert {one.status for one in ended} == {0}, ended
    assert_close(tmp_path / "2", tmp_path / "1")


def test_two_ranks_one_and_two_again_continue_one_run(tiny: ModuleType, tmp_path: Path, alone: Path) -> None:
    run, said = tmp_path / "run", tmp_path / "said"
    words = [*config_file(tiny, run, parallel="fsdp"), "--resume", "auto"]
    ended = run_ranks(words, said, world_size=2, at={(1, 6): "SIGTERM"})
    assert [one.status for one in ended] == [75, 75], ended
    (one,) = run_ranks(words, said, world_size=1, at={(0, 12): "SIGTERM"})
    assert one.status == 75, one.said
    assert "train.parallel is fsdp, but this process is alone and holds the whole model" in one.said
    ended = run_ranks(words, said, world_size=2)
    assert [one.status for one in ended] == [0, 0], ended
    assert_close(run, alone)
    assert noted(said) == noted(alone.with_name("said"))


def test_a_rank_that_dies_is_named_and_the_run_goes_on_from_the_last_save(
    tiny: ModuleType, tmp_path: Path, alone: Path
) -> None:
    run, said = tmp_path / "run", tmp_path / "said"
    words = [*config_file(tiny, run, parallel="fsdp", save_every=5), "--resume", "auto"]
    ended = run_ranks(words, said, world_size=2, at={(1, 8): "SIGKILL"})
    assert ended[0].status == 75, ended
    assert "ended or does not answer; all ranks end" in ended[0].said
    # the parts of the other rank are gone, so the last save is the newest
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000005"]
    ended = run_ranks(words, said, world_size=2)
    assert [one.status for one in ended] == [0, 0], ended
    assert noted(said) == noted(alone.with_name("said"))


@pytest.mark.parametrize(
    ("setting", "value", "named", "way"),
    [
        ("optimizer.name", "muon", MUON, {"optimizer.name": "lamb"}),
        (
            "optimizer.ema_decay",
            0.9,
            "train.parallel is 'fsdp', but optimizer.ema_decay is 0.9, and the moving average is not kept in shards; "
            "leave out optimizer.ema_decay, or set train.parallel to 'ddp'",
            {"optimizer.ema_decay": None},
        ),
        ("optimizer.name", "muon", MUON, {"train.parallel": "ddp"}),
        (
            "train.compile",
            True,
            "train.parallel is 'fsdp', but train.compile makes one graph of a forward pass, and shards gather in the "
            "middle of it; set train.compile to false, or train.parallel to 'ddp'",
            {"train.compile": False},
        ),
    ],
)
def test_what_shards_do_not_have_is_refused_by_name_with_a_way_that_works(
    setting: str, value: object, named: str, way: dict[str, object]
) -> None:
    settings = {"train.parallel": "fsdp", setting: value}
    with pytest.raises(ConfigError, match=re.escape(named)):
        load_config("tiny", settings)
    load_config("tiny", settings | way)
