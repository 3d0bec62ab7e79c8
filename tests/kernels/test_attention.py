"""attention: against fp64 truth on every backend here, and the contracts every family keeps."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from unmask_kernels import Documents, philox
from unmask_kernels import attention as public
from unmask_kernels.attention import FAMILY, reference
from unmask_kernels.capability import INTERPRETING
from unmask_kernels.testing import contracts
from unmask_kernels.testing.attention import CASES, LARGE, attention_case, described, plain_attention
from unmask_kernels.testing.compare import compare, same_bits
from unmask_kernels.testing.contracts import Target, backends_here
from unmask_kernels.testing.inputs import Case, Inputs, lengths_to_documents, run

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EVERY = 7
"""Of the grid, under the interpreter, which takes seconds a case; no multiple of the dtypes, head dims or masks."""
LENGTHS = [17, 0, 1, 22]
SMALL = attention_case("small", LENGTHS, head_dim=32, p=0.2)
PLAIN = attention_case("plain", LENGTHS, head_dim=32)
LOCAL = attention_case("local", LENGTHS, head_dim=32, window=4)

everywhere = pytest.mark.parametrize("target", backends_here("attention"))


def on(target: Target) -> Any:
    return partial(public, backend=target.backend)


def make(case: Case, dtype: torch.dtype, target: Target, *, captured: bool = False) -> Inputs:
    """The case on the target's device; skips one that its backend refuses, see test_attention_choice.py."""
    inputs = case.make(dtype, target.device)
    reasons = FAMILY.backends[target.backend].refuses(described(**inputs.arguments)._replace(captured=captured))
    if reasons:
        pytest.skip("; ".join(reasons))
    return inputs


def scaled(function: Any) -> Any:
    """The reference takes every argument; the public function has defaults."""
    return lambda qkv, **rest: function(qkv, scale=qkv.shape[-1] ** -0.5, **rest)


def grid() -> list[Any]:
    """Cases and dtypes; those left out under the interpreter are slow."""
    cases = CASES + (LARGE if torch.cuda.is_available() else [])
    pairs = enumerate(product(cases, DTYPES))
    slow = [pytest.mark.slow] if INTERPRETING else []
    return [pytest.param(*pair, marks=[] if i % EVERY == 0 else slow, id=f"{pair[0]}-{pair[1]}") for i, pair in pairs]


@everywhere
@pytest.mark.parametrize(("case", "dtype"), grid())
def test_matches_fp64_truth(case: Case, dtype: torch.dtype, target: Target) -> None:
    if case in LARGE and target.device == "cpu":
        pytest.skip("long documents are for a GPU")
    inputs = make(case, dtype, target)
    truth = run(scaled(reference.attention), inputs.double())
    plain = run(scaled(plain_attention), inputs)
    with contracts.poisoned_memory():
        ours = run(on(target), inputs)
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


@pytest.mark.parametrize(("causal", "seen"), [(False, [2, 3, 4, 5, 6]), (True, [2, 3, 4])])
def test_a_window_shows_so_many_tokens_on_either_side(causal: bool, seen: list[int]) -> None:
    documents = lengths_to_documents([9])
    qkv = torch.zeros(9, 3, 1, 9)  # equal scores; with v the identity a row of out is its row of probabilities
    qkv[:, 2, 0] = torch.eye(9)
    row = public(qkv, documents, causal=causal, window=2, backend="reference")[4, 0]
    assert row.nonzero().flatten().tolist() == seen
    torch.testing.assert_close(row[seen], torch.full((len(seen),), 1 / len(seen)))


@everywhere
@pytest.mark.parametrize("causal", [False, True])
def test_a_window_that_reaches_every_token_is_none(causal: bool, target: Target) -> None:
    whole = make(attention_case("whole", LENGTHS, head_dim=32, causal=causal), torch.bfloat16, target)
    same_bits(run(on(target), whole.change(window=22)), run(on(target), whole), "a window and none")
    # so a backend without windows may run it
    assert [described(**whole.change(window=window).arguments).window for window in (21, 22, None)] == [21, -1, -1]


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize(
    ("causal", "window", "p"), [(False, None, 0.25), (True, None, 0.0), (False, 1, 0.0), (True, 1, 0.25)]
)
def test_gradients_are_the_numerical_ones(causal: bool, window: int | None, p: float, backend: str) -> None:
    case = attention_case("tiny", [3, 2], heads=1, head_dim=4, causal=causal, window=window, p=p)
    arguments = dict(case.make(torch.float64).arguments)
    qkv = arguments.pop("qkv").requires_grad_()
    assert torch.autograd.gradcheck(lambda x: public(x, backend=backend, **arguments), qkv)


