"""Words that the project gave up do not come back, and each thing has one name: `docs/glossary.md` has the names.

A word is retired in contexts, not everywhere. An identifier is a name in Python code, a setting is a key of the
configuration, and a phrase is a piece of text: in comments, docstrings, messages, headings and pages. So Python's
`pass`, a "forward pass" and attention's window stay.
"""

from __future__ import annotations

import ast
import dataclasses
import io
import re
import tokenize
import typing
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from unmask.config import RunConfig
from unmask.config.mappings import setting_name

ROOT = Path(__file__).parents[1]
GLOSSARY = ROOT / "docs" / "glossary.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class Retired:
    """A word that was given up.

    Attributes:
        word: as it was.
        term: of the glossary, which takes its place.
        where: the beginnings of the paths in which it is retired.
        but: the beginnings of paths in these where it means something else.
        identifiers: pattern of a whole name in Python code; the parts of a name are separated by `_`.
        settings: pattern of a whole key of the configuration.
        phrases: pattern in text.
        found: texts that the patterns must find, for this test alone; code stands in backticks.
        stays: texts in which they must find nothing.
    """

    word: str
    term: str
    where: tuple[str, ...] = ("engine/", "kernels/", "docs/", "README.md", "CONTRIBUTING.md", "bench/")
    but: tuple[str, ...] = ()
    identifiers: str = "(?!)"
    settings: str = "(?!)"
    phrases: str = "(?!)"
    found: tuple[str, ...]
    stays: tuple[str, ...] = ()


_ENGINE = ("engine/", "tests/engine/", "docs/data.md", "docs/decisions/0003", "docs/decisions/0007", "README.md")
_STREAM = (
    *("engine/unmask/batch.py", "engine/unmask/config/", "engine/unmask/train/", "engine/unmask/recipes/"),
    *(
        f"{root}/data/{part}/"
        for root in ("engine/unmask", "tests/engine")
        for part in ("stream", "compose", "masking")
    ),
    *("engine/unmask/data/randomness.py", "docs/data.md", "docs/decisions/0003", "docs/decisions/0007", "README.md"),
)
_KERNELS = ("kernels/", "tests/kernels/", "tests/offline/", "docs/kernels/")

