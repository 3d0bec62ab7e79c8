"""What `verified=` of each family may be set to, from the report of the whole suite of tests on a GPU.

A family gets an architecture only by a complete pass: the suite ran to its end, no test of the family failed, and at
least one of its tests ran Triton on the GPU. A test belongs to a family if its file (`test_gelu.py`,
`test_attention_gpu.py`) or its id (`test_races_gpu.py::...[layer_norm-...]`) names it; a test that names none, such as
one of the random numbers, belongs to all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

__all__ = ["families", "lines", "verdict"]

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "kernels" / "unmask_kernels"


def families() -> list[str]:
    """Return the families that have a Triton backend."""
    return sorted({path.parent.name for path in KERNELS.glob("*/_triton*")})


def verdict(report: Path, *, complete: bool, architecture: str) -> dict[str, Any]:
    """Judge every family.

    Args:
        report: JUnit XML of the suite; it may be absent.
        complete: whether the suite ran to its end.
        architecture: of the GPU, or "".

    Returns:
        `architecture`, and by family `may_be_verified`, counts of tests, `failed` tests and the `reason`.
    """
    cases = list(_cases(report)) if report.exists() else []
    found: dict[str, Any] = {"architecture": architecture, "families": {}}
    for family in families():
        own = [(name, result) for name, result, named in cases if family in named or not named]
        failed = [name for name, result in own if result == "failed"]
        passed = sum(result == "passed" for _, result in own)
        on_gpu = any(result == "passed" and "triton-cuda" in name and family in named for name, result, named in cases)
        reason = (
            "the suite has not run"
            if not cases
            else f"{len(failed)} tests failed"
            if failed
            else "the suite did not run to its end"
            if not complete
            else "no GPU was found"
            if not architecture
            else "none of its tests ran Triton on the GPU"
            if not on_gpu
            else ""
        )
        found["families"][family] = {
            "may_be_verified": not reason,
            "passed": passed,
            "failed": failed[:20],
            "reason": reason or f"{passed} tests passed",
        }
    return found


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what to do, a line for each family."""
    for family, told in found["families"].items():
        if told["may_be_verified"]:
            where = f"kernels/unmask_kernels/{family}/choice.py"
            yield f'{family}: may get verified=("{found["architecture"]}",) in {where}: {told["reason"]}'
        else:
            first = f", the first is {told['failed'][0]}" if told["failed"] else ""
            yield f"{family}: stays as it is: {told['reason']}{first}"


def _cases(report: Path) -> Iterator[tuple[str, str, set[str]]]:
    """Yield name, result ("passed", "failed", "skipped") and families of each test."""
    try:
        tree = ElementTree.parse(report)
    except ElementTree.ParseError:
        return
    for case in tree.iter("testcase"):
        file = str(case.get("classname", "")).rsplit(".", 1)[-1]
        name = f"{file}::{case.get('name', '')}"
        kinds = {child.tag for child in case}
        result = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        yield name, result, _named(file, name)


def _named(file: str, name: str) -> set[str]:
    known = families()
    by_file = {family for family in known if re.match(rf"test_{family}(_|$)", file)}
    return by_file or {family for family in known if re.search(rf"\b{family}\b", name)}
