"""Examples of any tokenizer become one flat row, with the masks of this project."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers
from transformers import AutoTokenizer, DataCollatorWithFlattening, PreTrainedTokenizerFast

from unmask.config import MaskingConfig
from unmask.data.masking import Masker
from unmask.data.randomness import piece_keys
from unmask.data.tokenizer import Tokenizer
from unmask.hf import PackedCollator
from unmask.layouts import packed_inputs

WORDS = ["the", "cat", "sat", "on", "mat", "dog", "running", "faster", "trees", "house", "river", "blue"]
CHINESE = "我们在北京看见了一只猫"


def texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, int(rng.integers(4, 40)))) for _ in range(count)]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.train([*texts(50), CHINESE], 60)


@pytest.fixture(scope="module")
def tokenizer(ours: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    ours.save(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Any:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<mask>"]
    backend.train_from_iterator(texts(50), trainers.BpeTrainer(vocab_size=45, special_tokens=special))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token="<s>", pad_token="<pad>", sep_token="</s>", mask_token="<mask>"
    )


def encode(tokenizer: Any, lines: Iterable[str], **options: Any) -> list[dict[str, Any]]:
    return [dict(tokenizer(line, **options)) for line in lines]


def collator(tokenizer: Any, *, epoch: int | None = 0, **options: Any) -> PackedCollator:
    made = PackedCollator(tokenizer, **options)
    if epoch is not None:
        made.set_epoch(epoch)
    return made


def documents(batch: dict[str, Any], name: str) -> list[list[int]]:
    lengths = batch["cu_seq_lens_q"].diff().tolist()
    return [part.tolist() for part in batch[name][0].split(lengths)]


def test_the_batch_has_the_names_types_and_values_of_transformers(tokenizer: Any) -> None:
    examples = encode(tokenizer, texts(5), return_token_type_ids=True)
    got = collator(tokenizer, masking=None)(examples)
    expected = DataCollatorWithFlattening(return_flash_attn_kwargs=True)(examples)
    assert expected.keys() - {"labels"} == got.keys() - {"token_type_ids"}
    for name in expected.keys() - {"labels"}:
        assert type(got[name]) is type(expected[name])
        if isinstance(got[name], torch.Tensor):
            assert got[name].dtype == expected[name].dtype and torch.equal(got[name], expected[name])
        else:
            assert got[name] == expected[name]
    assert packed_inputs(**got).batch.documents.cu_seqlens.tolist() == got["cu_seq_lens_q"].tolist()


@pytest.mark.parametrize("masking", ["token", "whole_word", "ngram", "span"])
def test_masks_are_those_of_the_projects_masker_bit_for_bit(masking: Any, tokenizer: Any, ours: Tokenizer) -> None:
    examples = encode(tokenizer, [*texts(30), CHINESE * 4])
    got = collator(tokenizer, masking=masking, seed=9, epoch=3, rate=0.2, split=(0.7, 0.2, 0.1))(examples)
    ids = [np.array(example["input_ids"]) for example in examples]
    hashes = [int.from_bytes(hashlib.blake2b(one.tobytes(), digest_size=8).digest(), "little") for one in ids]
    masker = Masker(
        MaskingConfig(strategy=masking, rate=0.2, split=(0.7, 0.2, 0.1)),
        seed=9,
        special_ids=list(ours.special_ids.values()),
        ordinary_ids=ours.ordinary_ids,
        mask_id=ours.special_ids["mask"],
        vocab_size=ours.vocab_size,
    )
    flat = np.concatenate(ids)
    starts = ours.word_starts(flat)
    expected = masker(flat, [len(one) for one in ids], piece_keys(3, 0, np.array(hashes, dtype=np.uint64), 0), starts)
    assert got["input_ids"][0].tolist() == expected.ids.tolist()
    rows = (got["labels"][0] != -100).nonzero().flatten()
    assert rows.tolist() == expected.rows.tolist() and got["labels"][0, rows].tolist() == expected.labels.tolist()


@pytest.mark.parametrize("masking", ["token", "whole_word", "ngram"])
def test_shares_of_masks_are_those_that_were_asked_for(masking: Any, tokenizer: Any) -> None:
    examples = encode(tokenizer, texts(1500, seed=1))
    got = collator(tokenizer, masking=masking)(examples)
    labels, ids = got["labels"][0], got["input_ids"][0]
    chosen = labels != -100
    special = torch.isin(torch.where(chosen, labels, ids), torch.tensor(tokenizer.all_special_ids))
    assert not (chosen & special).any()
    share = chosen.sum().item() / len(ids)
    # a whole word that does not fit in the budget is skipped
    assert share == pytest.approx(0.15, abs=0.005) if masking == "token" else 0.12 < share < 0.155
    masked = ids[chosen] == tokenizer.mask_token_id
    kept = ids[chosen] == labels[chosen]
    assert masked.float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert kept.float().mean().item() == pytest.approx(0.1 + 0.1 / 60, abs=0.02)


def test_masks_depend_on_seed_epoch_and_document_and_on_nothing_else(tokenizer: Any) -> None:
    examples = encode(tokenizer, texts(12))

    def masks(order: list[int], *, seed: int = 0, epoch: int = 0, state: int = 0) -> list[tuple[list[int], list[int]]]:
        torch.manual_seed(state)
        batch = collator(tokenizer, seed=seed, epoch=epoch)([examples[place] for place in order])
        parts = list(zip(documents(batch, "input_ids"), documents(batch, "labels"), strict=True))
        return [parts[order.index(place)] for place in sorted(order)]

    here = list(range(12))
    expected = masks(here)
    assert masks(here[::-1], state=5) == expected
    assert masks([7]) == expected[7:8]
    assert masks(here, seed=1) != expected != masks(here, epoch=1)


def test_tokens_of_special_tokens_mask_are_kept_and_so_is_their_word(tokenizer: Any) -> None:
    examples = encode(tokenizer, texts(20), return_special_tokens_mask=True)
    for example in examples:
        example["special_tokens_mask"] = [1] * 4 + example["special_tokens_mask"][4:]
    for masking in ("token", "whole_word"):
        got = collator(tokenizer, masking=masking, rate=0.9, split=(0.0, 1.0, 0.0))(examples)
        for labels, ids, example in zip(documents(got, "labels"), documents(got, "input_ids"), examples, strict=True):
            assert set(labels[:4]) == {-100} and ids[:4] == example["input_ids"][:4]


def whole(batch: dict[str, Any], starts: list[list[bool]]) -> bool:
    """Whether each word is predicted as a whole or not at all."""
    for labels, begins in zip(documents(batch, "labels"), starts, strict=True):
        words = np.cumsum(begins)
        chosen = np.array(labels) != -100
        if any(chosen[words == word].any() != chosen[words == word].all() for word in set(words)):
            return False
    return True


def test_words_of_byte_level_tokenizers_begin_at_a_blank(byte_level: Any) -> None:
    examples = encode(byte_level, texts(40))
    tokens = [byte_level.convert_ids_to_tokens(example["input_ids"]) for example in examples]
    starts = [[place == 0 or token.startswith("Ġ") for place, token in enumerate(line)] for line in tokens]
    assert any(not all(line) for line in starts)
    assert whole(collator(byte_level, masking="whole_word", rate=0.4)(examples), starts)
    assert not whole(collator(byte_level, masking="token", rate=0.4)(examples), starts)


def test_words_may_be_those_of_a_column(tokenizer: Any) -> None:
    """Two Chinese characters a word, as a segmenter would say."""
    (example,) = encode(tokenizer, [CHINESE * 3])
    count = len(example["input_ids"])
    example["word_ids"] = [None, *[place // 2 for place in range(count - 2)], None]
    starts = [True, *[place % 2 == 0 for place in range(count - 2)], True]
    for epoch in range(5):
        assert whole(collator(tokenizer, masking="whole_word", rate=0.4, epoch=epoch)([example]), [starts])


def test_a_tokenizer_whose_tokens_do_not_show_words_needs_offsets(byte_level: Any) -> None:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.train_from_iterator(texts(50), trainers.BpeTrainer(vocab_size=60, special_tokens=["<mask>"]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="<mask>")
    with pytest.raises(ValueError, match=r"need offset_mapping for masking 'whole_word', got input_ids, .*offsets_map"):
        collator(tokenizer, masking="whole_word")(encode(tokenizer, texts(3)))
    examples = encode(tokenizer, texts(40), return_offsets_mapping=True)
    starts = []
    for example in examples:
        ends = [-1, *[last for _, last in example["offset_mapping"]]]
        starts.append([first != end for (first, _), end in zip(example["offset_mapping"], ends, strict=False)])
    assert whole(collator(tokenizer, masking="whole_word", rate=0.4)(examples), starts)
    assert collator(tokenizer, masking="token")(encode(tokenizer, texts(3)))


def test_without_masking_labels_are_those_of_the_examples(tokenizer: Any) -> None:
    examples = encode(tokenizer, texts(3))
    of_tokens = [example | {"labels": example["input_ids"][::-1]} for example in examples]
    got = collator(tokenizer, masking=None, tokens=200, pad=True)(of_tokens)
    flat = [label for example in of_tokens for label in example["labels"]]
    assert got["labels"][0].tolist() == flat + [-100] * (200 - len(flat))
    of_texts = [example | {"label": number % 2} for number, example in enumerate(examples)]
    assert collator(tokenizer, masking=None)(of_texts)["labels"].tolist() == [0, 1, 0]
    assert "labels" not in collator(tokenizer, masking=None)(examples)
    with pytest.raises(ValueError, match=r"must have no label with masking, .*; remove the column label, or give"):
        collator(tokenizer)(of_texts)


def test_a_batch_may_be_padded_to_its_capacity_by_documents_of_padding(tokenizer: Any) -> None:
    examples = encode(tokenizer, texts(4))
    got = collator(tokenizer, tokens=300, pad=True)(examples)
    plain = collator(tokenizer)(examples)
    total = plain["input_ids"].shape[1]
    assert got["input_ids"].shape == (1, 300) and got["cu_seq_lens_q"][-1] == 300
    assert torch.equal(got["labels"][0, :total], plain["labels"][0]) and set(got["labels"][0, total:].tolist()) == {
        -100
    }
    assert set(got["input_ids"][0, total:].tolist()) == {tokenizer.pad_token_id}
    assert got["cu_seq_lens_q"].diff().max() <= got["max_length_q"]
    with pytest.raises(ValueError, match="tokens must be given with pad=True, got None; give the tokens"):
        PackedCollator(tokenizer, pad=True)


def test_positions_may_begin_where_a_model_begins(tokenizer: Any) -> None:
    examples = encode(tokenizer, texts(3))
    assert (
        collator(tokenizer, position_ids_start=2)(examples)["position_ids"].tolist()
        == DataCollatorWithFlattening(position_ids_start=2)(examples)["position_ids"].tolist()
    )


def test_copies_in_workers_follow_the_epoch(tokenizer: Any) -> None:
    examples = encode(tokenizer, texts(8))
    made = collator(tokenizer)
    loader = torch.utils.data.DataLoader(
        examples, batch_size=8, collate_fn=made, num_workers=1, persistent_workers=True
    )
    got = []
    for epoch in (0, 1, 0):
        made.set_epoch(epoch)
        got.append([batch["labels"].tolist() for batch in loader])
    assert got[0] == got[2] != got[1]
    assert pickle.loads(pickle.dumps(made))(examples)["labels"].tolist() == got[0][0]
    with pytest.raises(ValueError, match="epoch must be at least 0, got -1"):
        made.set_epoch(-1)


def test_without_an_epoch_masks_are_new_each_time_and_a_warning_says_so_once(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    examples = encode(tokenizer, texts(8))
    made = collator(tokenizer, epoch=None)
    first, second = (made(examples)["labels"].tolist() for _ in range(2))
    assert first != second
    (record,) = caplog.records
    assert "nobody has set the epoch" in record.message and "callbacks=[unmask.hf.EpochCallback" in record.message


BAD = {
    "no examples": (lambda t, e: [], "must hold at least one, got none"),
    "a text": (lambda t, e: [{"text": "the cat", "label": 1}], "must have input_ids, example 0 has text, label; tok"),
    "no mapping": (lambda t, e: [*e, [1, 2]], "must have input_ids, example 2 has list"),
    "two dimensions": (
        lambda t, e: [dict(t("cat", return_tensors="np"))],
        r"example 0 has shape \(1, \d+\); tokenize wi",
    ),
    "no tokens": (lambda t, e: [*e, {"input_ids": []}], r"at least one token, example 2 has shape \(0,\)"),
    "padding": (lambda t, e: encode(t, ["a"], padding="max_length", max_length=8), "example 0 has 5 zeros; tokenize"),
    "another length": (lambda t, e: [e[0] | {"token_type_ids": [0]}], "token_type_ids must have .* entries, .* got 1"),
    "too long": (lambda t, e: encode(t, ["a " * 600]), r"at most max_length \(512\) tokens, example 0 has 602; cut"),
}


@pytest.mark.parametrize("kind", BAD)
def test_examples_that_make_no_batch_are_refused_by_name(kind: str, tokenizer: Any) -> None:
    make, message = BAD[kind]
    with pytest.raises(ValueError, match=message):
        collator(tokenizer)(make(tokenizer, encode(tokenizer, texts(2))))


def test_what_the_errors_advise_works(tokenizer: Any) -> None:
    pack = collator(tokenizer)
    row = {"text": "the cat"}
    assert pack([dict(tokenizer(row["text"]))])
    assert pack([dict(tokenizer("cat", padding=False))])
    assert pack([dict(tokenizer("cat " * 600, truncation=True, max_length=512))])["max_length_q"] == 512
    long = encode(tokenizer, ["a " * 600])
    assert collator(tokenizer, max_length=1024)(long)["max_length_q"] == 602
    with pytest.raises(ValueError, match=r"at most tokens \(600\), got 602 in 1 examples; .* or raise tokens"):
        collator(tokenizer, max_length=1024, tokens=600)(long)
    assert collator(tokenizer, max_length=1024, tokens=602)(long)


def test_a_tokenizer_without_a_mask_token_is_refused_and_one_can_be_added(tmp_path: Path) -> None:
    backend = Backend(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    bare = PreTrainedTokenizerFast(tokenizer_object=backend)
    with pytest.raises(ValueError, match=r'has none; add one with tokenizer.add_special_tokens\(\{"mask_token": "\[MA'):
        PackedCollator(bare)
    assert collator(bare, masking=None)(encode(bare, ["a b"]))
    bare.add_special_tokens({"mask_token": "[MASK]"})
    got = collator(bare, rate=0.9, split=(1.0, 0.0, 0.0))(encode(bare, ["a b a b a b"]))
    assert (got["input_ids"] == bare.mask_token_id).any()


def test_a_table_of_similar_words_is_not_read_here(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"masking 'mac' needs a table .*; choose 'ngram'"):
        PackedCollator(tokenizer, masking="mac")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rate must be above 0 and at most 1, got 2"):
        PackedCollator(tokenizer, rate=2)


def test_examples_that_disagree_and_ids_of_another_tokenizer_are_named(tokenizer: Any) -> None:
    made = collator(tokenizer, masking="whole_word")
    size = len(tokenizer)
    for wrong in (size, -1):
        with pytest.raises(ValueError, match=rf"in \[0, {size}\), example 1 has {wrong}; tokenize the texts with"):
            made([{"input_ids": [2, 7, 3]}, {"input_ids": [2, wrong, 3]}])
    with pytest.raises(ValueError, match="must be integers, example 0 has float64; pass the tokenizer's input_ids"):
        made([{"input_ids": [2, 7.7, 3]}])
    for name in ("token_type_ids", "word_ids"):
        with pytest.raises(ValueError, match=f"{name} must have 3 entries, the tokens of example 0, got 0"):
            made([{"input_ids": [2, 7, 3]}, {"input_ids": [2, 7, 3], name: [0, 0, 1]}])
    with pytest.raises(ValueError, match="all examples must have labels or none, example 0 has input_ids; give it"):
        collator(tokenizer, masking=None)([{"input_ids": [2, 7, 3]}, {"input_ids": [2, 7, 3], "labels": [1, 2, 3]}])
