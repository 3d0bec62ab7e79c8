"""What the errors about batches, models, objectives and paths advise: each is followed here, and then it works."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advice import Action, follow
from unmask import Encoder, EncoderConfig, PackedBatch, PretrainingModel, mean_pool, pack, packed_inputs
from unmask.batch import assemble
from unmask.objectives import build_objectives, score_batch
from unmask.paths import expanded

CONFIG = EncoderConfig(vocab_size=60, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64, max_positions=24)
DOCUMENTS = [[2, 5, 6, 7, 3], [2, 8, 3]]
BATCH = pack(DOCUMENTS)
MASKED = replace(BATCH, masked=torch.tensor([1, 6]), labels=torch.tensor([9, 8]))
PAIRS = replace(MASKED, pair_labels=torch.tensor([0, 1]))
PARTS = {name: getattr(BATCH, name) for name in PackedBatch.__dataclass_fields__}
FLAT = BATCH.ids[None]
# a row of more tokens than a message shows
LONG = torch.arange(5, 25)[None]
PADDED, MASK = torch.ones(2, 20, dtype=torch.int64), torch.ones(2, 20, dtype=torch.int64)
BOUNDARIES = BATCH.documents.cu_seqlens
ENCODER = Encoder(CONFIG).eval()
MODEL = PretrainingModel(CONFIG, heads=("mlm", "nsp")).eval()
CAUSAL = PretrainingModel(replace(CONFIG, causal=True)).eval()
HIDDEN = ENCODER(BATCH.ids, BATCH.documents)


def texts(words: str | list[str], *, truncation: bool = False) -> dict[str, Any]:
    """A stand-in for a tokenizer of transformers."""
    lines = [words] if isinstance(words, str) else words
    ids = [[2, *(5 + len(word) for word in line.split()), 3] for line in lines]
    return {"input_ids": ids[0] if isinstance(words, str) else ids}


def packs(documents: Any, **given: Any) -> Action:
    return lambda: pack(documents, **given)


def assembles(**given: Any) -> Action:
    arguments: dict[str, Any] = {
        "ids": np.arange(5, 10),
        "lengths": np.array([3, 2]),
        "keys": np.arange(2),
        "tokens": 5,
        "sequences": 2,
        "max_seqlen": 3,
        "masked": np.array([1, 2]),
        "labels": np.array([7, 7]),
    }
    return lambda: assemble(**(arguments | given))


def batch(**given: Any) -> Action:
    return lambda: PackedBatch(**given)


def reads(**inputs: Any) -> Action:
    return lambda: packed_inputs(**inputs)


def encodes(*inputs: Any, **named: Any) -> Action:
    return lambda: ENCODER(*inputs, **named)


def scores(weights: dict[str, float], given: PackedBatch = PAIRS, model: PretrainingModel = MODEL) -> Action:
    return lambda: score_batch(model, build_objectives(weights), given)


def under_compile(**inputs: Any) -> Action:
    def compiled() -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(torch.compiler, "is_compiling", lambda: True)
            packed_inputs(**inputs)

    return compiled


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in PARTS.items() if name not in names}


CASES: dict[str, tuple[Action, str, list[Action]]] = {
    "a text": (
        packs("the cat"),
        "pack: documents must be lists of token ids, got a text; call unmask.pack(tokenizer(texts, truncation=True)"
        "['input_ids']) with a tokenizer of transformers, where texts is a list",
        [packs(texts(["the cat"], truncation=True)["input_ids"])],
    ),
    "a list of texts": (
        packs(["the cat"]),
        "pack: documents[0] must be a list of token ids, got the text 'the cat'; call unmask.pack(tokenizer(texts, "
        "truncation=True)['input_ids']) with a tokenizer of transformers",
        [packs(texts(["the cat"], truncation=True)["input_ids"])],
    ),
    "what a tokenizer gives": (
        packs(texts(["the cat"])),
        "pack: documents must be lists of token ids, got a dict; pass its 'input_ids', made without return_tensors and "
        "padding",
        [packs(texts(["the cat"])["input_ids"])],
    ),
    "a generator": (
        packs(ids for ids in DOCUMENTS),
        "pack: documents must be lists of token ids, got generator; pass list(...) of it",
        [packs(list(iter(DOCUMENTS)))],
    ),
    "one document": (
        packs(DOCUMENTS[0]),
        "pack: documents[0] must be a list of token ids, got int; pass a list of documents, and [ids] for one",
        [packs(DOCUMENTS), packs([DOCUMENTS[0]])],
    ),
    "no documents": (
        packs([]),
        "pack: documents must hold at least one list of token ids, got none",
        [packs([[]])],
    ),
    "numbers that are no ids": (
        packs([[1.5, 2.5]]),
        "pack: ids must be integers, got float64; pass the ids that the tokenizer makes",
        [packs(texts(["the cat"])["input_ids"])],
    ),
    "keys": (
        packs(DOCUMENTS, keys=[1]),
        "pack: keys must hold one key per document (2), got 1",
        [packs(DOCUMENTS, keys=[1, 2])],
    ),
    "lists of segments": (
        packs(DOCUMENTS, segments=[[0] * 5]),
        "pack: segments must have one list per document (2), got 1",
        [packs(DOCUMENTS, segments=[[0] * 5, [0] * 3])],
    ),
    "segments": (
        packs(DOCUMENTS, segments=[[0] * 5, [0] * 2]),
        "pack: segments[1] must have 3 entries, the tokens of its document, got 2",
        [packs(DOCUMENTS, segments=[[0] * 5, [0] * 3])],
    ),
    "lengths of another sum": (
        assembles(lengths=np.array([3, 3])),
        "assemble: lengths must sum to the number of ids (5), sum to 6",
        [assembles(lengths=np.array([4, 1]), max_seqlen=4)],
    ),
    "room for tokens": (
        assembles(tokens=4),
        "assemble: tokens has capacity 4 but 5 are needed; raise tokens",
        [assembles(tokens=5)],
    ),
    "room for documents": (
        assembles(sequences=1),
        "assemble: sequences has capacity 1 but 2 are needed; raise sequences",
        [assembles(sequences=2)],
    ),
    "room for masked tokens": (
        assembles(masked_capacity=1),
        "assemble: masked has capacity 1 but 2 are needed; raise masked_capacity",
        [assembles(masked_capacity=2)],
    ),
    "a part that is missing": (
        batch(**without("segments")),
        "PackedBatch: segments must be given; pack(...) makes a batch of lists of ids",
        [packs(DOCUMENTS)],
    ),
    "another part": (
        batch(**PARTS, weights=1),
        "PackedBatch: weights is no part of a batch; leave it out, a batch has ids, documents, ",
        [batch(**PARTS)],
    ),
    "another mapping": (
        lambda: PackedBatch({"input_ids": FLAT}),
        "PackedBatch: a mapping must have the entries of a batch, documents and max_seqlen among them; pass what a "
        "trainer made of a batch, or make one with pack(...)",
        [lambda: PackedBatch(dict(BATCH)), packs(DOCUMENTS)],
    ),
    "a mask on the left": (
        reads(input_ids=PADDED, attention_mask=MASK.index_fill(1, torch.arange(4), 0)),
        "attention_mask must be ones, then zeros, in each row, row 0 is [0, 0, 0, 0, 1, ... , ...]; padding on the "
        "left "
        "or between tokens is not read: set tokenizer.padding_side = 'right'",
        [reads(input_ids=PADDED, attention_mask=MASK.index_fill(1, torch.arange(16, 20), 0))],
    ),
    "lengths": (
        reads(input_ids=LONG, cu_seq_lens_q=torch.ones(20, dtype=torch.int32)),
        "packed_inputs: cu_seq_lens_q must rise from 0 to the 20 tokens of input_ids, got [1, 1, ... , ...]; give "
        "offsets, not lengths",
        [reads(input_ids=LONG, cu_seq_lens_q=torch.arange(21, dtype=torch.int32))],
    ),
    "positions of padded rows": (
        reads(
            input_ids=PADDED,
            attention_mask=MASK.index_fill(1, torch.tensor([19]), 0),
            position_ids=torch.arange(1, 21).expand(2, 20),
        ),
        "position_ids must be 0 to 19 in each row of a padded batch; at [0, 0] they are 1, row 0 is [1, 2, ... , ...]; "
        "leave position_ids out if each row is one document",
        [reads(input_ids=PADDED, attention_mask=MASK.index_fill(1, torch.tensor([19]), 0))],
    ),
    "positions of a flat row": (
        reads(input_ids=LONG, position_ids=torch.arange(0, 40, 2)[None]),
        "position_ids must count from 0 in each document, the next one or 0 after each; at [0, 1] they are 2, row 0 is "
        "[0, 2, ... , ...]; leave position_ids out if each row is one document",
        [reads(input_ids=LONG)],
    ),
    "several maxima": (
        reads(input_ids=FLAT, cu_seq_lens_q=BOUNDARIES, max_length_q=torch.tensor([5, 3])),
        "packed_inputs: max_length_q must be one number, got shape (2,)",
        [reads(input_ids=FLAT, cu_seq_lens_q=BOUNDARIES, max_length_q=torch.tensor([5]))],
    ),
    "several maxima of the keys": (
        reads(input_ids=FLAT, cu_seq_lens_q=BOUNDARIES, max_length_k=torch.tensor([5, 3])),
        "packed_inputs: max_length_k must be one number, got shape (2,)",
        [reads(input_ids=FLAT, cu_seq_lens_q=BOUNDARIES, max_length_k=5)],
    ),
    "boundaries of keys": (
        reads(input_ids=FLAT, cu_seq_lens_q=BOUNDARIES, cu_seq_lens_k=BOUNDARIES[[0, 2]]),
        "packed_inputs: cu_seq_lens_k must be cu_seq_lens_q, since each document attends to itself, and they differ; "
        "leave cu_seq_lens_k out",
        [reads(input_ids=FLAT, cu_seq_lens_q=BOUNDARIES)],
    ),
    "dtype of boundaries": (
        reads(input_ids=FLAT, cu_seq_lens_q=BOUNDARIES.float()),
        "packed_inputs: cu_seq_lens_q must be int32 or int64, got torch.float32; use cu_seq_lens_q.int()",
        [reads(input_ids=FLAT, cu_seq_lens_q=BOUNDARIES.float().int())],
    ),
    "padding in a flat row": (
        reads(input_ids=FLAT, cu_seq_lens_q=BOUNDARIES, attention_mask=(torch.arange(8) < 7).long()[None]),
        "packed_inputs: with cu_seq_lens_q every token is one of a document, but attention_mask holds zeros; leave "
        "attention_mask out, and the padding with it",
        [reads(input_ids=FLAT[:, :7], cu_seq_lens_q=BOUNDARIES.clamp(max=7))],
    ),
    "another device": (
        reads(input_ids=FLAT, token_type_ids=torch.zeros_like(FLAT, device="meta")),
        "packed_inputs: token_type_ids must be on cpu, the device of input_ids, got meta; move it with "
        "token_type_ids.to('cpu')",
        [reads(input_ids=FLAT, token_type_ids=torch.zeros_like(FLAT).to("cpu"))],
    ),
    "positions under the compiler": (
        under_compile(input_ids=FLAT, position_ids=BATCH.documents.positions[None]),
        "packed_inputs: position_ids are not read under torch.compile; pass cu_seq_lens_q and max_length_q, or leave "
        "position_ids out for one document a row",
        [under_compile(input_ids=FLAT, cu_seq_lens_q=BOUNDARIES, max_length_q=5), under_compile(input_ids=FLAT)],
    ),
    "no ids": (
        encodes(documents=BATCH.documents),
        "encoder: ids must be given; a tokenizer of transformers makes input_ids and attention_mask",
        [encodes(BATCH.ids, BATCH.documents), encodes(input_ids=PADDED, attention_mask=MASK)],
    ),
    "no input ids": (
        encodes(attention_mask=MASK),
        "encoder: input_ids must be given; a tokenizer of transformers makes input_ids and attention_mask",
        [encodes(input_ids=PADDED, attention_mask=MASK)],
    ),
    "lists of ids": (
        encodes(DOCUMENTS, BATCH.documents),
        "encoder: ids must be a tensor, got list; pack lists of ids with batch = unmask.pack(documents) and call "
        "encoder(batch.ids, batch.documents, batch.segments)",
        [encodes(BATCH.ids, BATCH.documents, BATCH.segments)],
    ),
    "a mapping for ids": (
        encodes({"input_ids": PADDED}, BATCH.documents),
        "encoder: ids must be a tensor, got dict; call encoder(**inputs), with tensors in them (return_tensors='pt')",
        [encodes(input_ids=PADDED)],
    ),
    "a batch for ids": (
        encodes(BATCH),
        "encoder: input_ids must be a tensor, got PackedBatch; call encoder(batch.ids, batch.documents, "
        "batch.segments)",
        [encodes(BATCH.ids, BATCH.documents, BATCH.segments)],
    ),
    "rows of padded inputs": (
        encodes(PADDED, MASK, rows=torch.tensor([1])),
        "encoder: rows needs ids and documents; call encoder(batch.ids, batch.documents, batch.segments, rows=rows) "
        "with batch = unmask.packed_inputs(...).batch",
        [
            lambda: ENCODER(
                (found := packed_inputs(PADDED, MASK).batch).ids,
                found.documents,
                found.segments,
                rows=torch.tensor([1]),
            )
        ],
    ),
    "two names of the ids": (
        encodes(BATCH.ids, BATCH.documents, input_ids=FLAT),
        "encoder: ids and input_ids are two names of the same argument, and both are given; leave one out",
        [encodes(BATCH.ids, BATCH.documents), encodes(input_ids=FLAT)],
    ),
    "a batch for documents": (
        encodes(BATCH.ids, BATCH),
        "encoder: documents must be Documents, got a PackedBatch; call encoder(batch.ids, batch.documents, batch.segm",
        [encodes(BATCH.ids, BATCH.documents, BATCH.segments)],
    ),
    "documents of a batch taken apart": (
        encodes(BATCH.ids, dict(BATCH)["documents"]),
        "encoder: documents must be Documents, or an attention mask (B, L), got DocumentRow; a batch that a trainer "
        "took "
        "apart is whole again as unmask.PackedBatch(inputs)",
        [lambda: ENCODER((whole := PackedBatch(dict(BATCH))).ids, whole.documents)],
    ),
    "long documents": (
        encodes(*((long := pack([[5] * 25])).ids, long.documents)),
        "encoder: documents.max_seqlen is 25 but the model has 24 positions; cut documents into pieces (a tokenizer of "
        "transformers does with truncation=True, max_length=24), or train a model with a larger max_positions",
        [
            encodes(*((pieces := pack([[5] * 24, [5]])).ids, pieces.documents)),
            lambda: Encoder(replace(CONFIG, max_positions=25))(long.ids, long.documents),
        ],
    ),
    "no pooler": (
        lambda: Encoder(CONFIG, pooler=False).pool(HIDDEN, BATCH.documents),
        "pool: the encoder has no pooler; take the hidden states of each [CLS], hidden[documents.first_rows()], or "
        "make "
        "the encoder with pooler=True and train the pooler",
        [
            lambda: HIDDEN[BATCH.documents.first_rows()],
            lambda: Encoder(CONFIG, pooler=True).pool(HIDDEN, BATCH.documents),
        ],
    ),
    "pooled documents": (
        lambda: ENCODER.pool(HIDDEN, BATCH),  # type: ignore[arg-type]
        "pool: documents must be Documents, got PackedBatch; pass batch.documents of the batch from unmask.pack",
        [lambda: ENCODER.pool(HIDDEN, BATCH.documents)],
    ),
    "pooled rows": (
        lambda: ENCODER.pool(HIDDEN[:2], BATCH.documents),
        "pool: hidden must have a row for each of the 8 tokens of documents, got 2; leave documents out if they are "
        "the "
        "rows to pool",
        [lambda: ENCODER.pool(HIDDEN[:2]), lambda: ENCODER.pool(HIDDEN, BATCH.documents)],
    ),
    "the mean of documents": (
        lambda: mean_pool(HIDDEN, BATCH.documents),  # type: ignore[arg-type]
        "mean_pool: batch must be a PackedBatch, got Documents; pass the batch itself, mean_pool(hidden, batch)",
        [lambda: mean_pool(HIDDEN, BATCH)],
    ),
    "the mean of rows": (
        lambda: mean_pool(ENCODER(BATCH.ids, BATCH.documents, rows=torch.tensor([0, 5])), BATCH),
        "mean_pool: hidden must have the shape (8, D), a row for each token of the batch, got (2, 32); call the "
        "encoder "
        "without rows=",
        [lambda: mean_pool(ENCODER(BATCH.ids, BATCH.documents), BATCH)],
    ),
    "heads": (
        lambda: PretrainingModel(CONFIG, heads=("nsp",)),
        "PretrainingModel: heads must be ('mlm',) or ('mlm', 'nsp'), got ('nsp',); an encoder without heads is "
        "unmask.Encoder",
        [lambda: PretrainingModel(CONFIG, heads=("mlm", "nsp")), lambda: Encoder(CONFIG)],
    ),
    "no head for pairs": (
        lambda: CAUSAL.nsp_logits(HIDDEN),
        "PretrainingModel: it has no next-sentence head; make or read it with heads=('mlm', 'nsp')",
        [lambda: MODEL.nsp_logits(HIDDEN)],
    ),
    "reentrant checkpointing": (
        lambda: ENCODER.activation_checkpointing_enable({"use_reentrant": True}),
        "use_reentrant must be False, got True; reentrant checkpointing loses gradients where the input of a layer "
        "needs none, as under LoRA; leave use_reentrant out",
        [lambda: Encoder(CONFIG).activation_checkpointing_enable()],
    ),
    "every layer but none": (
        lambda: ENCODER.activation_checkpointing_enable(every_n_layers=0),
        "activation_checkpointing_enable: every_n_layers must be at least 1, got 0; 1 takes every layer",
        [lambda: Encoder(CONFIG).activation_checkpointing_enable(every_n_layers=1)],
    ),
    "no objective": (
        scores({"mlm": 0.0}),
        "objectives: at least one objective needs a weight above 0; set objective.mlm to 1.0",
        [scores({"mlm": 1.0})],
    ),
    "an objective that does not exist": (
        scores({"mlmm": 1.0}),
        "objectives: 'mlmm' is not known; there are mlm, clm, nsp, sop",
        [scores({name: 1.0}, model=CAUSAL if name == "clm" else MODEL) for name in ("mlm", "clm", "nsp", "sop")],
    ),
    "objectives that exclude each other": (
        scores({"nsp": 1.0, "sop": 1.0}),
        "objectives: 'nsp' and 'sop' cannot be summed, because ... ; leave one out",
        [scores({"nsp": 1.0}), scores({"sop": 1.0})],
    ),
    "no masks": (
        scores({"mlm": 1.0}, BATCH),
        "mlm: the batch must carry masked rows and labels, it has none; mask it in the data stream",
        [scores({"mlm": 1.0}, MASKED)],
    ),
    "no pairs": (
        scores({"nsp": 1.0}, MASKED),
        "nsp: the batch must carry pair_labels, it has none; set composition.strategy to 'pairs'",
        [scores({"nsp": 1.0}, PAIRS)],
    ),
    "no causal model": (
        scores({"clm": 1.0}),
        "clm: the model must be causal, or each token sees its answer; set model.causal to true",
        [scores({"clm": 1.0}, model=CAUSAL)],
    ),
    "a NUL in a path": (
        lambda: expanded("runs/\0a"),
        "is no path, since it holds a NUL; leave that out",
        [lambda: expanded("runs/a")],
    ),
    "a user that does not exist": (
        lambda: expanded("~nobody-here/a"),
        "~nobody-here/a begins with a home folder, but no user is called nobody-here; write the path out, or "
        "./~nobody-here/a for a folder of that name",
        [lambda: expanded("/home/nobody-here/a"), lambda: expanded("./~nobody-here/a")],
    ),
    "half a character": (
        lambda: expanded("runs/\ud800"),
        "the name runs/\\ud800 holds half a surrogate pair, which no file name does; write the character",
        [lambda: expanded("runs/\U00010000")],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_call_as_its_error_advises_works(case: str) -> None:
    wrong, told, advised = CASES[case]
    follow(wrong, told, *advised)


def test_a_home_that_nobody_knows_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(path: Path) -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "expanduser", unknown)
    follow(
        lambda: expanded("~/runs"),
        "~/runs begins with a home folder, but neither HOME nor the list of users says where that is; write the path "
        "out, or ./~/runs for a folder of that name",
        lambda: expanded("/home/me/runs"),
        lambda: expanded("./~/runs"),
    )


def test_a_name_in_latin_1_is_renamed(tmp_path: Path) -> None:
    wrong = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        Path(os.fsdecode(wrong)).mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    follow(
        lambda: expanded(os.fsdecode(wrong)),
        r"caf\xe9 must be UTF-8, which the libraries that read and write stores and models need; rename it, for "
        r"example "
        "with convmv",
        lambda: expanded(str(Path(os.fsdecode(wrong)).rename(tmp_path / "café"))),
    )


def test_a_worker_that_died_leaves_fewer_workers_as_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for want of memory: a process that works beside another one dies."""
    from unmask.processes import ProcessPool

    (tmp_path / "hungry.py").write_text(
        f"import os\ndef work(item):\n    return item if os.getpid() == {os.getpid()} else os._exit(9)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    from hungry import work

    def done(workers: int) -> list[object]:
        with ProcessPool(work, workers) as pool:
            return [result for _, result in pool.map([(None, 1), (None, 2), (None, 3)])]

    follow(
        lambda: done(2),
        "prepare: a worker process died (status ... ), perhaps for want of memory; run the same command again, with "
        "fewer "
        "--workers",
        lambda: done(1),
    )
    sys.modules.pop("hungry")
