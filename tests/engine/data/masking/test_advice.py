"""What the errors about similar words and word vectors advise: each is followed here, and then the table is made."""

import shutil
import subprocess
from pathlib import Path

import pytest

from unmask.config import MaskingConfig
from unmask.data.masking.masker import Masker
from unmask.data.masking.neighbours import similar_words
from unmask.data.masking.similar_words import SimilarWords
from unmask.data.masking.word_vectors import require_gensim
from unmask.data.prepare import prepare
from unmask.data.store import Store
from unmask.errors import ConfigError, CorpusError, UnmaskError

pytest.importorskip("gensim")

TEXT = "the mill and the barn stand by the river and the lake where the cat and the dog sleep . " * 6
VECTORS = "mill 1 0 0\nbarn 0.9 0.1 0\nriver 0 1 0\nlake 0 0.9 0.1\n"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "a.txt").write_text(TEXT)
    return prepare([folder / "a.txt"], folder / "store", vocab_size=100, workers=1)


def refusal(store: Store, table: Path, **options: object) -> str:
    with pytest.raises(CorpusError) as told:
        similar_words(store, table, **options)  # type: ignore[arg-type]
    return str(told.value)


@pytest.mark.parametrize(
    ("contents", "advice"),
    [
        (None, "give the file of the vectors"),
        ("", "give word2vec or GloVe vectors"),
        ("mill x\n", "give such a file"),
        ("moulin 1 0 0\ngrange 0 1 0\n", "give vectors of the language of the store"),
    ],
)
def test_vectors_that_cannot_be_used_are_replaced_or_trained(
    contents: str | None, advice: str, store: Store, tmp_path: Path
) -> None:
    vectors = tmp_path / "vectors.txt"
    if contents is not None:
        vectors.write_text(contents)
    told = refusal(store, tmp_path / "table.tsv", vectors=vectors)
    assert advice in told
    vectors.write_text(VECTORS)
    assert similar_words(store, tmp_path / "table.tsv", vectors=vectors).coverage.kept == 4
    if "leave --vectors out" in told:
        assert similar_words(store, tmp_path / "trained.tsv", epochs=1).coverage.kept > 4


def test_a_table_is_made_of_rarer_words_under_another_name_or_in_the_place_of_the_old(
    store: Store, tmp_path: Path
) -> None:
    table = tmp_path / "table.tsv"
    assert "lower --min-count, or prepare more text" in refusal(store, table, min_count=1000)
    similar_words(store, table, min_count=5, epochs=1)
    assert "give another name, or remove it: rm " in refusal(store, table)
    similar_words(store, tmp_path / "other.tsv", epochs=1)
    table.unlink()
    similar_words(store, table, epochs=1)
    named = refusal(store, tmp_path).rpartition("the name of a file, ")[2]
    similar_words(store, Path(named), epochs=1)


@pytest.mark.parametrize(
    ("contents", "advice"),
    [
        ("moulin\tgrange:0.9\n", "give a table of the corpus's language, in words that the vocabulary can spell"),
        ("mill barn\n", "must be 'word<TAB>neighbour:similarity ...'"),
        (b"\x00\xff\x81", "give a table that `unmask similar-words` made"),
        (None, "make one with unmask similar-words --store STORE --out"),
    ],
)
def test_a_table_that_cannot_be_used_is_made_anew(
    contents: str | bytes | None, advice: str, store: Store, tmp_path: Path
) -> None:
    table = tmp_path / "table.tsv"
    if contents is not None:
        table.write_bytes(contents.encode() if isinstance(contents, str) else contents)
    tokenizer = store.load_tokenizer()
    # so that French words cannot be spelled
    small = tokenizer if advice.startswith(("must", "give a table that", "make")) else _Letters()
    with pytest.raises(CorpusError) as told:
        SimilarWords.load(table, small)  # type: ignore[arg-type]
    assert advice in str(told.value)
    table.unlink(missing_ok=True)
    similar_words(store, table, epochs=1)
    assert SimilarWords.load(table, tokenizer).coverage.kept


class _Letters:
    """A tokenizer that knows no word."""

    special_ids = {"unk": 1}  # noqa: RUF012
    added_special_ids: list[int] = []  # noqa: RUF012

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [[1] for _ in texts]


