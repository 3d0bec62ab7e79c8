"""What the errors of unmask.hf advise: each is followed here, and then there is a batch, an epoch or a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from advice import Action, follow, refusal

transformers = pytest.importorskip("transformers")

from tokenizers import Tokenizer as Backend  # noqa: E402
from tokenizers import models, pre_tokenizers, trainers  # noqa: E402

from unmask import EncoderConfig, PretrainingModel  # noqa: E402
from unmask.hf import PackedCollator, TokenBatchSampler, UnmaskModel  # noqa: E402

ROLES = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
WORDS = {token: index for index, token in enumerate([*ROLES.values(), "the", "cat", "sat", "on", "a", "mat"])}
IDS = [2, 5, 6, 7, 3]
CONFIG = EncoderConfig(vocab_size=60, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64, max_positions=24)


def tokenizer(**roles: str) -> Any:
    backend = Backend(models.WordLevel(dict(WORDS), unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=8, **roles)


TOKENIZER = tokenizer(**ROLES)


def pieces() -> Any:
    """A tokenizer whose tokens do not show where words begin."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.train_from_iterator(["the cat sat"], trainers.BpeTrainer(vocab_size=40, special_tokens=["<mask>"]))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="<mask>")


def batch(*examples: Any, read: Any = TOKENIZER, told: str = "pt", **options: Any) -> Action:
    def make() -> dict[str, Any]:
        collator = PackedCollator(read, **options)
        collator.set_epoch(0)
        return collator(list(examples), return_tensors=told)

    return make


def example(ids: Any = IDS, **columns: Any) -> dict[str, Any]:
    return {"input_ids": ids, **columns}


def encoded(text: str, read: Any = TOKENIZER, **options: Any) -> dict[str, Any]:
    return dict(read(text, **options))


def masked(read: Any) -> Action:
    def make() -> None:
        read.add_special_tokens({"mask_token": "[MASK]"})
        batch(example(), read=read)()

    return make


def epoch(lengths: Any, tokens: int = 8, **options: Any) -> Action:
    return lambda: list(TokenBatchSampler(lengths, tokens, **options))


LONG = "the cat " * 5
OFFSETS = {"return_offsets_mapping": True, "return_token_type_ids": False}

