"""Ranks that are stopped, die, hang or fail: all of them leave, one says why, and the run goes on from there."""

import os
import random
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from many import digest_of, noted, rows_of, run_ranks
from unmask.config import to_yaml
from unmask.train.data import RunData

LATER = 75


def command(tiny: ModuleType, run: Path, **changes: Any) -> list[str]:
    """The words of a command that starts a run of 12 steps or goes on with it; each step is four micro-batches."""
    settings = {"steps": 12, "tokens_per_step": 512, "log_every": 1, "evaluate_every": 100, "save_every": 5}
    config = tiny.config(run, **settings | {"phases": [], "timeout_seconds": 60.0} | changes)
    run.with_suffix(".yaml").write_text(to_yaml(config))
    return [str(run.with_suffix(".yaml")), "--resume", "auto"]


def expected(tiny: ModuleType, run: Path, *, steps: int = 12) -> dict[int, str]:
    """Digests of all micro-batches of the run of `command`, by their numbers."""
    store, tokenizer = tiny.text()
    config = tiny.config(run, steps=steps, tokens_per_step=512, phases=[])
    made = RunData(store, tokenizer, config).steps(0)
    return dict(enumerate(digest_of(batch) for batches in made for batch in batches))


def test_a_signal_to_any_rank_stops_all_and_the_run_goes_on_with_another_number(
    tiny: ModuleType, tmp_path: Path
) -> None:
    """Two ranks, then one process, then two: no micro-batch is left out, none is another one."""
    run, said = tmp_path / "run", tmp_path / "said"
    words = command(tiny, run)
    both = run_ranks(words, said, world_size=2, at={(1, 4): "SIGTERM"})
    assert [one.status for one in both] == [LATER, LATER], both
    told = f"unmask: SIGTERM: stopped after step 4, saved; continue with `unmask pretrain --resume {run}`"
    assert told.removeprefix("unmask: ") in both[0].said
    assert both[1].said == ""
    (alone,) = run_ranks(words, said, world_size=1, at={(0, 7): "SIGUSR1"})
    assert alone.status == LATER, alone.said
    assert "ranks were 2, now 1: same data and masks, but sums may round differently" in alone.said
    assert "SIGUSR1: stopped after step 7, saved" in alone.said
    both = run_ranks(words, said, world_size=2)
    assert [one.status for one in both] == [0, 0], both
    assert noted(said) == expected(tiny, run)
    assert [row["step"] for row in rows_of(run)] == list(range(1, 13))
    # the same run by one process, which nothing interrupts
    whole = tiny.config(tmp_path / "whole", steps=12, tokens_per_step=512, log_every=1, evaluate_every=100, phases=[])
    tiny.pretrain(whole)
    for one, other in zip(rows_of(tmp_path / "whole"), rows_of(run), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert other["tokens"] == one["tokens"]


def test_a_rank_that_dies_is_named_and_the_others_save_and_leave(tiny: ModuleType, tmp_path: Path) -> None:
    run, said = tmp_path / "run", tmp_path / "said"
    words = command(tiny, run)
    ended = run_ranks(words, said, world_size=2, at={(1, 4): "SIGKILL"})
    assert [one.status for one in ended] == [LATER, -signal.SIGKILL], ended
    told = f"unmask: run: rank 1 on {os.uname().nodename} (process "
    (message,) = [line for line in ended[0].said.splitlines() if line.startswith(told)]
    assert message.endswith(
        ") ended or does not answer; all ranks end, so look what it says in its own output, and start the same command "
        "again with --resume auto"
    )
    # rank 0 had done the step, and kept it
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000004"]
    assert ended[0].seconds < 60
    # as the message advises
    again = run_ranks(words, said, world_size=2)
    assert [one.status for one in again] == [0, 0], again
    assert noted(said) == expected(tiny, run)


def test_a_rank_that_hangs_is_named_within_the_timeout_and_ends_too(tiny: ModuleType, tmp_path: Path) -> None:
    words = command(tiny, tmp_path / "run", timeout_seconds=5.0)
    ended = run_ranks(words, tmp_path / "said", world_size=2, at={(1, 3): "wait"})
    assert [one.status for one in ended] == [LATER, LATER], ended
    told = ") has kept the others waiting for 5 seconds (train.timeout_seconds); all ranks end, so look what it says"
    assert told in ended[0].said
    assert ended[1].said == ""


def test_a_rank_that_fails_tells_why_and_the_others_leave_without_a_word(tiny: ModuleType, tmp_path: Path) -> None:
    words = command(tiny, tmp_path / "run")
    ended = run_ranks(words, tmp_path / "said", world_size=2, at={(1, 3): "raise"})
    assert [one.status for one in ended] == [2, 2], ended
    assert ended[1].said == "unmask, rank 1: loader: it failed for the test; go on without it\n"
    assert "loader" not in ended[0].said
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000003"]


def test_a_gradient_that_is_not_finite_on_one_rank_skips_the_update_on_all(tiny: ModuleType, tmp_path: Path) -> None:
    ended = run_ranks(command(tiny, tmp_path / "run", steps=4), tmp_path / "said", world_size=2, at={(1, 99): "nan"})
    assert [one.status for one in ended] == [0, 0], ended
    assert [row["skipped"] for row in rows_of(tmp_path / "run")] == [1, 0, 0, 0]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_after_ten_losses_and_stops_with_1_2_and_4_processes_no_document_is_lost_or_repeated(
    tiny: ModuleType, tmp_path: Path
) -> None:
    chance, said = random.Random(1), tmp_path / "said"
    words = command(tiny, tmp_path / "run", save_every=3, steps=60)
    for number in range(10):
        size = chance.choice([1, 2, 4])
        what = {(chance.randrange(size), 5 * (number + 1)): chance.choice(["SIGKILL", "SIGTERM", "SIGUSR1"])}
        ended = run_ranks(words, said, world_size=size, at=what, timeout=300)
        assert {one.status for one in ended} <= {LATER, -signal.SIGKILL}, ended
    ended = run_ranks(words, said, world_size=2, timeout=300)
    assert [one.status for one in ended] == [0, 0], ended
    assert noted(said) == expected(tiny, tmp_path / "run", steps=60)
    assert [row["step"] for row in rows_of(tmp_path / "run")] == list(range(1, 61))
    whole = tiny.config(tmp_path / "whole", steps=60, tokens_per_step=512, log_every=1, evaluate_every=100, phases=[])
    tiny.pretrain(whole)
    for one, other in zip(rows_of(tmp_path / "whole"), rows_of(tmp_path / "run"), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert other["tokens"] == one["tokens"]


def test_ranks_with_other_settings_are_refused(tiny: ModuleType, tmp_path: Path) -> None:
    words = command(tiny, tmp_path / "run", steps=2)
    ended = run_ranks(words, tmp_path / "said", world_size=2, at={(1, 0): "--seed 9"})
    assert [one.status for one in ended] == [2, 2]
    told = [one.said for one in ended if one.said]
    assert len(told) == 1
    assert "launch: the settings must be the same on all ranks, but rank 1 on " in told[0]
    assert "differs; start all of them with the same command, from the same folder" in told[0]
    assert not (tmp_path / "run").exists()
    # as it advises
    assert [one.status for one in run_ranks(words, tmp_path / "said", world_size=2)] == [0, 0]
