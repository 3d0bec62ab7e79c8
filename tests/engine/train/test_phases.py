import pytest

from unmask.config import Phase
from unmask.errors import ConfigError
from unmask.train.phases import plan_segments, segment_of

BERT = [Phase(share=0.9, max_length=128), Phase(share=0.1, max_length=512)]


def test_a_run_without_phases_is_one_segment_with_the_seed_of_the_run() -> None:
    (only,) = plan_segments(10, [], max_length=128, seed=7)
    assert (only.first, only.end, only.max_length, only.seed) == (0, 10, 128, 7)


@pytest.mark.parametrize("steps", [10, 11, 101, 9999])
def test_phases_cover_every_step_once_and_differ_in_seed(steps: int) -> None:
    segments = plan_segments(steps, BERT, max_length=64, seed=1)
    covered = [step for segment in segments for step in range(segment.first, segment.end)]
    assert covered == list(range(steps))
    assert [segment.max_length for segment in segments] == [128, 512]
    assert len({segment.seed for segment in segments}) == 2


def test_later_phases_have_seeds_that_no_run_of_a_neighbouring_seed_has() -> None:
    seeds = {segment.seed for seed in range(50) for segment in plan_segments(10, BERT, max_length=64, seed=seed)}
    assert len(seeds) == 100


def test_a_step_belongs_to_the_segment_that_starts_with_it() -> None:
    segments = plan_segments(10, BERT, max_length=64, seed=1)
    assert [segment_of(segments, step).number for step in (0, 8, 9, 10)] == [0, 0, 1, 1]


def test_a_phase_too_small_for_one_step_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.phases\.1 has a share of 0\.1"):
        plan_segments(4, BERT, max_length=64, seed=1)
