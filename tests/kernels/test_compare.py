"""The criterion accepts correct results, and says exactly what is wrong with others."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from unmask_kernels.testing.compare import compare, same_bits
from unmask_kernels.testing.contracts import poisoned_memory


def check(ours: Tensor, plain: Tensor, truth: Tensor) -> None:
    compare({"dx": ours}, {"dx": plain}, {"dx": truth})


@pytest.fixture
def truth() -> Tensor:
    return torch.randn(64, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_accepts_the_rounding_of_the_dtype(truth: Tensor) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        check(truth.to(dtype), truth.to(dtype), truth)


def test_accepts_rounding_where_plain_happens_to_be_exact(truth: Tensor) -> None:
    exact = truth.bfloat16()
    check(torch.nextafter(exact, torch.zeros_like(exact)), exact, exact.double())


def test_rejects_two_percent_of_scale_in_bf16_by_the_rms_alone(truth: Tensor) -> None:
    # one large element sets the band of the maximum, so no other element is over it alone; their RMS is
    truth[0, 0] = 8.0
    ours = truth * 1.02
    ours[0, 0] = 8.0
    with pytest.raises(AssertionError, match="RMS error") as raised:
        check(ours.bfloat16(), truth.bfloat16(), truth)
    assert "max error" not in str(raised.value)


def test_rejects_one_wrong_element_and_names_it(truth: Tensor) -> None:
    ours = truth.float()
    ours[7, 5] += 0.01
    with pytest.raises(AssertionError, match=r"dx: max error 0\.01 is over its budget .* worst at \(7, 5\): ours"):
        check(ours, truth.float(), truth)


@pytest.mark.parametrize(("wrong", "kind"), [(slice(0, 1), "max"), (slice(0, 64), "RMS")], ids=["one", "all"])
def test_allows_twice_the_error_of_plain_and_twice_the_band_and_no_more(wrong: slice, kind: str) -> None:
    # 64 elements of size 1: plain is off by 2**-10 in one or all of them, and the band is the eps of fp32
    truth = torch.ones(64, dtype=torch.float64)
    plain, over, under = (truth.clone() for _ in range(3))
    plain[wrong] += 2.0**-10
    allowed = 2 * (2.0**-10 + 2.0**-23)
    under[wrong] += allowed - 2.0**-23
    over[wrong] += allowed + 2.0**-23
    check(under.float(), plain.float(), truth)
    with pytest.raises(AssertionError, match=f"dx: {kind} error") as raised:
        check(over.float(), plain.float(), truth)
    said = f"is over its budget {allowed:.3g} = 2 x (plain {2.0**-10:.3g} + band {2.0**-23:.3g})"
    assert said in str(raised.value)


def test_a_band_alone_is_twice_eps_of_the_largest() -> None:
    truth = torch.tensor([4.0, 1.0], dtype=torch.float64)
    exact = truth.float()
    check(exact + torch.tensor([0.0, 7 * 2.0**-23]), exact, truth)
    with pytest.raises(AssertionError, match="max error"):
        check(exact + torch.tensor([0.0, 9 * 2.0**-23]), exact, truth)


def test_the_rms_is_the_root_of_the_mean_of_squares() -> None:
    truth = torch.ones(64, dtype=torch.float64)
    off = torch.where(torch.arange(64) < 16, 2.0**-8, 0.0)  # a quarter of the elements, so the RMS is half of that
    with pytest.raises(AssertionError, match=f"dx: RMS error {2.0**-9:.3g} is over its budget {2.0**-22:.3g} = 2 x"):
        check((truth + off).float(), truth.float(), truth)


def test_overflow_of_one_element_hides_no_other() -> None:
    truth = torch.tensor([1.0, 1e6, 1.0], dtype=torch.float64)
    with pytest.raises(AssertionError, match=r"max error .* worst at \(2,\)"):
        check(truth.half() + torch.tensor([0.0, 0.0, 0.5]).half(), truth.half(), truth)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_rejects_a_value_that_is_not_finite_where_plain_is(truth: Tensor, value: float) -> None:
    ours = truth.float()
    ours[1, 2] = value
    with pytest.raises(AssertionError, match=r"at other places than plain in 1 of 2048 elements, first at \(1, 2\)"):
        check(ours, truth.float(), truth)


def test_accepts_overflow_where_plain_overflows() -> None:
    truth = torch.tensor([1.0, 1e6], dtype=torch.float64)
    check(truth.half(), truth.half(), truth)


def test_rejects_infinity_of_the_other_sign() -> None:
    truth = torch.tensor([1.0, 1e6], dtype=torch.float64)
    with pytest.raises(AssertionError, match=r"\+inf at other places"):
        check(-truth.half(), truth.half(), truth)


def test_accepts_empty_results_and_rejects_other_shapes_names_and_dtypes(truth: Tensor) -> None:
    check(torch.empty(0, 3), torch.empty(0, 3), torch.empty(0, 3, dtype=torch.float64))
    with pytest.raises(AssertionError, match=r"dx: ours is float32 \(32, 64\), plain float32 \(64, 32\)"):
        check(truth.float().T, truth.float(), truth)
    with pytest.raises(AssertionError, match="ours is bfloat16"):
        check(truth.bfloat16(), truth.float(), truth)
    with pytest.raises(AssertionError, match=r"plain float32 \(64, 32\), truth float64 \(32, 64\)"):
        check(truth.float(), truth.float(), truth.T)
    for names in ("yxx", "xyx", "xxy"):
        with pytest.raises(AssertionError, match=r"results differ in name: ours \['"):
            compare(*({name: truth} for name in names))


def test_same_bits_takes_nan_for_equal_and_finds_the_last_bit() -> None:
    one = torch.tensor([1.0, math.nan, 3.0])
    same_bits({"y": one}, {"y": one.clone()}, "two runs")
    other = torch.nextafter(one, torch.full((3,), 9.0))
    for different in ({"dy": one}, {"y": one[:2]}, {"y": one.double()}, {"y": torch.tensor([1.0, 2.0, 3.0])}):
        with pytest.raises(AssertionError, match="two runs: "):
            same_bits({"y": one}, different, "two runs")
    with pytest.raises(
        AssertionError, match=r"two runs: y differs in 2 of 3 elements, first at \(0,\): 1\.0 and 1\.0000001"
    ):
        same_bits({"y": one}, {"y": other}, "two runs")


def test_poisoned_memory_on_a_gpu_needs_the_workspace_chosen_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with poisoned_memory():
        assert torch.empty(4).isnan().all()
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    with pytest.raises(AssertionError, match="CUBLAS_WORKSPACE_CONFIG must be :4096:8"), poisoned_memory():
        pass
