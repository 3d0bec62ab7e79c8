"""The maps of the paper between the layers of student and teacher, and what to do where there is none."""

from __future__ import annotations

import pytest

from advice import follow, refusal
from unmask.distillation.layer_map import layer_map


@pytest.mark.parametrize(
    ("kind", "student", "found"),
    [
        ("uniform", 4, [3, 6, 9, 12]),
        ("uniform", 6, [2, 4, 6, 8, 10, 12]),
        ("uniform", 12, [*range(1, 13)]),
        ("top", 4, [9, 10, 11, 12]),
        ("bottom", 4, [1, 2, 3, 4]),
        ("top", 5, [8, 9, 10, 11, 12]),
    ],
)
def test_the_maps_are_those_of_the_paper(kind: str, student: int, found: list[int]) -> None:
    assert layer_map(kind, teacher=12, student=student) == dict(enumerate(found, start=1))


def test_the_last_layer_may_learn_alone_and_layers_may_be_given() -> None:
    assert layer_map("last", teacher=12, student=5) == {5: 12}
    assert layer_map("uniform", teacher=12, student=3, layers=[1, 1, 12]) == {1: 1, 2: 1, 3: 12}


def test_depths_that_do_not_divide_are_told_the_maps_and_depths_that_exist() -> None:
    follow(
        lambda: layer_map("uniform", teacher=12, student=5),
        "distillation.map is 'uniform' but the student's 5 layers do not divide the teacher's 12; give "
        "--distillation.map top, bottom or last, give 5 numbers from 1 to 12 as --distillation.layers, or take a "
        "student of 1 or 2 or 3 or 4 or 6 or 12 layers",
        *(lambda kind=kind: layer_map(kind, teacher=12, student=5) for kind in ("top", "bottom", "last")),  # type: ignore[misc]
        lambda: layer_map("uniform", teacher=12, student=5, layers=[2, 4, 6, 8, 12]),
        *(lambda count=count: layer_map("uniform", teacher=12, student=count) for count in (1, 2, 3, 4, 6, 12)),  # type: ignore[misc]
    )
    follow(
        lambda: layer_map("top", teacher=4, student=6),
        "the student's 6 layers are more than the teacher's 4; give --distillation.map last, give 6 numbers from 1 to",
        lambda: layer_map("last", teacher=4, student=6),
        lambda: layer_map("top", teacher=4, student=6, layers=[1, 1, 2, 3, 3, 4]),
    )


def test_layers_that_are_not_there_are_refused() -> None:
    assert "from 1 to 12, got 13; give 3 numbers from 1 to 12" in refusal(
        lambda: layer_map("uniform", teacher=12, student=3, layers=[1, 2, 13])
    )
    assert "for each of the student's 3 layers, got 2; give 3 numbers from 1 to 12" in refusal(
        lambda: layer_map("uniform", teacher=12, student=3, layers=[1, 2])
    )
