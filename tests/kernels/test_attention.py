"""attention: against fp64 truth on every backend here, and the contracts every family keeps."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from unmask_kernels import Documents, philox
from unmask_kernels import attention as public
from unmask_kernels.attention import reference
from unmask_kernels.testing import contracts
from unmask_kernels.testing.attention import ATTENTION, attention_case, eager
from unmask_kernels.testing.compare import compare
from unmask_kernels.testing.contracts import Tenant, backends_here
from unmask_kernels.testing.inputs import Case, Inputs, lengths_to_documents, run

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LENGTHS = [17, 0, 1, 22]
SMALL = attention_case("small", LENGTHS, head_dim=32, p=0.2)
PLAIN = attention_case("plain", LENGTHS, head_dim=32)

everywhere = pytest.mark.parametrize("tenant", backends_here("attention"))


def on(tenant: Tenant) -> Any:
    return partial(public, backend=tenant.backend)


def scaled(function: Any) -> Any:
    """The reference takes every argument; the public function has defaults."""
    return lambda qkv, **rest: function(qkv, scale=qkv.shape[-1] ** -0.5, **rest)


@everywhere
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ATTENTION, ids=str)
def test_matches_fp64_truth(case: Case, dtype: torch.dtype, tenant: Tenant) -> None:
    inputs = case.make(dtype, tenant.device)
    truth = run(scaled(reference.attention), inputs.double())
    plain = run(scaled(eager), inputs)
    with contracts.poisoned_memory():
        ours = run(on(tenant), inputs)
    compare(ours, plain, truth)


@pytest.mark.parametrize("causal", [False, True])
def test_reference_is_torch_attention_of_each_document(causal: bool) -> None:
    inputs = attention_case("same", LENGTHS, causal=causal).make(torch.float64)
    qkv = inputs.arguments["qkv"]
    expected = []
    for part in qkv.split(LENGTHS):
        q, k, v = part.permute(1, 2, 0, 3)
        expected.append(F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(0, 1))
    torch.testing.assert_close(public(backend="reference", **inputs.arguments), torch.cat(expected))


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.25])
def test_gradients_are_the_numerical_ones(p: float, causal: bool, backend: str) -> None:
    arguments = dict(attention_case("tiny", [3, 2], head_dim=4, causal=causal, p=p).make(torch.float64).arguments)
    qkv = arguments.pop("qkv").requires_grad_()
    assert torch.autograd.gradcheck(lambda x: public(x, backend=backend, **arguments), qkv)


@everywhere
@pytest.mark.parametrize("case", [SMALL, PLAIN], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_packed_document_gives_what_it_gives_alone(dtype: torch.dtype, case: Case, tenant: Tenant) -> None:
    packed = case.make(dtype, tenant.device)
    documents = packed.arguments["documents"]

    def alone(tokens: slice, index: int) -> Inputs:
        one = Documents.build(
            torch.tensor([0, LENGTHS[index]], dtype=torch.int32, device=tenant.device),
            documents.keys[index, None],
            tokens=LENGTHS[index],
            longest=LENGTHS[index],
        )
        return packed.change(qkv=packed.arguments["qkv"][tokens], documents=one)

    # other backends may give documents that share a call another order of sums
    rounding = max(1e-5, 8 * torch.finfo(dtype).eps)
    tolerance = 0.0 if tenant.backend == "reference" else rounding
    contracts.packed_as_alone(on(tenant), packed, alone, LENGTHS, ("y", "dqkv"), tolerance=tolerance)


@everywhere
@pytest.mark.parametrize("p", [0.0, 0.2])
def test_nan_in_a_document_reaches_no_other_one(p: float, tenant: Tenant) -> None:
    # lengths that share a call of the torch backend, the longest of them poisoned
    lengths = [20, 24, 23, 21]
    inputs = attention_case("neighbours", lengths, head_dim=32, p=p).make(torch.float32, tenant.device)
    poisoned = inputs.arguments["qkv"].clone()
    ill = torch.zeros(sum(lengths), dtype=torch.bool)
    ill[20:44] = True
    poisoned[ill] = float("nan")
    clean, results = run(on(tenant), inputs), run(on(tenant), inputs.change(qkv=poisoned))
    for name, value in results.items():
        assert value[ill].isnan().all()
        assert torch.equal(value[~ill], clean[name][~ill]), name


@everywhere
def test_equal_documents_in_one_call_differ_from_alone_by_rounding_at_most(tenant: Tenant) -> None:
    lengths = [24] * 9
    packed = attention_case("equal", lengths, head_dim=32, p=0.1).make(torch.float32, tenant.device)
    documents = packed.arguments["documents"]

    def alone(tokens: slice, index: int) -> Inputs:
        boundary = torch.tensor([0, 24], dtype=torch.int32, device=tenant.device)
        one = Documents.build(boundary, documents.keys[index, None], tokens=24, longest=24)
        return packed.change(qkv=packed.arguments["qkv"][tokens], documents=one)

    contracts.packed_as_alone(on(tenant), packed, alone, lengths, ("y", "dqkv"), tolerance=1e-5)


@everywhere
def test_drops_the_elements_the_reference_drops(tenant: Tenant) -> None:
    # With v the identity an output row is its row of dropped probabilities.
    length, p = 32, 0.4
    case = attention_case("identity", [length, length], head_dim=length, p=p)
    arguments = dict(case.make(torch.float32, tenant.device).arguments)
    arguments["qkv"][:, 2] = torch.eye(length, device=tenant.device).repeat(2, 1)[:, None]
    dropped = public(backend=tenant.backend, **arguments) == 0
    keys = arguments["documents"].keys
    keep = philox.keep_scores(arguments["key"], keys, 2, range(length), length, p)  # (N, H, rows, columns)
    assert torch.equal(dropped, ~keep.transpose(1, 2).reshape(2 * length, 2, length))


@everywhere
@pytest.mark.parametrize("case", [SMALL, PLAIN], ids=str)
def test_two_runs_agree_bit_for_bit(case: Case, tenant: Tenant) -> None:
    contracts.deterministic(on(tenant), case.make(torch.bfloat16, tenant.device))


@everywhere
def test_returns_exactly_the_gradients_asked_for(tenant: Tenant) -> None:
    contracts.gradient_set(on(tenant), SMALL.make(torch.float32, tenant.device))


@everywhere
@pytest.mark.parametrize("case", [SMALL, PLAIN], ids=str)
def test_registration_is_sound(case: Case, tenant: Tenant) -> None:
    if tenant.backend == "reference":
        pytest.skip("the reference is not registered: the compiler sees through it")
    a = case.make(torch.float32, tenant.device).arguments
    d = a["documents"]
    lists = (d.cu_seqlens, d.keys, d.order, d.tiles)
    rest = (*lists, a["key"] if a["p"] else None, a["p"], False, 5, 0.2, d.longest, tenant.backend)
    contracts.opcheck(torch.ops.unmask.attention_fwd.default, (a["qkv"], *rest))
    out, statistics = torch.ops.unmask.attention_fwd(a["qkv"], *rest)
    contracts.opcheck(torch.ops.unmask.attention_bwd.default, (out, a["qkv"], out, statistics, *rest))


@everywhere
def test_compiles_as_one_graph_with_dynamic_lengths(tenant: Tenant) -> None:
    if tenant.backend == "reference":
        pytest.skip("the reference reads the boundaries on the host, once per document")
    other = attention_case("other", [9, 30, 2], head_dim=32, p=0.2).make(torch.float32, tenant.device)
    contracts.full_graph(on(tenant), SMALL.make(torch.float32, tenant.device), other)


REFUSALS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"qkv": torch.zeros(40, 2, 32)}, ValueError, "attention: qkv must have shape (T, 3, H, K), got (40, 2, 32)"),
    ({"qkv": torch.zeros(40, 2, 2, 32)}, ValueError, "attention: qkv must hold 3 parts in dimension 1 (q, k, v)"),
    (
        {"qkv": torch.zeros(41, 3, 2, 32)},
        ValueError,
        "attention: qkv must have one row per token of documents (40), got 41",
    ),
    ({"qkv": torch.zeros(40, 3, 2, 32, dtype=torch.int32)}, TypeError, "attention: qkv must be float16"),
    (
        {"qkv": torch.zeros(40, 3, 32, 2).mT},
        ValueError,
        "attention: qkv must be contiguous in its last dimension, got strides",
    ),
    (
        {"documents": replace(SMALL.make(torch.float32).arguments["documents"], keys=torch.zeros(4, device="meta"))},
        ValueError,
        "attention: keys must be on cpu, the device of qkv, got meta",
    ),
    (
        {"documents": replace(SMALL.make(torch.float32).arguments["documents"], order=torch.zeros(4, device="meta"))},
        ValueError,
        "attention: order must be on cpu, the device of qkv, got meta",
    ),
    ({"p": 1 - 2**-17}, ValueError, "attention: p must be at most 1 - 2**-16, the step of dropout's random numbers"),
    ({"p": -0.1}, ValueError, "attention: p must be at least 0 and below 1, got -0.1"),
    ({"key": None}, ValueError, "attention: p is 0.2, so key is needed to address the random numbers"),
    ({"window": -1}, ValueError, "attention: window must be at least 0, or None to see the whole document, got -1"),
]


@pytest.mark.parametrize(("change", "error", "message"), REFUSALS, ids=[r[2][:50] for r in REFUSALS])
def test_refuses_bad_arguments_in_one_sentence(change: dict[str, Any], error: type[Exception], message: str) -> None:
    contracts.refuses(public, SMALL.make(torch.float32), change, error, message)


def test_refuses_dropout_on_documents_longer_than_an_address_can_name() -> None:
    documents = lengths_to_documents([4])
    long = Documents.build(documents.cu_seqlens, tokens=4, longest=1 << 17)
    with pytest.raises(ValueError, match=r"with dropout a document may have 65536 tokens.*longest is 131072"):
        public(torch.zeros(4, 3, 1, 8), long, p=0.1, key=torch.tensor(1))
