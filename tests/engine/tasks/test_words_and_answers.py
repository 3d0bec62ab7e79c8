"""Runs on words and on questions: they learn, predict every word and an answer, and agree with `transformers`."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import unmask

THINGS = {"cat": "ANI", "river": "PLC", "old mill": "PLC"}


def tagged_sentences() -> list[list[tuple[str, str]]]:
    found = []
    for thing, verb, place in itertools.product(THINGS, ("sat", "runs", "turns"), ("wall", "warm wall", "mill")):
        words = [("the", "O")]
        words += [(word, f"{'I' if n else 'B'}-{THINGS[thing]}") for n, word in enumerate(thing.split())]
        found.append([*words, (verb, "O"), ("past", "O"), ("a", "O"), *((word, "O") for word in place.split())])
    return found


def write_conll(path: Path, sentences: list[list[tuple[str, str]]], *, tags: bool = True) -> Path:
    lines = ["\n".join(f"{word} {tag}" if tags else word for word, tag in one) for one in sentences]
    path.write_text("-DOCSTART- O\n\n" + "\n\n".join(lines) + "\n")
    return path


def write_questions(path: Path, *, answers: bool = True) -> Path:
    paragraphs = []
    for number, (thing, verb) in enumerate(itertools.product(("cat", "river", "mill"), ("sat", "runs", "turns"))):
        context = f"the warm wall and the {thing} {verb} past the old wall"
        given = [{"text": thing, "answer_start": context.index(thing)}] if answers else []
        qas = [{"id": f"q{number}", "question": f"what {verb}", **({"answers": given} if answers else {})}]
        paragraphs.append({"context": context, "qas": qas})
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "walls", "paragraphs": paragraphs}]}))
    return path


@pytest.fixture
def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings without columns."""
    return {name: value for name, value in settings.items() if name != "data.text"}


def test_entities_are_learnt_and_every_word_has_one_tag(plain: dict[str, Any], tmp_path: Path) -> None:
    sentences = tagged_sentences()
    train = write_conll(tmp_path / "train.txt", sentences)
    blind = write_conll(tmp_path / "blind.txt", [sentences[0] * 6, *sentences[:20]], tags=False)
    changes = {"data.train": str(train), "data.dev": str(train), "train.epochs": 6, "input.max_length": 20}
    run = unmask.finetune(unmask.load_finetune_config("entities", plain | changes))
    scores = json.loads((run / "scores.json").read_text())
    assert scores["labels"] == ["O", "B-ANI", "I-ANI", "B-PLC", "I-PLC"]
    assert scores["metric"] == "f1" and scores["dev"]["f1"] > 90
    found = unmask.predict(run, blind)
    assert found.scores is None
    first = found.predictions[0]
    # a sentence of 36 words in windows of 18
    assert len(first["tags"]) == len(first["words"]) == 36 and set(first["tags"]) <= set(scores["labels"])
    assert found.predictions[1]["entities"][0]["words"] == ["cat"]
    transformers = pytest.importorskip("transformers")
    unmask.export(run, tmp_path / "ner")
    pipe = transformers.pipeline("ner", model=str(tmp_path / "ner"), ignore_labels=[])
    for one in found.predictions[1:]:
        tokens = {row["start"]: row for row in pipe(" ".join(one["words"]))}
        starts = itertools.accumulate((len(word) + 1 for word in one["words"]), initial=0)
        for start, tag, share in zip(starts, one["tags"], one["probabilities"], strict=False):
            assert tokens[start]["entity"] == tag
            assert tokens[start]["score"] == pytest.approx(share, abs=1e-5)


def test_answers_are_learnt_and_are_those_of_transformers(plain: dict[str, Any], tmp_path: Path) -> None:
    train = write_questions(tmp_path / "train.json")
    changes = {
        "data.train": str(train),
        "data.dev": str(train),
        "train.epochs": 30,
        "train.evaluate_every": 20,
        "train.batch_size": 4,
        "input.max_length": 24,
        "input.max_question": 4,
        "optimizer.learning_rate": 5e-3,
    }
    run = unmask.finetune(unmask.load_finetune_config("qa", plain | changes))
    scores = json.loads((run / "scores.json").read_text())
    assert scores["metric"] == "f1" and scores["dev"]["f1"] > 80
    blind = unmask.predict(run, write_questions(tmp_path / "blind.json", answers=False))
    assert blind.scores is None
    assert [one["id"] for one in blind.predictions] == [f"q{number}" for number in range(9)]
    assert all(one["answer"] == one["candidates"][0]["text"] for one in blind.predictions)
    transformers = pytest.importorskip("transformers")
    unmask.export(run, tmp_path / "qa")
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "qa")
    assert type(model).__name__ == "BertForQuestionAnswering"
    # transformers 5 has no pipeline for questions: its model and its tokenizer, and the best pair of start and end
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "qa")
    articles = json.loads((tmp_path / "blind.json").read_text())["data"]
    for one, paragraph in zip(blind.predictions, articles[0]["paragraphs"], strict=True):
        context = paragraph["context"]
        inputs = tokenizer(paragraph["qas"][0]["question"], context, return_tensors="pt", return_offsets_mapping=True)
        places = inputs.pop("offset_mapping")[0].tolist()
        inside = [place for place, part in enumerate(inputs.sequence_ids(0)) if part == 1]
        with torch.no_grad():
            found = model(**inputs)
        start, end = (logits[0, inside].double() for logits in (found.start_logits, found.end_logits))
        pairs = [(start[a] + end[b], a, b) for a in range(len(inside)) for b in range(a, len(inside))]
        score, first, last = max(pairs)
        assert one["answer"] == context[places[inside[first]][0] : places[inside[last]][1]]
        assert one["candidates"][0]["score"] == pytest.approx(float(score), abs=1e-4)
