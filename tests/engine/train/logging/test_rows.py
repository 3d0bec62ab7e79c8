"""What a row of the log has: each key is on the page about training, and the new numbers are what they say."""

import re
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch

from unmask.train.logging.log import read_log
from unmask.train.logging.metrics import peak_memory_bytes

PAGE = Path(__file__).resolve().parents[4] / "docs" / "training.md"


def documented() -> set[str]:
    """The keys in the table of the page, with numbers for layers taken out."""
    text = PAGE.read_text("utf-8").partition("## The log")[2].partition("The same rows")[0]
    cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return {re.sub(r"\d+", "N", key) for cell in cells for key in re.findall(r"`(\w+)`", cell)}


def test_every_key_of_a_row_is_on_the_page(tiny: ModuleType, tmp_path: Path) -> None:
    run = tiny.pretrain(tiny.config(tmp_path / "run", steps=6, log_every=1, log_gradient_norms=True, phases=[]))
    rows = read_log(run)
    assert {re.sub(r"\d+", "N", key) for row in rows for key in row} <= documented()
    for row in rows:
        parts = [row[f"gradient_norm_{part}"] for part in ("embeddings", "layer_0", "heads")]
        assert sum(part**2 for part in parts) ** 0.5 == pytest.approx(row["gradient_norm"], rel=1e-5)
        assert row["packing_efficiency"] == pytest.approx((row["tokens"] / row["step"]) / 256, rel=0.2)
    tokens = [row["tokens"] for row in rows]
    assert [row["packing_efficiency"] for row in rows[1:]] == [
        (later - earlier) / 256 for earlier, later in pairwise(tokens)
    ]


def test_rows_have_no_norms_by_part_unless_asked(tiny: ModuleType, tmp_path: Path) -> None:
    plain = tiny.pretrain(tiny.config(tmp_path / "plain", steps=6, phases=[]))
    asked = tiny.pretrain(tiny.config(tmp_path / "asked", steps=6, phases=[], log_gradient_norms=True))
    assert not any(key.startswith("gradient_norm_") for row in read_log(plain) for key in row)
    for name, value in tiny.parameters(plain).items():
        assert torch.equal(value, tiny.parameters(asked)[name]), name


def test_memory_never_falls() -> None:
    before = peak_memory_bytes(torch.device("cpu"))
    held = bytearray(64 << 20)
    held[::4096] = b"x" * len(held[::4096])
    after = peak_memory_bytes(torch.device("cpu"))
    del held
    assert peak_memory_bytes(torch.device("cpu")) >= after >= before > 1 << 24
