"""Tables as text: `.csv`, `.tsv`, several fields joined, columns by number, and CoNLL columns."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unmask.data.prepare.inputs import Corpus
from unmask.data.text.options import ReadOptions
from unmask.errors import CorpusError

NEWS = [
    ["title", "text", "topic"],
    ["Rates rise", 'The bank said: "no more".\nThen it was quiet.', "economy"],
    ["Cup won", "A late goal, and a long night.", "sport"],
    ["", "No title.", "sport"],
]


def _texts(*given: object, **options: Any) -> list[str]:
    return [document.text for document in Corpus([str(one) for one in given], ReadOptions(**options)).documents()]


def _origins(path: Path, **options: Any) -> list[str]:
    documents = Corpus([path], ReadOptions(**options)).documents()
    return [document.origin.removeprefix(f"{path}:") for document in documents]


def _csv(path: Path, rows: list[list[str]], **dialect: Any) -> Path:
    with path.open("w", encoding=dialect.pop("encoding", "utf-8"), newline="") as stream:
        csv.writer(stream, **dialect).writerows(rows)
    return path


@pytest.mark.parametrize("line_break", ["\r\n", "\n", "\r"])
def test_a_row_of_a_csv_is_a_document_with_quotes_and_line_breaks(tmp_path: Path, line_break: str) -> None:
    path = _csv(tmp_path / "news.csv", NEWS, lineterminator=line_break)
    assert _texts(path) == [row[1] for row in NEWS[1:]]
    assert _origins(path) == ["2", "4", "5"]


def test_several_fields_are_joined_by_a_blank_line_in_each_format(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    header, *rows = NEWS
    records = [dict(zip(header, row, strict=True)) for row in rows]
    # an empty title may be null
    nulls = [record | {"title": record["title"] or None} for record in records]
    lines = [json.dumps(record) + "\n" for record in nulls]
    _csv(tmp_path / "a.csv", NEWS)
    (tmp_path / "b.jsonl").write_text("".join(lines))
    (tmp_path / "c.ndjson").write_text("".join(lines))
    (tmp_path / "d.json").write_text(json.dumps(records, indent=2))
    pq.write_table(pa.Table.from_pylist(nulls), tmp_path / "e.parquet")
    for name in ("a.csv", "b.jsonl", "c.ndjson", "d.json", "e.parquet"):
        assert _texts(tmp_path / name, text_field="title, text") == [
            'Rates rise\n\nThe bank said: "no more".\nThen it was quiet.',
            "Cup won\n\nA late goal, and a long night.",
            "No title.",
        ]
        assert _texts(tmp_path / name, text_field="topic") == ["economy", "sport", "sport"]
        with pytest.raises(CorpusError, match=r"has no field 'titel', .*the nearest is 'title'"):
            _texts(tmp_path / name, text_field="titel,text")


def test_a_title_is_a_sentence_of_its_own_in_the_store(tmp_path: Path) -> None:
    from unmask.data.prepare import prepare

    path = _csv(tmp_path / "news.csv", NEWS[:1] + NEWS[2:3])
    store = prepare([path], tmp_path / "store", text_field="title,text", vocab_size=80, workers=1)
    rows = store.source_of * 0
    assert store.gather_sentence_starts(rows, rows, store.lengths).sum() == 2


def test_a_name_with_a_comma_stands_in_quotes(tmp_path: Path) -> None:
    path = _csv(tmp_path / "a.csv", [["a,b", "c"], ["one", "two"]])
    assert _texts(path, text_field='c,"a,b"') == ["two\n\none"]


@pytest.mark.parametrize("text_field", ["", "a,", "a,a", 'a,"b'])
def test_a_text_field_that_names_none_is_refused_with_an_example(text_field: str) -> None:
    with pytest.raises(CorpusError, match=r"text_field must name a field, or several .*; write for example title,text"):
        ReadOptions(text_field=text_field)


def test_a_table_without_a_header_is_read_by_the_number_of_the_column(tmp_path: Path) -> None:
    (tmp_path / "labelled.tsv").write_text('good film\t1\nbad "film\t0\n\n')
    with pytest.raises(
        CorpusError,
        match=r"labelled\.tsv:1 has no field 'text'.*the number of the text's column \(1: good film, 2: 1\)$",
    ):
        _texts(tmp_path / "labelled.tsv")
    # the way out; a quote is no quote here
    assert _texts(tmp_path / "labelled.tsv", text_field="1") == ["good film", 'bad "film']
    assert _texts(tmp_path / "labelled.tsv", text_field="2,1") == ["1\n\ngood film", '0\n\nbad "film']
    with pytest.raises(CorpusError, match=r"labelled\.tsv:1 has no column 3, it has 2; give a number from 1 to 2"):
        _texts(tmp_path / "labelled.tsv", text_field="3")


def test_another_separator_is_named_and_its_option_reads_it(tmp_path: Path) -> None:
    path = _csv(tmp_path / "a.csv", [["id", "text"], ["1", "one; two"]], delimiter=";")
    with pytest.raises(CorpusError, match="if ';' separates the columns, give --delimiter ';'"):
        _texts(path)
    assert _texts(path, delimiter=";") == ["one; two"]
    path = _csv(tmp_path / "b.csv", [["id", "text"], ["1", "one\ttwo"]], delimiter="\t")
    with pytest.raises(CorpusError, match="if tab separates the columns, give --delimiter tab"):
        _texts(path)
    assert _texts(path, delimiter="tab") == ["one\ttwo"]
    with pytest.raises(CorpusError, match=r"delimiter must be one character, .*, got ', '; give for example ';'"):
        ReadOptions(delimiter=", ")


def test_a_row_of_another_width_is_refused_with_what_mends_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,one, two\n")
    with pytest.raises(
        CorpusError, match=r"a\.csv:2 must have as many columns as the first line, 2, it has 3; put quo"
    ):
        _texts(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text('id,text\n1,"one, two"\n')
    assert _texts(tmp_path / "a.csv") == ["one, two"]
    # what pandas writes with sep="\t"
    path = _csv(tmp_path / "b.tsv", [["id", "text"], ["1", "one\ntwo"]], delimiter="\t")
    with pytest.raises(CorpusError, match=r"b\.tsv:3 .*name the file \.csv and give --delimiter tab"):
        _texts(path)
    assert _texts(path.rename(tmp_path / "b.csv"), delimiter="tab") == ["one\ntwo"]


@pytest.mark.parametrize("row", ['1,"never closed', '1,"one"two'])
def test_a_broken_quote_is_refused_with_its_line(tmp_path: Path, row: str) -> None:
    (tmp_path / "a.csv").write_text(f"id,text\n{row}\n")
    with pytest.raises(CorpusError, match=r"a\.csv:2 is not valid CSV .*; write a quote inside a quoted text twice"):
        _texts(tmp_path / "a.csv")


def test_a_column_that_comes_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,text\na,b\n")
    with pytest.raises(CorpusError, match=r"a\.csv:1 has the column 'text' 2 times; give the others other names"):
        _texts(tmp_path / "a.csv")


def test_a_cell_may_be_larger_than_the_limit_of_python(tmp_path: Path) -> None:
    _csv(tmp_path / "a.csv", [["text"], ["word " * 60_000]])
    assert _texts(tmp_path / "a.csv") == ["word " * 60_000]


@pytest.mark.parametrize(
    ("whole", "expected"),
    [
        (["one", None, "two"], ["one", "", "two"]),
        ([{"text": "one"}, "two", {"text": None}], ["one", "two", ""]),
        ({"text": "alone", "id": 3}, ["alone"]),
    ],
    ids=["strings", "objects", "one object"],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_json_may_be_one_value(tmp_path: Path, whole: object, expected: list[str], indent: int | None) -> None:
    (tmp_path / "a.json").write_text("\ufeff\n" + json.dumps(whole, indent=indent), "utf-8")
    assert _texts(tmp_path / "a.json") == expected


def test_json_may_be_lines(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('\n{"text": "one"}\n\n{"text": "two"}\n')
    assert _texts(tmp_path / "a.json") == ["one", "two"]
    assert _origins(tmp_path / "a.json") == ["2", "4"]
    (tmp_path / "a.json").write_text('{"text": "one"}\n{"text": "tw\n')
    with pytest.raises(CorpusError, match=r"a\.json:2 is not valid JSON"):
        _texts(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("[1]", "item 0 must be a JSON object or a string, got a number; make an array of objects or strings"),
        ('["a", ["b"]]', "item 1 must be a JSON object or a string, got an array"),
        ('["a"\n"b"]', r"is not valid JSON \(Expecting ',' delimiter, line 2, column 1\)"),
        ("[" * 200_000, "is nested too deeply"),
        ('["\\ud83d"]', "item 0 holds half a surrogate pair"),
        ("7", r"a\.json:1 must be a JSON object, got a number"),
    ],
)
def test_json_that_is_no_text_is_refused(tmp_path: Path, data: str, message: str) -> None:
    (tmp_path / "a.json").write_text(data)
    with pytest.raises(CorpusError, match=message):
        _texts(tmp_path / "a.json")


def test_objects_inside_an_object_are_reached_by_the_command_of_the_error(tmp_path: Path) -> None:
    (tmp_path / "qa v1.json").write_text(json.dumps({"version": 1, "data": [{"text": "one"}, {"text": "two"}]}))
    with pytest.raises(CorpusError) as error:
        _texts(tmp_path / "qa v1.json")
    command = str(error.value).partition("in the field 'data': ")[2]
    assert command.startswith("jq -c '.[\"data\"][]' ")
    _run(command)
    assert _texts(tmp_path / "qa v1.json.lines.jsonl") == ["one", "two"]


@pytest.mark.parametrize("data", ['{"text": "one"}\n{\n"text": "two"}\n', '{\n"text": "one"}\n{\n"text": "two"}'])
def test_objects_over_lines_are_made_lines_by_the_command_of_the_error(tmp_path: Path, data: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(data)
    with pytest.raises(CorpusError) as error:
        _texts(path)
    assert f"jq -c . {path} of objects over several lines" in str(error.value) or "a.json:2 " in str(error.value)
    _run(f"jq -c . {path} > {path}l")
    assert _texts(f"{path}l") == ["one", "two"]


def _run(command: str) -> None:
    if subprocess.run(["sh", "-c", "command -v jq"], capture_output=True, check=False).returncode:
        pytest.skip("needs jq")
    subprocess.run(["sh", "-c", command], check=True)


CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
# NN B-NP O
. . O O

Peter\tNNP\tB-NP\tB-PER

-DOCSTART- -X- -X- O

第 O O O
一 O O O
章 O O O
BERT O O O
模 O O O
"""


