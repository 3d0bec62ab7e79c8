"""The bench of learning: both sides train, are scored on the same masks, and a finished round is not made again."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def bench() -> ModuleType:
    pytest.importorskip("transformers")
    from bench.engine import bench_learning

    return bench_learning


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    words = ["".join(draw.choice([*"abcdefgh"], draw.integers(2, 6))) for _ in range(40)]
    (tmp_path / "texts").mkdir()
    documents = ("# title\n" + " ".join(draw.choice(words, draw.integers(10, 60))) + "\n" for _ in range(60))
    (tmp_path / "texts" / "a.md").write_text("".join(documents))
    return tmp_path / "texts"


def test_both_sides_learn_for_the_same_time_and_are_scored_on_the_same_masks(
    bench: ModuleType,
    texts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = f"{texts} --work {tmp_path / 'work'} --minutes 0.02 --rounds 1 --sooner 2 --length 16 --tokens 64"
    words += f" --vocab-size 60 --held-out 0.3 --score-tokens 256 --out {tmp_path / 'result.json'} --stream.workers 0"
    words += " --model.num_layers 1 --model.hidden_size 8 --model.num_heads 2 --model.intermediate_size 16"
    bench.main(words.split())
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["learning"] == "texts" and "hidden 8, vocabulary 60" in result["setting"]
    assert str(tmp_path) not in json.dumps(result)
    (curves,) = result["rounds"]
    budgets = {"transformers": 0.02, "unmask": 0.02, "unmask, 0.01 minutes": 0.01}
    assert curves.keys() == budgets.keys()
    for side, budget in budgets.items():
        minutes = [point["minutes"] for point in curves[side]]
        assert minutes == sorted(minutes)
        assert len(minutes) >= 2 and 0.0 < minutes[0] < budget <= minutes[-1], (side, minutes)
        assert all(0 < point["loss"] < 6 and point["tokens"] <= 64 * point["step"] for point in curves[side])
        assert [point["step"] for point in curves[side]] == sorted({point["step"] for point in curves[side]})
    # what is finished is not made again, and another setting needs another folder
    for name in ("train_ours", "train_theirs"):
        monkeypatch.setattr(bench, name, lambda *_: pytest.fail("a finished round was made again"))
    bench.main(words.split())
    assert json.loads((tmp_path / "result.json").read_text())["rounds"] == [curves]
    with pytest.raises(SystemExit, match="holds rounds with other settings; give another folder"):
        bench.main([*words.split(), "--minutes", "0.03"])
    with pytest.raises(SystemExit):
        bench.main([*words.split(), "--tokens", "65"])
    assert "argument --tokens: must be a multiple of --length 16, got 65" in capsys.readouterr().err


def test_rows_of_the_other_side_are_full_and_hold_the_training_documents_in_order(
    bench: ModuleType, texts: Path, tmp_path: Path
) -> None:
    import unmask

    store = unmask.prepare(texts, tmp_path / "store", vocab_size=60, split_at="^#", workers=1)
    rows = bench.full_rows(store, 0.3, 16)
    ids, cls_id, sep_id = rows.reshape(-1).tolist(), store.special_ids["cls"], store.special_ids["sep"]
    chosen = np.flatnonzero(~store.held_out_mask(0.3))
    expected: list[int] = []
    for document in chosen:
        inner, _ = store.gather([document], [0], [store.lengths[document]])
        expected += [cls_id, *inner.tolist(), sep_id]
    assert rows.shape[1] == 16 and len(expected) - 16 < len(ids) <= len(expected)
    assert ids == expected[: len(ids)] and 0 < len(chosen) < store.num_documents
