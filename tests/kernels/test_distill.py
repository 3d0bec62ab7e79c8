"""distill: each loss against fp64 truth on every backend here, and the contracts every family keeps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask_kernels import BackendUnavailable, Documents, attention_relation_loss, attention_score_loss
from unmask_kernels import hidden_state_loss as public_hidden_state_loss
from unmask_kernels import soft_cross_entropy as public_soft_cross_entropy
from unmask_kernels.attention.cost import pairs as seen_pairs
from unmask_kernels.capability import INTERPRETING
from unmask_kernels.distill import FAMILY, op
from unmask_kernels.testing import contracts
from unmask_kernels.testing.compare import compare
from unmask_kernels.testing.contracts import Target, backends_here
from unmask_kernels.testing.distill import (
    CASES,
    hidden_case,
    plain_distill,
    prediction_case,
    reference_distill,
    relation_case,
    run_distill,
    score_case,
)
from unmask_kernels.testing.inputs import Case, Inputs, run

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# the interpreter takes milliseconds for a tile: there each case has one dtype
COMPARED = [
    (case, dtype)
    for i, case in enumerate(CASES)
    for j, dtype in enumerate(DTYPES)
    if not INTERPRETING or i % len(DTYPES) == j
]
LENGTHS = [17, 0, 1, 40]
SCORE = score_case("small", LENGTHS, head_dim=6, teacher_dim=8, weighted=True)
RELATION = relation_case("small", LENGTHS, head_dim=6, teacher_dim=8, weighted=True)
HIDDEN = hidden_case(9, 6, 8, weighted=True)
PREDICTION = prediction_case(9, 5, temperature=2.0, weighted=True)
SMALL = [SCORE, RELATION, HIDDEN, PREDICTION]

everywhere = pytest.mark.parametrize("target", backends_here("distill"))
every_loss = pytest.mark.parametrize("case", SMALL, ids=str)


def on(target: Target) -> Callable[..., Tensor]:
    return partial(run_distill, backend=target.backend)


@everywhere
@pytest.mark.parametrize(("case", "dtype"), COMPARED, ids=str)
def test_matches_fp64_truth(case: Case, dtype: torch.dtype, target: Target) -> None:
    inputs = case.make(dtype, target.device)
    truth = run(reference_distill, inputs.double())
    plain = run(plain_distill, inputs)
    with contracts.poisoned_memory():
        ours = run(on(target), inputs)
    compare(ours, plain, truth)


@every_loss
def test_reference_is_the_formula_of_torch(case: Case) -> None:
    inputs = case.make(torch.float64)
    theirs, ours = run(plain_distill, inputs), run(reference_distill, inputs)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize(
    "case",
    [
        score_case("tiny", [3, 0, 1], head_dim=2, teacher_dim=3, weighted=True),
        score_case("gram", [12], heads=1, head_dim=1, teacher_dim=1),
        score_case("band", [5, 2], head_dim=2, teacher_dim=3, causal=True, window=1, normalization="padded_square"),
        score_case("groups", [3], heads=1, teacher_heads=3, head_dim=2, teacher_dim=1),
        relation_case("tiny", [3, 0, 1], head_dim=2, teacher_dim=3, weighted=True),
        relation_case("band", [5, 2], head_dim=2, teacher_dim=3, window=1),
        hidden_case(3, 2, 4, weighted=True),
        hidden_case(3, 2, 2, projected=False),
        prediction_case(3, 4, temperature=1.5, weighted=True),
    ],
    ids=str,
)
def test_gradients_are_the_numerical_ones(case: Case, backend: str) -> None:
    inputs = case.make(torch.float64)
    leaves = {n: inputs.arguments[n] for n in inputs.differentiable if inputs.arguments[n] is not None}
    rest = {n: x for n, x in inputs.arguments.items() if n not in leaves}

    def loss(*values: Tensor) -> Tensor:
        return run_distill(backend=backend, **rest, **dict(zip(leaves, values, strict=True)))

    assert torch.autograd.gradcheck(loss, [x.requires_grad_() for x in leaves.values()])


@everywhere
def test_scores_of_two_tokens_are_compared_as_computed_by_hand(target: Target) -> None:
    # one head of one element; student scores [[2, 4], [3, 6]], those of the teacher [[1, 1], [1, 1]]
    student_q, student_k = torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0])
    ones = torch.ones(2)
    tensors = [x.view(2, 1, 1).to(target.device) for x in (student_q, student_k, ones, ones)]
    documents = Documents.build(torch.tensor([0, 2], dtype=torch.int32), max_seqlen=3).to(target.device)
    on_target = partial(attention_score_loss, *tensors, documents, backend=target.backend)
    assert on_target().item() == pytest.approx((1 + 9 + 4 + 25) / 4)
    assert on_target(causal=True).item() == pytest.approx((1 + 4 + 25) / 3)
    assert on_target(window=0).item() == pytest.approx((1 + 25) / 2)
    assert on_target(normalization="padded_square").item() == pytest.approx((1 + 9 + 4 + 25) / 9)


@everywhere
def test_relations_of_two_tokens_are_compared_as_computed_by_hand(target: Target) -> None:
    half = torch.tensor(0.5)
    student_k = torch.tensor([0.0, torch.log(torch.tensor(3.0))])  # probabilities 1/4 and 3/4 beside 1/2 and 1/2
    tensors = [x.view(2, 1, 1).to(target.device) for x in (torch.ones(2), student_k, torch.zeros(2), torch.ones(2))]
    documents = Documents.build(torch.tensor([0, 2], dtype=torch.int32)).to(target.device)
    loss = attention_relation_loss(*tensors, documents, backend=target.backend)
    assert loss.item() == pytest.approx(float(half * (half / 0.25).log() + half * (half / 0.75).log()))


@everywhere
def test_a_projection_and_a_temperature_are_as_computed_by_hand(target: Target) -> None:
    student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]])
    weight, bias = torch.tensor([[1.0, 1.0]]), torch.tensor([2.0])
    tensors = [x.to(target.device) for x in (student, teacher, weight, bias)]
    assert public_hidden_state_loss(*tensors, backend=target.backend).item() == pytest.approx((1 + 2 + 2 - 3) ** 2)
    logits = torch.tensor([[0.0, 4.0]]).to(target.device)
    target_logits = torch.tensor([[2.0, 0.0]]).to(target.device)
    expected = F.cross_entropy(logits / 2, (target_logits / 2).softmax(-1)).item()
    found = public_soft_cross_entropy(logits, target_logits, temperature=2.0, backend=target.backend)
    assert found.item() == pytest.approx(expected)


@everywhere
def test_values_in_the_place_of_queries_and_keys_are_value_relations(target: Target) -> None:
    a = RELATION.make(torch.float32, target.device).arguments
    v, teacher_v = a["student_q"].clone().requires_grad_(), a["teacher_q"]
    loss = attention_relation_loss(v, v, teacher_v, teacher_v, a["documents"], backend=target.backend)
    loss.backward()
    wide = v.detach().double().requires_grad_()
    expected = attention_relation_loss(
        wide, wide, teacher_v.double(), teacher_v.double(), a["documents"], backend="reference"
    )
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(v.grad, wide.grad.float(), rtol=1e-4, atol=1e-6)


@everywhere
@pytest.mark.parametrize(("causal", "window"), [(False, None), (True, None), (False, 3), (True, 5)])
def test_the_mean_is_over_the_pairs_that_are_seen(causal: bool, window: int | None, target: Target) -> None:
    lengths = [9, 0, 1, 30]
    documents = score_case("", lengths).make(torch.float32, target.device).arguments["documents"]
    expected = [seen_pairs(length, causal=causal, window=window) for length in lengths]
    assert op._pairs(documents, causal, window).tolist() == expected


@everywhere
def test_padded_input_gives_what_the_public_code_computes_but_for_rows_of_padding(target: Target) -> None:
    """The code's mean is over all rows and columns of padded squares, with scores of padded columns set to 0."""
    generator = torch.Generator().manual_seed(3)
    lengths, longest, heads, widths = [5, 12, 9], 12, 3, (4, 8)
    padded = [torch.randn(3, heads, longest, w, generator=generator) for w in (widths[0],) * 2 + (widths[1],) * 2]
    padding = torch.arange(longest) >= torch.tensor(lengths)[:, None]
    additive = torch.where(padding, -10000.0, 0.0)[:, None, None]
    scores = [q @ k.mT / q.shape[-1] ** 0.5 + additive for q, k in (padded[:2], padded[2:])]
    scores = [x.where(x > -100.0, 0.0) for x in scores]
    theirs = F.mse_loss(*scores)
    of_padded_rows = (scores[0] - scores[1]).square()[padding[:, None].expand(3, heads, -1)].sum() / scores[0].numel()
    packed = [x.transpose(1, 2)[~padding].to(target.device) for x in padded]
    documents = Documents.build(torch.tensor([0, *lengths]).cumsum(0).int()).to(target.device)
    ours = attention_score_loss(*packed, documents, normalization="padded_square", backend=target.backend)
    assert of_padded_rows > 0.05 * theirs
    assert (ours.cpu() + of_padded_rows).item() == pytest.approx(theirs.item(), rel=1e-5)


