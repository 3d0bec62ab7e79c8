"""Scores of entities: what conlleval prints for sentences that are whole, broken or overlap."""

import numpy as np
import pytest

from unmask.tasks.scores.entities import count_entities, score_entities, score_entity_types

# gold, predicted; then, from the definition of conlleval: gold phrases, found, correct, and the four numbers it prints
CASES = [
    ("B-PER I-PER O B-LOC", "B-PER I-PER O B-LOC", (2, 2, 2), "100.00 100.00 100.00 100.00"),
    # the last word is missing: another entity
    ("B-PER I-PER O", "B-PER O O", (1, 1, 0), "66.67 0.00 0.00 0.00"),
    # I after O begins an entity as B does, but the tag is another
    ("B-PER I-PER O", "I-PER I-PER O", (1, 1, 1), "66.67 100.00 100.00 100.00"),
    # another type begins another entity
    ("B-PER I-PER I-PER", "B-PER I-LOC I-PER", (1, 3, 0), "66.67 0.00 0.00 0.00"),
    # one entity read as two that overlap it
    ("B-LOC I-LOC I-LOC I-LOC", "B-LOC I-LOC B-LOC I-LOC", (1, 2, 0), "75.00 0.00 0.00 0.00"),
    ("B-LOC B-LOC", "B-LOC I-LOC", (2, 1, 0), "50.00 0.00 0.00 0.00"),
    # types with hyphens, and tags without a type
    ("B-A-B I-A-B O B", "B-A-B I-A-B O I", (2, 2, 2), "75.00 100.00 100.00 100.00"),
    ("O O", "O O", (0, 0, 0), "100.00 0.00 0.00 0.00"),
    ("O B-PER", "B-PER B-PER", (1, 2, 1), "50.00 50.00 100.00 66.67"),
]


@pytest.mark.parametrize(("gold", "predicted", "counts", "printed"), CASES)
def test_scores_are_what_conlleval_prints(
    gold: str, predicted: str, counts: tuple[int, int, int], printed: str
) -> None:
    one = count_entities(gold.split(), predicted.split())
    assert (one.gold.total(), one.predicted.total(), one.right.total()) == counts
    found = score_entities(one.totals)
    assert " ".join(f"{found[name]:.2f}" for name in ("accuracy", "precision", "recall", "f1")) == printed


def test_a_sentence_ends_every_entity() -> None:
    one, other = count_entities(["B-PER"], ["B-PER"]), count_entities(["I-PER"], ["I-PER"])
    assert one.right.total() + other.right.total() == 2


def test_the_scores_of_a_type_count_its_entities() -> None:
    counts = [
        count_entities(["B-PER", "O", "B-LOC"], ["B-PER", "B-PER", "B-LOC"]),
        count_entities(["B-MISC"], ["O"]),
    ]
    assert score_entity_types(counts) == {
        "LOC": {"precision": 100.0, "recall": 100.0, "f1": 100.0, "entities": 1.0},
        "MISC": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "entities": 1.0},
        "PER": {"precision": 50.0, "recall": 100.0, "f1": pytest.approx(200 / 3), "entities": 1.0},
    }
    whole = score_entities(np.sum([one.totals for one in counts], axis=0))
    assert whole == {
        "f1": pytest.approx(200 / 3),
        "precision": pytest.approx(200 / 3),
        "recall": pytest.approx(200 / 3),
        "accuracy": 50.0,
    }


def test_schemes_may_differ_between_gold_and_predicted() -> None:
    one = count_entities(["B-PER", "M-PER", "E-PER", "S-LOC"], ["B-PER", "I-PER", "I-PER", "B-LOC"])
    assert one.right == {"PER": 1, "LOC": 1}
