"""Fill the tables of errors.md from the messages in the code: `python docs/errors.py`.

`messages.py` reads the code; here its messages are sorted into tables, and each is parted into what it says and the way
out. All of errors.md that stands outside the marks is written by hand and stays.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from messages import CLOSE, OPEN, ROOT, Code, Message

PAGE = ROOT / "docs" / "errors.md"

FILES_OF_SETTINGS = (
    "config/mappings.py",
    "config/yaml_text.py",
    "cli/_settings.py",
    "config/load.py",
    "unmask/paths.py",
    "cli/pretrain.py",
)

# Of each table of the page: its mark, and whether a message belongs there; the first that says so has it.
TABLES: dict[str, Callable[[Message], bool]] = {
    "backends": lambda one: one.kind == "BackendUnavailable",
    "reasons": lambda one: one.kind == "reason",
    "notices": lambda one: one.kind == "notice",
    "operations": lambda one: one.module.startswith("kernels/"),
    "unread settings": lambda one: one.module.endswith("config/unused.py"),
    "configuration files": lambda one: one.kind == "ConfigError" and one.module.endswith(FILES_OF_SETTINGS),
    "settings": lambda one: one.kind in ("ConfigError", "SettingError", "SettingTypeError"),
    "words": lambda one: one.kind == "CorpusError" and bool(re.search("segmenter|word|data.similar_words", one.text)),
    "text": lambda one: one.kind in ("CorpusError", "UndecodedError"),
    "tokenizers": lambda one: one.kind == "TokenizerError",
    "stores": lambda one: one.kind == "StoreError",
    "runs": lambda one: one.kind == "RunError",
    "model folders": lambda one: (
        one.kind in ("HubError", "NotAtHubError")
        or (one.kind == "CheckpointError" and "/interop/" in one.module and "checkpoint" not in one.module)
    ),
    "checkpoints": lambda one: one.kind == "CheckpointError",
    "commands": lambda one: (
        one.kind == "UnmaskError" or one.module.startswith(("engine/unmask/cli/", "engine/unmask/commands/"))
    ),
    "the library": lambda one: True,
}

# What a way out begins with: something to do, what there is to choose from, or a question that names the usual cause.
ACTIONS = (
    "accept|add|ask|call|change|check|choose|continue|convert|copy|cut|decompress|download|end|fetch|finish|give|hold|install|join|keep|leave|log|"
    "lower|make|mask|mend|merge|move|name|number|pack|pass|pip|prepare|put|raise|read|remove|rename|restore|resume|run|"
    "save|set|shorten|start|take|train|unmask|unset|upgrade|use|wait|wrap|write"
)
# of a reason that stands in another sentence
WITHIN = "what the rest of the sentence says"
_LISTS = f"the nearest is|there are|(files read|sources|recipes|commands) are|(the store|{OPEN}[^{CLOSE}]*{CLOSE}) has"
_WAY = re.compile(
    rf"(^|, | - |\b(or|and|so|with|without|not) )`?({ACTIONS})\b(?![.-])|\?$|: {OPEN}way{CLOSE}|^({_LISTS}) "
)
_CAME = re.compile(", (got|holds|names|is) ")
_NEEDED = re.compile(r"\bmust\b|\bneeds? .*, (got|it has)\b|^[a-z-]+:( --[a-z]+)? needs ")


def way_out(text: str) -> tuple[str, str] | None:
    """A message as what it says and the way out, empty where the message says what is needed; None for neither.

    The way out begins with the first clause after a semicolon that tells one of ACTIONS, asks for the usual cause, or
    lists what there is. A message says what is needed with "must", or with "needs" and what came instead.
    """
    clauses = re.split("; | - (?=upgrade)", text)
    for place, clause in enumerate(clauses):
        if place and _WAY.search(clause):
            return "; ".join(clauses[:place]), "; ".join(clauses[place:])
    return (text, "") if _NEEDED.search(text) else None


def tables(code: Code) -> dict[str, list[Message]]:
    """The messages by the mark of their table."""
    found: dict[str, list[Message]] = {name: [] for name in TABLES}
    for one in _without_variants((*code.errors(), *code.notices(), *code.reasons())):
        found[next(name for name, holds in TABLES.items() if holds(one))].append(one)
    return found


def _without_variants(messages: Iterable[Message]) -> Iterator[Message]:
    """Of messages that differ only in what came (", got ...") one."""
    variants: dict[tuple[str, str, str], list[Message]] = defaultdict(list)
    for one in messages:
        says, _, came = _CAME.sub("\0", one.text, count=1).partition("\0")
        variants[one.module, says, came.partition("; ")[2]].append(one)
    for several in variants.values():
        # the one of most marks leaves what came to the run
        yield max(several, key=lambda one: one.text.count(OPEN))


def table(messages: Iterable[Message], *, ways: bool = True) -> str:
    """A table of messages in the order of their letters."""
    homes: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for one in messages:
        homes[one.text, one.within].append(one.module)
    head = ["| it says | way out | from |", "|---|---|---|"] if ways else ["| it says | from |", "|---|---|"]
    rows = []
    for (text, within), modules in sorted(homes.items(), key=lambda row: re.sub(r"[\W_]+", " ", row[0][0]).casefold()):
        says, way = (text, WITHIN) if within else (way_out(text) or (text, "")) if ways else (text, "")
        links = ", ".join(f"[{name_of(module)}](../{module})" for module in sorted(set(modules)))
        rows.append("| " + " | ".join([shown(says), *([shown(way)] if ways else []), links]) + " |")
    return "\n".join([*head, *dict.fromkeys(rows)])


def name_of(module: str) -> str:
    """A short name of a file."""
    return module.removesuffix("/__init__.py").rpartition("/")[2].removesuffix(".py")


def shown(text: str) -> str:
    """A message as Markdown: what a run fills in is emphasised, the rest stands as it is written."""
    plain = re.sub(r"([\\|<*`])|(?<!\w)_|_(?!\w)", lambda found: "\\" + found[0], text)
    return re.sub(f"{OPEN}([^{CLOSE}]*){CLOSE}(?:{OPEN}[^{CLOSE}]*{CLOSE})*", r"*\1*", plain)


def page(before: str, code: Code) -> str:
    """The page with its tables made anew.

    Raises:
        SystemExit: the page has no place for a table, or a place for none.
    """
    messages = tables(code)
    parts = re.split(r"(<!-- table: .*? -->\n.*?<!-- end of table -->\n)", before, flags=re.DOTALL)
    marks = [part.split(" -->")[0].removeprefix("<!-- table: ") for part in parts[1::2]]
    if sorted(marks) != sorted(TABLES):
        sys.exit(f"{PAGE} must hold the marks of {', '.join(TABLES)}, each once, got {', '.join(marks)}")
    for place, mark in enumerate(marks):
        made = table(messages[mark], ways=mark not in ("notices", "reasons"))
        parts[2 * place + 1] = f"<!-- table: {mark} -->\n\n{made}\n\n<!-- end of table -->\n"
    return "".join(parts)


def without_way(code: Code) -> list[Message]:
    """The errors that name no way out."""
    return [one for one in code.errors() if not one.within and way_out(one.text) is None]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8"), Code()), "utf-8")
    print(PAGE)
