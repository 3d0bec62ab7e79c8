"""`unmask prepare --input docs.jsonl --out store`: raw text to a tokenizer and a token store, once for many runs."""

import logging
from dataclasses import MISSING, dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unmask.cli._arguments import option, read
from unmask.cli._progress import ProgressReport
from unmask.config.settings import Checked, counted
from unmask.folders import kind_of
from unmask.paths import as_typed
from unmask.terminal import messages_through

if TYPE_CHECKING:
    from unmask.data.prepare import Progress
    from unmask.data.store import Store

__all__ = ["Options", "run"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Checked):
    """Turn raw text into a tokenizer and a token store, for `unmask pretrain --data.store OUT`.

    Documents are cleaned, cut into sentences and words, and encoded by all cores. A run that was killed goes on with
    OUT.partial when the same command is given again, after the last finished shard, and gives the same store.
    """

    input: list[str] = option(
        list,
        "Files, folders or patterns such as 'news/*/', here or at s3://, gs:// and hf://datasets/owner/name/: .txt "
        "and .md (a document each), .jsonl and .json (one an object), .csv, .tsv and .parquet (one a row), .conll, "
        ".conllu, each also .gz and .zst; stores made before; data sets that `datasets` saved, or "
        "hf://owner/name:split (extra `datasets`); docstrings: for those of the installed Python packages. NAME names "
        "the source, several may share one; else it is the name of the file or folder.",
        metavar="[NAME=]PATH",
        usual=True,
    )
    out: Path = option(MISSING, "Store to make; must not exist.", metavar="FOLDER")
    tokenizer: Path | None = option(
        None,
        "Existing tokenizer, WordPiece or WordLevel: a folder, a tokenizer.json, a vocab.txt, a run, a store, or "
        "ORG/NAME of the Hugging Face Hub; none: that of a store among the inputs, else one is trained on the text.",
        metavar="FOLDER",
    )
    add_words: Path | None = option(
        None,
        "Text file with one word on each line: further entries of the tokenizer, after its others, for words that it "
        "cuts into many pieces. Of Chinese, only single characters can be entries: BERT's rules make a word of each. A "
        "model takes them over with --init.vocabulary extend.",
        metavar="FILE",
    )
    vocab_size: int | None = option(
        None, "Entries of the trained vocabulary, 30522 if nothing is said; a given tokenizer or a store keeps its own."
    )
    lowercase: bool | None = option(
        None,
        "Whether the tokenizer drops case. If nothing is said, a trained one drops case and accents, and a given one "
        "does what its files say, or what the entries of a vocab.txt alone show.",
    )
    strip_accents: bool = option(
        True,
        "Whether one that drops case drops accents too, which are letters in many scripts: those of Hindi, Japanese, "
        "Thai, Arabic, Korean and others.",
    )
    keep_indentation: bool = option(
        False,
        "Whether the trained tokenizer makes a word of a line break and the indentation after it: for source code.",
    )
    allow_unknown: bool = option(
        False, "Whether to take text of which more than 10% becomes unknown tokens; a refused run goes on where it was."
    )
    text_field: str = option(
        "text",
        "Field of JSON, or column of a table, that holds the text. Several, as in title,text, are joined by a blank "
        "line. A number is a column, from 1, of a .csv or .tsv without a header line, or of CoNLL columns.",
    )
    blank_line_documents: bool = option(False, "Blank lines separate the documents of a text file.")
    split_at: str | None = option(
        None,
        "A document of a text file begins at each line in which this is found: '^#{1,2} ' for Markdown headings, "
        "'^CHAPTER ' for those of a novel. Headings with nothing between them open one document.",
        metavar="REGEX",
    )
    encoding: str = option(
        "utf-8",
        "Encoding of the files, except parquet: utf-8, latin-1, gb18030, utf-16 and others that Python knows.",
        metavar="NAME",
    )
    delimiter: str | None = option(
        None,
        "Sign between the columns of .csv and .tsv, such as ';', or the word tab. None: a comma in .csv, a tab in "
        ".tsv.",
        metavar="SIGN",
    )
    drop_duplicates: bool = option(
        False, "Of documents with the same text, only the first is kept. Without this, copies are counted."
    )
    segmenter: str | None = option(
        None,
        "What joins Chinese characters to words for masking: chinese (rjieba, else jieba; extra `chinese`), rjieba, "
        "jieba, spaces (text that is segmented already), or module:function. None: every character is a word.",
        metavar="NAME",
    )
    normalisation: Literal["none", "NFC", "NFKC"] = option(
        "none", "Unicode normalisation before all else; the tokenizer decides about case and accents."
    )
    workers: int | None = option(
        None, "Processes that encode; none: one per core. The store is the same for any number.", ge=1, le=1024
    )
    shard_tokens: int = option(1 << 26, "Tokens in a shard, after each of which a killed run can go on.", ge=1)

    @staticmethod
    def way_of_stray(word: str, arguments: list[str]) -> str:
        """Say what to do about a second text field, or a path where other programs take their input."""
        for at, given in enumerate(arguments):
            option_name, equals, value = given.partition("=")
            following = takewhile(lambda other: not other.startswith("-"), arguments[at + 1 :])
            fields = [value, *following] if equals else list(following)
            if option_name == "--text-field" and word in fields[1:] and not Path(word).exists():
                return f"give several fields as --text-field {as_typed(','.join(fields))}"
        return f"give text as --input {as_typed(word)}"


