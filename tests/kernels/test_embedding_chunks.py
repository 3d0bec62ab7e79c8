"""embedding's gradient of the word table: runs of a word that one chunk of the sorted tokens holds, or many share."""

from __future__ import annotations

import importlib
from functools import partial

import pytest
import torch

from unmask_kernels import embedding
from unmask_kernels.embedding import reference
from unmask_kernels.testing import contracts
from unmask_kernels.testing.compare import compare
from unmask_kernels.testing.contracts import Tenant, backends_here
from unmask_kernels.testing.embedding import embedding_case
from unmask_kernels.testing.inputs import run

everywhere = pytest.mark.parametrize("tenant", backends_here("embedding"))
EXACT = partial(reference.embedding, eps=1e-12)


@everywhere
@pytest.mark.parametrize("chunks", [1, 13, 50])
@pytest.mark.parametrize("ids", [[7], [*range(50)], [3, 3, 9, 30, 9]], ids=["one word", "each once", "few"])
def test_a_word_adds_up_over_chunks_of_any_length(
    ids: list[int], chunks: int, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tenant.backend != "triton":
        pytest.skip("only Triton adds up by chunks")
    words = importlib.import_module("unmask_kernels.embedding._triton_words")
    monkeypatch.setattr(words, "persistent_programs", lambda *_: chunks)
    inputs = embedding_case([29, 21], 24, vocabulary=53, p=0.1).make(torch.float32, tenant.device)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(2))
    inputs = inputs.change(ids=torch.tensor(ids * (50 // len(ids)))[order].to(tenant.device))
    with contracts.poisoned_memory():
        ours = run(partial(embedding, backend="triton"), inputs)
    compare(ours, run(EXACT, inputs), run(EXACT, inputs.double()))
