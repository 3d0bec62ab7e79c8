"""A kernel that nobody has verified, on a CPU in the place of a GPU: gelu's backend "young" is in truth PyTorch's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unmask_kernels import FAMILIES, capability, passes
from unmask_kernels.dispatch import Backend
from unmask_kernels.verify import session


def put_in(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Give gelu the backend, with no record, and keep records in `folder`."""
    monkeypatch.setenv("UNMASK_CACHE", str(folder / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr(capability, "INTERPRETING", True)
    # names of devices that were found before
    monkeypatch.setattr(capability, "_names", {})
    monkeypatch.setattr(passes, "_kept_here", [])
    monkeypatch.setattr(session._Session, "run_apart", session._Session.run_here)
    for name, family in FAMILIES.items():
        plain = {each: backend for each, backend in family.backends.items() if each in ("torch", "reference")}
        young = {"young": Backend(verified=())} if name == "gelu" else {}
        monkeypatch.setattr(family, "backends", {**young, **plain})
        monkeypatch.setattr(family, "_modules", {**family._modules, "young": family.module("torch")})
        monkeypatch.setattr(family, "passed", ())
        monkeypatch.setattr(family, "failed", ())


def spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the backend wrong."""
    right: Any = FAMILIES["gelu"].module("torch")

    class Wrong:
        backward = staticmethod(right.backward)

        @staticmethod
        def forward(arguments: Any) -> Any:
            return right.forward(arguments)._replace(y=right.forward(arguments).y + 1)

    monkeypatch.setitem(FAMILIES["gelu"]._modules, "young", Wrong)  # type: ignore[misc]