def test_words_of_conll_columns_are_text_and_documents_begin_at_marks(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(CONLL, "utf-8")
    assert _texts(tmp_path / "a.conll") == ["EU rejects # .\n\nPeter", "第一章 BERT 模"]
    assert _origins(tmp_path / "a.conll") == ["3", "12"]
    sentences = ["EU rejects # .", "Peter", "第一章 BERT 模"]
    assert _texts(tmp_path / "a.conll", blank_line_documents=True) == sentences
    assert _texts(tmp_path / "a.conll", text_field="2")[0] == "NNP VBZ NN .\n\nNNP"
    with pytest.raises(CorpusError, match=r"a\.conll:3 has 4 columns, and the word is in column 5; give the number"):
        _texts(tmp_path / "a.conll", text_field="5")
    with pytest.raises(CorpusError, match=r"text_field must be the number of the column .*, got 'word'; leave it out"):
        _texts(tmp_path / "a.conll", text_field="word")


def test_conll_columns_in_a_text_file_are_refused_with_the_command_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "my train.txt").write_text(CONLL, "utf-8")
    with pytest.raises(CorpusError, match="begins with -DOCSTART-, so it has CoNLL columns; give its name") as error:
        _texts(tmp_path)
    subprocess.run(["sh", "-c", str(error.value).partition("suffix .conll: ")[2]], check=True)
    assert _texts(tmp_path) == ["EU rejects # .\n\nPeter", "第一章 BERT 模"]


