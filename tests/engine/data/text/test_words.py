"""Word starts: by spelling in alphabetic scripts, by the segmenter between ideographs, and never across the two."""

import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.data.prepare.encoding import TextEncoder
from unmask.data.text.words import Segmenter, ideographs, load_segmenter
from unmask.data.tokenizer import Tokenizer
from unmask.errors import CorpusError

TEXT = "他喜欢深度学习。BERT的 embeds 很好，卡拉OK在北京！"
SPACED = "他 喜欢 深度 学习 。 BERT 的 embeds 很 好 ， 卡拉OK 在 北京 ！"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["bert embed embed subs ok", "他喜欢深度学习很好的卡拉在北京，。！"], 110)


def _words(encode: TextEncoder, text: str) -> str:
    batch = encode([text])
    return " ".join(
        ("" if starts else "+") + encode.tokenizer.token(token)
        for token, starts in zip(batch.ids, batch.word_starts, strict=True)
    )


def test_without_a_segmenter_every_ideograph_is_a_word_and_pieces_continue_one(tokenizer: Tokenizer) -> None:
    words = _words(TextEncoder(tokenizer=tokenizer), TEXT)
    assert words.startswith("他 喜 欢 深 度 学 习 。")
    assert "+##" in words
    assert "+" not in words.replace("+##", "")


def test_spaces_join_the_ideographs_of_a_segmented_text_and_leave_the_other_scripts(tokenizer: Tokenizer) -> None:
    words = _words(TextEncoder(tokenizer=tokenizer, segmenter=load_segmenter("spaces")), SPACED)
    assert words.startswith("他 喜 +欢 深 +度 学 +习 。")
    assert words.replace("o +##k", "ok").endswith("卡 +拉 ok 在 北 +京 ！")


@pytest.mark.parametrize("name", ["rjieba", "jieba"])
def test_the_packaged_segmenters_join_dictionary_words(name: str, tokenizer: Tokenizer) -> None:
    pytest.importorskip(name)
    segmenter = load_segmenter(name)
    assert segmenter.label.startswith(name + " ")
    words = _words(TextEncoder(tokenizer=tokenizer, segmenter=segmenter), TEXT)
    assert words.startswith("他 喜 +欢 深 +度 学 +习 。")
    assert words.endswith("在 北 +京 ！")
    assert "卡 +拉 ok" in words.replace("o +##k", "ok")


def test_a_sentence_of_one_ideograph_and_its_neighbours_in_other_sentences_stay_apart(tokenizer: Tokenizer) -> None:
    whole = Segmenter(name="whole", version="", cut=lambda text: [text])
    assert _words(TextEncoder(tokenizer=tokenizer, segmenter=whole), "好！好的北\n\n京在") == "好 ！ 好 +的 +北 京 +在"
    # nor does a word go on behind another script or white space, whatever the segmenter says
    assert _words(TextEncoder(tokenizer=tokenizer, segmenter=whole), "ok好的ok好 好") == "ok 好 +的 ok 好 好"


@given(st.lists(st.text(alphabet=st.sampled_from("他北京好aé \t。\ufffd\u200b,𠀀"), max_size=8), max_size=5))
def test_the_flags_of_any_text_are_those_of_its_parts(texts: list[str]) -> None:
    tokenizer = Tokenizer.train(["a é 他北京好，。"], 40)
    encode = TextEncoder(tokenizer=tokenizer, segmenter=Segmenter(name="pairs", version="", cut=_pairs))
    together = encode(texts)
    apart = [encode([text]) for text in texts]
    for field in ("ids", "word_starts", "sentence_starts", "lengths"):
        parts = [getattr(batch, field) for batch in apart]
        assert getattr(together, field).tolist() == [value for part in parts for value in part.tolist()]
    # a segmenter only ever joins ideographs: everything else starts where it does by spelling
    plain = TextEncoder(tokenizer=tokenizer)(texts)
    assert not np.any(together.word_starts & ~plain.word_starts)
    assert together.ids.tolist() == plain.ids.tolist()