CASES: dict[str, tuple[Action, str, list[Action]]] = {
    "no tokens of a batch": (
        batch(example(), pad=True),
        "PackedCollator: tokens must be given with pad=True, got None; give the tokens of a batch",
        [batch(example(), pad=True, tokens=16)],
    ),
    "tensors of another library": (
        batch(example(), told="np"),
        "PackedCollator: return_tensors must be 'pt', got 'np'; leave it out",
        [batch(example())],
    ),
    "no examples": (
        batch(),
        "PackedCollator: examples must hold at least one, got none; leave empty batches out",
        [batch(example())],
    ),
    "long examples": (
        batch(encoded(LONG)),
        "PackedCollator: examples must have at most max_length (8) tokens, example 0 has 10; cut them when they are "
        "tokenized: truncation=True, max_length=8, or give the collator a larger max_length, for a model with more "
        "positions",
        [batch(encoded(LONG, truncation=True, max_length=8)), batch(encoded(LONG), max_length=10)],
    ),
    "a large batch": (
        batch(example(), example(), tokens=8),
        "PackedCollator: a batch must have at most tokens (8), got 10 in 2 examples; use batch_sampler="
        "unmask.hf.TokenBatchSampler(lengths, tokens), or fewer examples in a batch, or raise tokens",
        [
            lambda: [batch(*([example()] * len(numbers)), tokens=8)() for numbers in TokenBatchSampler([5, 5], 8)],
            batch(example(), tokens=8),
            batch(example(), example(), tokens=10),
        ],
    ),
    "labels beside masks": (
        batch(example(labels=IDS)),
        "PackedCollator: examples must have no labels with masking, which makes labels of its own; remove the column "
        "labels, or give the collator masking=None",
        [batch(example()), batch(example(labels=IDS), masking=None)],
    ),
    "words that do not show": (
        batch(encoded("the cat", pieces()), read=pieces(), masking="whole_word"),
        "PackedCollator: the tokens of this tokenizer do not show where words begin, so examples need offset_mapping "
        "for "
        "masking 'whole_word', got input_ids, ... ; tokenize with return_offsets_mapping=True, or choose "
        "masking='token'",
        [
            batch(encoded("the cat", pieces(), **OFFSETS), read=pieces(), masking="whole_word"),
            batch(encoded("the cat", pieces()), read=pieces(), masking="token"),
        ],
    ),
    "similar words": (
        batch(example(), masking="mac"),
        "PackedCollator: masking 'mac' needs a table of similar words, which this collator does not read; choose "
        "'ngram', or unmask.PackedDataset with masking.similar_words",
        # tests of streams have the other way out
        [batch(example(), masking="ngram")],
    ),
    "no mask token": (
        batch(example(), read=tokenizer()),
        "PackedCollator: the tokenizer must have a mask token to mask, it has none; add one with "
        'tokenizer.add_special_tokens({"mask_token": "[MASK]"}) and give the model a row for it, or set masking=None',
        [masked(tokenizer()), batch(example(), read=tokenizer(), masking=None)],
    ),
    "texts": (
        batch({"text": "the cat"}),
        "PackedCollator: examples must have input_ids, example 0 has text; tokenize the texts: dataset.map(lambda row: "
        'tokenizer(row["text"])); the Trainer removes columns that the model\'s forward does not name unless '
        "remove_unused_columns=False",
        [lambda: batch(*(encoded(row["text"]) for row in [{"text": "the cat"}]))()],
    ),
    "tensors of one example": (
        batch(encoded("the cat", return_tensors="np")),
        "PackedCollator: input_ids must be a list of at least one token, example 0 has shape (1, 2); tokenize without "
        "return_tensors, and leave empty texts out",
        [batch(encoded("the cat"))],
    ),
    "an empty text": (
        batch(encoded("the cat"), encoded("")),
        "input_ids must be a list of at least one token, example 1 has shape (0,); tokenize without return_tensors, "
        "and "
        "leave empty texts out",
        [batch(encoded("the cat"))],
    ),
    "padding": (
        batch(encoded("the cat", padding="max_length", max_length=8)),
        "PackedCollator: examples must not be padded, the attention_mask of example 0 has 6 zeros; tokenize with "
        "padding=False",
        [batch(encoded("the cat", padding=False))],
    ),
    "numbers that are no ids": (
        batch(example([2.5, 3.5])),
        "PackedCollator: input_ids must be integers, example 0 has float64; pass the tokenizer's input_ids",
        [batch(example(encoded("the cat")["input_ids"]))],
    ),
    "ids of another tokenizer": (
        batch(example([2, 5000, 3])),
        "input_ids must be ids of the tokenizer, in [0, 11), example 0 has 5000; tokenize the texts with the tokenizer "
        "that the collator got",
        [batch(encoded("the cat"))],
    ),
    "a column of another length": (
        batch(example(token_type_ids=[0])),
        "PackedCollator: token_type_ids must have 5 entries, the tokens of example 0, got 1; tokenize the text again, "
        "with truncation=True there if it is too long",
        [batch(encoded(LONG, truncation=True, max_length=8, return_token_type_ids=True))],
    ),
    "labels of some": (
        batch(example(), example(labels=IDS), masking=None),
        "PackedCollator: all examples must have labels or none, example 0 has input_ids; give it labels too",
        [batch(example(labels=IDS), example(labels=IDS), masking=None)],
    ),
    "an epoch below 0": (
        lambda: PackedCollator(TOKENIZER).set_epoch(-1),
        "PackedCollator: epoch must be at least 0, got -1",
        [lambda: PackedCollator(TOKENIZER).set_epoch(0)],
    ),
    "lengths of two dimensions": (
        epoch([IDS, IDS]),
        "TokenBatchSampler: lengths must hold the number of tokens of each example, got shape (2, 5); give [len(ids) "
        "for "
        'ids in dataset["input_ids"]]',
        [epoch([len(ids) for ids in {"input_ids": [IDS, IDS]}["input_ids"]])],
    ),
    "examples without tokens": (
        epoch([5, 0]),
        "TokenBatchSampler: lengths must be at least 1, got 0 for example 1; leave examples without tokens out of the "
        "dataset",
        [epoch([length for length in [5, 0] if length])],
    ),
    "an example that fits in no batch": (
        epoch([5, 9]),
        "TokenBatchSampler: tokens must be at least 9, the tokens of example 1, got 8; raise tokens, or cut the "
        "examples "
        "when they are tokenized: truncation=True, max_length=8",
        [epoch([5, 9], tokens=9), epoch([5, len(encoded(LONG, truncation=True, max_length=8)["input_ids"])])],
    ),
    "more processes than batches": (
        epoch([4, 4], rank=0, world_size=3),
        "TokenBatchSampler: the epoch has 1 micro-batches, fewer than its 3 processes; give fewer tokens to a "
        "micro-batch, or train with fewer processes",
        [epoch([4, 4], tokens=4, rank=0, world_size=2), epoch([4, 4], rank=0, world_size=1)],
    ),
    "an epoch of batches below 0": (
        lambda: TokenBatchSampler([5], 8).set_epoch(-1),
        "TokenBatchSampler: epoch must be at least 0, got -1",
        [lambda: TokenBatchSampler([5], 8).set_epoch(0)],
    ),
    "the state of another sampler": (
        lambda: TokenBatchSampler([5, 5], 8).load_state_dict(TokenBatchSampler([5], 8).state_dict()),
        "TokenBatchSampler: the state must be of a sampler with the same lengths, tokens, seed and shuffle, and is "
        "not; "
        "make the sampler with those, or leave the state out to begin anew",
        [
            lambda: TokenBatchSampler([5], 8).load_state_dict(TokenBatchSampler([5], 8).state_dict()),
            epoch([5, 5]),
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_call_as_its_error_advises_works(case: str) -> None:
    wrong, told, advised = CASES[case]
    follow(wrong, told, *advised)


def test_a_loaded_state_is_used_by_its_epoch_or_loaded_afterwards() -> None:
    first = TokenBatchSampler([5, 5], 8)
    list(first)
    next(iter(first))
    state = first.state_dict()
    second = TokenBatchSampler([5, 5], 8)
    second.load_state_dict(state)
    follow(
        lambda: second.set_epoch(0),
        "TokenBatchSampler: the state that was loaded lies in epoch 1, but set_epoch(0) would leave it unused; call "
        "set_epoch(1), or load the state afterwards",
        lambda: second.set_epoch(1),
    )
    third = TokenBatchSampler([5, 5], 8)
    third.set_epoch(0)
    third.load_state_dict(state)
    assert len(list(third)) == len(list(second)) == 1


def test_a_model_is_saved_moved_and_resized_as_its_errors_advise(tmp_path: Path) -> None:
    bert = replace(CONFIG, num_heads=2)
    PretrainingModel(bert).save_pretrained(tmp_path / "model")
    model = UnmaskModel.from_pretrained(tmp_path / "model")
    follow(
        lambda: model.save_pretrained(tmp_path / "out", push_to_hub=True),
        "save_pretrained: push_to_hub is not done here; save, and push the folder with `hf upload`",
        lambda: model.save_pretrained(tmp_path / "out"),
    )
    assert (tmp_path / "out" / "model.safetensors").exists()
    follow(
        lambda: UnmaskModel.from_pretrained(tmp_path / "model", device_map="cpu"),
        "from_pretrained: device_map is not honoured by UnmaskModel; leave it out, and move or convert the model with "
        "model.to(...) afterwards",
        lambda: UnmaskModel.from_pretrained(tmp_path / "model").to("cpu"),
    )
    ids = torch.tensor([IDS])
    follow(
        lambda: model(input_ids=ids, output_hidden_states=True),
        "UnmaskModel: output_hidden_states is not read: ids go in, and the last hidden states come out; leave it out. "
        "The states of a layer are the output of encoder.layers[i], which a forward hook sees",
        lambda: model(input_ids=ids),
    )
    states = []
    model.encoder.layers[0].register_forward_hook(lambda layer, given, output: states.append(output))
    model(input_ids=ids)
    assert len(states) == 1
    follow(
        lambda: model(attention_mask=torch.ones_like(ids)),
        "UnmaskModel: input_ids must be given; a tokenizer of transformers makes them",
        lambda: model(**TOKENIZER("the cat", return_tensors="pt", return_token_type_ids=False)),
    )
    told = refusal(lambda: model.resize_token_embeddings(64))
    assert told == (
        "resize_token_embeddings: the token table has 60 rows, and 64 are asked for, which is not done here; save the "
        "model, read the folder with unmask.PretrainingModel and save that, resize BertForMaskedLM of this folder, and "
        "read it again"
    )
    PretrainingModel.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "ours")
    theirs = transformers.BertForMaskedLM.from_pretrained(tmp_path / "ours")
    theirs.resize_token_embeddings(64)
    theirs.save_pretrained(tmp_path / "resized")
    assert UnmaskModel.from_pretrained(tmp_path / "resized").get_input_embeddings().weight.shape[0] == 64
