"""A datatrove pipeline of two workers writes the store that `unmask prepare` writes."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask.data.prepare import prepare
from unmask.data.store import Store
from unmask.data.tokenizer import Tokenizer
from unmask.errors import CorpusError, StoreError

pytest.importorskip("datatrove")

TEXTS = [
    "The river runs past the old mill. It turns!",
    "一只猫坐在墙上。它很好……走了。",
    # datatrove's readers drop a text of no characters themselves
    "\u200b",
    "A cat \ufffdsat on the warm wall; \x01then it left.",
    "The mill.\n\nThe river 深度学习 again.",
]


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    from loguru import logger

    logger.remove()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "corpus").mkdir()
    for number, source in enumerate(["web", "books"]):
        rows = [{"text": text * (number + 1), "id": str(n), "source": source} for n, text in enumerate(TEXTS * 20)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "corpus" / f"{number}-{source}.parquet")
    Tokenizer.train(TEXTS, 160).save(tmp_path / "tokenizer")
    return tmp_path / "corpus"


def _run(tmp_path: Path, tasks: int, workers: int, **options: Any) -> None:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import ParquetReader

    from unmask.data.prepare.datatrove import TokenStoreWriter

    writer = TokenStoreWriter(
        tmp_path / "store", tokenizer=tmp_path / "tokenizer", **({"sources": ["web", "books"]} | options)
    )
    pipeline = [ParquetReader(str(tmp_path / "corpus"), glob_pattern="*.parquet"), writer]
    logs = str(tmp_path / "logs")
    LocalPipelineExecutor(pipeline, tasks=tasks, workers=workers, logging_dir=logs, start_method="spawn").run()


def _contents(store: Store) -> list[list[Any]]:
    rows = np.arange(store.num_documents)
    spans = (rows, np.zeros_like(rows), store.lengths)
    names = [store.sources[number] for number in store.source_of]
    arrays = [*store.gather(*spans), store.gather_sentence_starts(*spans), store.lengths, store.content_hashes]
    return [names, *(array.tolist() for array in arrays)]


def test_two_workers_write_what_prepare_writes(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask.data.prepare.datatrove import finish_store

    root = Path(__file__).parents[3]
    paths = [str(root / "engine"), str(root / "kernels"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    _run(tmp_path, tasks=2, workers=2, segmenter="spaces", shard_tokens=300)
    store = finish_store(tmp_path / "store")
    inputs = [f"{name}={corpus}/{number}-{name}.parquet" for number, name in enumerate(["web", "books"])]
    expected = prepare(inputs, tmp_path / "expected", tokenizer=tmp_path / "tokenizer", segmenter="spaces")
    assert len(store.manifest["shards"]) > 2
    assert _contents(store) == _contents(expected)
    for key in ("sources", "tokenizer_hash", "segmenter", "special_ids", "summary", "documents", "tokens"):
        assert store.manifest[key] == expected.manifest[key], key  # type: ignore[literal-required]
    assert store.load_tokenizer().hash == expected.load_tokenizer().hash
    assert not (tmp_path / "store.parts").exists()


def test_a_task_that_runs_again_replaces_its_part_and_a_missing_one_is_named(corpus: Path, tmp_path: Path) -> None:
    from unmask.data.prepare.datatrove import TokenStoreWriter, finish_store

    documents = [_document(text) for text in TEXTS]
    step = TokenStoreWriter(tmp_path / "store", tokenizer=tmp_path / "tokenizer", sources=["web"])
    with pytest.raises(StoreError, match="holds no finished part"):
        finish_store(tmp_path / "store")
    passed = step.run(iter(documents), rank=1, world_size=2)
    next(passed)
    passed.close()
    assert [path.name for path in (tmp_path / "store.parts").iterdir()] == ["part-00001.partial"]
    assert list(step.run(iter(documents), rank=1, world_size=2)) == documents
    with pytest.raises(StoreError, match="lacks the parts of tasks 0 of 2; run the pipeline again"):
        finish_store(tmp_path / "store")
    list(step.run(iter([]), rank=0, world_size=2))
    store = finish_store(tmp_path / "store")
    assert store.num_documents == 4
    with pytest.raises(StoreError, match="exists already"):
        list(step.run(iter(documents)))


def test_parts_of_different_makers_and_strange_sources_are_refused(corpus: Path, tmp_path: Path) -> None:
    from unmask.data.prepare.datatrove import TokenStoreWriter, finish_store

    common: dict[str, Any] = {"tokenizer": tmp_path / "tokenizer", "sources": ["web"]}
    for rank, segmenter in enumerate([None, "spaces"]):
        step = TokenStoreWriter(tmp_path / "store", segmenter=segmenter, **common)
        list(step.run(iter([_document("text")]), rank=rank, world_size=2))
    with pytest.raises(StoreError, match="part-00001 was made by another tokenizer, segmenter, list of sources"):
        finish_store(tmp_path / "store")
    step = TokenStoreWriter(tmp_path / "store", tokenizer=tmp_path / "tokenizer", sources=["web", "books"])
    with pytest.raises(CorpusError, match=r"document x has the source 'films' .*; sources are web, books"):
        list(step.run(iter([_document("text", source="films")])))
    with pytest.raises(ValueError, match="sources must name at least one source"):
        TokenStoreWriter(tmp_path / "store", tokenizer=tmp_path / "tokenizer", sources=[])


def _document(text: str, **metadata: str) -> Any:
    from datatrove.data import Document

    return Document(text=text, id="x", metadata=metadata)
