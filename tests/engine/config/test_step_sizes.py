"""The micro-batches of each step: how they grow, and their sum as a formula."""

import pytest

from unmask.config import load_config
from unmask.config.step_sizes import StepSizes


@pytest.mark.parametrize(
    "sizes",
    [StepSizes(3, 3, 0), StepSizes(1, 8, 70), StepSizes(2, 6, 5), StepSizes(1, 9, 3), StepSizes(4, 4, 10)],
    ids=str,
)
def test_the_sum_before_a_step_is_that_of_a_loop(sizes: StepSizes) -> None:
    before = 0
    for step in range(sizes.growth + 20):
        assert sizes.before(step) == before
        # ranks that share the first step evenly share this one
        assert sizes.at(step) % sizes.first == 0
        before += sizes.at(step)


def test_the_number_grows_in_equal_parts_of_the_steps_from_the_first_to_the_last() -> None:
    sizes = StepSizes(2, 8, 9)
    assert [sizes.at(step) for step in range(11)] == [2, 2, 2, 4, 4, 4, 6, 6, 6, 8, 8]
    assert [StepSizes(5, 5, 0).at(step) for step in (0, 7)] == [5, 5]


@pytest.mark.parametrize("sizes", [StepSizes(1, 8, 70), StepSizes(2, 6, 5), StepSizes(1, 4, 1)], ids=str)
def test_the_steps_for_so_many_micro_batches_are_the_fewest_that_have_them(sizes: StepSizes) -> None:
    for needed in (0.5, 1, 2, 3.5, 7, 11, 40, 41.5, 100, 301, 1000):
        steps = sizes.steps_for(needed)
        assert sizes.before(steps) >= needed
        assert steps == 1 or sizes.before(steps - 1) < needed


def test_a_run_has_the_sizes_of_its_settings() -> None:
    run = load_config("tiny", {"train.tokens_per_step": 8192, "stream.micro_batch_tokens": 2048})
    assert StepSizes.of(run.train, run.stream) == StepSizes(4, 4, 0)
    grown = load_config(
        "tiny",
        {
            "train.tokens_per_step": 8192,
            "stream.micro_batch_tokens": 2048,
            "train.first_tokens_per_step": 4096,
            "train.growth_steps": 30,
        },
    )
    assert StepSizes.of(grown.train, grown.stream) == StepSizes(2, 4, 30)
