"""mlm_loss: against fp64 truth on every backend here, and the contracts every family keeps."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask_kernels import BackendUnavailable
from unmask_kernels import mlm_loss as public
from unmask_kernels.capability import INTERPRETING
from unmask_kernels.mlm_loss import FAMILY, MLMLossCall
from unmask_kernels.mlm_loss.arguments import BackwardArguments, Results
from unmask_kernels.testing import contracts
from unmask_kernels.testing.compare import compare
from unmask_kernels.testing.contracts import Target, backends_here
from unmask_kernels.testing.inputs import Case, run
from unmask_kernels.testing.mlm_loss import CASES, mlm_loss_case, plain_mlm_loss

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SMALL = mlm_loss_case("small", tokens=30, width=24, vocabulary=101, masked=9, unused=2)

everywhere = pytest.mark.parametrize("target", backends_here("mlm_loss"))


def loss_on(target: Target) -> Any:
    return lambda **arguments: public(backend=target.backend, **arguments).loss_sum


@everywhere
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_fp64_truth(case: Case, dtype: torch.dtype, target: Target) -> None:
    inputs = case.make(dtype, target.device)
    truth = run(lambda **a: public(backend="reference", **a).loss_sum, inputs.double())
    plain = run(plain_mlm_loss, inputs)
    with contracts.poisoned_memory():
        ours = run(loss_on(target), inputs)
    compare(ours, plain, truth)


def test_reference_is_torch_cross_entropy() -> None:
    inputs = SMALL.make(torch.float64)
    result = public(backend="reference", **inputs.arguments)
    assert result.loss_sum.item() == pytest.approx(plain_mlm_loss(**inputs.arguments).item(), rel=1e-12)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_gradients_are_the_numerical_ones(backend: str) -> None:
    case = mlm_loss_case("tiny", tokens=5, width=3, vocabulary=7, masked=3, unused=1)
    arguments = dict(case.make(torch.float64).arguments)
    leaves = [arguments[name].requires_grad_() for name in ("hidden", "weight", "bias")]

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return public(hidden, arguments["positions"], arguments["labels"], weight, bias, backend=backend).loss_sum

    assert torch.autograd.gradcheck(loss, leaves)


@everywhere
def test_counts_predictions_and_hits(target: Target) -> None:
    arguments = dict(SMALL.make(torch.float32, target.device).arguments)
    logits = F.linear(arguments["hidden"][arguments["positions"]], arguments["weight"], arguments["bias"])
    arguments["labels"][:4] = logits[:4].argmax(-1)
    arguments["labels"][4:9] = logits[4:9].argmin(-1)
    result = public(backend=target.backend, **arguments)
    assert (int(result.count), int(result.correct)) == (9, 4)
    assert result.loss_sum.dtype == torch.float32
    assert not result.count.requires_grad


@everywhere
def test_an_unused_slot_is_no_hit_whatever_it_predicts(target: Target) -> None:
    hidden, weight = (torch.zeros(rows, 8, device=target.device) for rows in (4, 20))  # all of which predict id 0
    labels = torch.tensor([0, -100, 5, -7], device=target.device)
    result = public(hidden, None, labels, weight, backend=target.backend)
    assert (int(result.count), int(result.correct)) == (2, 1)


@everywhere
@pytest.mark.parametrize("case", [c for c in CASES if c.name in ("all-unused", "no-slots")], ids=str)
def test_nothing_masked_gives_zero_loss_and_zero_gradients(case: Case, target: Target) -> None:
    results = run(loss_on(target), case.make(torch.float32, target.device))
    assert all(not value.any() for value in results.values())


@everywhere
def test_unused_slots_change_nothing(target: Target) -> None:
    case = mlm_loss_case("unused", tokens=30, width=24, vocabulary=101, masked=9, unused=5)
    inputs = case.make(torch.float32, target.device)
    fewer = inputs.change(positions=inputs.arguments["positions"][:9], labels=inputs.arguments["labels"][:9])
    with_unused, without = run(loss_on(target), inputs), run(loss_on(target), fewer)
    for name, value in without.items():
        torch.testing.assert_close(with_unused[name], value)


@everywhere
def test_every_negative_label_marks_an_unused_slot(target: Target) -> None:
    inputs = SMALL.make(torch.float32, target.device)
    labels = inputs.arguments["labels"]
    other = inputs.change(labels=labels.clone())
    other.arguments["labels"][-2:] = torch.tensor([-1, -7])
    expected, ours = run(loss_on(target), inputs), run(loss_on(target), other)
    for name, value in expected.items():
        assert torch.equal(ours[name], value), name
    result = public(backend=target.backend, **other.arguments)
    assert (int(result.count), int(result.correct)) == (9, int(public(**inputs.arguments).correct))


@everywhere
def test_gradients_of_a_repeated_row_add_up(target: Target) -> None:
    inputs = SMALL.make(torch.float32, target.device)
    repeated = inputs.change(positions=torch.full_like(inputs.arguments["positions"], 3))
    gathered = repeated.change(hidden=inputs.arguments["hidden"][3].expand(11, -1).contiguous(), positions=None)
    expected = run(loss_on(target), gathered)["dhidden"].sum(0)
    torch.testing.assert_close(run(loss_on(target), repeated)["dhidden"][3], expected)


@everywhere
@pytest.mark.parametrize("first", [7, 8, 4100, 9000])
def test_the_first_of_equal_logits_is_the_prediction(first: int, target: Target) -> None:
    equal = [column for column in (7, 8, 4100, 9000) if column >= first]
    bias = torch.zeros(9001, device=target.device)
    bias[equal] = 2.0
    hidden, weight = torch.zeros(1, 8, device=target.device), torch.zeros(9001, 8, device=target.device)
    for label in (0, 9, *equal):
        labels = torch.tensor([label], device=target.device)
        assert int(public(hidden, None, labels, weight, bias, backend=target.backend).correct) == (label == first)


@everywhere
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_logits_do_not_overflow(dtype: torch.dtype, target: Target) -> None:
    hidden = torch.full((3, 16), 30.0, device=target.device, dtype=dtype)
    weight = torch.zeros(77, 16, device=target.device)
    weight[5], weight[76] = 30.0, -30.0
    labels = torch.tensor([5, 76, -100], device=target.device)
    loss = public(hidden, None, labels, weight, backend=target.backend).loss_sum
    assert loss.item() == pytest.approx(2 * 16 * 900.0)


@everywhere
def test_strides_do_not_matter(target: Target) -> None:
    contracts.strides(loss_on(target), SMALL.make(torch.float32, target.device))
    inputs = SMALL.make(torch.float32, target.device)
    spread = {n: torch.stack([inputs.arguments[n]] * 2, 1)[:, 0] for n in ("positions", "labels")}
    expected, ours = run(loss_on(target), inputs), run(loss_on(target), inputs.change(**spread))
    for name, value in expected.items():
        assert torch.equal(ours[name], value), name


@everywhere
def test_foreign_autocast_casts_hidden_once(target: Target) -> None:
    inputs = SMALL.make(torch.float32, target.device)
    expected = loss_on(target)(**inputs.change(hidden=inputs.arguments["hidden"].bfloat16()).arguments)
    with torch.autocast(target.device, dtype=torch.bfloat16):
        got = loss_on(target)(**inputs.arguments)
    assert torch.equal(got, expected)


@everywhere
def test_returns_exactly_the_gradients_asked_for(target: Target) -> None:
    contracts.gradient_set(loss_on(target), SMALL.make(torch.float32, target.device))


@everywhere
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_two_runs_agree_bit_for_bit(dtype: torch.dtype, target: Target) -> None:
    contracts.deterministic(loss_on(target), SMALL.make(dtype, target.device))


@everywhere
@pytest.mark.parametrize("with_gradients", [False, True])
@pytest.mark.parametrize("case", [SMALL, CASES[-1], CASES[-2]], ids=str)
def test_registration_is_sound(case: Case, with_gradients: bool, target: Target) -> None:
    if target.backend == "reference":
        pytest.skip("the reference is not registered: the compiler sees through it")
    made = case.make(torch.float32, target.device)
    arguments = (*made.arguments.values(), with_gradients, target.backend)
    contracts.opcheck(torch.ops.unmask.mlm_loss_fwd.default, arguments)
    if not with_gradients:
        return
    results = Results(*torch.ops.unmask.mlm_loss_fwd(*arguments))
    dloss = torch.tensor(0.5, device=target.device)
    for needs_weight in (True, False):
        known = {**made.arguments, **results._asdict(), "dloss": dloss, "needs_weight": needs_weight}
        backward = BackwardArguments(**{name: known[name] for name in BackwardArguments._fields})
        contracts.opcheck(torch.ops.unmask.mlm_loss_bwd.default, (*backward, target.backend))


@everywhere
@pytest.mark.parametrize("gathered", [False, True])
def test_registration_is_sound_for_other_strides(gathered: bool, target: Target) -> None:
    if target.backend == "reference":
        pytest.skip("the reference is not registered: the compiler sees through it")
    case = mlm_loss_case("strides", tokens=30, width=24, vocabulary=101, masked=9, gathered=gathered)
    arguments = case.make(torch.float32, target.device).arguments
    swapped = {name: arguments[name].mT.contiguous().mT for name in ("hidden", "weight")}
    arguments = {**arguments, **swapped}
    contracts.opcheck(torch.ops.unmask.mlm_loss_fwd.default, (*arguments.values(), True, target.backend))


@everywhere
def test_compiles_as_one_graph_with_dynamic_lengths(target: Target) -> None:
    other = mlm_loss_case("other", tokens=17, width=24, vocabulary=101, masked=5, unused=1)
    contracts.full_graph(
        loss_on(target), SMALL.make(torch.float32, target.device), other.make(torch.float32, target.device)
    )


REFUSALS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"hidden": torch.zeros(30)}, ValueError, "mlm_loss: hidden must have shape (T, D), got (30,)"),
    ({"hidden": torch.zeros(30, 25)}, ValueError, "mlm_loss: weight must have 25 columns, the last dimension of"),
    ({"labels": torch.zeros(11)}, TypeError, "mlm_loss: labels must be int64, got float32"),
    ({"labels": torch.zeros(11, 1).long()}, ValueError, "mlm_loss: labels must have shape (M,), got (11, 1)"),
    ({"positions": torch.zeros(11).int()}, TypeError, "mlm_loss: positions must be int64, got int32"),
    ({"bias": torch.zeros(101).int()}, TypeError, "mlm_loss: bias must be float16"),
    ({"positions": torch.zeros(3).long()}, ValueError, "mlm_loss: positions must have shape (11,), one row per"),
    ({"positions": None}, ValueError, "mlm_loss: without positions hidden must have one row per label (11), got 30"),
    ({"bias": torch.zeros(100)}, ValueError, "mlm_loss: bias must have shape (101,), one entry per row of weight"),
    (
        {"weight": torch.zeros(0, 24), "bias": None},
        ValueError,
        "mlm_loss: weight must have a row for every id, at least one, got shape (0, 24)",
    ),
    (
        {"labels": torch.tensor([101] + 10 * [0])},
        ValueError,
        "mlm_loss: labels must be in [0, 101), an id, or negative for an unused slot, got 101",
    ),
    (
        {"positions": torch.tensor([30] + 10 * [0])},
        ValueError,
        "mlm_loss: positions must be in [0, 30), one of the rows of hidden, got 30",
    ),
    (
        {"positions": torch.tensor([-1] + 10 * [0])},
        ValueError,
        "mlm_loss: positions must be in [0, 30), one of the rows of hidden, got -1",
    ),
    ({"backend": "liger"}, ValueError, "mlm_loss: backend must be one of 'triton', 'torch', 'reference', got 'liger'"),
]


@pytest.mark.parametrize(("change", "error", "message"), REFUSALS, ids=[r[2][:50] for r in REFUSALS])
def test_refuses_bad_arguments_in_one_sentence(change: dict[str, Any], error: type[Exception], message: str) -> None:
    contracts.refuses(partial(public), SMALL.make(torch.float32), change, error, message)


def test_explains_its_choice() -> None:
    call = MLMLossCall("cuda", "sm_90", torch.bfloat16, 30522, 768)
    assert FAMILY.explain(call).splitlines() == [
        "mlm_loss: torch",
        "  triton: not verified on sm_90 yet (`unmask verify` tries it here); runs when asked for by name",
        "  torch: can run",
        "  reference: can run",
    ]


@pytest.mark.skipif(INTERPRETING, reason="the interpreter runs on a CPU")
def test_triton_says_what_it_cannot_run() -> None:
    with pytest.raises(BackendUnavailable, match=r"needs a CUDA tensor, got cpu.*; hidden must be fp16, bf16 or fp32"):
        public(backend="triton", **SMALL.make(torch.float64).arguments)
