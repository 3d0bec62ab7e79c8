"""embedding's gradients of the tables: words and positions whose tokens lie in one program's span, or in many."""

from __future__ import annotations

import importlib
from functools import partial

import pytest
import torch

from unmask_kernels import embedding
from unmask_kernels.embedding import reference
from unmask_kernels.testing import contracts
from unmask_kernels.testing.compare import compare
from unmask_kernels.testing.contracts import Target, backends_here
from unmask_kernels.testing.embedding import embedding_case
from unmask_kernels.testing.inputs import Inputs, run

spans_of_any_length = pytest.mark.parametrize("programs", [1, 13, 50])
everywhere = pytest.mark.parametrize("target", backends_here("embedding"))
EXACT = partial(reference.embedding, eps=1e-12)
SHORT = [0, 20, 0, 1, 29, 0]


@everywhere
@spans_of_any_length
@pytest.mark.parametrize("ids", [[7], [*range(50)], [3, 3, 9, 30, 9]], ids=["one word", "each once", "few"])
def test_a_word_adds_up_over_spans_of_any_length(
    ids: list[int], programs: int, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = embedding_case([29, 21], 24, vocabulary=53, p=0.1).make(torch.float32, target.device)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(2))
    inputs = inputs.change(ids=torch.tensor(ids * (50 // len(ids)))[order].to(target.device))
    check(inputs, programs, target, monkeypatch)


@everywhere
@spans_of_any_length
@pytest.mark.parametrize("segments", [None, 3], ids=["no segments", "segments"])
@pytest.mark.parametrize("lengths", [[50], [1] * 50, SHORT], ids=["one document", "one token each", "empty ones too"])
def test_a_position_adds_up_over_spans_of_any_length(
    lengths: list[int], segments: int | None, programs: int, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = embedding_case(lengths, 24, positions=51, segments=segments, p=0.1)
    check(case.make(torch.float32, target.device), programs, target, monkeypatch)


@everywhere
def test_ids_of_a_large_vocabulary_are_sorted_in_32_bits(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    if target.backend == "triton":
        kernels = importlib.import_module("unmask_kernels.embedding._triton_backward")
        monkeypatch.setattr(kernels, "_IDS_IN_16_BITS", 52)
    inputs = embedding_case([29, 21], 24, vocabulary=53, p=0.1).make(torch.float32, target.device)
    check(inputs, 3, target, monkeypatch)


def check(inputs: Inputs, programs: int, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    if target.backend != "triton":
        pytest.skip("only Triton adds up by spans")
    kernels = importlib.import_module("unmask_kernels.embedding._triton_backward")
    monkeypatch.setattr(kernels, "persistent_programs", lambda *_: programs)
    with contracts.poisoned_memory():
        ours = run(partial(embedding, backend="triton"), inputs)
    compare(ours, run(EXACT, inputs), run(EXACT, inputs.double()))
