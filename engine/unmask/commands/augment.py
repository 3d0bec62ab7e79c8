"""`augment`: a larger training file, by TinyBERT's replacement of words (Jiao et al. 2020, arXiv:1909.10351).

    file -> parts of 64 examples -> candidates of each word -> variants of each text -> file

A pair varies in one text at a time, and the other text stays as it is. A part depends on its texts and the settings
alone, so any number of workers writes the same file, and a killed command goes on after the last finished part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

import torch

from unmask.commands.load_model import load_masked_model
from unmask.config.settings import check_argument, counted
from unmask.data.masking.word_vectors import require_gensim
from unmask.errors import CorpusError, RunError
from unmask.interop.find_model import find_model
from unmask.paths import as_typed, sync
from unmask.processes import ProcessPool, cores
from unmask.tasks.augmentation.config import AugmentationConfig
from unmask.tasks.augmentation.masked_model import MaskedModel
from unmask.tasks.augmentation.nearest_words import NearestWords
from unmask.tasks.augmentation.parts import Parts
from unmask.tasks.augmentation.table import SUFFIXES, table_lines
from unmask.tasks.augmentation.variants import draw_variants
from unmask.tasks.augmentation.words import words_of
from unmask.tasks.benchmarks import texts_of_benchmark
from unmask.tasks.data.layouts import layout_of_columns
from unmask.tasks.data.rows import task_file
from unmask.tasks.data.texts import TextRecord, read_records

__all__ = ["Augmented", "augment"]

_EXAMPLES = 64


class _TextResult(TypedDict):
    """The variants of one text, and what there is to count."""

    variants: list[str]
    words: int
    by_model: int
    by_vectors: int
    dropped: int
    replaced: int


@dataclass(kw_only=True, slots=True)
class Augmented:
    """How much changed.

    Attributes:
        examples: of the file.
        rows: of the file that was made.
        texts: of the examples, two for a pair.
        unchanged: texts without a variant.
        words: with a letter, in all texts.
        by_model, by_vectors: words that have candidates, from either.
        variants: of all texts.
        dropped: draws that came again or changed nothing.
        replaced: words that were replaced, in all variants together.
    """

    examples: int = 0
    rows: int = 0
    texts: int = 0
    unchanged: int = 0
    words: int = 0
    by_model: int = 0
    by_vectors: int = 0
    variants: int = 0
    dropped: int = 0
    replaced: int = 0

    def lines(self) -> str:
        """Return the numbers in three lines."""
        stay = self.words - self.by_model - self.by_vectors
        return "\n".join(
            [
                f"{counted(self.examples, 'example')} became {self.rows:,}, "
                f"{self.rows / max(1, self.examples):.1f} times as many",
                f"{counted(self.words, 'word')}: {self.by_model:,} have candidates from the model, {self.by_vectors:,} "
                f"from vectors, {stay:,} stay as they are",
                f"{self.replaced / max(1, self.variants):.1f} words are replaced in a variant; draws that repeated or "
                f"changed nothing: {self.dropped:,}; texts without a variant: {self.unchanged:,} of {self.texts:,}",
            ]
        )

    def add(self, result: _TextResult) -> None:
        """Count one more text."""
        self.texts += 1
        self.unchanged += not result["variants"]
        self.words += result["words"]
        self.by_model += result["by_model"]
        self.by_vectors += result["by_vectors"]
        self.variants += len(result["variants"])
        self.dropped += result["dropped"]
        self.replaced += result["replaced"]


def augment(
    model: str | Path,
    file: str | Path,
    out: str | Path,
    config: AugmentationConfig | None = None,
    *,
    layout: str | None = None,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    encoding: str = "utf-8",
    delimiter: str | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Augmented:
    """Write the examples of a file, each followed by its variants, and return how much changed.

    Example:
        >>> import unmask
        >>> found = unmask.augment("runs/mine", "train.tsv", "augmented.tsv", text="sentence", label="label")
        >>> found.rows >= found.examples
        True

    Args:
        model: a masked language model: a run, a checkpoint, a model folder, or `ORG/NAME` of the Hub.
        file: examples for classification or regression: texts or pairs, with or without labels.
        out: file to make, with the columns of `file`: `.tsv`, `.csv` or `.jsonl`.
        config: what decides the variants. Default: as in the paper.
        layout: benchmark whose file this is. Default: `text`, `pair` and `label` name columns.
        text, pair, label: columns. Defaults: "text", none, and "label" where there is one. A label that is named must
            be in every line.
        encoding, delimiter: of `file`.
        workers: processes. Default: one for each core, or one with a GPU.
        progress: called with the number of examples that are done, and of all.
    Raises:
        ConfigError: there is no such layout.
        RunError: `out` exists, its suffix names no format, or an unfinished one has other settings.
        CorpusError: a file cannot be read, or no word can be replaced.
        CheckpointError: the model has no masked-LM head, or is damaged.
        UnmaskError: gensim is missing, or the model reads shorter sequences than `context` needs.
    """
    check_argument("augment", "workers", int | None, workers, ge=1)
    target, config = Path(out), config or AugmentationConfig()
    if target.suffix.lower() not in SUFFIXES:
        near = target.with_name("augmented.tsv") if target.name else "augmented.tsv"
        raise RunError(
            f"augment: --out must end in {', '.join(SUFFIXES)}, since the suffix decides the format, got {target}; "
            f"give a name such as {as_typed(near)}"
        )
    if target.exists():
        raise RunError(f"augment: {target} exists already; choose another name with --out")
    columns = (
        layout_of_columns(text or "text", pair=pair, label=label or "label")
        if layout is None
        else texts_of_benchmark(layout)
    )
    records = list(read_records(file, columns, labelled=label is not None, encoding=encoding, delimiter=delimiter))
    if not records:
        raise CorpusError(f"augment: {file} has no example; give a file with at least one")
    if config.vectors is not None:
        require_gensim()
    worker = _Worker(str(find_model(model).path), config)
    texts = hashlib.sha256(repr([one[1:4] for one in records]).encode())
    settings = {**asdict(config), **worker.fingerprints(), "texts": texts.hexdigest()}
    with Parts(target, settings) as parts:
        _finish_parts(worker, records, parts, workers or (1 if torch.cuda.is_available() else cores()), progress)
        found = _counted(records, parts)
        if found.variants:
            _write(target, table_lines(target, columns, _rows(records, parts)))
    if not found.variants:
        able = found.by_model + found.by_vectors
        raise CorpusError(
            f"augment: no text of {file} has a variant: {counted(found.words, 'word')} with a letter, {able:,} with "
            "candidates; give a model whose tokenizer knows these words whole, --vectors, or a larger "
            "--probability"
        )
    return found


class _Worker:
    """Finds the variants of texts, in this process or in another; each process reads model and vectors once."""

    def __init__(self, model: str, config: AugmentationConfig) -> None:
        self._model, self._config = model, config

    def __call__(self, texts: list[tuple[int, str]]) -> list[_TextResult]:
        """Return what each text gives; with it comes its column, 0 or 1."""
        config, (model, vectors) = self._config, _loaded(self._model, self._config)
        keep = frozenset() if config.keep is None else _words_to_keep(config.keep)
        found = words_of([text for _, text in texts], model.tokenizer, keep)
        proposed = model.candidates(found)
        results: list[_TextResult] = []
        for (column, _), one, candidates in zip(texts, found, proposed, strict=True):
            by_model = sum(map(bool, candidates))
            if vectors is not None:
                candidates = [
                    those or vectors.candidates(one.spelled(word))
                    for word, those in zip(one.words, candidates, strict=True)
                ]
            drawn = draw_variants(
                one,
                candidates,
                count=config.copies,
                probability=config.probability,
                seed=config.seed,
                column=column,
            )
            results.append(
                {
                    "variants": list(drawn.texts),
                    "words": len(one.words),
                    "by_model": by_model,
                    "by_vectors": sum(map(bool, candidates)) - by_model,
                    "dropped": drawn.dropped,
                    "replaced": drawn.replaced,
                }
            )
        return results

    def fingerprints(self) -> dict[str, str]:
        """Return hashes of the model and of the files that the settings name."""
        model, _ = _loaded(self._model, self._config)
        files = {"vectors": self._config.vectors, "keep": self._config.keep}
        return {"model": model.hash()} | {name: _file_hash(path) for name, path in files.items() if path is not None}


@lru_cache(maxsize=1)
def _loaded(folder: str, config: AugmentationConfig) -> tuple[MaskedModel, NearestWords | None]:
    model, tokenizer = load_masked_model(find_model(folder), "augment")
    proposing = MaskedModel(
        model.to("cuda" if torch.cuda.is_available() else "cpu"),
        tokenizer,
        count=config.candidates,
        form=config.form,
        context=config.context,
    )
    if config.vectors is None:
        return proposing, None
    return proposing, NearestWords(Path(config.vectors), count=config.candidates, most=config.most_vectors)


def _file_hash(path: str) -> str:
    found = hashlib.sha256()
    with task_file(path).open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


@lru_cache(maxsize=1)
def _words_to_keep(path: str) -> frozenset[str]:
    with task_file(path).open("rb") as file:
        return frozenset(file.read().decode("utf-8").lower().split())


def _finish_parts(
    worker: _Worker,
    records: Sequence[TextRecord],
    parts: Parts,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Make the parts that are not there yet."""
    jobs = ((start, None if parts.read(start) else _texts(_part(records, start))) for start in _starts(records))
    with ProcessPool(worker, min(workers, len(_starts(records)))) as pool:
        for start, results in pool.map(jobs):
            if results is not None:
                parts.write(start, results)
            if progress is not None:
                progress(min(start + _EXAMPLES, len(records)), len(records))


