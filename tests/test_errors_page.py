"""docs/errors.md: every error of the code stands there, names its way out, and stands in a test with it."""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import errors  # noqa: E402
import messages  # noqa: E402

COMMAND = "python docs/errors.py"
# words in a row that show that a message is meant; a part of a message with fewer stands whole
IN_A_ROW = 3

Homes = dict[str, set[Path]]


@pytest.fixture(scope="module")
def code() -> messages.Code:
    return messages.Code()


def _code_of(tmp_path: Path, source: str) -> messages.Code:
    """The code of a project that has this one module."""
    (tmp_path / "engine").mkdir(exist_ok=True)
    (tmp_path / "engine" / "one.py").write_text(source, encoding="utf-8")
    return messages.Code(tmp_path)


def _texts(tmp_path: Path, source: str) -> list[str]:
    return [errors.shown(one.text) for one in _code_of(tmp_path, source).errors()]


def test_the_page_is_what_the_code_says(code: messages.Code) -> None:
    found = errors.PAGE.read_text("utf-8")
    stale = found != errors.page(found, code)
    assert not stale, f"a message has changed since docs/errors.md was made; run: {COMMAND}"


def test_every_error_names_its_way_out(code: messages.Code) -> None:
    """As `errors.way_out` has it: what to do after a semicolon, or what the thing must be."""
    silent = [f"{one.module}: {errors.shown(one.text)}" for one in errors.without_way(code)]
    assert not silent, "\n".join(["end these messages with '; ' and what to do:", *silent])


def test_the_errors_are_found(code: messages.Code) -> None:
    """A reader of syntax that finds nothing would pass the tests above."""
    found = code.errors()
    assert len(found) > 400
    assert {one.kind for one in found} >= set(code.classes.values()) - {"AttributeError"}
    texts = {errors.shown(one.text) for one in found}
    # through a loop over generators, a table of records, a function that makes the text, and a class of its own
    assert (
        "hidden_size must be a multiple of num_heads (*num heads*), got *hidden size*; the nearest is *nearest*"
        in texts
    )
    assert any(
        "composition.strategy is *chosen*, which makes no pairs; set composition.strategy to 'pairs'" in text
        for text in texts
    )
    assert any("has no field '*name*'" in text and "--text-field" in text for text in texts)
    assert any("was altered since it was written" in text for text in texts)


def test_every_link_of_the_page_leads_somewhere() -> None:
    page = errors.PAGE.read_text("utf-8")
    titles = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)", page, re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", page):
        path, _, title = target.partition("#")
        assert (errors.PAGE.parent / path).exists(), target
        assert path or title in titles, target


def test_log_messages_are_notices(tmp_path: Path) -> None:
    source = """
import logging
_log = logging.getLogger(__name__)
def f(folder, count):
    _log.info(f"wrote {folder}")
    _log.warning(f"corpus: {count:,} files of {folder} are left out")
"""
    found = [errors.shown(one.text) for one in _code_of(tmp_path, source).notices()]
    assert found == ["wrote *folder*", "corpus: *count* files of *folder* are left out"]


def test_what_a_run_fills_in_is_a_word(tmp_path: Path) -> None:
    source = """
def f(path, given, SIZE=3):
    raise ValueError(f"{path} has {len(given)} rows of {SIZE:,}, got {given[0]!r}; give `{path}` one")
"""
    assert _texts(tmp_path, source) == [
        r"*path* has *number of given* rows of *SIZE*, got '*given*'; give \`*path*\` one"
    ]


def test_a_message_is_followed_through_what_it_is_made_of(tmp_path: Path) -> None:
    source = """
NAMES = ("a", "b")
def f(path, whole):
    way = "copy it" if whole else _way(path)
    raise ValueError(f"{path} is not one of {', '.join(NAMES)}; " + way)
def _way(where) -> str:
    return f"remove {where}"
"""
    assert _texts(tmp_path, source) == [
        "*path* is not one of a, b; copy it",
        "*path* is not one of a, b; remove *path*",
    ]