@everywhere
@pytest.mark.parametrize("case", [SMALL, PLAIN, LOCAL], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_packed_document_gives_what_it_gives_alone(dtype: torch.dtype, case: Case, target: Target) -> None:
    packed = make(case, dtype, target)
    documents = packed.arguments["documents"]

    def alone(tokens: slice, index: int) -> Inputs:
        one = Documents.build(
            torch.tensor([0, LENGTHS[index]], dtype=torch.int32, device=target.device),
            documents.keys[index, None],
            tokens=LENGTHS[index],
            max_seqlen=LENGTHS[index],
        )
        return packed.change(qkv=packed.arguments["qkv"][tokens], documents=one)

    # documents that share a product, or a library's kernel, may be summed in another order
    rounding = max(1e-5, 8 * torch.finfo(dtype).eps)
    tolerance = 0.0 if target.backend in ("triton", "reference") else rounding
    contracts.packed_as_alone(on(target), packed, alone, LENGTHS, ("y", "dqkv"), tolerance=tolerance)


@everywhere
@pytest.mark.parametrize("p", [0.0, 0.2])
def test_nan_in_a_document_reaches_no_other_one(p: float, target: Target) -> None:
    # lengths that share a call of the torch backend, the longest of them poisoned
    lengths = [20, 24, 23, 21]
    neighbours = attention_case("neighbours", lengths, head_dim=32, p=p)
    inputs = make(neighbours, torch.float32, target)
    poisoned = inputs.arguments["qkv"].clone()
    ill = torch.zeros(sum(lengths), dtype=torch.bool)
    ill[20:44] = True
    poisoned[ill] = float("nan")
    clean, results = run(on(target), inputs), run(on(target), inputs.change(qkv=poisoned))
    for name, value in results.items():
        assert value[ill].isnan().all()
        assert torch.equal(value[~ill], clean[name][~ill]), name


@everywhere
def test_equal_documents_in_one_call_differ_from_alone_by_rounding_at_most(target: Target) -> None:
    lengths = [24] * 9
    packed = make(attention_case("equal", lengths, head_dim=32, p=0.1), torch.float32, target)
    documents = packed.arguments["documents"]

    def alone(tokens: slice, index: int) -> Inputs:
        boundary = torch.tensor([0, 24], dtype=torch.int32, device=target.device)
        one = Documents.build(boundary, documents.keys[index, None], tokens=24, max_seqlen=24)
        return packed.change(qkv=packed.arguments["qkv"][tokens], documents=one)

    contracts.packed_as_alone(on(target), packed, alone, lengths, ("y", "dqkv"), tolerance=1e-5)


@everywhere
def test_drops_the_elements_the_reference_drops(target: Target) -> None:
    # With v the identity an output row is its row of dropped probabilities.
    length, p = 32, 0.4
    case = attention_case("identity", [length, length], head_dim=length, p=p)
    arguments = dict(make(case, torch.float32, target).arguments)
    arguments["qkv"][:, 2] = torch.eye(length, device=target.device).repeat(2, 1)[:, None]
    dropped = public(backend=target.backend, **arguments) == 0
    keys = arguments["documents"].keys
    keep = philox.keep_scores(arguments["key"], keys, 2, range(length), length, p)  # (N, H, rows, columns)
    assert torch.equal(dropped, ~keep.transpose(1, 2).reshape(2 * length, 2, length))


@everywhere
@pytest.mark.parametrize("case", [SMALL, PLAIN, LOCAL], ids=str)
def test_two_runs_agree_bit_for_bit(case: Case, target: Target) -> None:
    contracts.deterministic(on(target), make(case, torch.bfloat16, target))


@everywhere
def test_qkv_may_be_a_view_with_room_between_its_heads(target: Target) -> None:
    inputs = make(PLAIN, torch.float32, target)
    qkv = inputs.arguments["qkv"]
    apart = torch.full((*qkv.shape[:3], 64), float("nan"), device=qkv.device)[..., :32].copy_(qkv)
    same_bits(run(on(target), inputs.change(qkv=apart)), run(on(target), inputs), "a view and a whole tensor")


@everywhere
def test_foreign_autocast_casts_activations_once(target: Target) -> None:
    inputs = make(SMALL, torch.float32, target)
    expected = on(target)(**inputs.change(qkv=inputs.arguments["qkv"].bfloat16()).arguments)
    with torch.autocast(target.device, dtype=torch.bfloat16):
        got = on(target)(**inputs.arguments)
    same_bits({"y": got}, {"y": expected}, "under autocast and on bf16 activations")


@everywhere
@pytest.mark.parametrize("case", [SMALL, PLAIN], ids=str)
def test_returns_exactly_the_gradients_asked_for(case: Case, target: Target) -> None:
    contracts.gradient_set(on(target), make(case, torch.float16, target))


@everywhere
@pytest.mark.parametrize("case", [SMALL, PLAIN], ids=str)
def test_registration_is_sound(case: Case, target: Target) -> None:
    if target.backend == "reference":
        pytest.skip("the reference is not registered: the compiler sees through it")
    a = make(case, torch.bfloat16, target).arguments
    d = a["documents"]
    lists = (d.cu_seqlens, d.keys, d.order, d.tiles)
    rest = (*lists, a["key"] if a["p"] else None, a["p"], False, 5, 0.2, d.max_seqlen, 512, 512 if a["p"] else 0)
    rest = (*rest, target.backend)
    # words of the bitmask that no document has are not written
    with contracts.poisoned_memory():
        contracts.opcheck(torch.ops.unmask.attention_fwd.default, (a["qkv"], *rest))
    results = torch.ops.unmask.attention_fwd(a["qkv"], *rest)
    contracts.opcheck(torch.ops.unmask.attention_bwd.default, (results[0], a["qkv"], *results, *rest))


@everywhere
@pytest.mark.parametrize("case", [SMALL, PLAIN, LOCAL], ids=str)
def test_compiles_as_one_graph_with_dynamic_lengths(case: Case, target: Target) -> None:
    if target.backend == "reference":
        pytest.skip("the reference reads the boundaries on the host, once per document")
    inputs = make(case, torch.bfloat16, target, captured=True)
    generator = torch.Generator().manual_seed(2)
    qkv = torch.randn(41, *inputs.arguments["qkv"].shape[1:], generator=generator)
    documents = lengths_to_documents([9, 30, 2]).to(target.device)
    other = inputs.change(qkv=qkv.to(target.device, torch.bfloat16), documents=documents)
    contracts.full_graph(on(target), inputs, other)


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
    ({"window": -1}, ValueError, "attention: window must be a whole number of tokens, or None to see the whole"),
    ({"window": 2.5}, ValueError, "or None to see the whole document, got 2.5"),
    (
        {"documents": torch.tensor([0, 40], dtype=torch.int32)},
        TypeError,
        "attention: documents must be Documents, got Tensor; make them with Documents.build(cu_seqlens)",
    ),
    (
        {"key": torch.zeros(2, dtype=torch.int64)},
        ValueError,
        "attention: key must be a scalar tensor, got shape (2,)",
    ),
]


