"""The names of labels: their order, their numbers, and a name that training never saw."""

import re

import pytest

from advice import follow
from unmask.tasks.examples import Labels


def test_labels_that_are_numbers_stand_in_the_order_of_numbers() -> None:
    assert Labels.found_in(["10", "9", "-1", "9"]).names == ("-1", "9", "10")


def test_other_labels_stand_in_the_order_of_their_letters() -> None:
    labels = Labels.found_in(["neutral", "10", "9", "entailment"])
    assert labels.names == ("10", "9", "entailment", "neutral")
    assert [labels.index(name, "a.tsv, line 2") for name in labels.names] == [0, 1, 2, 3]
    assert len(labels) == 4


def test_a_label_that_training_never_saw_is_named_with_its_line_and_the_nearest() -> None:
    labels = Labels(("entailment", "neutral", "contradiction"))
    follow(
        lambda: labels.index("contradictory", "dev.tsv, line 7"),
        "data: dev.tsv, line 7 has the label 'contradictory', which training never saw; the nearest is "
        "'contradiction'; write one of 'entailment', 'neutral', 'contradiction' there, or leave the line out",
        lambda: labels.index("contradiction", "dev.tsv, line 7"),
    )
    with pytest.raises(Exception, match=re.escape("which training never saw; write one of 'entailment'")):
        labels.index("x", "dev.tsv, line 8")


def test_a_message_shows_at_most_twenty_labels() -> None:
    labels = Labels(tuple(f"class {number}" for number in range(30)))
    with pytest.raises(Exception, match="'class 19' and 10 more there"):
        labels.index("?", "dev.tsv, line 2")


@pytest.mark.parametrize("names", [(), ("a", "a")])
def test_labels_need_different_names(names: tuple[str, ...]) -> None:
    follow(
        lambda: Labels(names),
        f"labels: names must be different names, at least one, got {list(names)}",
        lambda: Labels(tuple(dict.fromkeys(names)) or ("a",)),
    )