def _counted(records: Sequence[TextRecord], parts: Parts) -> Augmented:
    found = Augmented(examples=len(records), rows=len(records))
    for start in _starts(records):
        for result in parts.read(start):
            found.add(result)
    found.rows += found.variants
    return found


def _rows(records: Sequence[TextRecord], parts: Parts) -> Iterator[tuple[str, str | None, str | None]]:
    """Yield each example and its variants."""
    for start in _starts(records):
        results = iter(parts.read(start))
        for one in _part(records, start):
            yield one.text, one.pair, one.label
            for column, _ in _texts([one]):
                for new in next(results)["variants"]:
                    text, pair = (new, one.pair) if column == 0 else (one.text, new)
                    yield text, pair, one.label


def _starts(records: Sequence[TextRecord]) -> range:
    return range(0, len(records), _EXAMPLES)


def _part(records: Sequence[TextRecord], start: int) -> Sequence[TextRecord]:
    return records[start : start + _EXAMPLES]


def _texts(records: Sequence[TextRecord]) -> list[tuple[int, str]]:
    """Return the texts of examples with their columns."""
    pairs = ((one.text, one.pair) for one in records)
    return [(column, text) for pair in pairs for column, text in enumerate(pair) if text is not None]


def _write(target: Path, lines: Iterator[str]) -> None:
    """Write the file, whole or not at all."""
    partial = target.with_name(f".{target.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as out:
            out.writelines(lines)
        sync(partial)
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
