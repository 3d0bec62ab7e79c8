"""embedding: against fp64 truth on every backend here, its positions and ids, and the contracts every family keeps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from unmask_kernels import BackendUnavailable, Documents, checks, philox
from unmask_kernels import embedding as public
from unmask_kernels.embedding import FAMILY, EmbeddingCall, reference
from unmask_kernels.embedding.arguments import Arguments, BackwardArguments
from unmask_kernels.testing import contracts
from unmask_kernels.testing.compare import compare, same_bits
from unmask_kernels.testing.contracts import Target, backends_here
from unmask_kernels.testing.embedding import CASES, embedding_case, plain_embedding
from unmask_kernels.testing.inputs import Case, Inputs, run

# the kernels compute in fp32 whatever the dtype of the result: two of them are enough for the interpreter
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * (not contracts.INTERPRETING)
SMALL = embedding_case([4, 5, 0], 40, p=0.25)
PLAIN = embedding_case([6, 3], 24, segments=None)

everywhere = pytest.mark.parametrize("target", backends_here("embedding"))


def on(target: Target) -> Callable[..., Tensor]:
    return partial(public, backend=target.backend)


def truth_of(inputs: Inputs) -> dict[str, Tensor]:
    return run(partial(reference.embedding, eps=1e-12), inputs.double())


@everywhere
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_fp64_truth(case: Case, dtype: torch.dtype, target: Target) -> None:
    inputs = case.make(dtype, target.device)
    plain = run(plain_embedding, inputs)
    with contracts.poisoned_memory():
        ours = run(on(target), inputs)
    compare(ours, plain, truth_of(inputs))


@pytest.mark.parametrize("case", [embedding_case([37, 60], 96), embedding_case([37, 60], 96, p=0.2)], ids=str)
def test_blocks_of_rows_join_up(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = case.make(torch.bfloat16)
    whole = run(partial(public, backend="torch"), inputs)
    monkeypatch.setattr(FAMILY.module("torch"), "_BLOCK", 5 * 96)
    blocks = run(partial(public, backend="torch"), inputs)
    tables = ("y", "dword", "dposition", "dsegment")
    same_bits({k: blocks[k] for k in tables}, {k: whole[k] for k in tables}, "twenty blocks and one")
    compare(blocks, whole, truth_of(inputs))


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("p", [0.0, 0.25])
def test_gradients_are_the_numerical_ones(p: float, backend: str) -> None:
    inputs = embedding_case([3, 2], 5, vocabulary=4, p=p).make(torch.float64)
    arguments = dict(inputs.arguments)
    leaves = {name: arguments.pop(name).requires_grad_() for name in inputs.differentiable}

    def function(*tensors: Tensor) -> Tensor:
        return public(**{**arguments, **dict(zip(leaves, tensors, strict=True))}, backend=backend)

    assert torch.autograd.gradcheck(function, tuple(leaves.values()))


@everywhere
def test_drops_the_normed_elements_that_the_random_stream_says(target: Target) -> None:
    inputs = embedding_case([20, 13], 312, vocabulary=5, p=0.4).make(torch.float32, target.device)
    y = on(target)(**inputs.change(bias=torch.full_like(inputs.arguments["bias"], 100.0)).arguments)
    documents = inputs.arguments["documents"]
    assert torch.equal(y != 0, philox.keep_rows(inputs.arguments["key"], documents.row_keys, 312, 0.4))


@everywhere
def test_eps_is_added_to_the_variance(target: Target) -> None:
    inputs = embedding_case([6, 3], 40, segments=None).make(torch.float32, target.device)
    a = inputs.change(weight=torch.ones(40, device=target.device), bias=torch.zeros(40, device=target.device)).arguments
    h = a["word"][a["ids"]] + a["position"][a["documents"].positions] + a["segment"][0]
    expected = (h - h.mean(1, keepdim=True)) / (h.var(1, correction=0, keepdim=True) + 3.0).sqrt()
    torch.testing.assert_close(on(target)(**a, eps=3.0), expected)


@everywhere
def test_rows_that_nothing_reads_get_a_gradient_of_zero(target: Target) -> None:
    inputs = embedding_case([9, 4], 40, vocabulary=31, positions=20, segments=None).make(torch.float32, target.device)
    ids = inputs.arguments["ids"]
    gradients = run(on(target), inputs)
    seen = torch.zeros(31, dtype=torch.bool, device=ids.device).index_fill_(0, ids, True)
    assert torch.equal(gradients["dword"].abs().sum(1) > 0, seen)
    assert torch.equal((gradients["dposition"].abs().sum(1) > 0).cpu(), torch.arange(20) < 9)
    assert float(gradients["dsegment"][0].abs().sum()) > 0 and float(gradients["dsegment"][1].abs().sum()) == 0


@everywhere
@pytest.mark.parametrize("case", [SMALL, PLAIN], ids=str)
def test_returns_exactly_the_gradients_asked_for(case: Case, target: Target) -> None:
    contracts.gradient_set(on(target), case.make(torch.float32, target.device))


@everywhere
def test_two_runs_agree_bit_for_bit(target: Target) -> None:
    case = embedding_case([40, 21, 7], 40, vocabulary=7, frequent=0.9, p=0.1)
    contracts.deterministic(on(target), case.make(torch.bfloat16, target.device))


@everywhere
@pytest.mark.parametrize("case", [SMALL, PLAIN], ids=str)
def test_accepts_any_strides(case: Case, target: Target) -> None:
    contracts.strides(on(target), case.make(torch.float32, target.device))


@everywhere
def test_a_packed_document_gives_what_it_gives_alone(target: Target) -> None:
    lengths = [17, 0, 1, 22]
    packed = embedding_case(lengths, 136, p=0.2).make(torch.bfloat16, target.device)
    together = on(target)(**packed.arguments)
    documents: Documents = packed.arguments["documents"]
    start = 0
    for index, length in enumerate(lengths):
        rows = slice(start, start + length)
        start += length
        offsets = torch.tensor([0, length], dtype=torch.int32, device=target.device)
        alone = Documents.build(offsets, documents.keys[index : index + 1], tokens=length, max_seqlen=max(1, length))
        tokens = {name: packed.arguments[name][rows] for name in ("ids", "segments")}
        y = on(target)(**packed.change(documents=alone, **tokens).arguments)
        same_bits({"y": together[rows]}, {"y": y}, f"document {index} packed and alone")


@everywhere
@pytest.mark.parametrize("case", [SMALL, PLAIN], ids=str)
def test_registration_is_sound(case: Case, target: Target) -> None:
    if target.backend == "reference":
        pytest.skip("the reference is not registered: the compiler sees through it")
    a = case.make(torch.bfloat16, target.device).arguments
    documents, key = a["documents"], a["key"] if a["p"] else None
    lists = (documents.positions, documents.row_keys, documents.cu_seqlens, documents.order)
    parameters = (a[name] for name in ("word", "position", "segment", "weight", "bias"))
    arguments = Arguments(a["ids"], a["segments"], *lists, *parameters, key, 1e-12, a["p"], a["dtype"])
    contracts.opcheck(torch.ops.unmask.embedding_fwd.default, (*arguments, target.backend))
    y, mean, rstd, keep = torch.ops.unmask.embedding_fwd(*arguments, target.backend)
    known = arguments._asdict() | {"dy": y, "mean": mean, "rstd": rstd, "keep": keep}
    backward = BackwardArguments(**{name: known[name] for name in BackwardArguments._fields})
    contracts.opcheck(torch.ops.unmask.embedding_bwd.default, (*backward, target.backend))


@everywhere
def test_compiles_as_one_graph_with_dynamic_lengths(target: Target) -> None:
    other = embedding_case([9, 5, 0], 40, p=0.25).make(torch.float32, target.device)
    small = embedding_case([4, 5, 0], 40, p=0.25, positions=9).make(torch.float32, target.device)
    contracts.full_graph(on(target), small, other)


def test_inductor_compiles_the_automatic_choice() -> None:
    inputs = SMALL.make(torch.bfloat16)
    compiled = torch.compile(public, fullgraph=True)
    same_bits(run(compiled, inputs), run(public, inputs), "inductor and eager")


@everywhere
def test_foreign_autocast_changes_nothing(target: Target) -> None:
    inputs = SMALL.make(torch.float32, target.device)
    expected = on(target)(**inputs.arguments)
    with torch.autocast(target.device, dtype=torch.bfloat16):
        got = on(target)(**inputs.arguments)
    same_bits({"y": got}, {"y": expected}, "under autocast and without")


def test_the_result_has_the_dtype_of_the_word_table_unless_told() -> None:
    arguments = dict(SMALL.make(torch.float32).arguments)
    arguments.pop("dtype")
    assert public(**arguments).dtype == torch.float32
    assert public(**arguments, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_tables_in_16_bits_get_gradients_in_16_bits() -> None:
    inputs = SMALL.make(torch.bfloat16)
    narrow = inputs.change(**{name: inputs.arguments[name].bfloat16() for name in inputs.differentiable})
    gradients = run(partial(public, backend="torch"), narrow)
    assert {gradients[f"d{name}"].dtype for name in inputs.differentiable} == {torch.bfloat16}


def test_double_backward_is_refused_rather_than_wrong() -> None:
    arguments = dict(PLAIN.make(torch.float32).arguments)
    arguments["word"].requires_grad_()
    y = public(backend="torch", **arguments)
    (dword,) = torch.autograd.grad(y.square().sum(), arguments["word"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dword.sum().backward()


REFUSALS: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"ids": torch.zeros(8, dtype=torch.int64)},
        ValueError,
        "embedding: ids must have shape (9,), the tokens of documents, got (8,)",
    ),
    ({"ids": torch.zeros(9)}, TypeError, "embedding: ids must be int64 or int32, got float32"),
    (
        {"ids": torch.full((9,), 23)},
        ValueError,
        "ids must be in [0, 23), the rows of word; use the tokenizer that the model was trained with, got 23",
    ),
    ({"ids": torch.full((9,), -3)}, ValueError, "embedding: ids must be in [0, 23), the rows of word"),
    (
        {"segments": torch.full((9,), 2)},
        ValueError,
        "embedding: segments must be in [0, 2), the rows of segment, got 2",
    ),
    ({"segments": torch.zeros(4, dtype=torch.int64)}, ValueError, "embedding: segments must have shape (9,)"),
    ({"segments": torch.zeros(9)}, TypeError, "embedding: segments must be int64 or int32"),
    ({"word": torch.zeros(23)}, ValueError, "embedding: word must have shape (V, D), got (23,)"),
    ({"word": torch.zeros(0, 40)}, ValueError, "embedding: word must have at least one row, got shape (0, 40)"),
    ({"word": torch.zeros(23, 40, dtype=torch.int8)}, TypeError, "embedding: word must be float16"),
    (
        {"position": torch.zeros(5, 41)},
        ValueError,
        "embedding: position must have shape (5, 40), as wide as word, got (5, 41)",
    ),
    (
        {"position": torch.zeros(4, 40)},
        ValueError,
        "embedding: documents.max_seqlen is 5 but position has 4 rows; cut documents into pieces",
    ),
    ({"segment": torch.zeros(2, 41)}, ValueError, "embedding: segment must have shape (2, 40), as wide as word"),
    ({"bias": torch.zeros(41)}, ValueError, "embedding: bias must have shape (40,)"),
    ({"dtype": torch.int64}, TypeError, "embedding: dtype must be float16"),
    ({"p": 1.0}, ValueError, "embedding: p must be at least 0 and below 1, got 1.0"),
    ({"key": None}, ValueError, "embedding: p is 0.25, so key is needed to address the random numbers"),
    ({"eps": 0.0}, ValueError, "embedding: eps must be above 0, got 0.0"),
    ({"backend": "numpy"}, ValueError, "embedding: backend must be one of"),
]


@pytest.mark.parametrize(("change", "error", "message"), REFUSALS, ids=[r[2][:60] for r in REFUSALS])
def test_refuses_bad_arguments_in_one_sentence(change: dict[str, Any], error: type[Exception], message: str) -> None:
    contracts.refuses(public, SMALL.make(torch.float32), change, error, message)


def test_asking_for_triton_on_cpu_says_why_not() -> None:
    if contracts.INTERPRETING:
        pytest.skip("the interpreter runs Triton on CPU tensors")
    with pytest.raises(BackendUnavailable, match="needs a CUDA tensor, got cpu"):
        public(backend="triton", **SMALL.make(torch.float32).arguments)


def test_refuses_wide_rows_many_segments_and_fp64_in_triton_with_a_reason() -> None:
    reasons = FAMILY.backends["triton"].refuses(EmbeddingCall("cuda", "sm_90", torch.float64, 8200, 17))
    assert "dtype must be fp16, bf16 or fp32, got float64" in reasons
    assert "rows up to 4096 wide stay in registers, got 8200; use backend 'torch'" in reasons
    assert "up to 4 segments, got 17" in reasons


def test_an_unverified_backend_is_not_chosen_by_itself() -> None:
    assert FAMILY.choose(None, EmbeddingCall("cuda", "sm_90", torch.bfloat16, 768, 2)) == "torch"


def test_contents_of_a_tensor_that_is_not_on_the_cpu_are_read_in_debug_mode_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere = torch.full((3,), 9, device="meta")
    checks.contents("embedding", "ids", elsewhere, 5, "the rows of word")
    monkeypatch.setattr(checks, "DEBUG", True)
    with pytest.raises((RuntimeError, NotImplementedError)):
        # reading a meta tensor fails, which shows that it was read
        checks.contents("embedding", "ids", elsewhere, 5, "the rows of word")