def test_conll_without_marks_is_one_document_and_2012_has_marks_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("one O\n\ntwo O\n")
    assert _texts(tmp_path / "a.conll") == ["one\n\ntwo"]
    (tmp_path / "b.conll").write_text(
        "#begin document (a); part 000\na 0 0 one\n#end document\n#begin document (b)\nb 0 0 two\n"
    )
    assert _texts(tmp_path / "b.conll", text_field="4") == ["one", "two"]


def test_a_treebank_gives_the_text_that_it_was_made_from(tmp_path: Path) -> None:
    (tmp_path / "a.conllu").write_text(
        "# newdoc id = a\n# text = Il parle du vent.\n"
        "1\tIl\til\t_\t_\t_\t_\t_\t_\t_\n2\tparle\t_\t_\t_\t_\t_\t_\t_\t_\n3-4\tdu\t_\t_\t_\t_\t_\t_\t_\t_\n"
        "3\tde\t_\t_\t_\t_\t_\t_\t_\t_\n4\tle\t_\t_\t_\t_\t_\t_\t_\t_\n4.1\tempty\t_\t_\t_\t_\t_\t_\t_\t_\n"
        "5\tvent\t_\t_\t_\t_\t_\t_\t_\tGloss=wind|SpaceAfter=No\n6\t.\t_\t_\t_\t_\t_\t_\t_\t_\n\n"
        "# newdoc id = b\n1\t模型\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No\n2\t。\t_\t_\t_\t_\t_\t_\t_\t_\n",
        "utf-8",
    )
    assert _texts(tmp_path / "a.conllu") == ["Il parle du vent.", "模型。"]


@pytest.mark.parametrize(
    ("name", "option"),
    [("a.conll", {"split_at": "^x"}), ("a.txt", {"delimiter": ";"}), ("a.parquet", {"encoding": "latin-1"})],
)
def test_an_option_that_applies_to_no_file_is_refused(tmp_path: Path, name: str, option: dict[str, Any]) -> None:
    (tmp_path / name).write_text("one O\n")
    with pytest.raises(CorpusError, match=f"{next(iter(option))} .*applies to .*, but no input is one; leave it out"):
        Corpus([tmp_path / name], ReadOptions(**option))


