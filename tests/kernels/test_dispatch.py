"""Choosing a backend: the first that can, by name or not at all, always with reasons."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from unmask_kernels import FAMILIES, BackendUnavailable, Family, dispatch, using
from unmask_kernels.dispatch import Backend


class Call(NamedTuple):
    device: str = "cuda"
    architecture: str = "sm_90"
    width: int = 64


def too_wide(call: Call) -> list[str]:
    return [f"rows up to 100 wide, got {call.width}"] if call.width > 100 else []


def needs_cuda(call: Call) -> list[str]:
    return [] if call.device == "cuda" else [f"needs a CUDA tensor, got {call.device}"]


def never(call: Call) -> list[str]:
    return ["extension not built (make build)", "needs a newer driver"]


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> Family:
    monkeypatch.setattr(dispatch, "known", dict(dispatch.known))
    return Family(
        "sum",
        {
            "cuda": Backend(never, module="no.such.module"),
            "triton": Backend(lambda call: too_wide(call) + needs_cuda(call), verified=("sm_90",), module="json"),
            "torch": Backend(needs_cuda, module="math"),
        },
        example=lambda device, architecture, dtype: Call(device, architecture),
    )


def test_takes_the_first_backend_without_a_reason(family: Family) -> None:
    assert family.choose(None, Call()) == "triton"
    assert family.choose(None, Call(width=101)) == "torch"


def test_takes_a_hand_written_backend_only_where_it_was_verified(family: Family) -> None:
    old = Call(architecture="sm_80")
    assert family.choose(None, old) == "torch"
    assert family.choose("triton", old) == "triton"
    assert (
        "triton: not verified on sm_80 yet (`unmask verify` tries it here); runs when asked for by name"
        in family.explain(old)
    )


def test_a_backend_asked_for_runs_or_raises_its_reasons(family: Family) -> None:
    with pytest.raises(BackendUnavailable) as raised:
        family.choose("triton", Call(device="cpu", architecture="cpu", width=200))
    assert str(raised.value) == (
        "sum: backend 'triton' cannot run this call: rows up to 100 wide, got 200; needs a CUDA tensor, got cpu; "
        "leave it out, and one that can is chosen"
    )


def test_lists_every_reason_when_nothing_can_run(family: Family) -> None:
    with pytest.raises(BackendUnavailable) as raised:
        family.choose(None, Call(device="cpu", architecture="cpu"))
    assert str(raised.value).splitlines() == [
        "sum: no backend can run this call; mend what one of them needs:",
        "  cuda: extension not built (make build); needs a newer driver",
        "  triton: needs a CUDA tensor, got cpu",
        "  torch: needs a CUDA tensor, got cpu",
    ]


def test_an_unknown_backend_is_answered_with_the_known_ones(family: Family) -> None:
    with pytest.raises(ValueError, match="sum: backend must be one of 'cuda', 'triton', 'torch', got 'tritton'"):
        family.choose("tritton", Call())


def test_using_holds_inside_its_block_and_yields_to_an_argument(family: Family) -> None:
    with using("torch"):
        assert family.choose(None, Call()) == "torch"
        assert family.choose("triton", Call()) == "triton"
        with using("triton"):
            assert family.choose(None, Call()) == "triton"
        assert family.choose(None, Call()) == "torch"
    assert family.choose(None, Call()) == "triton"


def test_using_asks_for_the_backend_of_one_family_and_leaves_the_others(family: Family) -> None:
    other = Family("product", dict(family.backends), example=family.example)
    with using("triton", sum="torch"):
        assert family.choose(None, Call()) == "torch"
        assert other.choose(None, Call()) == "triton"
        with using(product="torch"):
            assert (family.choose(None, Call()), other.choose(None, Call())) == ("torch", "torch")
        with using("triton"):
            assert family.choose(None, Call()) == "triton"
    assert family.choose(None, Call()) == "triton"


def test_using_holds_in_every_thread_until_its_own_block_ends(family: Family) -> None:
    first, second = using("torch"), using("cuda")
    with first:
        second.__enter__()
        with ThreadPoolExecutor(1) as other, pytest.raises(BackendUnavailable):
            other.submit(family.choose, None, Call()).result()
    # the first block has ended before the second, which another thread may have opened
    with pytest.raises(BackendUnavailable):
        family.choose(None, Call())
    second.__exit__(None, None, None)
    assert family.choose(None, Call()) == "triton"


def test_a_compiled_function_follows_the_blocks_it_is_called_in(family: Family) -> None:
    def number(x: Tensor) -> Tensor:
        return x + list(family.backends).index(family.choose(None, Call()))

    compiled = torch.compile(number, fullgraph=True, backend="eager")
    zero = torch.zeros(())
    for block, expected in ((nullcontext(), 1), (using("torch"), 2), (nullcontext(), 1), (using(sum="torch"), 2)):
        with block:
            assert compiled(zero) == expected


def test_using_refuses_a_name_that_no_family_has(family: Family) -> None:
    with pytest.raises(ValueError, match=r"using: 'layernorm' is not an operation; there are .*layer_norm"):
        using(layernorm="torch").__enter__()
    with pytest.raises(ValueError, match="sum: backend must be one of 'cuda', 'triton', 'torch', got 'fast'"):
        using(sum="fast").__enter__()


def test_using_ends_with_an_error_too(family: Family) -> None:
    with pytest.raises(BackendUnavailable), using("cuda"):
        family.choose(None, Call())
    assert family.choose(None, Call()) == "triton"


def test_explain_names_the_choice_and_why_not_the_others(family: Family) -> None:
    assert family.explain(Call(width=128)).splitlines() == [
        "sum: torch",
        "  cuda: extension not built (make build); needs a newer driver",
        "  triton: rows up to 100 wide, got 128",
        "  torch: can run",
    ]


def test_every_family_has_an_example_that_a_backend_can_run() -> None:
    for family in FAMILIES.values():
        call = family.example("cpu", "cpu", torch.float32)
        assert (call.device, call.architecture) == ("cpu", "cpu")
        assert family.choose(None, call) in family.backends


def test_every_family_ends_with_its_reference() -> None:
    for name, family in FAMILIES.items():
        assert family.name == name
        assert list(family.backends)[-1] == "reference"


def test_importing_the_kernels_imports_neither_triton_nor_a_backend() -> None:
    code = (
        "import sys, unmask_kernels;"
        "print([m for m in sys.modules if m.split('.')[0] == 'triton' or m.endswith(('._torch', '._triton', '._cuda'))"
        " and m.startswith('unmask_kernels')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment())
    assert done.stdout.strip() == "[]"


def _environment() -> dict[str, str]:
    import os

    return os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
