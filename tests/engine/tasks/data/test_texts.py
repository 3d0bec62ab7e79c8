"""Texts and pairs of files: every layout, every kind of table, and what is refused."""

import csv
import gzip
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from advice import follow
from unmask.tasks.data.clue import CLUE, TNEWS_CODES
from unmask.tasks.data.glue import GLUE
from unmask.tasks.data.layouts import TextLayout, layout_of_columns
from unmask.tasks.data.texts import find_labels, read_texts, require_pairs
from unmask.tasks.examples import Labels, TextExample

FILES = Path(__file__).parents[1] / "files"
LAYOUTS = GLUE | CLUE
ROWS = [
    {"sentence": "a fine day", "other": 'he said "no"', "label": "good", "grade": 4.5},
    {"sentence": "rain, again", "other": "yes", "label": "bad", "grade": 1.0},
    {"sentence": "so so", "other": "", "label": "bad", "grade": 2.25},
]


def examples(name: str, file: str, **given: Any) -> list[TextExample]:
    layout = LAYOUTS[name]
    path = FILES / file
    return read_texts(path, layout, None if layout.kind == "number" else find_labels(path, layout), **given)


@pytest.mark.parametrize(
    ("name", "file", "count", "counts"),
    [
        ("cola", "cola/train.tsv", 10, {0: 5, 1: 5}),
        ("mnli", "mnli/train.tsv", 12, {0: 4, 1: 4, 2: 4}),
        # the annotators do not agree about one pair
        ("mnli", "mnli/dev_matched.tsv", 11, {0: 4, 1: 3, 2: 4}),
        ("rte", "rte/train.tsv", 12, {0: 4, 1: 8}),
        # a row that is cut is left out
        ("qqp", "qqp/train.tsv", 11, {0: 5, 1: 6}),
        ("qnli", "qnli/dev.tsv", 10, {0: 5, 1: 5}),
        ("wnli", "wnli/dev.tsv", 10, {0: 4, 1: 6}),
        ("tnews", "tnews/train.json", 11, dict.fromkeys((10, 3, 7, 8, 4, 14, 2, 13, 6, 1, 5), 1)),
        ("lcqmc", "lcqmc/dev.tsv", 10, {0: 5, 1: 5}),
        ("lcqmc", "lcqmc/dev_bare.tsv", 10, {0: 5, 1: 5}),
        ("lcqmc", "lcqmc/dev.json", 10, {0: 5, 1: 5}),
        ("bq", "bq/dev.tsv", 10, {0: 5, 1: 5}),
        ("bq", "bq/dev.json", 10, {0: 5, 1: 5}),
        ("ocnli", "ocnli/train.json", 11, {0: 4, 1: 4, 2: 3}),
        ("xnli", "xnli/multinli.train.zh.tsv", 11, {0: 4, 1: 4, 2: 3}),
        # of two languages the Chinese rows are read
        ("xnli", "xnli/xnli.dev.tsv", 11, {0: 4, 1: 4, 2: 3}),
        ("xnli", "xnli/xnli.test.jsonl", 11, {0: 4, 1: 4, 2: 3}),
        ("thucnews", "thucnews/cnews.train.txt", 10, dict.fromkeys(range(10), 1)),
        ("thucnews", "thucnews/test.tsv", 10, dict.fromkeys(range(10), 1)),
        ("chnsenticorp", "chnsenticorp/dev.tsv", 10, {0: 5, 1: 5}),
    ],
)
def test_an_official_file_gives_its_examples(name: str, file: str, count: int, counts: dict[int, int]) -> None:
    found = examples(name, file)
    assert len(found) == count
    labels = [one.label for one in found]
    assert {label: labels.count(label) for label in labels} == counts
    assert all((one.pair is not None) is LAYOUTS[name].pairs for one in found)
    assert all(one.text for one in found) and len({one.id for one in found}) == count


@pytest.mark.parametrize(
    ("name", "file", "count"),
    [
        ("cola", "cola/test.tsv", 10),
        ("mnli", "mnli/test_matched.tsv", 12),
        ("ax", "ax/diagnostic.tsv", 12),
        ("qqp", "qqp/test.tsv", 11),
        ("qnli", "qnli/test.tsv", 10),
        ("wnli", "wnli/test.tsv", 10),
        ("stsb", "stsb/test.tsv", 10),
        ("tnews", "tnews/test.json", 11),
        ("ocnli", "ocnli/test.json", 11),
    ],
)
def test_a_file_without_labels_is_read_where_none_is_needed(name: str, file: str, count: int) -> None:
    found = examples(name, file, labelled=False)
    assert [one.label for one in found] == [None] * count
    assert [one.id for one in found] == [str(number) for number in range(count)]