LENGTHS_NEAR = [([260], 16)] if INTERPRETING else [([512], 64), ([300, 300, 290], 32), ([128], 26)]


def _near(lengths: list[int], width: int, share: float, dtype: torch.dtype) -> Inputs:
    """A student whose scores differ from the teacher's by the root of `share`, although its q and k are others."""
    inputs = score_case("", lengths, heads=1, head_dim=width, teacher_dim=width).make(torch.float64)
    a = dict(inputs.arguments)
    generator = torch.Generator().manual_seed(5)
    turn = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q
    for name in ("q", "k"):
        noise = torch.randn(a[f"student_{name}"].shape, generator=generator, dtype=torch.float64) * 1.5
        a[f"student_{name}"] = (a[f"teacher_{name}"] + noise * (share / 2) ** 0.5) @ turn
    return inputs.change(**a).to(dtype)


@everywhere
@pytest.mark.parametrize("share", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize(("lengths", "width"), LENGTHS_NEAR)
def test_loss_and_gradients_keep_their_digits_where_the_student_nearly_agrees(
    lengths: list[int], width: int, share: float, target: Target
) -> None:
    inputs = _near(lengths, width, share, torch.float32)
    inputs = inputs.to(torch.float32, target.device)
    truth = run(reference_distill, inputs.double())
    ours = run(on(target), inputs)
    for name, value in truth.items():
        error = torch.linalg.vector_norm(ours[name] - value) / torch.linalg.vector_norm(value)
        assert error < 1e-3, f"{name}: {float(error):.2g}"


def test_gram_matrices_of_a_long_document_are_as_exact_as_its_scores() -> None:
    """Sums of squares are on their diagonal: in one sum with the rest, they made the error twice as large."""
    inputs = score_case("", [2048], heads=2, head_dim=64, teacher_dim=64).make(torch.float32)
    truth, plain = run(reference_distill, inputs.double()), run(plain_distill, inputs)
    ours = run(partial(run_distill, backend="torch"), inputs)
    for name in ("dstudent_q", "dstudent_k"):
        error, allowed = (torch.linalg.vector_norm(one[name] - truth[name]) for one in (ours, plain))
        assert error < 1.7 * allowed, name


@everywhere
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("make", [score_case, relation_case])
def test_a_packed_document_gives_what_it_gives_alone(
    make: Callable[..., Case], dtype: torch.dtype, target: Target
) -> None:
    lengths = [70, 0, 1, 30, 31, 90]
    packed = make("packed", lengths, head_dim=26, teacher_dim=32).make(dtype, target.device)
    packed = packed.change(weights=torch.ones(len(lengths), device=target.device))

    def alone(tokens: slice, index: int) -> Inputs:
        documents = Documents.build(torch.tensor([0, lengths[index]], dtype=torch.int32)).to(target.device)
        names = ("student_q", "student_k", "teacher_q", "teacher_k")
        return packed.change(
            **{name: packed.arguments[name][tokens] for name in names},
            documents=documents,
            weights=packed.arguments["weights"][:1],
        )

    # a product of the library may sum in another order beside other documents; Triton's does not
    exact = target.backend == "triton"
    tolerance = 0.0 if exact else 16 * torch.finfo(dtype).eps
    contracts.packed_as_alone(on(target), packed, alone, lengths, ("dstudent_q", "dstudent_k"), tolerance=tolerance)
    tokens = [slice(start, end) for start, end in pairwise([0, *torch.tensor(lengths).cumsum(0).tolist()])]
    singles = [run(on(target), alone(some, i))["y"] for i, some in enumerate(tokens) if lengths[i]]
    torch.testing.assert_close(torch.stack(singles).sum(), run(on(target), packed)["y"], rtol=1e-5, atol=0.0)


@everywhere
@every_loss
def test_documents_and_rows_of_weight_0_are_left_out_whatever_they_hold(case: Case, target: Target) -> None:
    inputs = case.make(torch.float32, target.device)
    a = dict(inputs.arguments)
    first, second = inputs.differentiable[0], next(n for n in a if n.startswith("teacher"))
    weights = torch.ones(len(a["weights"]), device=target.device)
    weights[0] = 0.0
    rows = slice(0, LENGTHS[0]) if "documents" in a else slice(0, 1)
    large = {name: a[name].clone() for name in (first, second)}
    for value in large.values():
        value[rows] = float("nan") if "documents" in a else 1e3
    one, other = (run(on(target), inputs.change(weights=weights, **change)) for change in ({}, large))
    torch.testing.assert_close(other["y"], one["y"])
    for result in (one, other):
        assert not result[f"d{first}"][rows].any()


@everywhere
@pytest.mark.parametrize("case", [SCORE, RELATION], ids=str)
def test_documents_without_tokens_give_a_loss_of_0(case: Case, target: Target) -> None:
    inputs = case.make(torch.float32, target.device)
    documents = Documents.build(torch.zeros(3, dtype=torch.int32, device=target.device))
    none = {name: x[:0] for name, x in inputs.arguments.items() if name.startswith(("student", "teacher"))}
    result = run(on(target), inputs.change(documents=documents, weights=None, **none))
    assert result["y"] == 0.0 and result["dstudent_q"].shape == none["student_q"].shape


@everywhere
@every_loss
def test_weights_of_micro_batches_add_up_to_the_mean(case: Case, target: Target) -> None:
    inputs = case.make(torch.float32, target.device)
    count = len(inputs.arguments["weights"])
    full = [length > 0 for length in LENGTHS] if "documents" in inputs.arguments else [True] * count
    share = torch.tensor(full, device=target.device) / sum(full)
    mean = run(on(target), inputs.change(weights=None))["y"]
    torch.testing.assert_close(run(on(target), inputs.change(weights=share))["y"], mean)
    halves = [share * (torch.arange(count, device=target.device) % 2 == half) for half in (0, 1)]
    parts = [run(on(target), inputs.change(weights=half))["y"] for half in halves]
    torch.testing.assert_close(parts[0] + parts[1], mean)


@everywhere
@every_loss
def test_the_teacher_gets_no_gradient(case: Case, target: Target) -> None:
    a = {
        name: value.clone().requires_grad_() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in case.make(torch.float32, target.device).arguments.items()
    }
    on(target)(**a).backward()
    got = {name for name, value in a.items() if isinstance(value, Tensor) and value.grad is not None}
    assert got == set(case.make(torch.float32).differentiable)


@everywhere
@every_loss
def test_returns_exactly_the_gradients_asked_for(case: Case, target: Target) -> None:
    contracts.gradient_set(on(target), case.make(torch.float32, target.device))


@everywhere
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_loss
def test_two_runs_agree_bit_for_bit(case: Case, dtype: torch.dtype, target: Target) -> None:
    contracts.deterministic(on(target), case.make(dtype, target.device))


@everywhere
@pytest.mark.parametrize("case", [HIDDEN, PREDICTION], ids=str)
def test_rows_may_have_any_strides(case: Case, target: Target) -> None:
    contracts.strides(on(target), case.make(torch.float32, target.device))


@everywhere
@pytest.mark.parametrize("case", [SCORE, RELATION], ids=str)
def test_heads_may_be_parts_of_one_projection(case: Case, target: Target) -> None:
    inputs = case.make(torch.float32, target.device)
    parts = {}
    for who in ("student", "teacher"):
        qkv = torch.stack([inputs.arguments[f"{who}_{name}"] for name in "qkq"], 1)
        parts |= {f"{who}_q": qkv[:, 0], f"{who}_k": qkv[:, 1]}
    expected, ours = run(on(target), inputs), run(on(target), inputs.change(**parts))
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value)


