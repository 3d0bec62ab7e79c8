"""Added tokens: ids that agree with the vocabulary, kept whole in a text, and special ones never masked or drawn."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streams import make_stream
from unmask.analysis.masks import measure_masks
from unmask.config import MaskingConfig
from unmask.data.masking import Masker
from unmask.data.masking.similar_words import SimilarWords
from unmask.data.prepare import prepare
from unmask.data.prepare.encoding import TextEncoder
from unmask.data.store import Store
from unmask.data.text.words import Segmenter
from unmask.data.tokenizer import Tokenizer
from unmask.errors import StoreError, TokenizerError

ROLES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    *ROLES,
    *"abcdefghijklmnopqrstuvwxyz.[]中文海老名",
    *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"),
]
WORDS += ["the", "mill", "river"]
NEXT = len(WORDS)
FLAGS = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": False}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "given"
    made.mkdir()
    (made / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return made


def say(folder: Path, file: str = "tokenizer_config.json", /, **values: Any) -> Path:
    (folder / file).write_text(json.dumps(values), encoding="utf-8")
    return folder


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.token(index) for index in tokenizer.encode_batch([text])[0]]


def test_tokens_of_added_tokens_json_are_words_of_the_vocabulary(folder: Path) -> None:
    say(folder, "added_tokens.json", cytokine=NEXT, Covid=NEXT + 1)
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.vocab_size == NEXT + 2
    assert pieces(tokenizer, "the Cytokine mill, covid") == ["the", "cytokine", "mill", "[UNK]", "Covid"]
    assert {NEXT, NEXT + 1} <= set(tokenizer.ordinary_ids.tolist())
    assert tokenizer.added_special_ids == []
    assert tokenizer.word_starts([NEXT]).tolist() == [True]


def test_special_tokens_are_whole_unless_they_are_a_role_s(folder: Path) -> None:
    say(folder, additional_special_tokens=["[USER]", {"content": "mill", **FLAGS}])
    tokenizer = Tokenizer.load(folder)
    assert pieces(tokenizer, "[USER]the[MASK] mill") == ["[USER]", "the", "[", "m", "##a", "##s", "##k", "]", "mill"]
    # [USER] gets the next id, a word of the vocabulary keeps its own
    assert tokenizer.added_special_ids == [WORDS.index("mill"), NEXT]
    assert not set(tokenizer.added_special_ids) & set(tokenizer.ordinary_ids.tolist())
    assert tokenizer.decode([NEXT, WORDS.index("the")]) == "the"
    assert tokenizer.decode([NEXT, WORDS.index("the")], skip_special_tokens=False) == "[USER] the"


def test_the_hash_tells_special_tokens_apart_and_is_that_of_before_without_any(folder: Path) -> None:
    plain = Tokenizer.load(folder).hash
    hashes = {plain}
    for values in (
        {"additional_special_tokens": ["mill"]},
        {"extra_special_tokens": ["river"]},
        {"additional_special_tokens": ["mill", "river"]},
        {"added_tokens_decoder": {str(WORDS.index("mill")): {"content": "mill", **FLAGS}}},
        {"added_tokens_decoder": {str(WORDS.index("mill")): {"content": "mill", **FLAGS, "lstrip": True}}},
    ):
        hashes.add(Tokenizer.load(say(folder, **values)).hash)
    assert len(hashes) == 6
    assert Tokenizer.load(say(folder, additional_special_tokens=["[MASK]", "[CLS]"])).hash == plain


@pytest.mark.parametrize(
    ("added", "decoder", "message"),
    [
        ({"mill": NEXT}, {}, f"gives the token 'mill' the id {NEXT}, but it has the id {NEXT - 2} in the vocabulary"),
        ({"new": 5}, {}, f"gives the token 'new' the id 5, which is that of 'a'; number .* on from {NEXT}"),
        ({"new": NEXT + 1}, {}, f"the id {NEXT + 1}, but the next free id is {NEXT}"),
        ({"new": NEXT, "other": NEXT}, {}, f"which is that of 'new'; number .* on from {NEXT + 1}"),
        ({"new": NEXT}, {"new": NEXT + 1}, "gives the token 'new' the id .*; make them agree"),
        ({"new": -1}, {}, "must map tokens to ids, got 'new': -1"),
        ({"new": "7"}, {}, "must map tokens to ids, got 'new': '7'"),
    ],
)
def test_ids_that_do_not_agree_are_refused(
    folder: Path, added: dict[str, Any], decoder: dict[str, int], message: str
) -> None:
    say(folder, "added_tokens.json", **added)
    say(folder, added_tokens_decoder={str(index): {"content": token, **FLAGS} for token, index in decoder.items()})
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"additional_special_tokens": "[USER]"}, r"additional_special_tokens of .* must be a list of tokens"),
        ({"extra_special_tokens": [7]}, r"extra_special_tokens of .* must be a token or an object"),
        ({"added_tokens_decoder": {"x": {"content": "a"}}}, "must map ids to tokens, got 'x'"),
        ({"added_tokens_decoder": [1]}, "must be an object of ids and tokens"),
        (
            {"added_tokens_decoder": {str(NEXT): {"special": True}}},
            f"added_tokens_decoder {NEXT} of .* must be a token",
        ),
    ],
)
def test_malformed_entries_are_refused(folder: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(say(folder, **values))


def test_a_vocabulary_with_gaps_takes_no_added_token_until_they_are_filled(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join([*WORDS, "", "last"]), encoding="utf-8")
    say(folder, additional_special_tokens=["[USER]"])
    with pytest.raises(TokenizerError, match=r"'\[USER\]' cannot have the id .* have gaps.*such as \[unused7\]"):
        Tokenizer.load(folder)
    (folder / "vocab.txt").write_text("\n".join([*WORDS, "[unused7]", "last"]), encoding="utf-8")
    assert Tokenizer.load(folder).added_special_ids == [NEXT + 2]


def test_flags_that_contradict_tokenizer_json_are_refused(folder: Path) -> None:
    decoder = {str(NEXT): {"content": "[L]", **FLAGS, "lstrip": True}}
    Tokenizer.load(say(folder, added_tokens_decoder=decoder)).save(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert Tokenizer.load(say(folder, **config, added_tokens_decoder=decoder)).vocab_size == NEXT + 1
    decoder[str(NEXT)]["lstrip"] = False
    with pytest.raises(
        TokenizerError, match=r"says lstrip false of the added token '\[L\]', but tokenizer.json says true"
    ):
        Tokenizer.load(say(folder, **config, added_tokens_decoder=decoder))


def test_thousands_of_added_tokens_load_in_a_moment(folder: Path) -> None:
    say(folder, "added_tokens.json", **{f"term{number}": NEXT + number for number in range(5000)})
    tokenizer = Tokenizer.load(folder)
    assert pieces(tokenizer, "the term4999") == ["the", "term4999"]


def test_nothing_is_cut_inside_an_added_token(folder: Path) -> None:
    added = ["st. mill", "中。文", "\n\n", "the  river", "a!文", "##tag"]
    decoder = {str(NEXT + number): {"content": token, **FLAGS} for number, token in enumerate(added)}
    tokenizer = Tokenizer.load(say(folder, added_tokens_decoder=decoder))
    text = "st. mill. the  river 中。文中。海 a!文\n\nmill.\n \nthe mill ##tag"
    encoded = TextEncoder(tokenizer=tokenizer)([text])
    found = [tokenizer.token(index) for index in encoded.ids]
    assert encoded.ids.tolist() == tokenizer.encode_batch([text])[0]
    expected = ["st. mill", ".", "the  river", "中。文", "中", "[UNK]", "海", "a!文", "\n\n", "mill", "."]
    assert found == [*expected, "the", "mill", "##tag"]
    assert encoded.word_starts.all()
    starts = [token for token, start in zip(found, encoded.sentence_starts, strict=True) if start]
    assert starts == ["st. mill", "海", "mill", "the"]


@pytest.mark.parametrize(
    ("token", "flags", "cuts"),
    [
        ("[USER]", {}, True),
        ("[USER]", {"lstrip": True, "rstrip": True}, True),
        ("covid", {"normalized": True, "single_word": True}, True),
        ("x-y", {}, True),
        ("海老", {"special": True}, True),
        ("mill.", {}, True),
        ("mill.", {"single_word": True}, False),
        ("st. mill", {}, False),
        ("[a] b", {}, False),
        ("a;b", {"normalized": True}, False),
        (")a", {}, False),
        ("##tag", {}, False),
    ],
)
def test_text_is_cut_where_no_added_token_reaches_across(
    token: str, flags: dict[str, bool], cuts: bool, folder: Path
) -> None:
    decoder = {str(NEXT): {"content": token, **FLAGS, **flags}}
    given = say(folder, added_tokens_decoder=decoder)
    tokenizer, whole = Tokenizer.load(given), Tokenizer.load(given)
    assert tokenizer.may_be_cut is cuts
    whole.__dict__["may_be_cut"] = False
    chance = random.Random(7)
    parts = [token, token, *" .!?。；…)]\n", "\n\n", ". ", "the", "Mill", "中", "文", "。」", "é", "st. "]
    texts = ["".join(chance.choices(parts, k=20)) for _ in range(100)]
    one, other = (TextEncoder(tokenizer=one)(texts) for one in (tokenizer, whole))
    assert one.ids.tolist() == [index for ids in tokenizer.encode_batch(texts) for index in ids]
    for name in ("ids", "word_starts", "sentence_starts", "lengths"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_white_space_that_a_token_takes_hides_no_sentence(folder: Path) -> None:
    decoder = {str(NEXT): {"content": "[L]", **FLAGS, "lstrip": True, "rstrip": True}}
    tokenizer = Tokenizer.load(say(folder, added_tokens_decoder=decoder))
    encoded = TextEncoder(tokenizer=tokenizer)(["the mill.  [L]  the river. The end", "the"])
    starts = [tokenizer.token(index) for index in encoded.ids[encoded.sentence_starts]]
    assert starts == ["the", "[L]", "the", "the"]


def test_a_special_token_is_a_word_of_its_own_under_a_segmenter(folder: Path) -> None:
    tokenizer = Tokenizer.load(say(folder, additional_special_tokens=["海老", "[USER]"]))
    whole = Segmenter(name="whole", version="", cut=lambda text: [text])
    encoded = TextEncoder(tokenizer=tokenizer, segmenter=whole)(["中文海老名文[USER]中文 the"])
    found = [tokenizer.token(index) for index in encoded.ids[encoded.word_starts]]
    assert [tokenizer.token(index) for index in encoded.ids] == [*"中文", "海老", *"名文", "[USER]", *"中文", "the"]
    assert found == ["中", "海老", "名", "[USER]", "中", "the"]


def test_a_character_that_an_added_token_holds_is_not_cleaned_away(folder: Path) -> None:
    say(folder, "added_tokens.json", **{"a\u200cb": NEXT, "\r\n": NEXT + 1})
    tokenizer = Tokenizer.load(folder)
    encoded = TextEncoder(tokenizer=tokenizer)(["the a\u200cb\r\nc\u00add"])
    assert [tokenizer.token(index) for index in encoded.ids] == ["the", "a\u200cb", "\r\n", "c", "##d"]
    assert encoded.removed.tolist() == [[0, 1, 0]]
    tokenizer.save(folder / "saved")
    # a token that holds a line break has no line in a vocab.txt
    assert not (folder / "saved" / "vocab.txt").exists()
    assert Tokenizer.load(folder / "saved").hash == tokenizer.hash


@pytest.fixture
def store(folder: Path, tmp_path: Path) -> Store:
    say(folder, additional_special_tokens=["[USER]"])
    text = "\n".join(json.dumps({"text": f"[USER] the mill the river [USER] mill {number}"}) for number in range(40))
    (tmp_path / "c.jsonl").write_text(text)
    return prepare([tmp_path / "c.jsonl"], tmp_path / "store", tokenizer=folder, allow_unknown=True, workers=1)


@pytest.mark.parametrize("masking", ["token", "whole_word", "span"])
def test_special_tokens_are_never_masked_or_drawn(store: Store, masking: Any) -> None:
    from unmask_kernels import masking as on_the_device

    assert store.added_special_ids == [NEXT]
    tokenizer = store.load_tokenizer()
    settings: dict[str, Any] = {
        "max_length": 16,
        "micro_batch_tokens": 64,
        "max_documents": 16,
        "seed": 3,
        "masking": MaskingConfig(strategy=masking, rate=1.0, split=(0.4, 0.6, 0.0)),
        "ordinary_ids": tokenizer.ordinary_ids,
    }
    stream = make_stream(store, **settings)
    plain = make_stream(store, **settings, masks=False)
    batch = next(stream.batches())
    assert batch.masked is not None
    assert batch.labels is not None
    assert NEXT not in batch.labels.tolist()
    before = next(plain.batches()).ids
    assert torch.equal((before == NEXT).nonzero(), (batch.ids == NEXT).nonzero())
    assert (before == NEXT).sum() > 4
    special = store.special_ids | {"added": NEXT}
    found = measure_masks([batch], special)
    assert found is not None
    assert found.specials == 0
    if masking == "span":
        return
    rule = stream.mask_rule
    raw = next(plain.batches())
    made = on_the_device(
        raw.ids, raw.documents, raw.word_starts if rule.whole_words else None, torch.from_numpy(rule.special),
        torch.from_numpy(rule.ordinary), keys=torch.from_numpy(rule.keys.copy()), rate=rule.rate, split=rule.split,
        mask_id=rule.mask_id, capacity=stream.capacities.masked,
    )  # fmt: skip
    assert torch.equal(made.ids, batch.ids)
    used = made.labels != -100
    assert torch.equal(made.labels[used], batch.labels[batch.labels != -100])


def test_masks_of_a_store_without_added_tokens_are_what_they_were() -> None:
    half = MaskingConfig(rate=0.5)
    common: dict[str, Any] = {"seed": 1, "ordinary_ids": np.arange(5, 50), "mask_id": 4, "vocab_size": 50}
    ids = np.arange(5, 45)
    one = Masker(half, special_ids=[0, 1, 2, 3, 4], **common)(ids, [40], [7])
    more = Masker(half, special_ids=[0, 1, 2, 3, 4, 49], **common)(ids, [40], [7])
    assert np.array_equal(one.ids, more.ids)


def test_the_store_says_its_special_tokens_only_where_there_are_any(folder: Path, store: Store, tmp_path: Path) -> None:
    assert store.manifest["added_special_ids"] == [NEXT]
    say(folder)
    plain = prepare([tmp_path / "c.jsonl"], tmp_path / "plain", tokenizer=folder, allow_unknown=True, workers=1)
    assert "added_special_ids" not in plain.manifest
    assert plain.added_special_ids == []


def test_a_store_made_when_special_tokens_were_text_is_refused_with_the_way_out(
    store: Store, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "store" / "manifest.json"
    path.write_text(path.read_text().replace(store.tokenizer_hash, "0" * 64))
    with pytest.raises(StoreError, match=r"such as \[USER\] in a text were cut into pieces; prepare the text again"):
        Store.open(tmp_path / "store").load_tokenizer()
    again = {"tokenizer": folder, "allow_unknown": True, "workers": 1}
    prepare([tmp_path / "c.jsonl"], tmp_path / "again", **again)  # type: ignore[arg-type]
    assert Store.open(tmp_path / "again").load_tokenizer().hash == store.tokenizer_hash


def test_special_tokens_are_no_similar_words(folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(say(folder, additional_special_tokens=["mill"]))
    (tmp_path / "similar.tsv").write_text("the\tmill:0.9 river:0.8\nmill\triver:0.9\n")
    table = SimilarWords.load(tmp_path / "similar.tsv", tokenizer)
    assert list(table.pairs()) == [((WORDS.index("the"),), (WORDS.index("river"),))]


def test_the_token_of_a_role_may_be_an_added_one(folder: Path) -> None:
    words = [word for word in WORDS if word != "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    say(folder, "added_tokens.json", Covid=NEXT - 1, **{"[MASK]": NEXT})
    tokenizer = Tokenizer.load(folder)
    assert (tokenizer.mask_id, tokenizer.vocab_size) == (NEXT, NEXT + 1)
    assert NEXT not in tokenizer.ordinary_ids
    assert pieces(tokenizer, "the [MASK]")[:3] == ["the", "[", "m"]
    assert tokenizer.encode_batch(["the [MASK]"], special_tokens=True)[0][-1] == NEXT
    tokenizer.save(folder / "saved")
    assert Tokenizer.load(folder / "saved").hash == tokenizer.hash
    (folder / "added_tokens.json").unlink()
    with pytest.raises(TokenizerError, match=r"has no mask token '\[MASK\]' among its .* add it, or name the one"):
        Tokenizer.load(folder)