def test_the_numbers_of_a_regression_are_read() -> None:
    assert [one.label for one in examples("stsb", "stsb/dev.tsv")] == [5.0, 1.2, 4.4, 0.0, 4.8, 0.6, 3.8, 1.8, 3.0, 2.5]


def test_codes_and_names_of_a_class_are_one_label(tmp_path: Path) -> None:
    """The JSON of TNEWS has codes, its TSV names."""
    path = tmp_path / "dev.tsv"
    path.write_text("".join(f"标题\t{name}\n" for name in TNEWS_CODES.values()))
    assert [one.label for one in read_texts(path, CLUE["tnews"], CLUE["tnews"].labels)] == list(range(15))
    assert examples("tnews", "tnews/train.json")[0].label == list(TNEWS_CODES).index("112")


def test_the_xml_of_pascal_gives_pairs_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "rte1.xml"
    path.write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE c SYSTEM "rte.dtd">\n<c>\n'
        '<pair id="8" value="FALSE" task="IR">\n\t<t>Oil &amp; gas</t>\n\t<h>Gas</h>\n</pair>\n'
        '<pair id="9" entailment="YES" task="IE"><t>A\nb</t><h>c</h></pair>\n</c>\n',
        "utf-8",
    )
    found = read_texts(path, GLUE["rte"], GLUE["rte"].labels)
    assert found == [
        TextExample("8", "Oil & gas", "Gas", 1, f"{path}, line 4"),
        TextExample("9", "A\nb", "c", 0, f"{path}, line 8"),
    ]


def write(folder: Path, kind: str) -> Path:
    """The same three rows in a file of each kind."""
    path = folder / f"rows.{kind}"
    if kind in ("csv", "tsv", "txt"):
        with path.open("w", encoding="utf-8", newline="") as stream:
            if kind == "csv":
                csv.writer(stream).writerows([list(ROWS[0]), *(row.values() for row in ROWS)])
            else:
                stream.writelines(
                    "\t".join(map(str, row)) + "\n" for row in [list(ROWS[0]), *(r.values() for r in ROWS)]
                )
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    elif kind == "json":
        path.write_text(json.dumps(ROWS, indent=1), "utf-8")
    elif kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "txt", "jsonl", "json", "parquet"])
def test_named_columns_give_the_same_examples_from_each_kind_of_file(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind)
    layout = layout_of_columns("sentence", pair="other", label="label")
    labels = find_labels(path, layout)
    assert labels.names == ("bad", "good")
    found = read_texts(path, layout, labels)
    assert [(one.id, one.text, one.pair, one.label) for one in found] == [
        ("0", "a fine day", 'he said "no"', 1),
        ("1", "rain, again", "yes", 0),
        ("2", "so so", "", 0),
    ]
    first = {"csv": "line 2", "tsv": "line 2", "txt": "line 2", "jsonl": "line 1", "json": "item 0", "parquet": "row 0"}
    assert found[0].where == f"{path}, {first[kind]}"
    grades = read_texts(path, layout_of_columns("sentence", label="grade", kind="number"), None)
    assert [one.label for one in grades] == [4.5, 1.0, 2.25]


def test_a_saved_data_set_has_the_names_of_its_classes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")

    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["unacceptable", "acceptable"])}
    )
    rows = {"sentence": ["It rained.", "Rained it the."], "label": [1, 0]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "labelled")
    assert [one.label for one in read_texts(tmp_path / "labelled", GLUE["cola"], GLUE["cola"].labels)] == [1, 0]
    # the hub's test sets have -1 for every label
    datasets.Dataset.from_dict(rows | {"label": [-1, -1]}, features=features).save_to_disk(tmp_path / "test")
    found = read_texts(tmp_path / "test", GLUE["cola"], GLUE["cola"].labels, labelled=False)
    assert [one.label for one in found] == [None, None]


def test_columns_of_a_file_without_a_header_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text("x\ta fine day\t1\nx\train\t0\n")
    layout = layout_of_columns("2", label="3")
    assert [(one.text, one.label) for one in read_texts(path, layout, find_labels(path, layout))] == [
        ("a fine day", 1),
        ("rain", 0),
    ]
    follow(
        lambda: layout_of_columns("2", label="label"),
        "data: columns must be all names or all numbers, got 2, label; number the columns of a file without a header, "
        "and name those of any other",
        lambda: layout_of_columns("2", label="3"),
        lambda: layout_of_columns("text", label="label"),
    )


