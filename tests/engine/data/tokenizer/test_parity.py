"""A folder's text is encoded as `tokenizers` and `transformers` encode it, whatever the folder says."""

import json
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask.data.prepare.encoding import TextEncoder
from unmask.data.text.sentences import sentence_starts
from unmask.data.tokenizer import Tokenizer

ROLES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz.,!?'-0123456789éがか中文"
WORDS = [*ROLES, *LETTERS, *(f"##{letter}" for letter in LETTERS), "the", "mill", "river", "st", "[ZWNJ]", "می"]
TEXTS = [
    "The mill by the river. The Mills! re-read: 1.5 times?",
    "Élan vital, CAFÉ.\n\n  café  中文中。文か？ がか",
    "[USER] writes [URL]the mill. [user] (St. Xavier) mill.[USER]",
    "visit St. Xavier. Covid covid's COVID-19; a Covidx xCovid\n\nthe  [L]  mill",
    "می\u200cخواهم the\u200cmill a\u00adb\u200b \r\n x\x0by",
    "the\u200c\u00admill a\u200b\u200bb \u200cthe",
    "a" * 120 + " " + "a" * 60 + " mill",
    "   leading white space. 中。[USER]文。St. Xavier中",
    "##s ##ing s##s @@s",
]


def write_vocabulary(folder: Path, tokens: list[str] = WORDS) -> None:
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")


def settings(folder: Path, **values: Any) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"} | values))


