"""The compiler's tests pass with the oldest Triton that is supported, too."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from offline import oldest
from unmask_kernels.capability import INTERPRETING

ROOT = Path(__file__).parents[2]
KERNELS, OFFLINE = "tests/kernels/", "tests/offline/"
FEW = (
    f"{OFFLINE}test_fences.py",
    f"{OFFLINE}test_emulator.py::test_compiled_kernels_are_right_and_free_of_races[attention-fused]",
    f"{KERNELS}test_attention_aot.py::test_the_kernels_of_bert_stay_in_registers_and_use_tensor_cores[90]",
    f"{KERNELS}test_linear_gelu_triton.py::test_tiles_stay_in_registers_and_use_tensor_cores[gelu-64x768-3072-90]",
)
ALL = tuple(
    f"{folder}test_{name}.py"
    for folder, names in {
        OFFLINE: ("fences", "emulator", "aot"),
        KERNELS: ("attention_aot", "embedding_aot", "linear_gelu_triton", "masking_aot", "mlm_loss_triton"),
    }.items()
    for name in names
)

installed = pytest.mark.skipif(
    not oldest.INSTALLED or INTERPRETING, reason=f"`make .venv/.triton-{oldest.RELEASE}-installed` installs it"
)


@installed
def test_a_few_kernels_compile_and_run_as_they_should() -> None:
    passed = re.search(r"(\d+) passed", oldest.run_tests_with_oldest(*FEW))
    assert passed and int(passed[1]) > len(FEW)


@installed
@pytest.mark.slow
@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("module", ALL)
def test_all_kernels_compile_and_run_as_they_should(module: str) -> None:
    print(oldest.run_tests_with_oldest(module, options=("-m", "slow or not slow", "--timeout", "0"), seconds=36_000.0))


@installed
def test_what_fails_there_fails_here(tmp_path: Path) -> None:
    module = tmp_path / "test_broken.py"
    module.write_text("import triton\ndef test_broken():\n    assert triton.__version__ == 'another'\n")
    with pytest.raises(AssertionError, match=r"with Triton 3\.6\.0(.|\n)*assert '3\.6\.0' == 'another'"):
        oldest.run_tests_with_oldest(str(module), options=("--rootdir", str(tmp_path), "-c", "/dev/null"))


def test_make_test_installs_the_release_that_the_package_requires_at_least() -> None:
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    required = [line for lines in requirements.values() for line in lines if line.startswith("triton>=")]
    assert required and all(oldest.RELEASE.startswith(line.removeprefix("triton>=").split(";")[0]) for line in required)
    command = ["make", "--dry-run", "--always-make", "test"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"--target .venv/triton-{oldest.RELEASE} triton=={oldest.RELEASE}" in done.stdout
