"""A token store from a datatrove pipeline, for corpora larger than one machine.

    pipeline = [ParquetReader("corpus/"), TokenStoreWriter("store", tokenizer="tokenizer", sources=["web"])]
    LocalPipelineExecutor(pipeline, tasks=100, workers=8).run()       # or SlurmPipelineExecutor, RayPipelineExecutor
    finish_store("store")

Each task writes its documents to its own part, `store.parts/part-00003`, under a temporary name until it is whole. A
task that failed and runs again replaces what it left. `finish_store` checks that no part is missing and joins the parts
in the order of the tasks, by linking their shards. The documents and tokens are those of `unmask prepare` for the same
text; the shards have other sizes. All machines must see the folder. Needs the extra `datatrove`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unmask.config.settings import between_commas
from unmask.data.prepare.encoding import TextEncoder
from unmask.data.prepare.unknown import UnknownTokens, require_known
from unmask.data.store import Store
from unmask.data.store.manifest import ShardEntry, SourceEntry, StoreHead, make_manifest
from unmask.data.store.summary import SummaryCounts
from unmask.data.store.unfinished import UnfinishedStore
from unmask.data.store.writer import SHARD_TOKENS, ShardWriter, StoredDocument
from unmask.data.text.cleaning import Normalisation
from unmask.data.text.words import load_segmenter
from unmask.data.tokenizer import Tokenizer
from unmask.errors import CorpusError, StoreError
from unmask.paths import replace_text

try:
    from datatrove.pipeline.base import PipelineStep
except ImportError:
    raise StoreError(
        "store: writing from a pipeline needs datatrove; pip install 'unmask[datatrove]' brings it"
    ) from None

__all__ = ["TokenStoreWriter", "finish_store"]

_PART = "part.json"
_BATCH_CHARACTERS = 1_000_000


class TokenStoreWriter(PipelineStep):  # type: ignore[misc]
    """Writes the documents of one task to a part of a store, and passes them on.

    Args:
        out: the store that `finish_store` will make.
        tokenizer: folder or `vocab.txt` of the tokenizer, which every machine must see.
        sources: names of the sources, in the order of their numbers.
        lowercase: whether the tokenizer drops case; see `Tokenizer.load`.
        source_key: field of a document's metadata that names its source; not read if there is only one source.
        segmenter: see `prepare`, and so for the next two.
        normalisation: see there.
        shard_tokens: see there.
    """

    name = "unmask token store"
    type = "💽 - WRITER"

    def __init__(
        self,
        out: str | Path,
        *,
        tokenizer: str | Path,
        sources: Sequence[str],
        lowercase: bool | None = None,
        source_key: str = "source",
        segmenter: str | None = None,
        normalisation: Normalisation = "none",
        shard_tokens: int = SHARD_TOKENS,
    ) -> None:
        super().__init__()
        if not sources:
            raise ValueError("TokenStoreWriter: sources must name at least one source, got none")
        self.out, self.tokenizer = str(out), str(tokenizer)
        self.lowercase = lowercase
        self.sources, self.source_key = list(sources), source_key
        self.segmenter, self.normalisation = segmenter, normalisation
        self.shard_tokens = shard_tokens

    def run(self, data: Iterable[Any], rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Write part `rank` of `world_size`.

        Raises:
            StoreError: the store exists already.
            CorpusError: a document's source is not among `sources`, or the segmenter cannot be loaded.
        """
        if Path(self.out).exists():
            raise StoreError(f"store: {self.out} exists already; choose another folder or remove it first")
        tokenizer = Tokenizer.load(self.tokenizer, lowercase=self.lowercase)
        segmenter = None if self.segmenter is None else load_segmenter(self.segmenter)
        encode = TextEncoder(tokenizer=tokenizer, segmenter=segmenter, normalisation=self.normalisation)
        head = StoreHead.of(tokenizer, "" if segmenter is None else segmenter.label)
        final = _parts(self.out) / f"part-{rank:05d}"
        part = final.with_name(f"{final.name}.partial")
        for left in (part, final):
            shutil.rmtree(left, ignore_errors=True)
        part.mkdir(parents=True)
        sources = [SourceEntry(name=name, documents=0, tokens=0) for name in self.sources]
        writer = ShardWriter(part, head, sources=sources, shard_tokens=self.shard_tokens)
        tally, words = SummaryCounts(), UnknownTokens()
        try:
            for batch in _batches(data):
                self._write(batch, encode, writer, tally, words)
                yield from batch
            writer.close()
        finally:
            writer.abandon()
        tokenizer.save(part / "tokenizer")
        contents = {
            "tasks": world_size,
            "head": asdict(head),
            "sources": writer.sources,
            "shards": writer.shards,
            "tally": tally.state(),
            "unknown": words.state(),
        }
        replace_text(part / _PART, json.dumps(contents))
        part.rename(final)

    def _write(
        self,
        batch: Sequence[Any],
        encode: TextEncoder,
        writer: ShardWriter,
        tally: SummaryCounts,
        words: UnknownTokens,
    ) -> None:
        with self.track_time("batch"):
            encoded = encode([document.text for document in batch])
        end = 0
        for index, document in enumerate(batch):
            start, end = end, end + int(encoded.lengths[index])
            ids, source = encoded.ids[start:end], self._source(document)
            unknown = int((ids == encode.tokenizer.unk_id).sum())
            tally.note(source, len(document.text), len(ids), unknown, encoded.removed[index])
            words.note(len(ids), encoded.unknown_words[index])
            self.stat_update("tokens", value=len(ids))
            if len(ids):
                writer.add(
                    StoredDocument(
                        ids=ids,
                        source=source,
                        content_hash=int(encoded.content_hashes[index]),
                        word_starts=encoded.word_starts[start:end],
                        sentence_starts=encoded.sentence_starts[start:end],
                    )
                )

    def _source(self, document: Any) -> str:
        if len(self.sources) == 1:
            return self.sources[0]
        source = document.metadata.get(self.source_key)
        if source not in self.sources:
            raise CorpusError(
                f"corpus: document {document.id} has the source {source!r} in its metadata field {self.source_key!r}; "
                f"sources are {', '.join(map(between_commas, self.sources))}"
            )
        return str(source)