@everywhere
@every_loss
def test_a_gradient_in_fp16_is_scaled_before_it_is_rounded(case: Case, target: Target) -> None:
    inputs = case.make(torch.float16, target.device)
    small = torch.full_like(inputs.arguments["weights"], 2.0**-18)
    scaled = run(on(target), inputs.change(weights=small), incoming=lambda y: torch.full_like(y, 2.0**18))
    plain = run(on(target), inputs.change(weights=torch.ones_like(small)), incoming=torch.ones_like)
    for name in plain.keys() - {"y"}:
        torch.testing.assert_close(scaled[name], plain[name], rtol=2e-3, atol=1e-3)


@everywhere
@pytest.mark.parametrize("with_gradients", [False, True])
@every_loss
def test_registration_is_sound(case: Case, with_gradients: bool, target: Target) -> None:
    if target.backend == "reference":
        pytest.skip("the reference is not registered: the compiler sees through it")
    calls: list[tuple[Any, ...]] = []
    loss = case.make(torch.float32).arguments["loss"]
    operation = getattr(torch.ops.unmask, f"distill_{loss}_fwd").default
    inputs = case.make(torch.float32, target.device)
    with pytest.MonkeyPatch.context() as patch:
        module = FAMILY.module(target.backend)
        right = getattr(module, f"{loss}_forward")
        patch.setattr(module, f"{loss}_forward", lambda arguments: calls.append(arguments) or right(arguments))
        if with_gradients:
            run(on(target), inputs)
        else:
            on(target)(**inputs.arguments)
    assert calls[0].with_gradients == with_gradients
    contracts.opcheck(operation, (*calls[0], target.backend))


