"""Tables of similar words for a store: its words, their vectors, and the nearest words of equal length."""

import gzip
import os
import random
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from unmask.cli import main
from unmask.data.masking import neighbours as module
from unmask.data.masking.neighbours import nearest_words, nearest_words_of_equal_length, similar_words
from unmask.data.masking.similar_words import SimilarWords, read_neighbours
from unmask.data.masking.store_words import StoreWords, count_words, sentences
from unmask.data.masking.word_vectors import read_vectors
from unmask.data.store import Store
from unmask.errors import CorpusError, UnmaskError

pytest.importorskip("gensim")

# a Chinese word is what stands between two blanks; animals and places occur in the same contexts
ANIMALS, PLACES = ("猫咪", "小狗", "狐狸", "公牛", "母鸡"), ("磨坊", "谷仓", "湖边", "山上", "路口")


def texts() -> list[str]:
    draw = random.Random(1)
    return [
        "".join(f"那只 {draw.choice(ANIMALS)} 每天 睡 在 {draw.choice(PLACES)} 旁边 。 Paris ！\n" for _ in range(12))
        for _ in range(60)
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "texts").mkdir()
    for number, text in enumerate(texts()):
        (folder / "texts" / f"{number:02}.txt").write_text(text, encoding="utf-8")
    arguments = ["--input", str(folder / "texts"), "--segmenter", "spaces", "--vocab-size", "80"]
    assert main(["prepare", *arguments, "--out", str(folder / "store")]) == 0
    return Store.open(folder / "store")


def words_of(store: Store, **changes: int) -> StoreWords:
    return count_words(store, store.load_tokenizer(), **({"most": 1000, "min_count": 1} | changes))


def test_words_are_those_of_the_text_with_their_counts(store: Store) -> None:
    expected = Counter(" ".join(texts()).lower().split())
    words = words_of(store)
    assert dict(zip(words.spelled, words.counts.tolist(), strict=True)) == expected
    assert words.counts.tolist() == sorted(words.counts.tolist(), reverse=True)
    assert words.occurrences == expected.total()
    assert words_of(store, most=3).spelled == words.spelled[:3]
    few = words_of(store, min_count=200)
    assert set(few.spelled) == {word for word, number in expected.items() if number >= 200}