def finish_store(out: str | Path, *, allow_unknown: bool = False) -> Store:
    """Join the parts of all tasks to a store, open it, and remove the parts.

    Args:
        out: the store to make.
        allow_unknown: see `prepare`. The parts stay if they are refused.

    Raises:
        TokenizerError: more than 10% of the tokens are unknown.
        StoreError: the store exists; the part of a task is missing; the parts have different tokenizers, segmenters or
            sources; or no part has a document.
    """
    parts = sorted(path for path in _parts(out).glob("part-*") if path.suffix != ".partial")
    if not parts:
        raise StoreError(f"store: {_parts(out)} holds no finished part; run the pipeline with TokenStoreWriter first")
    contents = [json.loads((path / _PART).read_text(encoding="utf-8")) for path in parts]
    tasks = contents[0]["tasks"]
    missing = [str(rank) for rank in range(tasks) if not (_parts(out) / f"part-{rank:05d}").is_dir()]
    if missing:
        raise StoreError(
            f"store: {_parts(out)} lacks the parts of tasks {', '.join(missing)} of {tasks}; run the pipeline again, "
            "it repeats what is missing"
        )
    for path, part in zip(parts, contents, strict=True):
        names = [[source["name"] for source in one["sources"]] for one in (contents[0], part)]
        if part["head"] != contents[0]["head"] or names[0] != names[1] or part["tasks"] != tasks:
            raise StoreError(
                f"store: {path} was made by another tokenizer, segmenter, list of sources or number of tasks than "
                f"{parts[0]}; remove {_parts(out)} and run the pipeline again"
            )
    tokenizer = Tokenizer.load(parts[0] / "tokenizer")
    # a part of an early version has no such counts
    words = UnknownTokens.merged(part.get("unknown", {}) for part in contents)
    require_known(words, tokenizer, "given", allow=allow_unknown)
    sources: list[SourceEntry] = contents[0]["sources"]
    for part in contents[1:]:
        for source, more in zip(sources, part["sources"], strict=True):
            source["documents"] += more["documents"]
            source["tokens"] += more["tokens"]
    shards: list[ShardEntry] = []
    with UnfinishedStore(out) as place:
        for path, part in zip(parts, contents, strict=True):
            for shard in part["shards"]:
                name = f"shard-{len(shards):05d}.arrow"
                _link(path / shard["file"], place.path / name)
                shards.append(shard | {"file": name})
        shutil.copytree(parts[0] / "tokenizer", place.path / "tokenizer")
        summary = SummaryCounts.merged(part["tally"] for part in contents).summary(
            [source["name"] for source in sources]
        )
        place.publish(make_manifest(StoreHead(**contents[0]["head"]), sources, shards, summary))
    shutil.rmtree(_parts(out), ignore_errors=True)
    return Store.open(out)


def _parts(out: str | Path) -> Path:
    return Path(out).with_name(f"{Path(out).name}.parts")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # a file system without links
        shutil.copyfile(source, target)


def _batches(documents: Iterable[Any]) -> Iterator[list[Any]]:
    batch: list[Any] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