def test_a_suffix_that_is_not_read_becomes_text_by_the_command_of_the_error(tmp_path: Path) -> None:
    """The commands whose tools are always there; the others name a program that is to be installed."""
    import pyarrow as pa
    import pyarrow.feather as feather

    folder = tmp_path / "my texts"
    folder.mkdir()
    feather.write_feather(pa.table({"text": ["one"]}), folder / "a.feather")
    (folder / "b.xml").write_text("<doc><p>one</p></doc>")
    (folder / "c.rst").write_text("one")
    (folder / "d.bmes").write_text("one O\n")
    (folder / "e.txt").write_text("one")
    subprocess.run([sys.executable, "-m", "zipfile", "-c", "f.zip", "e.txt"], cwd=folder, check=True)
    subprocess.run([sys.executable, "-m", "tarfile", "-c", "g.tar.gz", "e.txt"], cwd=folder, check=True)
    made = {
        "a.feather": "a.parquet",
        "b.xml": "b.txt",
        "c.rst": "c.rst.txt",
        "d.bmes": "d.conll",
        "f.zip": "f",
        "g.tar.gz": "g",
    }
    for name, new in made.items():
        with pytest.raises(CorpusError) as error:
            _texts(folder / name)
        text = str(error.value)
        command = next(text[text.index(begin) :] for begin in ("python ", "cp ") if begin in text)
        subprocess.run(["sh", "-c", command.replace("python ", f"{sys.executable} ", 1)], check=True)
        assert [one.strip() for one in _texts(folder / new)] == ["one"]


@pytest.mark.parametrize(
    ("name", "bad", "advice", "mended"),
    [
        ("a.csv", 'text\n"a "b" c"\n', "write a quote inside a quoted text twice", 'text\n"a ""b"" c"\n'),
        ("a.csv", 'text\n"a', "close each one", 'text\n"a"'),
        ("a.csv", "text,text\na,b\n", "give the others other names", "text,note\na,b\n"),
        ("a.csv", "text\na, b\n", "put quotes around a text that holds the separator", 'text\n"a, b"\n'),
        ("a.json", '[["a"]]', "make an array of objects or strings of it", '["a"]'),
        ("a.json", '[{"text": ["a"]}]', "must be a string, got an array", '[{"text": "a"}]'),
        ("a.json", '[{"text": "a"},]', "write one object a line", '{"text": "a"}'),
        ("a.json", '["\\ud83d"]', "write the whole pair", '["\\ud83d\\ude00"]'),
        ("a.json", "7", "a JSON object, got a number; write one object a line", '{"text": "7"}'),
        ("a.jsonl", '{"text": "\\ud83d"}', "write the whole pair", '{"text": "\\ud83d\\ude00"}'),
        ("a.jsonl", '"a"', "a JSON object, got a string; write one object a line", '{"text": "a"}'),
        ("a.jsonl", '{\n"text": "a"\n}', "is not valid JSON .*; write one object a line", '{"text": "a"}'),
    ],
)
def test_a_file_that_is_mended_as_the_error_says_is_read(
    tmp_path: Path, name: str, bad: str, advice: str, mended: str
) -> None:
    (tmp_path / name).write_text(bad)
    with pytest.raises(CorpusError, match=advice):
        _texts(tmp_path / name)
    (tmp_path / name).write_text(mended)
    assert len(_texts(tmp_path / name)) == 1


def test_a_file_without_the_field_is_left_out_of_a_folder_by_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "index.csv").write_text("file,author\na.txt,nobody\n")
    with pytest.raises(
        CorpusError, match=r"index\.csv:1 has no field 'text'.*such as --input 'texts/\*\.txt' leaves this"
    ):
        _texts(tmp_path)
    assert _texts(f"{tmp_path}/*.txt") == ["one"]


def test_a_number_that_is_no_string_is_told_to_stand_in_quotes() -> None:
    with pytest.raises(CorpusError, match=r'must be a string, got 3; write a number in quotes too, such as "3"'):
        ReadOptions(text_field=3)  # type: ignore[arg-type]
    assert ReadOptions(text_field="3").columns == (3,)


def test_a_list_of_fields_is_told_to_be_one_string_with_commas() -> None:
    for fields in (["title", "body"], ("body, long", "title")):
        with pytest.raises(CorpusError, match=r"text_field must be a string, got .*; write '.*', with commas") as told:
            ReadOptions(text_field=fields)  # type: ignore[arg-type]
        advised = str(told.value).partition("write '")[2].partition("'")[0]
        assert ReadOptions(text_field=advised).fields == tuple(fields)
