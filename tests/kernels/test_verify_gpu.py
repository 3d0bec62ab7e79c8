"""Verification on a GPU: what passes is chosen in this process, and its kernels run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from unmask_kernels import FAMILIES
from unmask_kernels.capability import HAS_TRITON
from unmask_kernels.verify import Shapes, standing, verify
from unmask_kernels.verify.plan import plan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (torch.cuda.is_available() and HAS_TRITON), reason="needs a GPU and Triton"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path))
    yield
    for family in FAMILIES.values():
        family.passed = family.failed = ()


def test_bert_base_passes_within_two_minutes_and_is_chosen() -> None:
    report = verify(Shapes())
    print(*report.lines(), sep="\n")
    assert report.failed == []
    assert report.seconds < 130
    assert standing(Shapes()) == "verified"
    for check in plan(Shapes(), "cuda", report.machine["architecture"]):
        backend = FAMILIES[check.family].choose(None, check.call)
        assert backend == ("torch" if check.family == "linear_gelu" else check.backend)
