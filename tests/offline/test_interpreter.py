"""Every test module of a Triton kernel passes under Triton's interpreter, on the CPU.

A plain run of `pytest` includes this, without an environment variable. The modules of a family are one test, so
pytest-xdist runs families in parallel, and PyTorch, Triton and the compiler are imported once a family.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from offline.interpreter import InterpretedFailure, product_by_row, repair_interpreter, run_interpreted
from unmask_kernels import FAMILIES
from unmask_kernels.capability import HAS_TRITON, INTERPRETING

TESTS = Path(__file__).parents[1]


def _has_triton_tests(module: Path) -> bool:
    text = module.read_text(encoding="utf-8")
    families = re.findall(r'backends_here\("(\w+)"\)', text)
    return "mark.triton" in text or any("triton" in FAMILIES[name].backends for name in families)


MODULES = sorted(
    str(path.relative_to(TESTS))
    for path in (*TESTS.glob("kernels/test_*.py"), *TESTS.glob("offline/test_*.py"))
    if path.name != Path(__file__).name and _has_triton_tests(path)
)


def _family(module: str) -> str:
    """The family that a module's name begins with, the longest one; "others" for what belongs to none."""
    fitting = [name for name in FAMILIES if Path(module).stem.startswith(f"test_{name}")]
    return max(fitting, key=len, default="others")


BY_FAMILY = {name: [TESTS / module for module in MODULES if _family(module) == name] for name in map(_family, MODULES)}

pytestmark = [
    pytest.mark.skipif(not HAS_TRITON, reason="package triton is not installed"),
    pytest.mark.skipif(INTERPRETING, reason="already in an interpreted process"),
]


@pytest.mark.longest
@pytest.mark.parametrize("family", BY_FAMILY)
def test_passes_under_the_interpreter(family: str) -> None:
    print(run_interpreted(*BY_FAMILY[family]))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("family", BY_FAMILY)
def test_all_of_it_passes_under_the_interpreter(family: str) -> None:
    print(run_interpreted(*BY_FAMILY[family], slow=True, seconds=7100.0))


def test_every_family_with_a_triton_backend_has_such_a_module() -> None:
    families = {name for name, family in FAMILIES.items() if "triton" in family.backends}
    assert families
    assert {f"kernels/test_{name}.py" for name in families} <= set(MODULES)


@pytest.mark.skipif(not HAS_TRITON, reason="package triton is not installed")
def test_the_interpreter_rounds_to_bf16_as_the_hardware_does() -> None:
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    repair_interpreter()
    values = torch.cat([torch.randn(1000), torch.tensor([0.0, -0.0, float("inf"), -float("inf"), 1e-40, 3.4e38])])
    handle = TensorHandle(values.numpy(), tl.float32)
    rounded = torch.from_numpy(InterpreterBuilder().cast_impl(handle, tl.bfloat16).data.view("int16"))
    assert torch.equal(rounded.view(torch.bfloat16), values.bfloat16())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("rows", "depth", "columns"), [(16, 16, 128), (33, 48, 7), (64, 64, 40)])
def test_the_bits_of_a_row_do_not_depend_on_its_place_in_a_tile(
    rows: int, depth: int, columns: int, dtype: str
) -> None:
    random = np.random.default_rng(rows)
    a, b = (random.standard_normal(shape).astype(dtype) for shape in ((rows, depth), (depth, columns)))
    whole = product_by_row(a, b, np.float32)
    assert np.allclose(whole, a.astype("float64") @ b.astype("float64"), rtol=0, atol=1e-4)
    for row in range(rows):
        assert np.array_equal(product_by_row(np.roll(a, row, axis=0), b, np.float32)[row], whole[0])
        assert np.array_equal(product_by_row(a[row : row + 1], b, np.float32)[0], whole[row])


SOUND = """
import pytest
@pytest.mark.triton
def test_sound():
    assert True
"""
BROKEN = """
import os, pytest
@pytest.mark.triton
def test_broken():
    assert os.environ["TRITON_INTERPRET"] == "no kernel gives this"
"""
SKIPPED = """
import pytest
@pytest.mark.triton
def test_skipped():
    pytest.skip("this shows nothing")
"""
ELSEWHERE = """
def test_without_triton():
    assert True
"""


@pytest.mark.parametrize(
    ("text", "shown"),
    [(BROKEN, "no kernel gives this"), (SKIPPED, "1 skipped"), (ELSEWHERE, "1 deselected")],
    ids=["broken", "skipped", "elsewhere"],
)
def test_a_failure_or_nothing_passed_is_shown_verbatim(text: str, shown: str, tmp_path: Path) -> None:
    paths = tmp_path / "test_sound.py", tmp_path / "test_broken.py"
    for path, source in zip(paths, (SOUND, text), strict=True):
        path.write_text(source)
    # beside a module that passes, which does not hide it
    with pytest.raises(InterpretedFailure, match=shown):
        run_interpreted(*paths, options=("--rootdir", str(tmp_path), "-o", "markers=triton", "-c", "/dev/null"))