RETIRED = (
    Retired(
        word="pass over the data",
        term="epoch",
        where=_STREAM,
        identifiers=r"pass_|passes|(\w+_)?(?<!forward_)(?<!backward_)pass(es)?(_\w+)?(?<!^pass)",
        phrases=r"pass(es)? over (the|all|its) (data|text|corpus|documents)|(anew in|in|every|each) each pass"
        r"|\b(each|every|one|per|held-out|fixed|next|a) pass\b(?! through)|\bpasses in \{|a pass reads",
        found=(
            "`pass_`",
            "`tokens_per_pass`",
            "each pass over the data",
            "# Each pass over the data",
            "one fixed pass",
        ),
        stays=("`pass`", "a forward pass", "one forward and backward pass", "`forward_pass`", "what passes the test"),
    ),
    Retired(
        word="turn",
        term="epoch",
        where=_STREAM,
        identifiers=r"turn|turns",
        phrases=r"\bof a turn\b|\bturn +=|\bturns? of (the|a) source",
        found=("`turn`", "the first half of a turn"),
        stays=("return", "in turn", "`turn_key`"),
    ),
    Retired(
        word="window of documents",
        term="shuffle block",
        where=_STREAM,
        but=(
            "engine/unmask/config/",
            "engine/unmask/train/logging/metrics.py",
            "engine/unmask/train/verification.py",
        ),
        identifiers=r"windows?|Windows?|(?!attention_)\w*_windows?(_\w+)?|WindowPlan|WindowTable|windows?_of",
        phrases=r"windows? of (the )?(documents|shuffle|an? (pass|epoch)|[0-9,]+)|shuffle'?s? windows?|\(pass, window",
        found=("`window`", "`WindowPlan`", "`_window_of`", "reads the documents in windows of 65,536"),
        stays=("`attention_window`", "the window of a local layer", "`windowed`"),
    ),
    Retired(
        word="window of the log",
        term="log interval",
        where=("engine/unmask/train/", "docs/"),
        identifiers=r"(open|reopen)_window",
        phrases=r"windows? of the log|log'?s? window|window of (steps|rows)",
        found=("`reopen_window`", "the window of the log"),
        stays=("attention's window",),
    ),
    Retired(
        word="training segment",
        term="phase",
        where=("engine/unmask/train/", "docs/"),
        identifiers=r"Segment|(of|plan)_segments?|segments?_of|segments?",
        phrases=r"(training|stream) segments?|segments? of (a|the) (run|stream|training)|segment's (stream|seed)",
        found=("`plan_segments`", "`Segment`", "the segments of a run"),
        stays=("segment ids of a pair", "`segment_ids`", "segments (BERT's token types)"),
    ),
    Retired(
        word="longest",
        term="maximum length",
        but=("engine/unmask/data/tokenizer/", "engine/unmask/data/masking/similar_words.py"),
        identifiers=r"longest|longest_\w+|\w+_longest",
        settings=r"longest",
        phrases=r"`(data\.)?longest`|data\.longest",
        found=("`longest`", "data.longest", "`longest_piece`"),
        stays=("the longest document",),
    ),
    Retired(
        word="name of a document",
        term="document key",
        phrases=r"names? (of|for) (the |a |all )?(batch's )?(documents?|pieces?|dropout|text) for|names for dropout"
        r"|keys: names|drawn for the names|\(seed, name of the piece|pieces? (is|are) named by",
        found=("names of the documents for dropout", "drawn for the names of a batch's documents"),
        stays=("the name of the document's source", "name of a family"),
    ),
    Retired(
        word="words of dropout",
        term="bitmask",
        where=_KERNELS,
        identifiers=r"(keep|dropout|drop)_words|words_of_dropout",
        phrases=r"words of (the )?dropout|dropout'?s? words|documents have such words",
        found=("`keep_words`", "the words of dropout"),
        stays=("four words of 32 bits", "`word_starts`"),
    ),
    Retired(
        word="tenant",
        term="backend",
        identifiers=r"(\w+_)?tenants?(_\w+)?|Tenants?",
        phrases=r"\btenants?\b",
        found=("`tenant`", "another tenant of the family"),
    ),
    Retired(
        word="owner form",
        term="fused backward",
        where=("kernels/unmask_kernels/attention/", "docs/kernels/attention.md", "tests/offline/", "tests/kernels/"),
        identifiers=r"OWNER\w*|owner_\w+|owner",
        phrases=r"owner('s)? (form|kernel)|\bthe owner\b|owner of (a|the|its) tile",
        found=("`OWNER_UP_TO`", "`owner_kernel`", "the owner form"),
        stays=("`owned`",),
    ),
    Retired(
        word="fragment",
        term="piece",
        where=("engine/", "docs/data.md", "docs/decisions/0007"),
        identifiers=r"(\w+_)?fragments?(_\w+)?|Fragments?",
        phrases=r"\bfragments?\b",
        found=("`fragments`", "its own fragment"),
        stays=("piece of a document",),
    ),
    Retired(
        word="chunk of a document",
        term="piece",
        where=("engine/", "docs/data.md"),
        but=("engine/unmask/data/tokenizer/", "engine/unmask/interop/"),
        identifiers=r"chunks?|(\w+_)?chunks?(_\w+)?",
        phrases=r"\bchunks?\b",
        found=("`chunks`", "a chunk of one sentence"),
        stays=("MixChunk, UniChunk and BM25Chunk",),
    ),
    Retired(
        word="say",
        term="log message, notice",
        where=("engine/",),
        identifiers=r"say|_say|(\w+_)?say(_\w+)?",
        phrases=r"receives (a|one) sentence|through `say`",
        found=("`say`", "receives a sentence for each thing"),
        stays=("people say",),
    ),
    Retired(
        word="sentence of a message",
        term="log message, notice",
        where=("engine/unmask/cli/", "engine/unmask/train/", "engine/unmask/config/", "engine/unmask/interop/"),
        identifiers=r"_?sentence",
        phrases=r"becomes a sentence|as their sentences say",
        found=("`_sentence`", "an error becomes a sentence"),
        stays=("next sentence prediction", "`sentence_starts`"),
    ),
    Retired(
        word="along, level, tilt, bend, rise",
        term="kernel variables",
        where=("kernels/",),
        identifiers=r"along|level|tilt|bend|rise",
        found=("`tilt`", "`level`"),
        stays=("`log_level`", "the level of a log"),
    ),
)

