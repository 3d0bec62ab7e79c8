"""The loss curve of a whole run, from text to the last step, is the recorded one."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

_PATH = Path(__file__).parents[1] / "golden" / "curve.py"
_SPEC = importlib.util.spec_from_file_location("golden_curve", _PATH)
assert _SPEC is not None
assert _SPEC.loader is not None
golden = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(golden)


def test_the_golden_run_has_the_recorded_losses(tmp_path: Path) -> None:
    recorded = json.loads(golden.RECORD.read_text())
    assert len(recorded) == golden.SETTINGS["train"]["steps"]
    assert recorded[-1] < recorded[0] - 0.5
    assert golden.losses(tmp_path) == pytest.approx(recorded, abs=2e-4), (
        "the numbers of a run have changed; if that is meant, record them with `python tests/golden/curve.py`"
    )
