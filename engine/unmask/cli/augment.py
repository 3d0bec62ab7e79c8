"""`unmask augment MLM_MODEL FILE --out FILE`: a training file with variants of its texts, as for TinyBERT."""

from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Literal

from unmask.cli._arguments import option, read
from unmask.config.settings import Checked

__all__ = ["Options", "run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Checked):
    """Write a training file again, each text followed by variants in which some words are replaced.

    A masked language model proposes words for those that are one token, and word vectors for the others (Jiao et al.
    2020, arXiv:1909.10351). A pair varies in one text at a time. If the command is stopped, the same one goes on.
    """

    model: Path = option(
        MISSING,
        "Masked language model: run of unmask pretrain, checkpoint, folder, or ORG/NAME of the Hugging Face Hub. Not "
        "the fine-tuned teacher, which has no such head.",
        positional=True,
        metavar="MLM_MODEL",
    )
    file: Path = option(MISSING, "Examples to train on, texts or pairs.", positional=True, metavar="FILE")
    out: Path = option(MISSING, "File to make, .tsv, .csv or .jsonl; it must not exist.", metavar="FILE")
    layout: str | None = option(
        None,
        "Benchmark whose file this is, such as sst2. None: --text, --pair and --label name columns.",
        short="--data.layout",
        metavar="NAME",
    )
    text: str | None = option(
        None,
        "Column with the text, or with the first text of a pair. None: text.",
        short="--data.text",
        metavar="COLUMN",
    )
    pair: str | None = option(None, "Column with the second text of a pair.", short="--data.pair", metavar="COLUMN")
    label: str | None = option(
        None, "Column with the label. None: label, if there is one.", short="--data.label", metavar="COLUMN"
    )
    encoding: str = option("utf-8", "Encoding of the file.", short="--data.encoding")
    delimiter: str | None = option(
        None, "Sign between the columns. None: a comma in .csv, else a tab.", short="--data.delimiter"
    )
    copies: int = option(20, "Variants to draw of each text; fewer are written where draws repeat.", ge=1)
    probability: float = option(0.4, "Probability of a word to be replaced.", gt=0, le=1)
    candidates: int = option(15, "Candidates of a word.", ge=1)
    form: Literal["masked", "paraphrase"] = option(
        "masked",
        "What the model sees. masked: the text with [MASK] for the word. paraphrase: the text itself behind it, as in "
        "the authors' code; replacements are nearer in meaning.",
    )
    context: int = option(128, "Tokens of a text that the model sees, around the word.", ge=8)
    vectors: Path | None = option(
        None,
        "Word vectors in word2vec's or GloVe's format, for words of several tokens. None: these words stay.",
        metavar="FILE",
    )
    most_vectors: int = option(100_000, "Vectors to read, the first of the file.", ge=2)
    keep: Path | None = option(None, "File with words that are never replaced, one a line.", metavar="FILE")
    seed: int = option(1, "Seed of the draws. A text has the same variants wherever it stands.", ge=0)
    workers: int | None = option(
        None, "Processes; the result is the same. None: one for each core, or one with a GPU.", ge=1
    )


def run(arguments: list[str]) -> None:
    """Write the file, and print how much changed."""
    options = read(Options, prog="unmask augment", arguments=arguments)
    from unmask.cli._progress import ProgressReport
    from unmask.commands.augment import augment
    from unmask.tasks.augmentation.config import AugmentationConfig

    given = {field.name: getattr(options, field.name) for field in fields(AugmentationConfig)}
    paths = {name: str(path) for name, path in given.items() if isinstance(path, Path)}
    with ProgressReport(first_seconds=10.0) as report:
        found = augment(
            options.model,
            options.file,
            options.out,
            AugmentationConfig(**given | paths),
            layout=options.layout,
            text=options.text,
            pair=options.pair,
            label=options.label,
            encoding=options.encoding,
            delimiter=options.delimiter,
            workers=options.workers,
            progress=lambda done, total: report.update("texts", f"{done:,} of {total:,}", done=done, total=total),
        )
    print(found.lines())
    print(options.out)