MEANT = {
    # settings of 0.1, which files and command lines may still use
    ("engine/unmask/config/mappings.py", "data.longest"),
    ("engine/unmask/cli/pretrain.py", "data.longest"),
    # the largest of some lengths, beside `shortest`
    ("engine/unmask/analysis/packing.py", "longest"),
    # BERT's token types, an argument of the encoder
    ("docs/encoder.md", "segments"),
}
"""Files, and the retired words in them that are their subject."""

TWICE = {
    *("Arguments", "BackwardArguments", "Gradients", "Results", "Tile", "forward", "backward", "step"),
    *("Options", "run"),
}
"""Names that mean the same thing in each place: the grammar of the families and of the subcommands."""


class Finding(NamedTuple):
    word: str
    path: str
    line: int
    what: str


def python_parts(source: str) -> Iterator[tuple[str, int, str]]:
    """The names ("name") and texts ("text") of Python code with their lines."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            yield "name", token.start[0], token.string
        elif token.type in (tokenize.COMMENT, tokenize.STRING) or tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
            for offset, line in enumerate(token.string.splitlines()):
                yield "text", token.start[0] + offset, line


def page_parts(source: str) -> Iterator[tuple[str, int, str]]:
    """The texts of a page, and its names, which stand in backticks."""
    fenced = False
    for number, line in enumerate(source.splitlines(), start=1):
        fenced ^= line.lstrip().startswith("```")
        if not fenced:
            yield "text", number, line
            for code in re.findall(r"`([^`]+)`", line):
                yield from (("name", number, name) for name in re.findall(r"[A-Za-z_]\w*", code))


def findings(retired: Retired, parts: Iterator[tuple[str, int, str]], path: str) -> Iterator[Finding]:
    """Where parts of a file say a retired word."""
    name, phrase = re.compile(retired.identifiers), re.compile(retired.phrases, re.IGNORECASE)
    for kind, line, text in parts:
        if kind == "name" and name.fullmatch(text):
            yield Finding(retired.word, path, line, text)
        elif kind == "text":
            # a string's quotes are no part of what it says
            yield from (
                Finding(retired.word, path, line, found.group()) for found in phrase.finditer(text.strip("\"'# "))
            )


@cache
def files() -> tuple[str, ...]:
    roots = ("engine", "kernels", "docs", "bench", "tests")
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    found += [path for root in roots for path in (ROOT / root).rglob("*") if path.suffix in (".py", ".md", ".yaml")]
    made = {"docs/errors.md", "docs/glossary.md", "docs/runs.md", "docs/measured.md", "tests/test_vocabulary.py"}
    names = sorted(path.relative_to(ROOT).as_posix() for path in found)
    return tuple(name for name in names if name not in made and not name.startswith("tests/formats/"))


def parts_of(path: str) -> Iterator[tuple[str, int, str]]:
    source = (ROOT / path).read_text(encoding="utf-8")
    return python_parts(source) if path.endswith(".py") else page_parts(source)


def all_findings() -> list[Finding]:
    found = []
    for path in files():
        here = [r for r in RETIRED if path.startswith(r.where) and not path.startswith(r.but or ("\0",))]
        parts = list(parts_of(path)) if here else []
        for retired in here:
            found += [one for one in findings(retired, iter(parts), path) if (path, one.what) not in MEANT]
    return found


def test_no_retired_word_is_used() -> None:
    found = all_findings()
    terms = {retired.word: retired.term for retired in RETIRED}
    shown = "\n".join(f"{f.path}:{f.line}: {f.what!r} ({f.word}); the word is: {terms[f.word]}" for f in found)
    assert not found, f"retired words, see docs/glossary.md:\n{shown}"


def test_no_setting_has_a_retired_name() -> None:
    found = [
        (name, retired.term)
        for name in settings(RunConfig)
        for retired in RETIRED
        if re.fullmatch(retired.settings, name.rsplit(".", 1)[-1])
    ]
    assert found == []


@pytest.mark.parametrize("retired", RETIRED, ids=lambda retired: retired.word)
def test_a_retired_word_is_found_where_it_is_retired_and_nowhere_else(retired: Retired) -> None:
    for text in retired.found:
        assert list(findings(retired, page_parts(text), "page.md")), text
        code = text.strip("`") if text.startswith("`") else f"# {text}".replace("\n", "\n# ")
        assert list(findings(retired, python_parts(f"{code}\n"), "code.py")), text
    for text in retired.stays:
        assert not list(findings(retired, page_parts(text), "page.md")), text
        code = text.strip("`") if text.startswith("`") else f"'''{text}'''"
        assert not list(findings(retired, python_parts(f"{code}\n"), "code.py")), text


def test_each_successor_is_a_term_of_the_glossary() -> None:
    terms = [term for term, _ in glossary()]
    assert [retired.term for retired in RETIRED if retired.term not in terms] == []


def test_each_term_stands_once_in_the_glossary() -> None:
    repeated = [term for term, count in Counter(term for term, _ in glossary()).items() if count > 1]
    assert repeated == []
    assert len(glossary()) >= 50


def test_each_name_in_the_glossary_is_used_by_code_or_settings() -> None:
    known = {
        text
        for path in files()
        if path.startswith(("engine/", "kernels/")) and path.endswith(".py")
        for kind, _, text in parts_of(path)
        if kind == "name"
    }
    known |= set(settings(RunConfig)) | {"--resume", "manifest.json"}
    folders = {path.name for root in ("engine", "kernels") for path in (ROOT / root).rglob("*") if path.is_dir()}
    assert [name for _, name in glossary() if name not in known | folders] == []


def test_no_class_is_called_like_another_one() -> None:
    again = {name: paths for name, paths in defined(ast.ClassDef).items() if len(paths) > 1}
    assert {name: paths for name, paths in again.items() if name not in TWICE} == {}


def test_no_function_of_the_engine_is_called_like_another_one() -> None:
    functions = {
        name: [path for path in paths if path.startswith("engine/")]
        for name, paths in defined(ast.FunctionDef).items()
        if name not in TWICE
    }
    assert {name: paths for name, paths in functions.items() if len(paths) > 1} == {}


def test_docstrings_list_attributes() -> None:
    lines = re.compile(r"^ +Fields?:", re.MULTILINE)
    found = [path for path in files() if path.endswith(".py") and lines.search((ROOT / path).read_text("utf-8"))]
    assert found == []


def glossary() -> list[tuple[str, str]]:
    """The terms and their names in code."""
    rows = re.findall(r"^\| (.+?) \| .+ \| `(.+?)` \|$", GLOSSARY.read_text(encoding="utf-8"), re.MULTILINE)
    return [(term, name) for term, name in rows]


@cache
def defined(kind: type[ast.ClassDef | ast.FunctionDef]) -> dict[str, list[str]]:
    """The files of the packages that define a public class, or function, at their top level, by its name."""
    found: dict[str, list[str]] = {}
    for path in files():
        if path.startswith(("engine/", "kernels/unmask_kernels/")) and path.endswith(".py"):
            for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
                if isinstance(node, kind) and not node.name.startswith("_"):
                    found.setdefault(node.name, []).append(path)
    return found


def settings(cls: type, prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings, those of a phase among them."""
    for name, hint in typing.get_type_hints(cls).items():
        name = setting_name(name)
        yield f"{prefix}{name}"
        for inner in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(inner):
                yield from settings(typing.cast(type, inner), f"{prefix}{name}.")