@everywhere
@pytest.mark.parametrize(
    ("case", "other"),
    [
        (SCORE, score_case("other", [9, 3, 4, 0], head_dim=6, teacher_dim=8, weighted=True)),
        (RELATION, relation_case("other", [9, 3, 4, 0], head_dim=6, teacher_dim=8, weighted=True)),
        (HIDDEN, hidden_case(14, 6, 8, weighted=True)),
        (PREDICTION, prediction_case(14, 5, temperature=2.0, weighted=True)),
    ],
    ids=str,
)
def test_compiles_as_one_graph_with_dynamic_lengths(case: Case, other: Case, target: Target) -> None:
    if target.backend == "reference" and case in (SCORE, RELATION):
        pytest.skip("the definition reads the boundaries on the host")
    contracts.full_graph(on(target), *(each.make(torch.float32, target.device) for each in (case, other)))


@everywhere
@every_loss
def test_foreign_autocast_casts_activations_once(case: Case, target: Target) -> None:
    inputs = case.make(torch.float32, target.device)
    names = [n for n, x in inputs.to(torch.bfloat16).arguments.items() if getattr(x, "dtype", None) == torch.bfloat16]
    expected = on(target)(**inputs.change(**{n: inputs.arguments[n].bfloat16() for n in names}).arguments)
    with torch.autocast(target.device, dtype=torch.bfloat16):
        got = on(target)(**inputs.arguments)
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)


