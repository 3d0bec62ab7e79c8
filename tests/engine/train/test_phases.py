import pytest

from unmask.config import PhaseConfig
from unmask.errors import ConfigError
from unmask.train.data import phase_at, plan_phases

BERT = [PhaseConfig(share=0.9, max_length=128), PhaseConfig(share=0.1, max_length=512)]


def test_a_run_without_phases_is_one_phase_with_the_seed_of_the_run() -> None:
    (only,) = plan_phases(10, [], max_length=128, seed=7)
    assert (only.first, only.end, only.max_length, only.seed) == (0, 10, 128, 7)


@pytest.mark.parametrize("steps", [10, 11, 101, 9999])
def test_phases_cover_every_step_once_and_differ_in_seed(steps: int) -> None:
    phases = plan_phases(steps, BERT, max_length=64, seed=1)
    covered = [step for phase in phases for step in range(phase.first, phase.end)]
    assert covered == list(range(steps))
    assert [phase.max_length for phase in phases] == [128, 512]
    assert len({phase.seed for phase in phases}) == 2


def test_later_phases_have_seeds_that_no_run_of_a_neighbouring_seed_has() -> None:
    seeds = {phase.seed for seed in range(50) for phase in plan_phases(10, BERT, max_length=64, seed=seed)}
    assert len(seeds) == 100


def test_a_step_belongs_to_the_phase_that_starts_with_it() -> None:
    phases = plan_phases(10, BERT, max_length=64, seed=1)
    assert [phase_at(phases, step).number for step in (0, 8, 9, 10)] == [0, 0, 1, 1]


def test_a_phase_too_small_for_one_step_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.phases\.1 has a share of 0\.1"):
        plan_phases(4, BERT, max_length=64, seed=1)
