"""One check: a call's cases on one backend, by all that a kernel has to satisfy.

For each case, forward and backward:

    against the definition in fp64, by the criterion of `testing.compare`, or bit for bit where nothing is rounded;
    in memory that was filled with NaN before, which shows in every element that a kernel fails to write or reads too
    far;
    once more in other memory, for equal bits;
    and documents alone, for the bits that they have in the pack.
"""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from functools import partial

import torch

from ..capability import INTERPRETING
from ..passes import Entry, table_of
from ..testing import contracts
from ..testing.compare import Measure, OverBudget, compare, same_bits
from ..testing.inputs import run
from .outcome import Outcome
from .plan import Check, Sample
from .subjects import SUBJECTS

__all__ = ["run_check"]

_FEWEST_TOKENS = 64


def run_check(check: Check, dtype: torch.dtype, device: str, tokens: int) -> Outcome:
    """Run the cases of a check; where the memory does not hold one, smaller ones.

    Args:
        check: what to run.
        dtype: of activations.
        device: on which.
        tokens: of the largest case.
    """
    begun = time.perf_counter()
    entry = table_of(Entry(check.family, check.backend, check.call))
    note = ""
    while True:
        cases, worst, at = 0, None, ""
        try:
            for sample in check.samples(tokens):
                at = str(sample.case)
                measure = _run_sample(check, sample, dtype, device)
                cases += 1
                if measure is not None and (worst is None or measure.share > worst.share):
                    worst = measure
            problem = ""
        except torch.OutOfMemoryError:
            problem = "out of memory"
        except ImportError as error:
            # a Triton without a library that it needs says nothing of a kernel
            problem = f"cannot be imported: {_first_line(error)}"
            return _timed(Outcome(**entry, verdict="not run", problem=problem, case=at), begun)
        except OverBudget as error:
            problem, worst = _first_line(error), error.worst or worst
        except Exception as error:
            # whatever a kernel does wrong is a finding: a refused launch, a fault, a compiler that fails
            problem = f"{type(error).__name__}: {_first_line(error)}"
        if problem != "out of memory":
            break
        # outside of the handler, whose traceback keeps the tensors alive
        gc.collect()
        torch.cuda.empty_cache()
        if tokens <= _FEWEST_TOKENS:
            outcome = Outcome(**entry, verdict="not run", problem="too little memory for the smallest case", case=at)
            return _timed(outcome, begun)
        tokens //= 2
        note = f"too little memory for larger cases: run with {tokens} tokens"
    shown = worst or Measure("", "", 0.0, 0.0)
    outcome = Outcome(
        **entry,
        verdict="failed" if problem else "passed",
        cases=cases,
        error=shown.error,
        budget=shown.budget,
        result=shown.result,
        problem=problem,
        case=at if problem else "",
        note=note,
    )
    return _timed(outcome, begun)


def _timed(outcome: Outcome, begun: float) -> Outcome:
    return replace(outcome, seconds=round(time.perf_counter() - begun, 3))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:500]


def _run_sample(check: Check, sample: Sample, dtype: torch.dtype, device: str) -> Measure | None:
    """Raise AssertionError for a wrong result; return its largest error."""
    subject = SUBJECTS[check.family]
    ours = partial(subject.function, backend=check.backend)
    inputs = sample.case.make(dtype, device)
    with contracts.poisoned_memory():
        first = run(ours, inputs)
    measure = None
    if subject.plain is None:
        same_bits(first, run(subject.truth, inputs), "this backend and the definition")
    else:
        measure = compare(first, run(subject.plain, inputs), run(subject.truth, inputs.double()))
    same_bits(first, run(ours, inputs), "two runs on the same inputs")
    if sample.lengths:
        # the interpreter multiplies by a BLAS library, where the order of a sum may depend on the row
        exact = check.backend in subject.exact and not INTERPRETING
        tolerance = 0.0 if exact else max(1e-5, 8 * torch.finfo(dtype).eps)
        alone = subject.document_of(inputs, sample.lengths)
        contracts.packed_as_alone(ours, inputs, alone, sample.lengths, subject.alone, tolerance=tolerance)
    return measure
