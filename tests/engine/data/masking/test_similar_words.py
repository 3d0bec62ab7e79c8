"""The table of similar words: which neighbour is kept, how words are found, and tables made from word vectors."""

import struct
from typing import ClassVar

import numpy as np
import pytest

from unmask.data.masking.similar_words import SimilarWords
from unmask.data.masking.word_vectors import read_vectors, similar_words, write_similar_words
from unmask.errors import CorpusError


class Letters:
    """A tokenizer with one id a letter, from 5 on; a capital letter is unknown."""

    special_ids: ClassVar = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    added_special_ids: ClassVar = []

    def encode_batch(self, texts, *, special_tokens=False):
        return [[1 if letter.isupper() else 5 + ord(letter) - ord("a") for letter in text] for text in texts]


def spell(*texts):
    return [[5 + ord(letter) - ord("a") for letter in text] for text in texts]


def write(folder, text):
    path = folder / "similar.tsv"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_best_known_neighbour_of_equal_length_is_kept(tmp_path):
    path = write(
        tmp_path,
        "good\tgood:1.0 fine:0.9 well:0.8\n"
        "big\tlarge:0.9 giant:0.8 hug:0.5\n"
        "cat\tDog:0.9 cow:0.8\n"
        "Paris\tlyons:0.9\n"
        "odd\tstrange:0.9\n"
        "\n",
    )
    table = SimilarWords.load(path, Letters())
    pairs = {"good": "fine", "big": "hug", "cat": "cow"}
    assert dict(table.pairs()) == {
        tuple(word): tuple(other) for word, other in zip(spell(*pairs), spell(*pairs.values()), strict=True)
    }
    coverage = table.coverage
    assert (coverage.words, coverage.unknown, coverage.without, coverage.kept) == (5, 1, 1, 3)
    assert str(coverage).startswith("3 of 5 words have a similar one of equal length; 1 hold unknown tokens")


def test_words_are_found_by_their_tokens_and_no_others():
    rng = np.random.default_rng(0)
    words = sorted({tuple(rng.integers(5, 12, rng.integers(1, 6)).tolist()) for _ in range(2000)})
    known = words[::2]
    table = SimilarWords([(word, word[::-1]) for word in known])
    ids = np.array([token for word in words for token in word], dtype=np.uint16)
    sizes = np.array([len(word) for word in words])
    first = np.cumsum(sizes) - sizes
    entries = table.find(ids, first, sizes)
    assert (entries >= 0).tolist() == [number % 2 == 0 for number in range(len(words))]
    for word, entry in zip(words, entries.tolist(), strict=True):
        if entry >= 0:
            places = np.arange(len(word))
            assert table.token(np.full(len(word), entry), places).tolist() == list(word[::-1])


def test_equal_hashes_of_different_words_do_no_harm(monkeypatch):
    from unmask.data.masking import similar_words as module

    monkeypatch.setattr(module, "mix64", lambda values: np.zeros(np.shape(values), dtype=np.uint64))
    table = SimilarWords([((7, 8), (9, 10))])
    ids = np.array([7, 8, 8, 7, 7], dtype=np.uint16)
    assert table.find(ids, np.array([0, 2, 4]), np.array([2, 2, 1])).tolist() == [0, -1, -1]


def test_a_word_given_twice_keeps_its_first_similar_word():
    table = SimilarWords([((7,), (8,)), ((7,), (9,))])
    entry = table.find(np.array([7]), np.array([0]), np.array([1]))
    assert table.token(entry, np.array([0])).tolist() == [8]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "at least one pair of words, got none"),
        ([((5, 6), (7,))], "the same number of tokens, at least 1, got 2 and 1"),
        ([((), ())], "the same number of tokens, at least 1, got 0 and 0"),
    ],
)
def test_pairs_that_are_no_table_are_refused(pairs, message):
    with pytest.raises(ValueError, match=message):
        SimilarWords(pairs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no tab here\n", r"line 1: must be 'word<TAB>neighbour:similarity ...', got 'no tab here'"),
        ("word\t\n", "line 1: must be 'word<TAB>"),
        ("good\tfine:0.9\nbad\tworse\n", "line 2: must be 'word<TAB>"),
        ("Paris\tLyons:0.9\n", "no word can be used with this tokenizer"),
        ("", "no word can be used with this tokenizer"),
    ],
)
def test_files_that_are_no_table_are_refused(tmp_path, text, message):
    with pytest.raises(CorpusError, match=message):
        SimilarWords.load(write(tmp_path, text), Letters())


