"""The attention backward for sm_90 on the host machine and on the PTX machine: right, deterministic, without a race."""

from __future__ import annotations

import re

import pytest
import torch

from offline import nvcc
from offline.compiled import compiled, programs
from offline.host import attention_sm90, build
from offline.host.attention_sm90 import SOURCE, Problem, gradients, problem, solved
from offline.host.attention_sm90_cases import LENGTHS, SUBJECT, against_fp64, low_scores
from offline.host.device import Machine
from offline.host.mutations import Mutation
from offline.in_flight import touched_in_flight
from unmask_kernels.testing.compare import same_bits

pytestmark = pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))
needs_nvcc = pytest.mark.skipif(bool(nvcc.why_not()), reason=nvcc.why_not() or "nvcc is there")

BF16, FP16 = torch.bfloat16, torch.float16


@pytest.fixture(scope="module")
def machine() -> Machine:
    return attention_sm90.build()


@pytest.mark.parametrize("p", [0.0, 0.1])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "500x8" else []) for name in LENGTHS]
)
def test_gradients_have_at_most_twice_the_error_of_plain_pytorch(machine: Machine, name: str, p: float) -> None:
    lengths = LENGTHS[name]
    # both dtypes and several schedules, and few heads where there are many tokens
    place = [*LENGTHS].index(name) + round(10 * p)
    with machine.device(schedule=place) as device:
        against_fp64(device, lengths, (BF16, FP16)[place % 2], 1 if sum(lengths) > 400 else 2, p)
    device.report.check()
    assert device.report.bank_conflicts == 0


def test_results_do_not_depend_on_the_schedule(machine: Machine) -> None:
    given, right = problem((130, 66, 5), BF16, 1, 0.1), solved((130, 66, 5), BF16, 1, 0.1)
    results = []
    for schedule in range(6):
        with machine.device(schedule=schedule) as device:
            results.append(gradients(device, given, right))
        device.report.check()
    for result in results[1:]:
        same_bits({"dqkv": result}, {"dqkv": results[0]}, "two schedules")


def test_a_packed_document_has_the_bits_that_it_has_alone(machine: Machine) -> None:
    lengths = (70, 129, 20)
    given, right = problem(lengths, BF16, 2), solved(lengths, BF16, 2)
    with machine.device(schedule=2) as device:
        packed = gradients(device, given, right)
    start = 0
    for length in lengths:
        rows = slice(start, start + length)
        alone = Problem((length,), given.qkv[rows], given.dout[rows], None, 0.0)
        part = right._replace(out=right.out[rows], lse=right.lse[:, rows].contiguous())
        with machine.device() as device:
            same_bits({"dqkv": gradients(device, alone, part)}, {"dqkv": packed[rows]}, f"{length} tokens")
        start += length


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_a_document_reaches_no_other_one(machine: Machine, value: float) -> None:
    lengths = (30, 129, 65)
    given, right = problem(lengths, BF16, 1), solved(lengths, BF16, 1)
    with machine.device() as device:
        clean = gradients(device, given, right)
    dirty = given._replace(qkv=given.qkv.clone(), dout=given.dout.clone())
    dirty.qkv[30:159], dirty.dout[30:159] = value, value
    with machine.device() as device:
        out = right.out.clone().index_fill_(0, torch.arange(30, 159), value)
        result = gradients(device, dirty, right._replace(out=out))
    for rows in (slice(0, 30), slice(159, 224)):
        same_bits({"dqkv": result[rows]}, {"dqkv": clean[rows]}, "beside NaN")
    assert result[30:159].isnan().any()


def test_columns_past_the_end_of_a_document_do_not_overflow(machine: Machine) -> None:
    with machine.device() as device:
        low_scores(device)
    device.report.check()


@needs_nvcc
@pytest.mark.parametrize("p", [0.0, 0.1])
@pytest.mark.parametrize("lengths", [(37,), (70, 1)])
def test_what_nvcc_makes_of_it_computes_the_same(machine: Machine, lengths: tuple[int, ...], p: float) -> None:
    kernels = programs(nvcc.ptx(SOURCE, "sm_90a"), SOURCE.with_name("attention.h"))
    with machine.device() as device, compiled(device, kernels, SOURCE.with_name("attention.h")) as found:
        against_fp64(device, lengths, BF16, 1, p)
    assert not found


@needs_nvcc
def test_compiled_products_are_hgmma_and_no_register_of_theirs_is_touched_in_flight() -> None:
    listings = nvcc.listings(SOURCE, "sm_90a")
    assert len(listings) == 6
    for symbol, listing in listings.items():
        # each body has 4 products of S^T, dP^T, dV and dK, and 8 of dQ^T
        assert listing.count("HGMMA.64x64x16.F32") >= 24, symbol
        assert touched_in_flight(listing) == [], symbol
        assert not re.search(r"\b(LDL|STL)\b", listing), symbol
        # copies, and what is read and written of global memory for each element
        assert listing.count("LDGSTS.E.BYPASS.128") >= 12 and "LDG.E.128" in listing and "STG.E.128" in listing, symbol


MUTATIONS = SUBJECT.mutations()


@pytest.mark.parametrize("mutation", MUTATIONS[::50], ids=lambda mutation: mutation.name)
def test_a_removed_barrier_wait_or_bound_is_noticed(mutation: Mutation) -> None:
    assert SUBJECT.outcome(mutation, range(2)).caught_by