def test_a_text_may_have_several_classes(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"text": "a", "label": "joy, fear"}, {"text": "b", "label": ["anger"]}, {"text": "c", "label": ""}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    layout = layout_of_columns("text", label="label", kind="several")
    labels = find_labels(path, layout)
    assert labels.names == ("anger", "fear", "joy")
    assert [one.label for one in read_texts(path, layout, labels)] == [(1, 2), (0,), ()]


def test_other_encodings_separators_and_compressed_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text;label\nprix élevé;1\n", "latin-1")
    layout = layout_of_columns("text", label="label")
    [one] = read_texts(path, layout, Labels(("0", "1")), encoding="latin-1", delimiter=";")
    assert (one.text, one.label) == ("prix élevé", 1)
    with (FILES / "lcqmc/dev.json").open("rb") as plain, gzip.open(tmp_path / "dev.json.gz", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    assert len(read_texts(tmp_path / "dev.json.gz", CLUE["lcqmc"], CLUE["lcqmc"].labels)) == 10


def test_ids_that_are_not_different_are_replaced_by_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text("id\ttext\n7\ta\n7\tb\n")
    layout = layout_of_columns("text", id="id")
    assert [one.id for one in read_texts(path, layout, None, labelled=False)] == ["0", "1"]


LABELS = Labels(("bad", "good"))
OWN = layout_of_columns("sentence", label="label")


def reads(path: Path, text: str, layout: TextLayout = OWN, labels: Labels | None = LABELS, **given: Any) -> Any:
    def read() -> list[TextExample]:
        path.write_text(text)
        return read_texts(path, layout, labels, **given)

    return read


def test_a_column_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "dev.tsv"
    good = "sentence\tlabel\na\tbad\n"
    follow(
        reads(path, "sentences\tlabel\na\tbad\n"),
        f"data: {path}, line 2 has no column 'sentence', its columns are sentences, label, the nearest is 'sentences'; "
        "name the right one, or number the columns from 1 if the first line is no header",
        reads(path, "sentences\tlabel\na\tbad\n", layout_of_columns("sentences", label="label")),
        reads(path, "a\tbad\n", layout_of_columns("1", label="2")),
        reads(path, good),
    )
    follow(
        reads(path, "sentence\tlabels\na\tbad\n"),
        "has no column 'label', its columns are sentence, labels, the nearest is 'labels'; name the right one",
        reads(path, "sentence\tlabels\na\tbad\n", layout_of_columns("sentence", label="labels")),
    )


def test_a_file_of_another_task_is_refused(tmp_path: Path) -> None:
    """A file of pairs for a task on single texts."""
    mrpc = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t2\t3\ta\tb\n"
    path = tmp_path / "dev.tsv"
    follow(
        reads(path, mrpc, GLUE["sst2"], GLUE["sst2"].labels),
        f"data: {path}, line 2 has no column 'sentence' of the files of sst2, its columns are Quality, #1 ID, #2 ID, "
        "#1 String, #2 String; give a file of sst2, or name the columns of yours and a task instead of a benchmark",
        reads(path, "sentence\tlabel\na\t1\n", GLUE["sst2"], GLUE["sst2"].labels),
        reads(path, mrpc, layout_of_columns("#1 String", label="Quality"), Labels(("0", "1"))),
    )


def test_a_label_that_training_never_saw_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "dev.tsv"
    follow(
        reads(path, "sentence\tlabel\na\tbad\nb\tgod\n"),
        f"data: {path}, line 3 has the label 'god', which training never saw; the nearest is 'good'; write one of "
        "'bad', 'good' there, or leave the line out",
        reads(path, "sentence\tlabel\na\tbad\nb\tgood\n"),
        reads(path, "sentence\tlabel\na\tbad\n"),
    )


def test_a_line_without_a_label_is_refused_where_one_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "dev.tsv"
    follow(
        reads(path, "sentence\tlabel\na\tbad\nb\t\n"),
        f"data: {path}, line 3 has no label; add it, or leave the line out",
        reads(path, "sentence\tlabel\na\tbad\nb\tgood\n"),
        reads(path, "sentence\tlabel\na\tbad\n"),
        reads(path, "sentence\tlabel\na\tbad\nb\t\n", labelled=False),
    )
    several = layout_of_columns("sentence", label="label", kind="several")
    path.write_text("sentence\tlabel\na\t\n")
    follow(
        lambda: find_labels(path, several),
        f"data: {path} has no label in any line; train on a file with labels",
        lambda: [path.write_text("sentence\tlabel\na\tbad\n"), find_labels(path, several)],
    )


def test_a_label_of_a_regression_must_be_a_number(tmp_path: Path) -> None:
    path = tmp_path / "dev.tsv"
    layout = layout_of_columns("sentence", label="label", kind="number")
    for wrong in ("high", "nan", "inf"):
        follow(
            reads(path, f"sentence\tlabel\na\t{wrong}\n", layout, None),
            f"data: {path}, line 2: the label must be a number, got {wrong!r}; mend it, or leave the line out",
            reads(path, "sentence\tlabel\na\t4\n", layout, None),
        )


def test_rows_of_another_width_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "dev.tsv"
    follow(
        reads(path, 'sentence\tlabel\n"a\tb"\tbad\n'),
        f"data: {path}, line 2 must have as many columns as the first line, 2, it has 3; write no separator inside a "
        "text, or name a file with quoted texts .csv",
        reads(path, "sentence\tlabel\na b\tbad\n"),
        reads(tmp_path / "dev.csv", 'sentence\tlabel\n"a\tb"\tbad\n', delimiter="\t"),
    )


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dev.jsonl"
    follow(
        reads(path, '{"sentence": 3, "label": "bad"}\n'),
        f"data: {path}, line 1: column 'sentence' must hold text, it holds int; name the column of a text",
        reads(path, '{"sentence": "3", "label": "bad"}\n'),
    )
    follow(
        reads(path, '{"sentence": "a", "label": "bad"}\n{"text": "b", "label": "bad"}\n'),
        f"data: {path}, line 2 has no field 'sentence', which the lines before it have; add it, or leave the line out",
        reads(path, '{"sentence": "a", "label": "bad"}\n{"sentence": "b", "label": "bad"}\n'),
        reads(path, '{"sentence": "a", "label": "bad"}\n'),
    )
    follow(
        reads(path.with_name("dev.json"), "[3]"),
        "item 0 must be a JSON object, got a number; make an array of objects of it",
        reads(path.with_name("dev.json"), '[{"sentence": "a", "label": "bad"}]'),
    )


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "dev.tsv"
    path.write_text("sentence\tlabel\na\tbad\n")
    follow(
        lambda: read_texts(tmp_path / "dex.tsv", OWN, LABELS),
        f"data: {tmp_path / 'dex.tsv'} does not exist, {path} does; give the path of a file",
        lambda: read_texts(path, OWN, LABELS),
    )
    follow(
        reads(path, "sentence\tlabel\n"),
        f"data: {path} has no example; give a file with at least one",
        reads(path, "sentence\tlabel\na\tbad\n"),
    )


def test_a_damaged_parquet_file_and_damaged_xml_are_refused(tmp_path: Path) -> None:
    whole = write(tmp_path, "parquet")
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(whole.read_bytes()[:-40])
    follow(
        lambda: read_texts(damaged, OWN, LABELS),
        "damaged.parquet cannot be read as parquet (",
        lambda: [shutil.copy(whole, damaged), read_texts(damaged, OWN, LABELS)],
    )
    damaged.write_bytes(b"PAR1")
    with pytest.raises(Exception, match=r"cannot be read as parquet .*; copy it again"):
        read_texts(damaged, OWN, LABELS)
    path = tmp_path / "rte.xml"
    rte = GLUE["rte"]
    good = '<c><pair id="1" value="TRUE"><t>a</t><h>b</h></pair></c>'
    follow(
        reads(path, good.replace("</t>", ""), rte, rte.labels),
        f"data: {path} is not well-formed XML (mismatched tag: line 1, column 43); mend that line",
        reads(path, good, rte, rte.labels),
    )
    follow(
        reads(path, good.replace("<h>b</h>", ""), rte, rte.labels),
        f"data: {path}, line 1: the pair must have a text <t> and a hypothesis <h>; add what is missing",
        reads(path, good, rte, rte.labels),
    )


def test_pairs_and_single_texts_are_told_apart() -> None:
    single, pair = TextExample("0", "a", None, 0, "a.tsv, line 2"), TextExample("1", "a", "b", 0, "a.tsv, line 3")
    follow(
        lambda: require_pairs([pair, single], pairs=True),
        "data: a.tsv, line 2 must be a pair of texts, as in training, got a single text; name the column of the second "
        "text",
        lambda: require_pairs([pair], pairs=True),
    )
    follow(
        lambda: require_pairs([single, pair], pairs=False),
        "data: a.tsv, line 3 must be a single text, as in training, got a pair; name one column of text, or take a "
        "model that was trained on pairs",
        lambda: require_pairs([single], pairs=False),
        lambda: require_pairs([pair], pairs=True),
    )


def test_what_is_left_out_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        examples("qqp", "qqp/train.tsv")
        examples("ocnli", "ocnli/train.json")
    assert " with fewer than 6 columns are left out: 1, the first is " in caplog.text
    assert " without a label (-) are left out: 1" in caplog.text