def test_a_folder_and_a_locked_file_are_no_table(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "table.tsv"
    similar_words(store, table, epochs=1)
    tokenizer = store.load_tokenizer()
    with pytest.raises(CorpusError, match="give the table, a file that `unmask similar-words` made"):
        SimilarWords.load(tmp_path, tokenizer)
    opened = Path.open

    def refuses(self: Path, *arguments: object, **options: object) -> object:
        if self == table:
            raise PermissionError(13, "Permission denied")
        return opened(self, *arguments, **options)  # type: ignore[call-overload]

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuses)
        with pytest.raises(CorpusError, match="make it readable, or copy it again"):
            SimilarWords.load(table, tokenizer)
    assert SimilarWords.load(table, tokenizer).coverage.kept


def test_words_of_chinese_come_from_a_segmenter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("rjieba")
    text = tmp_path / "a.txt"
    text.write_text("那只猫咪睡在磨坊旁边。那只小狗睡在谷仓旁边。" * 20, "utf-8")
    for name, segmenter in (("characters", None), ("words", "chinese")):
        caplog.clear()
        made = prepare([text], tmp_path / name, vocab_size=100, workers=1, segmenter=segmenter)
        similar_words(made, tmp_path / f"{name}.tsv", epochs=1)
        assert ("with --segmenter chinese to have words" in caplog.text) is (segmenter is None)


def test_a_masker_takes_a_table_with_mac_alone() -> None:
    import numpy as np

    table = SimilarWords([((5,), (6,))])
    plain, mac = MaskingConfig(strategy="token"), MaskingConfig(strategy="mac", similar_words="table.tsv")
    ids = np.arange(5, 9)
    for config, given in ((plain, table), (mac, None)):
        with pytest.raises(ConfigError, match=r"give masking\.similar_words together with strategy 'mac' alone"):
            Masker(
                config,
                special_ids=[0, 1, 2, 3, 4],
                ordinary_ids=ids,
                mask_id=4,
                vocab_size=9,
                seed=1,
                similar_words=given,
            )
    Masker(plain, special_ids=[0, 1, 2, 3, 4], ordinary_ids=ids, mask_id=4, vocab_size=9, seed=1)
    Masker(mac, special_ids=[0, 1, 2, 3, 4], ordinary_ids=ids, mask_id=4, vocab_size=9, seed=1, similar_words=table)


def test_a_table_in_utf_16_is_converted_by_the_command(store: Store, tmp_path: Path) -> None:
    if shutil.which("iconv") is None:
        pytest.skip("needs iconv")
    table = tmp_path / "my table.tsv"
    similar_words(store, table, epochs=1)
    table.write_text(table.read_text("utf-8"), "utf-16")
    tokenizer = store.load_tokenizer()
    with pytest.raises(CorpusError, match=r"is not UTF-8 \(.*\); convert it: iconv -f UTF-16 -t UTF-8 ") as told:
        SimilarWords.load(table, tokenizer)
    command = str(told.value).partition("convert it: ")[2]
    subprocess.run(["sh", "-c", command], check=True, cwd=tmp_path)
    assert SimilarWords.load(table, tokenizer).coverage.kept


def test_word_vectors_need_gensim(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(UnmaskError, match=r"word vectors need gensim; pip install 'unmask\[vectors\]'"):
            require_gensim()
    require_gensim()
    assert similar_words(store, tmp_path / "table.tsv", epochs=1).coverage.kept


def test_options_of_the_training_are_left_out_beside_vectors(store: Store, tmp_path: Path) -> None:
    vectors = tmp_path / "vectors.txt"
    vectors.write_text(VECTORS)
    with pytest.raises(
        (ConfigError, ValueError),
        match="similar-words: --epochs is of the training, and --vectors reads vectors; leave one out",
    ):
        similar_words(store, tmp_path / "table.tsv", vectors=vectors, epochs=1)
    assert similar_words(store, tmp_path / "read.tsv", vectors=vectors).coverage.kept == 4
    assert similar_words(store, tmp_path / "trained.tsv", epochs=1).coverage.kept
