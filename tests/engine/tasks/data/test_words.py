"""Words and tags of files: columns of any kind, every scheme, document marks, and what is refused."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advice import follow
from unmask.tasks.data.words import WordsLayout, find_tags, read_sentences, tag_indices
from unmask.tasks.examples import WordsExample
from unmask.tasks.tags import entities_of

FILES = Path(__file__).parents[1] / "files" / "words"


@pytest.mark.parametrize("name", ["bio.txt", "bioes.tsv", "iob1.txt", "bmes.ner"])
def test_every_scheme_and_separator_gives_the_same_sentences(name: str, caplog: pytest.LogCaptureFixture) -> None:
    found = read_sentences(FILES / name)
    assert [(one.words, one.tags) for one in found] == [
        (one.words, one.tags) for one in read_sentences(FILES / "bio.txt")
    ]
    assert len(found) == 10
    assert found[0].words == ("Ada", "Holm", "lives", "in", "Lund")
    assert found[0].tags == ("B-PER", "I-PER", "O", "O", "B-LOC")
    # a word may be a number sign, another space or an emoji
    assert (found[3].words[0], found[7].words[0], found[9].words[0]) == ("#", "\u3000", "🙂")
    assert not caplog.records


def test_a_sentence_names_its_first_line() -> None:
    found = read_sentences(FILES / "bio.txt")
    # two lines open the first document
    assert [one.where for one in found[:2]] == [f"{FILES / 'bio.txt'}, line 3", f"{FILES / 'bio.txt'}, line 9"]
    assert [one.id for one in found] == [str(number) for number in range(10)]


def test_labels_are_outside_and_both_tags_of_each_type() -> None:
    examples = read_sentences(FILES / "bio.txt")
    labels = find_tags(examples)
    assert labels.names == (
        *("O", "B-LOC", "I-LOC", "B-MISC", "I-MISC"),
        *("B-ORG", "I-ORG", "B-PER", "I-PER"),
    )
    assert tag_indices(examples[0], labels) == [7, 8, 0, 0, 1]
    assert find_tags(read_sentences(FILES / "bmes.ner", scheme="BMES"), "BMES").names[:5] == (
        *("O", "B-LOC", "M-LOC", "E-LOC", "S-LOC"),
    )


def test_tags_stay_as_they_are_where_no_scheme_is_asked_for() -> None:
    assert read_sentences(FILES / "iob1.txt", scheme=None)[0].tags == ("I-PER", "I-PER", "O", "O", "I-LOC")


def test_columns_are_chosen_by_number_and_separator(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("1|B-X|Ada|NN\n2|O|runs|VB\n")
    [one] = read_sentences(path, WordsLayout(word=3, tag=2, separator="|"))
    assert (one.words, one.tags) == (("Ada", "runs"), ("B-X", "O"))
    assert read_sentences(path, WordsLayout(word="3", tag="-3", separator="|")) == [one]


def test_a_file_without_tags_is_read_where_none_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("Ada\nruns\n\nTom\n")
    assert [(one.words, one.tags) for one in read_sentences(path, tagged=False)] == [
        (("Ada", "runs"), None),
        (("Tom",), None),
    ]


def test_lists_of_words_in_a_table_are_sentences(tmp_path: Path) -> None:
    path = tmp_path / "words.jsonl"
    rows = [{"tokens": ["Ada", "runs"], "ner_tags": ["B-PER", "O"]}, {"tokens": ["Tom"], "ner_tags": ["B-PER"]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [(one.words, one.tags) for one in read_sentences(path)] == [
        (("Ada", "runs"), ("B-PER", "O")),
        (("Tom",), ("B-PER",)),
    ]
    assert [one.tags for one in read_sentences(path, WordsLayout(tag="none"), tagged=False)] == [None, None]


def test_a_saved_data_set_has_the_names_of_its_tags(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")

    tag = datasets.ClassLabel(names=["O", "B-PER", "I-PER"])
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "ner_tags": datasets.List(tag)})
    rows = {"tokens": [["Ada", "Holm", "runs"]], "ner_tags": [[1, 2, 0]]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    assert read_sentences(tmp_path / "saved")[0].tags == ("B-PER", "I-PER", "O")


def test_a_broken_sequence_is_named_with_its_line_and_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "words.txt"
    path.write_text("a O\nb B-X\n\nc O\nd I-X\n")
    with caplog.at_level(logging.WARNING):
        found = read_sentences(path)
    assert (
        f"sentences that break the scheme BIO: 1 of 2, the first is {path}, line 5 with I-X; an entity begins wherever "
        "one can, as in conlleval" in caplog.text
    )
    assert found[1].tags == ("O", "B-X")
    assert [(one.start, one.end) for one in entities_of(found[1].tags or ())] == [(1, 2)]


def reads(path: Path, text: str, layout: WordsLayout | None = None, **given: Any) -> Callable[[], list[WordsExample]]:
    def read() -> list[WordsExample]:
        path.write_text(text)
        return read_sentences(path, layout, **given)

    return read


def test_a_tag_that_training_never_saw_is_refused_with_its_line(tmp_path: Path) -> None:
    labels = find_tags(read_sentences(FILES / "bio.txt"))
    path = tmp_path / "dev.txt"
    follow(
        lambda: tag_indices(reads(path, "Ada O\n\nTom O\nLee B-PERS\n")()[1], labels),
        f"data: {path}, line 4 has the label 'B-PERS', which training never saw; the nearest is 'B-PER'; write one of "
        "'O', ",
        lambda: tag_indices(reads(path, "Ada O\n\nTom O\nLee B-PER\n")()[1], labels),
        lambda: tag_indices(reads(path, "Ada O\n\nTom O\n")()[1], labels),
    )


def test_a_line_without_its_word_or_tag_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dev.txt"
    follow(
        reads(path, "Ada B-X\nTom\n"),
        f"data: {path}, line 2 must have a tag for its word 'Tom'; add it, or give the number of the column of tags, "
        "or the separator of the columns",
        reads(path, "Ada B-X\nTom O\n"),
        reads(path, "B-X Ada\nO Tom\n", WordsLayout(word=2, tag=1)),
        reads(path, "Ada,B-X\nTom,O\n", WordsLayout(separator=",")),
    )
    follow(
        reads(path, "Ada B-X\n", WordsLayout(word=3)),
        f"data: {path}, line 1 has 2 columns, and the word is in column 3; give the number of its column, or the "
        "separator of the columns",
        reads(path, "Ada B-X\n", WordsLayout(word=1)),
        reads(path, "1,B-X,Ada\n", WordsLayout(word=3, tag=2, separator=",")),
    )
    follow(
        reads(path, "Ada B-X\n", WordsLayout(word="word")),
        "data: the column of each word must be a number from 1 in a file of CoNLL columns, or from -1 for the last, "
        "got 'word'; give the number",
        reads(path, "Ada B-X\n", WordsLayout(word="1")),
    )


def test_an_empty_file_and_lists_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "dev.txt"
    follow(
        reads(path, "\n\n-DOCSTART- O\n"),
        f"data: {path} holds no sentence; give a file with a word a line",
        reads(path, "Ada O\n"),
    )
    table = tmp_path / "dev.jsonl"
    row = {"tokens": ["Ada", "runs"], "tags": ["B-X", "O"]}
    follow(
        reads(table, json.dumps(row)),
        f"data: {table}, line 1 must have a list of 2 tags in column 'ner_tags', one for each word; name the right "
        "column, or mend the list",
        reads(table, json.dumps(row), WordsLayout(tag="tags")),
        reads(table, json.dumps(row | {"ner_tags": ["O", "O"]})),
    )
    follow(
        reads(table, json.dumps({"words": ["Ada"], "ner_tags": ["O"]})),
        f"data: {table}, line 1 must have a list of words in column 'tokens', its columns are words, ner_tags; name "
        "the right column",
        reads(table, json.dumps({"words": ["Ada"], "ner_tags": ["O"]}), WordsLayout(word="words")),
    )
