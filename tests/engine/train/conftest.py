"""`tiny`: the module of that name beside this file, with its text in the place of a store."""

import importlib.util
import logging
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def _tiny() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("tiny.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _all_messages(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="unmask")


@pytest.fixture
def tiny(_tiny: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr("unmask.train.pretrain.open_store", _tiny.open_text)
    return _tiny


@pytest.fixture(scope="session")
def unbroken(_tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("unmask.train.pretrain.open_store", _tiny.open_text)
        _tiny.pretrain(_tiny.config(run))
    return run
