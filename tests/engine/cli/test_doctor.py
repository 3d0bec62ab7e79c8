"""`unmask doctor`: every family with every backend, and a reason beside each that cannot run."""

import sys

import pytest

from unmask.cli import main
from unmask.cli.doctor import report


def test_every_backend_of_every_family_is_listed() -> None:
    from unmask_kernels import FAMILIES

    lines = list(report())
    for family in FAMILIES.values():
        start = next(i for i, line in enumerate(lines) if line.startswith(f"  {family.name}: "))
        listed = [line.split(":")[0].strip() for line in lines[start + 1 : start + 1 + len(family.backends)]]
        assert listed == list(family.backends)


def test_backend_that_cannot_run_has_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask_kernels import FAMILIES
    from unmask_kernels.dispatch import Backend, Family

    layer_norm = FAMILIES["layer_norm"]
    refusing = Backend(lambda call: [f"width {call.width} on {call.device} is not for me"])
    altered = Family("layer_norm", {**layer_norm.backends, "absent": refusing}, example=layer_norm.example)
    monkeypatch.setitem(FAMILIES, "layer_norm", altered)
    assert "    absent: width 768 on cpu is not for me" in list(report())


def test_missing_package_is_named_with_its_use(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata
    import importlib.util

    found, version = importlib.util.find_spec, importlib.metadata.version

    def without_matplotlib(name: str) -> str:
        if name == "matplotlib":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without_matplotlib)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    assert "  matplotlib: not installed; needed for unmask plot" in list(report())


def test_command_prints_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"python {sys.version.split()[0]} on " in out
    assert "nvcc: " in out
    assert "activations on cpu: " in out