def run(arguments: list[str]) -> None:
    """Prepare and print what the store holds."""
    options = read(Options, prog="unmask prepare", arguments=arguments)
    from unmask.data.prepare import describe, prepare
    from unmask.data.store.duplicates import describe_duplicates
    from unmask.data.store.unfinished import unfinished_hint
    from unmask.data.tokenizer.further_words import read_words

    with ProgressReport() as report, messages_through(report.show):
        try:
            store = prepare(
                options.input,
                options.out,
                tokenizer=options.tokenizer,
                add_words=None if options.add_words is None else read_words(options.add_words),
                vocab_size=options.vocab_size,
                lowercase=options.lowercase,
                strip_accents=None if options.strip_accents else False,
                keep_indentation=options.keep_indentation,
                allow_unknown=options.allow_unknown,
                text_field=options.text_field,
                blank_line_documents=options.blank_line_documents,
                split_at=options.split_at,
                encoding=options.encoding,
                delimiter=options.delimiter,
                drop_duplicates=options.drop_duplicates,
                segmenter=options.segmenter,
                normalisation=options.normalisation,
                workers=options.workers,
                shard_tokens=options.shard_tokens,
                progress=lambda progress: _tell(report, progress),
            )
        except BaseException:
            hint = unfinished_hint(options.out)
            if hint is not None:
                _log.warning(hint)
            raise
    print(describe(store))
    if copies := describe_duplicates(store):
        print(copies)
    given = options.tokenizer
    # what is not here is a model of the Hub
    if given is not None and (kind_of(given) in ("run", "model") or not given.exists()):
        extend = " --init.vocabulary extend" if options.add_words is not None and _has_grown(store, options) else ""
        print(
            f"try: unmask pretrain continue --init.from {as_typed(given)}{extend} --data.store {as_typed(options.out)}"
        )


def _has_grown(store: "Store", options: Options) -> bool:
    """Return whether the words of `add_words` made the vocabulary of the store larger than the given one."""
    from unmask.data.tokenizer import Tokenizer
    from unmask.data.tokenizer.find_tokenizer import find_tokenizer

    assert options.tokenizer is not None
    given = Tokenizer.load(find_tokenizer(options.tokenizer), lowercase=options.lowercase)
    return store.tokenizer_hash != given.hash


def _tell(report: ProgressReport, progress: "Progress") -> None:
    read = counted(progress.documents, "document")
    if progress.characters:
        read += f", {progress.characters:,} characters"
    report.update(progress.stage, read, done=progress.characters, total=progress.total_characters)
