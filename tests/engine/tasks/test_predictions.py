"""Predictions of files: every form that is scored, and what does not fit the gold file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advice import follow
from unmask.commands.score import score
from unmask.tasks.benchmarks import BENCHMARKS, benchmark_of
from unmask.tasks.data.questions import read_questions
from unmask.tasks.data.texts import read_texts
from unmask.tasks.data.words import read_sentences
from unmask.tasks.examples import Labels, TextExample
from unmask.tasks.qa.answers import Candidate, PredictedAnswer
from unmask.tasks.submissions import write_answers, write_entities, write_texts

FILES = Path(__file__).parent / "files"
TEXTS = {
    "cola": "cola/train.tsv",
    "mnli": "mnli/dev_matched.tsv",
    "rte": "rte/train.tsv",
    "qqp": "qqp/train.tsv",
    "qnli": "qnli/dev.tsv",
    "wnli": "wnli/dev.tsv",
    "tnews": "tnews/train.json",
    "lcqmc": "lcqmc/dev.json",
    "bq": "bq/dev.json",
    "ocnli": "ocnli/train.json",
    "xnli": "xnli/xnli.dev.tsv",
    "thucnews": "thucnews/cnews.train.txt",
    "chnsenticorp": "chnsenticorp/dev.tsv",
}
QUESTIONS = {
    "squad2": "squad2/dev-v2.0.json",
    "xquad": "xquad/xquad.en.json",
    "drcd": "drcd/DRCD_dev.json",
    "cmrc2018": "cmrc2018/first_form.json",
    "cjrc": "cjrc/dev.json",
}


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """JSON lines, as `unmask predict` writes them."""
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records), "utf-8")


def gold_of(name: str) -> tuple[list[TextExample], Labels]:
    layout = BENCHMARKS[name].texts
    assert layout is not None and layout.labels is not None
    return read_texts(FILES / TEXTS[name], layout, layout.labels), layout.labels


@pytest.mark.parametrize("name", TEXTS)
def test_a_submission_and_json_lines_of_gold_labels_are_all_right(name: str, tmp_path: Path) -> None:
    examples, labels = gold_of(name)
    names = [labels.names[int(str(one.label))] for one in examples]
    submission, lines = tmp_path / BENCHMARKS[name].submission, tmp_path / "predictions.jsonl"
    write_texts(submission, BENCHMARKS[name], examples, names)
    write_lines(lines, [{"id": one.id, "label": name} for one, name in zip(examples, names, strict=True)])
    for path in (submission, lines):
        found = score(name, FILES / TEXTS[name], path, resamples=10)
        assert found.values["accuracy"] == found.values["macro_f1"] == 100.0
        assert found.examples == len(examples) and BENCHMARKS[name].metric in found.values


def test_one_wrong_prediction_costs_one_example(tmp_path: Path) -> None:
    examples, labels = gold_of("qnli")
    names = [labels.names[int(str(one.label))] for one in examples]
    names[3] = labels.names[1 - labels.names.index(names[3])]
    write_texts(tmp_path / "QNLI.tsv", BENCHMARKS["qnli"], examples, names)
    assert score("qnli", FILES / TEXTS["qnli"], tmp_path / "QNLI.tsv", resamples=0).values["accuracy"] == 90.0


def test_the_submissions_have_the_official_forms(tmp_path: Path) -> None:
    path = tmp_path / "file"
    glue, _ = gold_of("mnli")
    write_texts(path, BENCHMARKS["mnli"], glue[:2], ["neutral", "entailment"])
    assert path.read_text() == "index\tprediction\n0\tneutral\n1\tentailment\n"
    write_texts(path, BENCHMARKS["stsb"], glue[:1], [4.25])
    assert path.read_text() == "index\tprediction\n0\t4.250\n"
    write_texts(path, BENCHMARKS["tnews"], glue[:1], ["news_edu"])
    assert json.loads(path.read_text()) == {"id": 0, "label": "108", "label_desc": "news_edu"}
    write_texts(path, BENCHMARKS["ocnli"], glue[:1], ["neutral"])
    assert json.loads(path.read_text()) == {"id": 0, "label": "neutral"}
    sentences = read_sentences(FILES / "words/bio.txt")
    write_entities(path, sentences[1:3], [one.tags or () for one in sentences[1:3]])
    assert path.read_text().splitlines() == [
        *("Bergen B-LOC B-LOC", "Oslo B-LOC B-LOC", "tram O O", ""),
        *("North B-ORG B-ORG", "Sea I-ORG I-ORG", "Bank I-ORG I-ORG", "pays O O"),
    ]
    answers = [PredictedAnswer("q1", "石桥", (), -2.5), PredictedAnswer("q2", "", (), 1.5)]
    write_answers(path, answers, null_odds=True)
    assert json.loads(path.read_text()) == {"q1": "石桥", "q2": ""}
    assert json.loads((tmp_path / "null_odds.json").read_text()) == {"q1": -2.5, "q2": 1.5}


def test_numbers_are_scored(tmp_path: Path) -> None:
    layout = BENCHMARKS["stsb"].texts
    assert layout is not None
    examples = read_texts(FILES / "stsb/dev.tsv", layout, None)
    gold = [float(str(one.label)) for one in examples]
    write_lines(tmp_path / "p.jsonl", [{"id": str(n), "value": value * 2} for n, value in enumerate(gold)])
    write_texts(tmp_path / "STS-B.tsv", BENCHMARKS["stsb"], examples, gold)
    assert score("stsb", FILES / "stsb/dev.tsv", tmp_path / "p.jsonl", resamples=0).values["pearson"] == pytest.approx(
        100
    )
    assert score("stsb", FILES / "stsb/dev.tsv", tmp_path / "STS-B.tsv", resamples=0).values["mse"] == 0.0


@pytest.mark.parametrize("name", ["bio.txt", "bioes.tsv", "iob1.txt", "bmes.ner"])
def test_tags_are_scored_from_columns_and_json_lines(name: str, tmp_path: Path) -> None:
    gold = FILES / "words" / name
    examples = read_sentences(gold)
    tags = [list(one.tags or ()) for one in examples]
    # one entity of twelve is cut short
    tags[0][1] = "O"
    write_entities(tmp_path / "p.txt", examples, tags)
    write_lines(tmp_path / "p.jsonl", [{"id": str(n), "tags": given} for n, given in enumerate(tags)])
    for path in (tmp_path / "p.txt", tmp_path / "p.jsonl"):
        found = score("entities", gold, path, resamples=10)
        assert found.values["f1"] == pytest.approx(100 * 10 / 11)
        assert found.types["LOC"]["f1"] == 100.0
        # of 34 words; the schemes of both files may differ
        assert found.values["accuracy"] == pytest.approx(100 * (1 - 1 / sum(len(one.words) for one in examples)))


@pytest.mark.parametrize("name", QUESTIONS)
def test_gold_answers_are_all_right_in_every_form(name: str, tmp_path: Path) -> None:
    gold = FILES / QUESTIONS[name]
    examples = read_questions(gold)
    answers = [
        PredictedAnswer(
            one.id, one.answers[0].text if one.answers else "", (Candidate("x", 1.0, 1.0),), float(one.impossible)
        )
        for one in examples
    ]
    write_answers(tmp_path / "predictions.json", answers, null_odds=True)
    write_lines(
        tmp_path / "p.jsonl", [{"id": one.id, "answer": one.text, "null_odds": one.null_odds} for one in answers]
    )
    write_answers(tmp_path / "list.json", answers, as_list=True)
    for file in ("predictions.json", "p.jsonl", "list.json"):
        found = score(name, gold, tmp_path / file, resamples=10)
        assert found.values["exact"] == found.values["f1"] == 100.0
    if name == "squad2":
        assert found.values["no_answer_f1"] == found.values["has_answer_f1"] == 100.0
        assert "best_f1" not in found.values
        for given in ({"null_odds": tmp_path / "null_odds.json"}, {}):
            file = "predictions.json" if given else "p.jsonl"
            assert score("qa", gold, tmp_path / file, resamples=0, **given).values["best_f1"] == 100.0


LABELLED = "id\tlabel\nx\tbad\ny\tgood\nz\tbad\n"


def scores(
    folder: Path, predictions: str, *, suffix: str = "tsv", task: str = "classification", **given: Any
) -> Callable[[], Any]:
    def run() -> Any:
        (folder / "gold.tsv").write_text(LABELLED)
        (folder / f"p.{suffix}").write_text(predictions)
        return score(task, folder / "gold.tsv", folder / f"p.{suffix}", resamples=0, **given)

    return run


def test_several_classes_a_text_are_scored(tmp_path: Path) -> None:
    (tmp_path / "gold.tsv").write_text("label\njoy, fear\nanger\n")
    write_lines(tmp_path / "p.jsonl", [{"id": 0, "labels": ["fear", "joy"]}, {"id": 1, "labels": []}])
    found = score("multi_label", tmp_path / "gold.tsv", tmp_path / "p.jsonl", resamples=0)
    assert found.values == {"accuracy": 50.0, "macro_f1": pytest.approx(200 / 3), "micro_f1": 80.0}


def test_predictions_are_found_by_id_or_by_order(tmp_path: Path) -> None:
    for predictions in ("index\tprediction\nz\tbad\ny\tgood\nx\tgood\n", "z\tbad\ny\tgood\nx\tgood\n"):
        assert scores(tmp_path, predictions, id="id")().values["accuracy"] == pytest.approx(200 / 3)
    assert scores(tmp_path, "bad\ngood\nbad\n")().values["accuracy"] == 100.0
    # a class that only predictions have is a class too
    assert scores(tmp_path, "bad\ngood\nworse\n")().values["accuracy"] == pytest.approx(200 / 3)


def test_a_prediction_that_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.tsv"
    follow(
        scores(tmp_path, "index\tprediction\nx\tbad\nz\tbad\n", id="id"),
        f"score: {path} has no prediction for 1 example of 3, the first is 'y'; give predictions for the whole "
        "gold file, or name its column of ids with --data.id",
        scores(tmp_path, "index\tprediction\nx\tbad\nz\tbad\ny\tgood\n", id="id"),
    )
    follow(
        scores(tmp_path, "bad\ngood\n"),
        f"score: {path} must have a prediction for each of 3 examples, got 2; give predictions for the whole gold file",
        scores(tmp_path, "bad\ngood\nbad\n"),
    )
    follow(
        scores(tmp_path, '{"id": "x", "class": "bad"}\n', suffix="jsonl", id="id"),
        "line 1 must have a prediction in one of the fields label, prediction, value, labels, label_desc, its fields "
        "are id, class; name it prediction",
        scores(
            tmp_path, "".join(f'{{"id": "{one}", "prediction": "bad"}}\n' for one in "xyz"), suffix="jsonl", id="id"
        ),
    )


def test_a_prediction_that_is_no_label_is_named(tmp_path: Path) -> None:
    gold = FILES / TEXTS["wnli"]
    path = tmp_path / "WNLI.tsv"

    def predict(label: str) -> Callable[[], Any]:
        def run() -> Any:
            path.write_text("index\tprediction\n" + "".join(f"{n}\t{label if n == 4 else 1}\n" for n in range(10)))
            return score("wnli", gold, path, resamples=0)

        return run

    follow(
        predict("2"),
        f"score: {path}, line 6 predicts '2', which is no label of the task; write one of '0', '1'",
        predict("1"),
    )
    numbers = tmp_path / "n.tsv"

    def predict_number(value: str) -> Callable[[], Any]:
        def run() -> Any:
            numbers.write_text("index\tprediction\n" + "".join(f"{n}\t{value}\n" for n in range(10)))
            return score("stsb", FILES / "stsb/dev.tsv", numbers, resamples=0)

        return run

    follow(
        predict_number("high"),
        f"score: {numbers}, line 2 must predict a number, got 'high'; predict that file again",
        predict_number("4.5"),
    )


def test_tags_of_another_file_are_refused(tmp_path: Path) -> None:
    gold = FILES / "words/bio.txt"
    examples = read_sentences(gold)
    path = tmp_path / "p.jsonl"

    def predict(first: list[str]) -> Callable[[], Any]:
        def run() -> Any:
            tags = [first, *(list(one.tags or ()) for one in examples[1:])]
            path.write_text("".join(json.dumps({"tags": one}) + "\n" for one in tags))
            return score("conll2003", gold, path, resamples=0)

        return run

    follow(
        predict(["O"]),
        f"score: {path}, line 1 must have 5 tags, one for each word of {gold}, line 3, got 1; predict that file again",
        predict(["O"] * 5),
    )


def test_answers_of_another_form_or_file_are_refused(tmp_path: Path) -> None:
    gold = FILES / QUESTIONS["xquad"]
    path = tmp_path / "p.json"

    def predict(value: Any) -> Callable[[], Any]:
        def run() -> Any:
            path.write_text(json.dumps(value))
            return score("xquad", gold, path, resamples=0)

        return run

    for wrong in (3, {"x1": 3}, [{"id": "x1"}]):
        follow(
            predict(wrong),
            f"score: {path} must map the id of each question to its answer, or hold objects with 'id' and 'answer'; "
            "write it so, as unmask predict does",
            predict({"x1": "1880"}),
            predict([{"id": "x1", "answer": "1880"}]),
        )
    follow(
        predict({"other": "1880"}),
        f"score: {path} answers none of 10 questions, the first is {gold}, question x1; give the predictions for this "
        "gold file",
        predict({"x1": "1880"}),
    )
    odds = tmp_path / "null_odds.json"
    odds.write_text('["x1"]')
    follow(
        lambda: [predict({"x1": "1880"})(), score("xquad", gold, path, null_odds=odds)],
        f"score: {odds} must map the id of each question to a number; give the null_odds.json of unmask predict, or "
        "the na_prob.json of another program",
        lambda: [odds.write_text('{"x1": 0.5}'), score("xquad", gold, path, null_odds=odds, resamples=0)],
    )


def test_an_unknown_task_is_named_with_the_nearest() -> None:
    follow(
        lambda: benchmark_of("SST-2"),
        "task: 'SST-2' is neither a task nor a benchmark; write sst2",
        lambda: benchmark_of("sst2"),
    )
    follow(
        lambda: benchmark_of("?"),
        "task: '?' is neither a task nor a benchmark; write one of classification, multi_label, regression, entities, "
        "qa, cola, ",
        lambda: benchmark_of("qa"),
        lambda: benchmark_of("cola"),
    )