def test_double_backward_is_refused_rather_than_wrong() -> None:
    inputs = PREDICTION.make(torch.float32).arguments
    logits = inputs["student_logits"].requires_grad_()
    (gradient,) = torch.autograd.grad(run_distill(**inputs).square(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


HERE = torch.zeros
REFUSALS: list[tuple[Case, dict[str, Any], type[Exception], str]] = [
    (SCORE, {"student_q": HERE(58, 12)}, ValueError, "attention_score_loss: student_q must have shape (T, H, K), got"),
    (SCORE, {"student_k": HERE(58, 2, 7)}, ValueError, "attention_score_loss: student_k must have shape (58, 2, 6)"),
    (SCORE, {"student_q": HERE(58, 2, 6).int()}, TypeError, "attention_score_loss: student_q must be float16"),
    (
        SCORE,
        {"teacher_q": HERE(58, 2, 8).double()},
        TypeError,
        "attention_score_loss: teacher_q must be float32, the dtype of student_q, got float64; "
        "use teacher_q.to(student_q.dtype)",
    ),
    (
        SCORE,
        {"teacher_k": HERE(57, 2, 8)},
        ValueError,
        "attention_score_loss: teacher_k must have one row per token of documents (58), got 57",
    ),
    (SCORE, {"teacher_q": HERE(58, 2, 8, device="meta")}, ValueError, "attention_score_loss: teacher_q must be on cpu"),
    (SCORE, {"documents": [0, 58]}, TypeError, "attention_score_loss: documents must be Documents, got list; make"),
    (SCORE, {"normalization": "mean"}, ValueError, "normalization must be one of 'pairs', 'padded_square', got 'mean'"),
    (SCORE, {"heads": "first"}, ValueError, "heads must be one of 'equal', 'mean_of_groups', got 'first'"),
    (
        SCORE,
        {"teacher_q": HERE(58, 4, 8), "teacher_k": HERE(58, 4, 8)},
        ValueError,
        "with heads 'equal' teacher_q must have 2 heads, as student_q has, got 4; 'mean_of_groups' compares means of",
    ),
    (
        SCORE,
        {"teacher_q": HERE(58, 3, 8), "teacher_k": HERE(58, 3, 8), "heads": "mean_of_groups"},
        ValueError,
        "with heads 'mean_of_groups' one number of heads must be a multiple of the other, got 2 of student_q and 3 of",
    ),
    (SCORE, {"weights": HERE(3)}, ValueError, "attention_score_loss: weights must have shape (4,), one weight per"),
    (SCORE, {"weights": HERE(4).long()}, TypeError, "attention_score_loss: weights must be float32 or float64, got"),
    (SCORE, {"weights": [1.0] * 4}, TypeError, "weights must be a tensor, got list; use torch.tensor(weights, dtype="),
    (SCORE, {"causal": 1}, TypeError, "attention_score_loss: causal must be True or False, got 1"),
    (SCORE, {"window": -1}, ValueError, "attention_score_loss: window must be a whole number of tokens, or None"),
    (
        SCORE,
        {"student_q": HERE(58, 2, 12)[..., ::2]},
        ValueError,
        "attention_score_loss: student_q must be contiguous in its last dimension",
    ),
    (
        SCORE,
        {"teacher_q": HERE(58, 2, 0), "teacher_k": HERE(58, 2, 0)},
        ValueError,
        "attention_score_loss: teacher_q must have a head of at least one element, got shape (58, 2, 0)",
    ),
    (
        RELATION,
        {"teacher_q": HERE(58, 4, 4), "teacher_k": HERE(58, 4, 4)},
        ValueError,
        "attention_relation_loss: teacher_q must have 2 heads, as many as student_q, got 4; cut all four into the same",
    ),
    (HIDDEN, {"student": HERE(9)}, ValueError, "hidden_state_loss: student must have shape (R, D), got (9,)"),
    (HIDDEN, {"teacher": HERE(8, 8)}, ValueError, "hidden_state_loss: teacher must have 9 rows, as student has, got 8"),
    (
        HIDDEN,
        {"weight": HERE(6, 8)},
        ValueError,
        "hidden_state_loss: weight must have shape (8, 6), columns of teacher",
    ),
    (HIDDEN, {"bias": HERE(6)}, ValueError, "hidden_state_loss: bias must have shape (8,), one entry per column of"),
    (HIDDEN, {"weight": None}, ValueError, "hidden_state_loss: bias needs weight, which is None; pass weight, or"),
    (
        HIDDEN,
        {"weight": None, "bias": None},
        ValueError,
        "hidden_state_loss: without weight teacher must have 6 columns, as student has, got 8; pass a weight (8, 6)",
    ),
    (
        PREDICTION,
        {"teacher_logits": HERE(9, 4)},
        ValueError,
        "soft_cross_entropy: teacher_logits must have shape (9, 5",
    ),
    (
        PREDICTION,
        {"student_logits": HERE(9, 0), "teacher_logits": HERE(9, 0)},
        ValueError,
        "soft_cross_entropy: student_logits must have at least one class, got shape (9, 0)",
    ),
    (PREDICTION, {"temperature": 0.0}, ValueError, "soft_cross_entropy: temperature must be a finite number above 0"),
    (PREDICTION, {"weights": HERE(8)}, ValueError, "soft_cross_entropy: weights must have shape (9,), one weight per"),
    (PREDICTION, {"backend": "numpy"}, ValueError, "distill: backend must be one of"),
]


@pytest.mark.parametrize(("case", "change", "error", "message"), REFUSALS, ids=[r[3][:60] for r in REFUSALS])
def test_refuses_bad_arguments_in_one_sentence(
    case: Case, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    contracts.refuses(run_distill, case.make(torch.float32), change, error, message)


def test_on_a_gpu_plain_pytorch_is_no_part_of_a_graph() -> None:
    call = FAMILY.example("cuda", "sm_90", torch.bfloat16)._replace(captured=True)  # type: ignore[attr-defined]
    with pytest.raises(BackendUnavailable, match="it reads the lengths on the host"):
        FAMILY.choose("torch", call)