def test_a_missing_or_binary_table_is_refused_by_name(tmp_path):
    with pytest.raises(CorpusError, match=r"there is no table .*absent\.tsv"):
        SimilarWords.load(tmp_path / "absent.tsv", Letters())
    (tmp_path / "vectors.bin").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(CorpusError, match="cannot be read as UTF-8 text"):
        SimilarWords.load(tmp_path / "vectors.bin", Letters())


VECTORS = {"king": (1.0, 0.1), "queen": (1.0, 0.2), "dog": (0.1, 1.0), "cat": (0.0, 1.0), "null": (0.0, 0.0)}


def text_of(vectors):
    return "\n".join(f"{word} {' '.join(map(str, vector))}" for word, vector in vectors.items())


def written(folder, kind):
    path = folder / "vectors"
    header = f"{len(VECTORS)} 2\n".encode()
    rows = b"".join(f"{word} ".encode() + struct.pack("<2f", *vector) + b"\n" for word, vector in VECTORS.items())
    contents = {
        "word2vec text": header + text_of(VECTORS).encode(),
        "GloVe": text_of(VECTORS).encode(),
        "word2vec binary": header + rows,
        "word2vec binary without line ends": header + rows.replace(b"\n", b""),
    }
    path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize("kind", ["word2vec text", "GloVe", "word2vec binary", "word2vec binary without line ends"])
def test_vectors_are_read_in_every_format(tmp_path, kind):
    words, rows = read_vectors(written(tmp_path, kind))
    assert words == list(VECTORS)
    np.testing.assert_allclose(rows, list(VECTORS.values()), rtol=1e-6)


def test_a_table_made_from_vectors_is_read_back(tmp_path):
    table = tmp_path / "table.tsv"
    assert write_similar_words(written(tmp_path, "word2vec text"), table, neighbours=2) == 4
    lines = table.read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[0] for line in lines] == ["king", "queen", "dog", "cat"]
    assert lines[0].startswith("king\tqueen:1.00 dog:")
    assert lines[3].startswith("cat\tdog:1.00 queen:")
    loaded = SimilarWords.load(table, Letters())
    assert dict(loaded.pairs())[tuple(spell("cat")[0])] == tuple(spell("dog")[0])
    with pytest.raises(CorpusError, match=r"table\.tsv exists"):
        write_similar_words(tmp_path / "vectors", table)


def test_neighbours_equal_all_cosines_sorted(monkeypatch):
    from unmask.data.masking import word_vectors

    monkeypatch.setattr(word_vectors, "BLOCK", 7)
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((40, 6)).astype(np.float32)
    words = [f"w{number}" for number in range(40)]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit.T - 9 * np.eye(40)
    found = dict(similar_words(words, rows, neighbours=3, most=25))
    assert list(found) == words[:25]
    for number, (_, near) in enumerate(found.items()):
        best = np.argsort(-cosines[number])[:3]
        assert [word for word, _ in near] == [words[other] for other in best]
        np.testing.assert_allclose([score for _, score in near], cosines[number][best], atol=1e-5)


def test_a_vector_of_zeros_is_nobodys_neighbour_and_has_none():
    rows = np.array([[1, 0], [0, 0], [1, 0.1], [-1, 0]], dtype=np.float32)
    found = {word: [other for other, _ in near] for word, near in similar_words(list("abcd"), rows, neighbours=3)}
    assert found == {"a": ["c", "d"], "c": ["a", "d"], "d": ["c", "a"]}


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"3 2\nking \x00\x00", "it ends after 0 of 3 words"),
        (b"a 1 2 3\nb 1 2\n", "line 2 has 2 numbers, not 3"),
        (b"", "holds no words"),
        (b"\x1f\x8b\x08 x y z", "is it compressed"),
    ],
)
def test_vectors_of_an_unknown_format_are_refused(tmp_path, contents, message):
    path = tmp_path / "vectors"
    path.write_bytes(contents)
    with pytest.raises(CorpusError, match=message):
        read_vectors(path)