def from_vocabulary(**values: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        write_vocabulary(folder)
        settings(folder, **values)

    return make


def with_added(folder: Path) -> None:
    write_vocabulary(folder)
    settings(folder, additional_special_tokens=["[USER]", "[URL]"])
    first = len(WORDS)
    added = {"Covid": first, "St. Xavier": first + 1, "[USER]": first + 2, "[URL]": first + 3}
    (folder / "added_tokens.json").write_text(json.dumps(added))


def with_decoder(folder: Path) -> None:
    write_vocabulary(folder)
    flags = [
        {"content": "[L]", "lstrip": True, "rstrip": True, "special": False, "normalized": False},
        {"content": "Covid", "single_word": True, "special": False, "normalized": True},
        {"content": "[USER]", "special": True, "normalized": False},
    ]
    defaults = {"lstrip": False, "rstrip": False, "single_word": False}
    settings(folder, added_tokens_decoder={str(len(WORDS) + n): defaults | token for n, token in enumerate(flags)})


def whole(**parts: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
        from tokenizers import Tokenizer as Backend

        model = models.WordPiece({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]")
        backend = Backend(model)
        backend.normalizer = normalizers.BertNormalizer()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        for name, value in parts.items():
            if name == "added":
                backend.add_tokens([AddedToken(**token) for token in value])
            elif name in ("max_input_chars_per_word", "continuing_subword_prefix"):
                setattr(backend.model, name, value)
            else:
                setattr(backend, name, value(normalizers, pre_tokenizers))
        backend.save(str(folder / "tokenizer.json"))

    return make


Regex = pytest.importorskip("tokenizers").Regex

FOLDERS: dict[str, Callable[[Path], None]] = {
    "uncased": from_vocabulary(),
    "cased": from_vocabulary(do_lower_case=False),
    "accents": from_vocabulary(strip_accents=False),
    "ideographs": from_vocabulary(tokenize_chinese_chars=False),
    "distilbert": from_vocabulary(tokenizer_class="DistilBertTokenizer"),
    "electra": from_vocabulary(tokenizer_class="ElectraTokenizerFast"),
    "special": from_vocabulary(additional_special_tokens=["[USER]", "[URL]"]),
    "special, new name": from_vocabulary(extra_special_tokens=["[USER]", "mill"]),
    "special, a model's own": from_vocabulary(extra_special_tokens={"user_token": "[USER]"}, bos_token="[URL]"),
    "added_tokens.json": with_added,
    "added_tokens_decoder": with_decoder,
    "tokenizer.json": whole(),
    "tutorial": whole(normalizer=lambda n, p: n.Sequence([n.NFD(), n.Lowercase(), n.StripAccents()])),
    "no normalizer": whole(normalizer=lambda n, p: None),
    "white space": whole(pre_tokenizer=lambda n, p: p.WhitespaceSplit()),
    "words and marks": whole(pre_tokenizer=lambda n, p: p.Whitespace()),
    "nothing cuts": whole(pre_tokenizer=lambda n, p: p.Punctuation()),
    "replaces": whole(
        normalizer=lambda n, p: n.Sequence([n.NFKC(), n.Replace("\u200c", " [ZWNJ] "), n.Lowercase()]),
        pre_tokenizer=lambda n, p: p.WhitespaceSplit(),
    ),
    "replaces line breaks": whole(
        normalizer=lambda n, p: n.Sequence([n.Lowercase(), n.Replace("\n", " mill ")]),
        pre_tokenizer=lambda n, p: p.WhitespaceSplit(),
    ),
    "replaces across": whole(normalizer=lambda n, p: n.Sequence([n.Lowercase(), n.Replace(". the", " river")])),
    "added": whole(
        added=[
            {"content": "St. Xavier", "normalized": False},
            {"content": "[L]", "lstrip": True, "rstrip": True, "normalized": False},
            {"content": "Covid", "normalized": True},
            {"content": "[USER]", "special": True},
            {"content": "中。", "single_word": True},
            {"content": "\n\n"},
        ]
    ),
    "cuts at a joiner": whole(
        pre_tokenizer=lambda n, p: p.Sequence([p.WhitespaceSplit(), p.Split("\u200c", "isolated")])
    ),
    "cuts at a delimiter": whole(
        pre_tokenizer=lambda n, p: p.CharDelimiterSplit("\u200b"), normalizer=lambda n, p: None
    ),
    "several joiners": whole(
        normalizer=lambda n, p: n.Replace(Regex("\u200c\u00ad|\u200b+"), " mill "),
        pre_tokenizer=lambda n, p: p.WhitespaceSplit(),
    ),
    "any format character": whole(
        normalizer=lambda n, p: n.Replace(Regex(r"\p{Cf}"), " river "), pre_tokenizer=lambda n, p: p.WhitespaceSplit()
    ),
    "long words": whole(max_input_chars_per_word=200),
    "short words": whole(max_input_chars_per_word=5),
}


def texts_of(seed: int) -> list[str]:
    chance = random.Random(seed)
    parts = [
        *" .!?。\n\t-'",
        "\n\n",
        " ",
        "the",
        "Mill",
        "St. Xavier",
        "Covid",
        "[USER]",
        "[L]",
        "中",
        "文",
        "。",
        "É",
        "か",
    ]
    return ["".join(chance.choices(parts, k=chance.randrange(1, 25))) for _ in range(120)]


@pytest.fixture(params=FOLDERS, ids=lambda name: name.replace(" ", "-"))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    made = tmp_path / "given"
    made.mkdir()
    FOLDERS[request.param](made)
    return made


def documents(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    encoded = TextEncoder(tokenizer=tokenizer)(texts)
    bounds = np.cumsum([0, *encoded.lengths])
    return [encoded.ids[start:end].tolist() for start, end in pairwise(bounds)]


def test_documents_are_encoded_as_the_folder_says(folder: Path) -> None:
    """Line ends aside, which cleaning makes one, and characters that no rule of the folder speaks of."""
    transformers = pytest.importorskip("transformers")
    tokenizer = Tokenizer.load(folder)
    if (folder / "tokenizer.json").exists():
        theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    else:
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [*TEXTS, *texts_of(3)]
    unseen = str.maketrans("\x0b", "\n", "".join(set("\u200c\u00ad\u200b\r") - set(tokenizer.seen_characters)))
    expected = [theirs(text.translate(unseen), add_special_tokens=False)["input_ids"] for text in texts]
    found = documents(tokenizer, texts)
    for text, ours, ids in zip(texts, found, expected, strict=True):
        assert ours == ids, (text, [*map(tokenizer.token, ours)], [*map(tokenizer.token, ids)])


def test_a_saved_folder_means_the_same_in_transformers_and_here(folder: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = Tokenizer.load(folder)
    saved = tmp_path / "saved"
    tokenizer.save(saved)
    # as unmask export writes it, beside a model
    (saved / "config.json").write_text('{"model_type": "bert"}')
    assert Tokenizer.load(saved).hash == tokenizer.hash
    theirs = transformers.AutoTokenizer.from_pretrained(saved)
    texts = [*TEXTS, *texts_of(4)]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids, text
        assert theirs(text)["input_ids"] == [tokenizer.cls_id, *ids, tokenizer.sep_id]
        pair = theirs(text, "mill")
        assert pair["token_type_ids"] == [0] * (len(ids) + 2) + [1] * 2
    assert theirs.mask_token_id == tokenizer.mask_id
    assert len(theirs) == tokenizer.vocab_size
    assert set(tokenizer.added_special_ids) <= set(theirs.all_special_ids)
    theirs.save_pretrained(tmp_path / "theirs")
    assert Tokenizer.load(tmp_path / "theirs").hash == tokenizer.hash


def test_sentences_start_at_tokens_whether_a_text_may_be_cut_or_not(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    encoded = TextEncoder(tokenizer=tokenizer)(["the mill. The river! the end?\n\nmill"])
    tokens = [tokenizer.token(index) for index in encoded.ids[encoded.sentence_starts]]
    # none starts inside a token: a line break that is one, a text that is all of one
    assert len(tokens) == len(sentence_starts("the mill. The river! the end?\n\nmill")) == 3 or (
        "\n\n" in tokens or len(encoded.ids) == 1
    )
    assert not np.any(encoded.sentence_starts & ~encoded.word_starts)