@pytest.mark.parametrize(("change", "error", "message"), REFUSALS, ids=[r[2][:50] for r in REFUSALS])
def test_refuses_bad_arguments_in_one_sentence(change: dict[str, Any], error: type[Exception], message: str) -> None:
    contracts.refuses(public, SMALL.make(torch.float32), change, error, message)


def test_refuses_dropout_on_documents_longer_than_an_address_can_name() -> None:
    documents = lengths_to_documents([4])
    widest = Documents.build(documents.cu_seqlens, tokens=4, max_seqlen=1 << 16)
    assert public(torch.zeros(4, 3, 1, 8), widest, p=0.1, key=torch.tensor(1)).shape == (4, 1, 8)
    long = Documents.build(documents.cu_seqlens, tokens=4, max_seqlen=1 << 17)
    with pytest.raises(ValueError, match=r"with dropout a document may have 65536 tokens.*max_seqlen is 131072"):
        public(torch.zeros(4, 3, 1, 8), long, p=0.1, key=torch.tensor(1))


@everywhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_heads_of_26_are_as_exact_as_the_same_heads_with_zeros_up_to_32(dtype: torch.dtype, target: Target) -> None:
    """TinyBERT's heads: what a backend pads inside costs no accuracy."""
    inputs = attention_case("tinybert", [17, 0, 1, 70], head_dim=26).make(dtype, target.device)
    padded = inputs.change(qkv=torch.nn.functional.pad(inputs.arguments["qkv"], (0, 6)))
    function = partial(public, backend=target.backend, scale=26**-0.5)

    def incoming(y: torch.Tensor) -> torch.Tensor:
        return (torch.arange(y.shape[-1], device=y.device) % 5 - 2).to(y.dtype).expand(y.shape)

    truth = run(partial(public, backend="reference", scale=26**-0.5), inputs.double(), incoming=incoming)
    ours, wide = (run(function, each, incoming=incoming) for each in (inputs, padded))
    for name, value in truth.items():
        error, allowed = (
            torch.linalg.vector_norm(each[name][..., :26].double() - value) / torch.linalg.vector_norm(value)
            for each in (ours, wide)
        )
        assert error <= 1.2 * allowed, name
