"""Several ranks train as one process does: the same micro-batches, the same losses and weights, one log."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from many import noted, rows_of, run_ranks
from unmask.config import RunConfig, to_yaml
from unmask.interop.checkpoint_folder import verify_checkpoint
from unmask.train.checkpoint.state import load_facts

STEPS = 30


def config_file(tiny: ModuleType, run: Path, **changes: Any) -> list[str]:
    """The words of a command that trains with dropout, in four micro-batches a step; the file is beside the run."""
    base: RunConfig = tiny.config(
        run, **{"tokens_per_step": 512, "log_every": 1, "evaluate_every": 10, "save_every": 10} | changes
    )
    config = replace(base, model=replace(base.model, hidden_dropout=0.1, attention_dropout=0.1))
    file = run.with_suffix(".yaml")
    file.write_text(to_yaml(config))
    return [str(file)]


@pytest.fixture(scope="module")
def runs(_tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The same run by 1, 2 and 4 processes, in folders of these names; what the ranks said is beside each."""
    root = tmp_path_factory.mktemp("ranks")
    for size in (1, 2, 4):
        ended = run_ranks(config_file(_tiny, root / str(size), steps=STEPS), root / f"{size}-said", world_size=size)
        assert [one.status for one in ended] == [0] * size, ended
        assert not any(one.said for one in ended[1:])
    return {size: root / str(size) for size in (1, 2, 4)}


@pytest.mark.parametrize("size", [2, 4])
def test_order_and_masks_do_not_depend_on_the_number_of_ranks(runs: dict[int, Path], size: int) -> None:
    alone, shared = (noted(runs[one].with_name(f"{one}-said")) for one in (1, size))
    assert sorted(alone) == list(range(STEPS * 4))
    assert shared == alone


@pytest.mark.parametrize("size", [2, 4])
def test_losses_norms_and_scores_are_those_of_one_process(runs: dict[int, Path], size: int) -> None:
    for name in ("log.jsonl", "evaluation.jsonl"):
        alone, shared = rows_of(runs[1], name), rows_of(runs[size], name)
        assert [row["step"] for row in shared] == [row["step"] for row in alone]
        for one, other in zip(alone, shared, strict=True):
            for key in {"loss", "gradient_norm", "perplexity"} & one.keys():
                assert other[key] == pytest.approx(one[key], rel=1e-5), (one["step"], key)
            exact = {"tokens", "learning_rate", "masked_tokens", "unigram_loss", "skipped"} & one.keys()
            assert {key: other[key] for key in exact} == {key: one[key] for key in exact}


def test_the_ranks_end_with_one_run_directory_that_one_process_reads(runs: dict[int, Path], tiny: ModuleType) -> None:
    newest = runs[4] / "checkpoints" / f"step-{STEPS:06d}"
    verify_checkpoint(newest)
    alone, shared = (load_facts(runs[size] / "checkpoints" / newest.name / "training") for size in (1, 4))
    assert (alone.ranks, shared.ranks) == (None, 4)
    assert replace(shared, ranks=None, interval=[]) == replace(alone, interval=[])
    before, after = tiny.parameters(runs[1]), tiny.parameters(runs[4])
    for name, value in before.items():
        assert torch.allclose(after[name], value, rtol=1e-4, atol=1e-5), name
    assert len(list((runs[4]).parent.glob("runs*"))) == 0


def test_the_clock_of_rank_0_ends_a_run_of_minutes_for_all(tiny: ModuleType, tmp_path: Path) -> None:
    settings = {"steps": None, "minutes": 0.03, "evaluate_every": 1000, "save_every": 1000, "phases": []}
    ended = run_ranks(config_file(tiny, tmp_path / "run", **settings), tmp_path / "said", world_size=2)
    assert [one.status for one in ended] == [0, 0], ended
    rows, scores = rows_of(tmp_path / "run"), rows_of(tmp_path / "run", "evaluation.jsonl")
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    assert rows[-1]["step"] == scores[-1]["step"] == int(newest.name.removeprefix("step-"))
    facts = load_facts(newest / "training")
    assert facts.seconds is not None
    assert facts.seconds >= 60 * 0.03


def test_two_runs_of_two_ranks_have_the_same_bits(tiny: ModuleType, tmp_path: Path, runs: dict[int, Path]) -> None:
    (ended, _) = run_ranks(config_file(tiny, tmp_path / "again", steps=STEPS), tmp_path / "said", world_size=2)
    assert ended.status == 0, ended.said
    tiny.assert_same_end(tmp_path / "again", runs[2])


def test_ranks_share_steps_that_grow_the_average_and_a_trapezoid_that_grows(tiny: ModuleType, tmp_path: Path) -> None:
    changes = {"first_tokens_per_step": 256, "growth_steps": 6, "ema_decay": 0.5, "schedule": "wsd", "decay_share": 0.3}
    for size in (1, 2):
        words = config_file(tiny, tmp_path / str(size), steps=10, phases=[], **changes)
        for more in (words, ["--resume", str(tmp_path / str(size)), "--train.steps", "12"]):
            ended = run_ranks(more, tmp_path / f"{size}-said", world_size=size)
            assert [one.status for one in ended] == [0] * size, ended
        # the ten steps decay from the seventh on, the twelve from the eighth
        assert (tmp_path / str(size) / "checkpoints" / "step-000010.decayed").is_dir()
    one, two = (rows_of(tmp_path / str(size), "log.jsonl") for size in (1, 2))
    assert [row["step"] for row in two] == list(range(1, 13))
    for alone, shared in zip(one, two, strict=True):
        assert shared["loss"] == pytest.approx(alone["loss"], rel=1e-5)
        assert (shared["tokens"], shared["learning_rate"]) == (alone["tokens"], alone["learning_rate"])
    averages = (tiny.parameters(tmp_path / str(size)) for size in (1, 2))
    for (name, value), other in zip(next(averages).items(), next(averages).values(), strict=True):
        assert torch.allclose(value, other, rtol=1e-4, atol=1e-5), name


def test_ranks_go_back_from_a_spike_alike(tiny: ModuleType, tmp_path: Path) -> None:
    # of a step whose gradient is not finite on one rank the row has no loss
    guard = {"spike_guard": 6.0, "spike_rows": 1, "log_every": 1, "phases": []}
    run = tmp_path / "run"
    run_ranks(config_file(tiny, run, steps=12, **guard), tmp_path / "said", world_size=2)
    more = ["--resume", str(run), "--train.steps", "16"]
    ended = run_ranks(more, tmp_path / "again", world_size=2, at={(1, 99): "nan"})
    assert [one.status for one in ended] == [0, 0], ended
    assert ended[0].said.count("the run goes back to step 12 and leaves out the data of the spike") == 1
    [spike] = rows_of(tmp_path / "run", "spikes.jsonl")
    assert (spike["first_step"], spike["step"], spike["loss"]) == (13, 13, None)
    assert spike["left_out"] == [{"phase": 0, "first": 48, "size": 4}]
    rows = rows_of(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, 17))
    assert not any(row["skipped"] for row in rows)
