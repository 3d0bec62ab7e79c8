"""Files of every form, compressed, cut, flipped and read with odd options: the documents, or one sentence.

What the documents of text and of JSON lines must be is told by a second, plain reading of the same bytes.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_mutations import ODD, byte_changes, change_bytes, change_tree, tree_changes
from fuzz_outcomes import Fault, result_or_sentence, try_cases
from hypothesis import strategies as st

from unmask.data.text.corpus import named_inputs, read_input
from unmask.data.text.listing import list_files
from unmask.data.text.options import Cuts, ReadOptions

FORMS = (".txt", ".md", ".jsonl", ".json", ".csv", ".tsv", ".conll", ".conllu", ".parquet")
TEXTS = ["# One\nthe river runs\r\npast the mill\n\n\nand ends\n", "", "é 漢字\u2028 \x85 [MASK]", "a\fb\n# Two\nlast"]
RULES = (
    None,
    None,
    "^# ",
    "$",
    "^",
    r"(\s|\S)+",
    "(",
    r"\Z",
    "",
    "(?i)ONE",
    r"\r$",
    "[",
    "(a|a)+b",
    r"\d{1,9999999999}",
)
FIELDS = ("text", "text", "text", "id", "Text", "", "meta", "\ud800", "x" * 300, "id,text", "1", "2,1", "9" * 5000)
ENCODINGS = (*("utf-8",) * 6, "latin-1", "gb18030", "utf-16", "utf-16-le", "utf-7", "idna", "punycode", "base64", "\0")
DELIMITERS = (*(None,) * 4, ";", "tab", " ", "\0", "\ud800")
COLUMNS = "# newdoc\n1-2\tdu\t_\n1\tde\t_\n2\tle\t_\n3\t漢\t_\n\n-DOCSTART- X\n\n1 字 O\n2 é O\n"
EXAMPLES: list[dict[str, Any]] = [
    # the footer's name of a column is no text
    {
        "form": ".parquet",
        "compressed": "",
        "upper": False,
        "rule": None,
        "blank": False,
        "field": "text",
        "encoding": "utf-8",
        "delimiter": None,
        "rows": [],
        "column": "string",
        "plain": [("flip", 384, 7)],
        "stored": [],
    },
    {
        "form": ".txt",
        "compressed": "",
        "upper": False,
        "rule": r"\d{1,9999999999}",
        "blank": False,
        "field": "text",
        "encoding": "utf-8",
        "delimiter": None,
        "rows": [],
        "column": "string",
        "plain": [],
        "stored": [],
    },
]

cases = st.fixed_dictionaries(
    {
        "form": st.sampled_from(FORMS),
        "compressed": st.sampled_from(("", "", ".gz", ".zst")),
        "upper": st.booleans(),
        "rule": st.sampled_from(RULES),
        "blank": st.booleans(),
        "field": st.sampled_from(FIELDS),
        "encoding": st.sampled_from(ENCODINGS),
        "delimiter": st.sampled_from(DELIMITERS),
        "rows": tree_changes,
        "column": st.sampled_from(
            ("string", "large_string", "dictionary", "int64", "list", "struct", "binary", "null")
        ),
        "plain": byte_changes,
        "stored": st.one_of(st.just([]), byte_changes),
    }
)


def contents(case: dict[str, Any]) -> bytes:
    """The bytes of the file before compression."""
    rows = [{"text": text, "id": number, "meta": {"a": [1]}} for number, text in enumerate(TEXTS)]
    if case["form"] == ".parquet":
        plain = parquet(case["column"])
    elif case["form"] == ".jsonl":
        plain = "".join(json.dumps(row) + "\n" for row in _rows(change_tree(rows, case["rows"]))).encode()
    elif case["form"] == ".json":
        plain = json.dumps(change_tree(rows, case["rows"]), indent=len(case["rows"]) or None).encode()
    elif case["form"] in (".csv", ".tsv"):
        table = io.StringIO(newline="")
        csv.writer(table).writerows([("id", "text"), *((row["id"], row["text"]) for row in rows)])
        plain = table.getvalue().replace(",", "," if case["form"] == ".csv" else "\t").encode()
    elif case["form"] in (".conll", ".conllu"):
        plain = COLUMNS.encode()
    else:
        plain = "\n\n".join(TEXTS).encode()
    return change_bytes(plain, case["plain"])


def _rows(tree: Any) -> list[Any]:
    return tree if isinstance(tree, list) else [tree]


def parquet(column: str) -> bytes:
    text = pa.array(TEXTS)
    columns = {
        "string": text,
        "large_string": text.cast(pa.large_string()),
        "dictionary": text.dictionary_encode(),
        "int64": pa.array(range(len(TEXTS))),
        "list": pa.array([[one] for one in TEXTS]),
        "struct": pa.array([{"a": one} for one in TEXTS]),
        "binary": text.cast(pa.binary()),
        "null": pa.nulls(len(TEXTS)),
    }
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": pa.array(range(len(TEXTS))), "text": columns[column]}), sink)
    return sink.getvalue()


def compressed(plain: bytes, how: str) -> bytes:
    if how == ".gz":
        return gzip.compress(plain, mtime=0)
    if how == ".zst":
        return bytes(pa.Codec("zstd").compress(plain, asbytes=True)) if plain else b""
    return plain


def expected(case: dict[str, Any], plain: bytes) -> list[str] | str | None:
    """The documents, or all their text in one, that a plain reading finds; None where it cannot tell."""
    if case["encoding"] != "utf-8" or case["form"] not in (".txt", ".md", ".jsonl", ".csv"):
        return None
    text = plain.decode("utf-8").removeprefix("\ufeff")
    if case["form"] == ".jsonl":
        # joined files have their marks in the middle
        lines = [json.loads(line.removeprefix("\ufeff")) for line in text.split("\n") if line.strip()]
        return [line[case["field"]] or "" for line in lines] if "," not in case["field"] else None
    if case["form"] == ".csv":
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=False)
        return [row["text"] for row in rows] if (case["field"], case["delimiter"]) == ("text", None) else None
    return None if case["blank"] else text


def test_files(tmp_path: Path) -> None:
    def body(case: dict[str, Any]) -> None:
        plain = contents(case)
        with tempfile.TemporaryDirectory(dir=tmp_path) as scratch:
            suffix = case["form"] + case["compressed"]
            path = Path(scratch, "file" + (suffix.upper() if case["upper"] else suffix))
            path.write_bytes(change_bytes(compressed(plain, case["compressed"]), case["stored"]))
            options = result_or_sentence(
                lambda: ReadOptions(
                    text_field=case["field"],
                    blank_line_documents=case["blank"],
                    split_at=case["rule"],
                    encoding=case["encoding"],
                    delimiter=case["delimiter"],
                ),
                names=["split_at", "text_field", "encoding", "delimiter"],
            )
            if options is None:
                return

            def read() -> list[str]:
                (given,) = named_inputs([path])
                return [one.text for one in read_input(given, list_files(path).files, options, Cuts(options))]

            found = result_or_sentence(read, names=[str(path)])
            if found is None:
                return
            if any(not isinstance(text, str) for text in found):
                raise Fault(f"documents must be text, got {found!r}", "type")
            for text in found:
                text.encode("utf-8")
            if found != read():
                raise Fault("a second reading gives other documents", "second reading")
            if not case["stored"]:
                wanted = expected(case, plain)
                if isinstance(wanted, str) and "".join(found) != wanted:
                    raise Fault(f"text {wanted!r} became {found!r}", "text")
                if isinstance(wanted, list) and found != wanted:
                    raise Fault(f"documents {wanted!r} became {found!r}", "documents")

    try_cases(body, cases, few=100, examples=EXAMPLES)


def test_the_odd_values_reach_json_lines() -> None:
    """Every odd value can be written as JSON, so that the target above tries them all."""
    for value in ODD:
        json.loads(json.dumps({"text": value}))