def test_sentences_are_the_documents_without_unusable_words(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask.data.masking import store_words

    words = words_of(store, min_count=200)
    usable = set(words.spelled)
    expected = [[word for word in text.lower().split() if word in usable] for text in texts()]
    assert list(sentences(store, words)) == expected
    # any batches of documents, and long documents in parts
    monkeypatch.setattr(store_words, "_BATCH_TOKENS", 300)
    assert list(sentences(store, words)) == expected
    monkeypatch.setattr(store_words, "_SENTENCE_WORDS", 50)
    cut = list(sentences(store, words))
    assert max(map(len, cut)) == 50
    assert [word for part in cut for word in part] == [word for part in expected for word in part]


def test_a_limit_of_tokens_reads_documents_from_the_whole_store(store: Store) -> None:
    words = words_of(store, tokens=store.num_tokens // 3)
    assert words.documents.tolist() == list(range(0, 60, 3))
    assert len(list(sentences(store, words))) == 20


def test_unknown_words_and_words_of_special_tokens_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abc", "##a"]))
    (tmp_path / "text.txt").write_text("a b zebra aa bz c a\n" * 9)
    made = str(tmp_path / "store")
    arguments = ["--input", str(tmp_path / "text.txt"), "--tokenizer", str(tmp_path / "vocab.txt"), "--out", made]
    arguments.append("--allow-unknown")
    assert main(["prepare", *arguments]) == 0
    words = words_of(Store.open(made))
    assert dict(zip(words.spelled, words.counts.tolist(), strict=True)) == {"a": 18, "b": 9, "c": 9, "aa": 9}


def test_a_trained_table_has_words_of_one_kind_as_neighbours(store: Store, tmp_path: Path) -> None:
    table = similar_words(store, tmp_path / "table.tsv", epochs=30)
    found = dict(read_neighbours(tmp_path / "table.tsv"))
    for kind in (ANIMALS, PLACES):
        for word in kind:
            assert found[word][0] in kind, f"{word}: {found[word]}"
    assert table.coverage.kept == len(found)
    tokenizer = store.load_tokenizer()
    for word, others in found.items():
        lengths = [len(ids) for ids in tokenizer.encode_batch([word, *others])]
        assert set(lengths) == {lengths[0]}


def test_punctuation_has_only_punctuation_as_neighbours() -> None:
    spelled = ["mill", ",", "barn", "!", "的", "…"]
    words = StoreWords(
        spelled=spelled,
        ids=[(number,) for number in range(6)],
        counts=np.ones(6, np.int64),
        hashes=np.arange(6, dtype=np.uint64),
        occurrences=6,
        documents=np.zeros(1, np.int64),
    )
    vectors = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    near = nearest_words_of_equal_length(words, vectors, neighbours=5)
    others = {spelled[number]: {spelled[other] for other, _ in found} for number, found in near.items()}
    letters, marks = {"mill", "barn", "的"}, {",", "!", "…"}
    assert others == {word: (letters if word in letters else marks) - {word} for word in spelled}


def test_vectors_of_much_text_are_not_called_rough(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    similar_words(store, tmp_path / "few.tsv", epochs=1)
    assert "neighbours are rough" in caplog.text
    caplog.clear()
    monkeypatch.setattr(module, "_LITTLE_TOKENS", store.num_tokens)
    similar_words(store, tmp_path / "many.tsv", epochs=1)
    assert "rough" not in caplog.text


def test_the_same_seed_gives_the_same_table_in_another_process(store: Store, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from unmask.data.store import Store\n"
        "from unmask.data.masking.neighbours import similar_words\n"
        "similar_words(Store.open(sys.argv[1]), Path(sys.argv[2]), seed=3)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    there = tmp_path / "there.tsv"
    subprocess.run([sys.executable, "-c", code, str(store.folder), str(there)], check=True, env=environment)
    similar_words(store, tmp_path / "here.tsv", seed=3)
    similar_words(store, tmp_path / "other.tsv", seed=4)
    assert there.read_bytes() == (tmp_path / "here.tsv").read_bytes()
    assert there.read_bytes() != (tmp_path / "other.tsv").read_bytes()


VECTORS = {"猫咪": (1.0, 0.1), "小狗": (1.0, 0.2), "磨坊": (0.1, 1.0), "谷仓": (0.0, 1.0), "睡": (0.0, 0.0)}
VECTORS |= {"Paris": (0.5, 0.5), "paris": (9.0, 9.0), "鲸鱼": (0.3, 0.3)}


def text_of(vectors: dict[str, tuple[float, float]]) -> bytes:
    return "".join(f"{word} {' '.join(map(str, vector))}\n" for word, vector in vectors.items()).encode()


def written(folder: Path, kind: str) -> Path:
    path = folder / ("vectors.gz" if kind == "compressed" else "vectors")
    header = f"{len(VECTORS)} 2\n".encode()
    rows = b"".join(f"{word} ".encode() + struct.pack("<2f", *vector) + b"\n" for word, vector in VECTORS.items())
    contents = {
        "word2vec text": header + text_of(VECTORS),
        "GloVe": text_of(VECTORS),
        "word2vec binary": header + rows,
        "word2vec binary without line ends": header + rows.replace(b"\n", b""),
        "compressed": gzip.compress(header + text_of(VECTORS)),
    }
    path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize(
    "kind", ["word2vec text", "GloVe", "word2vec binary", "word2vec binary without line ends", "compressed"]
)
def test_vectors_of_every_format_are_read_for_the_words_of_the_store(store: Store, tmp_path: Path, kind: str) -> None:
    words = words_of(store)
    rows = read_vectors(written(tmp_path, kind), words, store.load_tokenizer(), most=100)
    found = {word: tuple(row) for word, row in zip(words.spelled, rows.tolist(), strict=True) if any(row)}
    # the store is uncased, and the first of two words that it spells alike counts
    absent = ("睡", "paris", "鲸鱼")
    expected = {word.lower(): vector for word, vector in VECTORS.items() if word not in absent}
    assert found.keys() == expected.keys()
    for word, vector in expected.items():
        assert found[word] == pytest.approx(vector)


def test_only_the_first_vectors_of_a_large_file_are_read(store: Store, tmp_path: Path) -> None:
    words = words_of(store)
    rows = read_vectors(written(tmp_path, "word2vec text"), words, store.load_tokenizer(), most=2)
    assert [word for word, row in zip(words.spelled, rows, strict=True) if row.any()] == [
        word for word in words.spelled if word in ("猫咪", "小狗")
    ]


def test_a_table_made_from_vectors_is_read_back(store: Store, tmp_path: Path) -> None:
    table = similar_words(store, tmp_path / "table.tsv", vectors=written(tmp_path, "word2vec text"), neighbours=2)
    found = dict(read_neighbours(tmp_path / "table.tsv"))
    assert found["猫咪"] == ["小狗", "磨坊"]
    assert found["谷仓"] == ["磨坊", "小狗"]
    assert found.keys() == {"猫咪", "小狗", "磨坊", "谷仓"}
    assert isinstance(table, SimilarWords)
    assert table.coverage.kept == 4
    with pytest.raises(CorpusError, match=r"table\.tsv exists; give another name, or remove it: rm "):
        similar_words(store, tmp_path / "table.tsv")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"3 2\nking \x00\x00", "must be word2vec .* or GloVe, "),
        (b"a 1 2 3\nb 1 2\n", "must be word2vec .* or GloVe, "),
        (b"", "holds no words; give word2vec"),
        (b"2 2\na b 1 2\nc 1 2\n", "must be word2vec .* gensim cannot read it"),
        (b"\x1f\x8b\x08 x y z", "must be word2vec .* or GloVe, "),
        (b"words of a text\nand no numbers\n", "must be word2vec .* or GloVe, "),
    ],
)
def test_vectors_of_an_unknown_format_are_refused(store: Store, tmp_path: Path, contents: bytes, message: str) -> None:
    path = tmp_path / "vectors"
    path.write_bytes(contents)
    with pytest.raises(CorpusError, match=message):
        similar_words(store, tmp_path / "table.tsv", vectors=path)
    assert not (tmp_path / "table.tsv").exists()


def test_missing_vectors_are_refused_by_name(store: Store, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"word vectors: there is no file .*absent; give the file"):
        similar_words(store, tmp_path / "table.tsv", vectors=tmp_path / "absent")


def test_vectors_of_another_language_are_refused_and_training_is_the_way_out(store: Store, tmp_path: Path) -> None:
    (tmp_path / "vectors").write_bytes(text_of({"whale": (1.0, 0.0), "shark": (0.9, 0.1)}))
    with pytest.raises(CorpusError, match=r"must have vectors, none have; .* or leave --vectors out to train them"):
        similar_words(store, tmp_path / "table.tsv", vectors=tmp_path / "vectors")
    similar_words(store, tmp_path / "table.tsv")


def test_rare_words_alone_are_refused_and_a_lower_count_is_the_way_out(store: Store, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="two words of at least 9000 occurrences, has 0; lower --min-count"):
        similar_words(store, tmp_path / "table.tsv", min_count=9000)
    similar_words(store, tmp_path / "table.tsv", min_count=100)


def test_without_gensim_the_extra_is_named(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gensim" else found(name))
    with pytest.raises(UnmaskError, match=r"need gensim; pip install 'unmask\[vectors\]'"):
        similar_words(store, tmp_path / "table.tsv")


def test_a_chinese_store_without_words_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "text.txt").write_text("".join(texts()), encoding="utf-8")
    made = str(tmp_path / "store")
    assert main(["prepare", "--input", str(tmp_path / "text.txt"), "--vocab-size", "80", "--out", made]) == 0
    with caplog.at_level("WARNING", logger="unmask"):
        similar_words(Store.open(made), tmp_path / "table.tsv", epochs=1)
    assert "each Chinese character is a word; prepare the text with --segmenter chinese" in caplog.text


def test_neighbours_equal_all_cosines_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 7)
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((40, 6)).astype(np.float32)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit.T - 9 * np.eye(40)
    found = dict(nearest_words(rows, neighbours=3))
    assert list(found) == list(range(40))
    for number, near in found.items():
        best = np.argsort(-cosines[number])[:3]
        assert [other for other, _ in near] == best.tolist()
        np.testing.assert_allclose([score for _, score in near], cosines[number][best], atol=1e-5)


def test_a_vector_of_zeros_is_nobodys_neighbour_and_has_none() -> None:
    rows = np.array([[1, 0], [0, 0], [1, 0.1], [-1, 0]], dtype=np.float32)
    found = {number: [other for other, _ in near] for number, near in nearest_words(rows, neighbours=3)}
    assert found == {0: [2, 3], 2: [0, 3], 3: [2, 0]}


def test_a_word_that_is_alone_in_its_length_has_no_neighbour() -> None:
    words = StoreWords(
        spelled=["a", "bc", "d", "e"],
        ids=[(5,), (6, 7), (8,), (9,)],
        counts=np.ones(4, dtype=np.int64),
        hashes=np.arange(4, dtype=np.uint64),
        occurrences=4,
        documents=np.arange(1),
    )
    rows = np.array([[1, 0], [1, 0], [1, 1], [0, 1]], dtype=np.float32)
    found = nearest_words_of_equal_length(words, rows, neighbours=1)
    assert {number: near[0][0] for number, near in found.items()} == {0: 2, 2: 0, 3: 2}