def test_ideographs_are_those_that_the_tokenizer_sets_apart() -> None:
    from tokenizers.normalizers import BertNormalizer

    normalizer = BertNormalizer(clean_text=False, handle_chinese_chars=True, strip_accents=False, lowercase=False)
    characters = [chr(code) for code in (*range(0x2E80, 0xFB00, 7), 0x4E00, 0x9FFF, 0x20000, 0x2CEAF, 0x2FA1F, 0x30000)]
    # surrogates are no characters
    characters = [character for character in characters if not 0xD800 <= ord(character) < 0xE000]
    apart = [normalizer.normalize_str(character) != character for character in characters]
    assert ideographs("".join(characters)).tolist() == apart


def test_a_function_or_an_entry_point_is_a_segmenter(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("my_words")
    module.cut = _pairs  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_words", module)
    assert list(load_segmenter("my_words:cut").cut("一二三")) == ["一二", "三"]
    point = EntryPoint(name="mine", value="my_words:cut", group="unmask.segmenters")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [point])
    assert load_segmenter("mine").label == "mine"


def test_a_segmenter_that_is_missing_unknown_or_loses_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rjieba", "jieba"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("rjieba", "jieba", "chinese"):
        with pytest.raises(CorpusError, match=r"jieba is not installed; pip install 'unmask\[chinese\]'"):
            load_segmenter(name)
    with pytest.raises(CorpusError, match="'pkuseg' is not known; choose rjieba, jieba, chinese, spaces"):
        load_segmenter("pkuseg")
    for name in ("no_such_module:cut", "json:no_such_function", "json:__name__"):
        with pytest.raises(CorpusError, match=name):
            load_segmenter(name)
    lossy = Segmenter(name="lossy", version="", cut=lambda text: text.split())
    with pytest.raises(CorpusError, match="words of lossy must join up to the text '他 好'"):
        lossy.continues("他 好", [0, 3])


def test_chinese_takes_jieba_where_rjieba_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jieba")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "rjieba" else object())
    assert load_segmenter("chinese").name == "jieba"


def test_a_vocabulary_file_is_a_tokenizer_and_a_token_starts_where_its_character_is(tmp_path: Path) -> None:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "北", "京", "cafe", "##s"]
    path = tmp_path / "bert-base-chinese-vocab.txt"
    path.write_text("\n".join(tokens), encoding="utf-8")
    tokenizer = Tokenizer.load(path)
    (placed,) = tokenizer.encode_with_places(["北京 Cafés 京x"])
    assert placed.ids == [5, 6, 7, 8, 6, 1]
    assert placed.places.tolist() == [[0, 1], [1, 2], [3, 7], [7, 8], [9, 10], [10, 11]]
    assert placed.words.tolist() == [0, 1, 2, 2, 3, 4]


def _pairs(text: str) -> Iterable[str]:
    return [text[start : start + 2] for start in range(0, len(text), 2)]


def test_a_function_in_the_current_folder_is_a_segmenter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is what it imports there, at once or later; names of Python's own modules do no harm."""
    (tmp_path / "here_words.py").write_text(
        "class cutter:\n    def cut(text):\n        import here_pairs\n        return here_pairs.pairs(text)\n"
    )
    (tmp_path / "here_pairs.py").write_text(
        "def pairs(text):\n    return [text[i:i + 2] for i in range(0, len(text), 2)]\n"
    )
    (tmp_path / "here_broken.py").write_text("def cut(text:\n")
    (tmp_path / "keyword.py").write_text("raise SystemExit('the file of the user')")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    assert list(load_segmenter("here_words:cutter.cut").cut("一二三")) == ["一二", "三"]
    with pytest.raises(CorpusError, match=r"here_broken:cut cannot be imported \(SyntaxError: .*in the current folder"):
        load_segmenter("here_broken:cut")
    with pytest.raises(CorpusError, match=r"/here_words\.py has no 'cut'; name it as module:function"):
        load_segmenter("here_words:cut")
    assert sys.path[-1] == str(tmp_path)