def test_a_function_that_calls_itself_ends(tmp_path: Path) -> None:
    source = """
def f(name):
    if name:
        f(name)
    raise ValueError(f"{name} must be a name" + g(name))
def g(name) -> str:
    return g(name)
"""
    assert isinstance(_texts(tmp_path, source), list)


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("store: it is damaged; prepare it again", "prepare it again"),
        ("it has no field; the nearest is 'a'; name the one", "the nearest is 'a'; name the one"),
        ("x must be at least 1, got 0", ""),
        ("it ends at 4; does it count padded tokens?", "does it count padded tokens?"),
        ("the format is 3; this version reads 1 - upgrade unmask", "upgrade unmask"),
        ("no such thing; there are a, b", "there are a, b"),
        ("it needs 3 bytes, 2 are free", None),
        ("it is damaged; nothing was replaced", None),
        ("it is damaged", None),
        ("it differs; with train.steps 3 it would not", None),
    ],
)
def test_a_way_out_says_what_to_do_or_what_is_needed(text: str, way: str | None) -> None:
    found = errors.way_out(text)
    assert (found[1] if found else None) == way


def test_a_message_without_a_way_out_is_named(tmp_path: Path) -> None:
    code = _code_of(tmp_path, "def f(path):\n    raise ValueError(f'{path} is odd')\n")
    assert [one.text for one in errors.without_way(code)] == [f"{messages.OPEN}path{messages.CLOSE} is odd"]


def test_what_is_written_by_hand_stays(tmp_path: Path) -> None:
    marks = "".join(f"<!-- table: {name} -->\nstale row\n<!-- end of table -->\n" for name in errors.TABLES)
    before = f"# Mine\n\n{marks}\nand this\n"
    after = errors.page(before, _code_of(tmp_path, "def f(x):\n    raise TypeError(f'{x} must be | odd')\n"))
    assert after.startswith("# Mine\n") and after.endswith("and this\n") and "stale row" not in after
    assert r"| *x* must be \| odd |" in after
    assert errors.page(after, _code_of(tmp_path, "")) != after


def test_a_table_without_a_place_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="must hold the marks of"):
        errors.page("# Mine\n", _code_of(tmp_path, ""))


def words_of(text: str) -> list[str]:
    """The words of a message, or of a pattern that matches one."""
    return re.findall(r"\w+(?:[.-]\w+)*", re.sub(r"\\(.)", r"\1", text).casefold())


def rows_of(words: list[str], count: int) -> set[str]:
    """What stands in a row in words, of so many of them."""
    return {" ".join(words[start : start + count]) for start in range(len(words) - count + 1)}


def texts_of(source: str) -> Iterator[str]:
    """The texts in a file of Python; what is filled in parts them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.fixture(scope="module")
def homes() -> Homes:
    """The files of tests in whose texts words stand in a row, by these words."""
    found: Homes = defaultdict(set)
    for path in (ROOT / "tests").rglob("test_*.py"):
        for text in texts_of(path.read_text("utf-8")):
            for count in range(2, IN_A_ROW + 1):
                for row in rows_of(words_of(text), count):
                    found[row].add(path)
    return found


def files_that_name(text: str, homes: Homes) -> set[Path] | None:
    """The files with words in a row of a part of a message that no run fills in; None if it has no such part."""
    parts = [words_of(part) for part in re.split(f"{messages.OPEN}[^{messages.CLOSE}]*{messages.CLOSE}", text)]
    rows = [row for part in parts if len(part) > 1 for row in rows_of(part, min(len(part), IN_A_ROW))]
    return set().union(*(homes.get(row, ()) for row in rows)) if rows else None


def unnamed(texts: Iterable[str], homes: Homes) -> list[str]:
    """The messages that no file of tests names together with the way out."""
    found = []
    for text in texts:
        says, way = errors.way_out(text) or (text, "")
        files = [one for one in (files_that_name(says, homes), files_that_name(way, homes)) if one is not None]
        if files and not set.intersection(*files):
            found.append(text)
    return found


def test_each_message_stands_in_a_test_with_its_way_out(code: messages.Code, homes: Homes) -> None:
    """Whether the test follows the advice cannot be seen from outside; a new message without any test can."""
    missing = unnamed((one.text for one in code.errors() if not one.within), homes)
    assert not missing, "\n".join(
        [
            "add a test that meets the message and does what it advises (CONTRIBUTING.md, Style), for:",
            *map(errors.shown, missing),
        ]
    )


def test_a_message_without_a_test_is_found(homes: Homes) -> None:
    blank = f"{messages.OPEN}path{messages.CLOSE}"
    known = f"store: {blank} is truncated: 7 bytes, the manifest says 9; copy the store again, or remove it"
    # put together, so that this file does not name them
    way = " ".join(["remove", "all", "frogs"])
    new = f"store: {blank} {' '.join(['holds', 'many', 'frogs'])}; {way}"
    half = f"{known.partition('; ')[0]}; {way}"
    assert unnamed([new, known, half], homes) == [new, half]
