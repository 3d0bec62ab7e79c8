"""`unmask prepare --input docs.jsonl --out store`: raw text to a tokenizer and a token store, once for many runs."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from unmask.cli._arguments import join_repeated

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from unmask.data.prepare import Progress

__all__ = ["Options", "run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Turn raw text into a tokenizer and a token store, for `unmask pretrain --data.store OUT`."""

    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Store to make; must not exist."""
    input: Annotated[list[Path], tyro.conf.arg(metavar="PATH [PATH ...]")] = field(default_factory=list)
    """Files or folders: .txt and .md (a document each), .jsonl (one a line), .parquet (one a row), each also .gz.
    None: the docstrings of the installed Python packages."""
    tokenizer: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of an existing WordPiece tokenizer, or a vocab.txt; none: one is trained on the text."""
    vocab_size: int = 30522
    """Entries of the trained vocabulary."""
    lowercase: bool = True
    """Whether the trained tokenizer drops case and accents."""
    text_field: str = "text"
    """Field of JSON lines, or column of parquet files, that holds the text."""
    blank_line_documents: bool = False
    """Blank lines separate the documents of a text file."""
    segmenter: str | None = None
    """What joins Chinese characters to words for masking: chinese (rjieba, else jieba; extra `chinese`), rjieba, jieba,
    spaces (text that is segmented already), or module:function. None: every character is a word."""


def run(arguments: list[str]) -> None:
    """Prepare and print what the store holds."""
    options = tyro.cli(Options, prog="unmask prepare", args=join_repeated(arguments, "--input"))

    from unmask.data.prepare import describe, prepare

    with _Report() as report:
        store = prepare(
            options.input,
            options.out,
            tokenizer=options.tokenizer,
            vocab_size=options.vocab_size,
            lowercase=options.lowercase,
            text_field=options.text_field,
            blank_line_documents=options.blank_line_documents,
            segmenter=options.segmenter,
            progress=report,
        )
    print(describe(store))


class _Report(AbstractContextManager["_Report"]):
    """A bar for each stage on a terminal, a line for each stage elsewhere; both on stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True)
        self._bar: Bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[counted]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, progress: "Progress") -> None:
        counted = f"{progress.documents:,} documents, {progress.characters:,} characters"
        if progress.stage not in self._tasks:
            self._tasks[progress.stage] = self._bar.add_task(
                progress.stage, total=progress.total_characters, counted=counted
            )
            if not self._console.is_terminal:
                self._console.print(f"{progress.stage}: {counted} so far", highlight=False)
        self._bar.update(self._tasks[progress.stage], completed=progress.characters, counted=counted)

    def __enter__(self) -> "_Report":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self._bar.stop()
