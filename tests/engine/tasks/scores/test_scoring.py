"""The scores of a task: values, intervals, and what has no gold label."""

import numpy as np
import pytest

from advice import follow
from unmask.tasks.examples import Answer, Labels, QuestionExample, TextExample, WordsExample
from unmask.tasks.scores.bootstrap import bootstrap
from unmask.tasks.scores.scoring import score_questions, score_texts, score_words

LABELS = Labels(("no", "yes"))


def texts(*labels: int | float | tuple[int, ...] | None) -> list[TextExample]:
    return [TextExample(str(n), "a", None, label, f"a.tsv, line {n + 2}") for n, label in enumerate(labels)]


def question(name: str, *answers: str) -> QuestionExample:
    return QuestionExample(name, "?", "c", tuple(Answer(one, -1, -1) for one in answers), not answers, f"q, {name}")


def test_an_interval_holds_the_score_and_repeats_itself() -> None:
    rng = np.random.default_rng(1)
    gold = rng.integers(0, 2, 200)
    predicted = np.where(rng.random(200) < 0.8, gold, 1 - gold)
    found = score_texts(texts(*gold.tolist()), predicted.tolist(), LABELS)
    low, high = found.intervals["accuracy"]
    accuracy = found.values["accuracy"]
    assert low < accuracy < high
    # the interval of the normal distribution is nearly the same
    half = 196 * (accuracy / 100 * (1 - accuracy / 100) / 200) ** 0.5
    assert (low, high) == (pytest.approx(accuracy - half, abs=1), pytest.approx(accuracy + half, abs=1))
    assert found.intervals == score_texts(texts(*gold.tolist()), predicted.tolist(), LABELS).intervals


def test_a_resample_draws_as_many_examples_as_there_are() -> None:
    seen = []

    def score(rows: np.ndarray) -> dict[str, float]:
        seen.append(rows)
        return {"mean": float(rows.mean())}

    ends = bootstrap(score, 50, resamples=20, level=0.5)
    assert {len(rows) for rows in seen} == {50} and len(seen) == 20
    assert min(map(min, seen)) >= 0 and max(map(max, seen)) < 50
    assert ends["mean"] == tuple(np.quantile([rows.mean() for rows in seen], [0.25, 0.75]))
    assert bootstrap(score, 50, resamples=0) == {}


def test_the_kind_of_label_decides_the_scores() -> None:
    assert set(score_texts(texts(0, 1), [0, 1], LABELS).values) == {
        *("accuracy", "f1", "macro_f1", "micro_f1", "matthews"),
    }
    assert set(score_texts(texts(1.0, 2.0), [1.0, 2.5], None).values) == {"pearson", "spearman", "correlation", "mse"}
    several = score_texts(texts((0, 1), ()), [(0,), ()], LABELS)
    assert several.values == {"accuracy": 50.0, "macro_f1": 50.0, "micro_f1": pytest.approx(200 / 3)}


def test_the_rules_decide_the_scores_of_answers() -> None:
    examples = [question("a", "石桥"), question("b", "老 桥")]
    predictions = {"a": "石桥。", "b": "桥"}
    assert score_questions(examples, predictions, rules="squad").values == {"exact": 0.0, "f1": pytest.approx(100 / 3)}
    found = score_questions(examples, predictions, rules="cmrc")
    assert found.values == {"exact": 50.0, "f1": pytest.approx((1 + 2 / 3) * 50), "average": pytest.approx(200 / 3)}
    v2 = score_questions(
        [*examples, question("c")], {"a": "石桥", "c": ""}, rules="squad2", null_odds={"a": 0.5, "c": 1.5}
    )
    assert v2.values == {
        "exact": 100.0,
        "f1": 100.0,
        "has_answer_exact": 100.0,
        "has_answer_f1": 100.0,
        "no_answer_exact": 100.0,
        "no_answer_f1": 100.0,
        "best_exact": 100.0,
        "best_exact_threshold": 0.5,
        "best_f1": 100.0,
        "best_f1_threshold": 0.5,
    }
    # a question without a prediction is left out
    assert v2.examples == 2


def test_the_lines_show_scores_intervals_and_types() -> None:
    examples = [WordsExample("0", ("Ada", "runs"), ("B-PER", "O"), "a, line 1")] * 3
    lines = score_words(examples, [("B-PER", "O")] * 3).lines().splitlines()
    assert lines[0].split() == ["f1", "100.00", "[100.00,", "100.00]"]
    assert lines[-2].split() == ["PER", "precision", "100.00", "recall", "100.00", "f1", "100.00", "3", "entities"]
    assert lines[-1] == "3 examples; in brackets: 95 % of the resamples"


def test_examples_without_gold_labels_are_refused() -> None:
    follow(
        lambda: score_texts(texts(0, None), [0, 1], LABELS),
        "score: examples without a gold label: 1 of 2, the first is a.tsv, line 3; give a file with labels",
        lambda: score_texts(texts(0, 1), [0, 1], LABELS),
    )
    follow(
        lambda: score_questions([], {}),
        "score: there must be at least one example with a prediction, got none",
        lambda: score_questions([question("a", "b")], {"a": "b"}),
    )
