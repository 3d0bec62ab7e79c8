"""The choices inside Triton backends, tuned under the interpreter, with a clock that says which is the fastest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from unmask_kernels import FAMILIES, using
from unmask_kernels.attention import _triton as kernels
from unmask_kernels.attention import tunables
from unmask_kernels.attention.arguments import BackwardArguments, Gradients
from unmask_kernels.capability import INTERPRETING
from unmask_kernels.dispatch import Pass
from unmask_kernels.linear_gelu.choice import LinearGeluCall
from unmask_kernels.linear_gelu.tunables import TILE
from unmask_kernels.machine_record import this_machine
from unmask_kernels.tune.choices import CHOICES, Choice, contests
from unmask_kernels.tune.record import read_tuning
from unmask_kernels.tune.session import Session
from unmask_kernels.tuned import Key, Tunable
from unmask_kernels.verify.shapes import Shapes

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(not INTERPRETING, reason="a GPU has a clock of its own"),
]

CPU = torch.device("cpu")
# documents of 72 and 8 tokens
SHAPES = Shapes(tokens=80, max_lengths=(72,), num_heads=1, head_dim=32, intermediate_size=16, dtype=torch.float32)


@pytest.fixture(autouse=True)
def _few_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("unmask_kernels.tune.race.MOST_ROUNDS", 2)


def tuned(tunable: Tunable[Any], fast: object, monkeypatch: pytest.MonkeyPatch) -> Session:
    """Tune one choice; calls with the value `fast` take half the time."""
    seen: list[object] = []

    def value(self: Tunable[Any], shape: str, original: Any = Tunable.value) -> Any:
        found = original(self, shape)
        if self is tunable:
            seen.append(found)
        return found

    def clock(call: Callable[[], object]) -> float:
        call()
        return 0.5 if seen[-1] == fast else 1.0

    monkeypatch.setattr(Tunable, "value", value)
    chosen: tuple[Choice, ...] = tuple(choice for choice in CHOICES if choice.tunable is tunable)
    session = Session(device=CPU, minutes=5.0, clock=clock)
    session.hold(list(contests(SHAPES, CPU, chosen)))
    return session


def test_the_bound_of_the_fused_backward_is_compared_timed_and_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    with using("triton"):
        [finding] = tuned(tunables.FUSED_UP_TO, 256, monkeypatch).findings
    assert (finding.best, finding.taken, finding.wrong) == (256, True, ())
    assert read_tuning("cpu").values() == {Key("attention.fused_up_to", "heads of 32, float32, dropout"): 256}
    # the record of the interpreter is not that of the processor
    assert this_machine("cpu").device.startswith("Triton's interpreter on ")


def test_a_kernel_made_wrong_on_purpose_is_reported_and_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def backward(arguments: BackwardArguments, original: Any = kernels.backward) -> Gradients:
        found: Gradients = original(arguments)
        return Gradients(found.dqkv * 1.001) if arguments.fused_up_to == 256 else found

    monkeypatch.setattr(kernels, "backward", backward)
    with using("triton"):
        [finding] = tuned(tunables.FUSED_UP_TO, 256, monkeypatch).findings
    assert not finding.taken
    [sentence] = finding.wrong
    assert sentence.startswith("256: dqkv: ")
    assert read_tuning("cpu").values() == {}


@pytest.mark.parametrize("tunable", [tunables.FUSED_TILE, tunables.FORWARD_TILE, TILE], ids=lambda one: one.name)
def test_tiles_of_the_short_list_are_right(tunable: Tunable[Any]) -> None:
    chosen = tuple(choice for choice in CHOICES if choice.tunable is tunable)
    # in fp32, tiles serve accuracy
    with using("triton"):
        assert list(contests(SHAPES, CPU, chosen)) == []
        [contest] = contests(replace(SHAPES, dtype=torch.float16), CPU, chosen)
        prepared = contest.prepare()
        found = {one.value: one.check() for one in (prepared.default, *prepared.others)}
    assert found == dict.fromkeys(tunable.candidates, "")


def test_the_backend_of_linear_gelu_is_a_choice_once_triton_is_right_here(monkeypatch: pytest.MonkeyPatch) -> None:
    family = FAMILIES["linear_gelu"]
    assert family.fastest is not None
    on_a_cpu = tuple(choice._replace(devices=("cpu",)) for choice in CHOICES if choice.tunable is family.fastest)
    assert list(contests(SHAPES, CPU, on_a_cpu)) == []
    call = LinearGeluCall("cpu", "cpu", torch.float32, "gelu", depth=32, width=16)
    monkeypatch.setattr(family, "passed", (Pass("triton", this_machine("cpu").device, call),))
    [contest] = contests(SHAPES, CPU, on_a_cpu)
    session = Session(device=CPU, minutes=5.0, clock=lambda call: 1.0)
    session.hold([contest])
    [finding] = session.findings
    assert (finding.choice, finding.rounds, finding.wrong) == ("linear_gelu.backend", 2, ())


def test_one_tile_up_to_64_or_128_tokens_is_a_choice_without_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = tuple(choice for choice in CHOICES if choice.tunable is tunables.ONE_TILE_UP_TO)
    shapes = replace(SHAPES, dtype=torch.float16, attention_dropout=0.0)
    rows: list[int] = []
    launch: Any = kernels._launch_short

    def noted(tiles: Any, *rest: Any) -> None:
        rows.append(tiles[-1].rows)
        launch(tiles, *rest)

    monkeypatch.setattr(kernels, "_launch_short", noted)
    with using("triton"):
        assert list(contests(replace(shapes, attention_dropout=0.1), CPU, chosen)) == []
        [contest] = contests(shapes, CPU, chosen)
        prepared = contest.prepare()
        assert [one.check() for one in (prepared.default, *prepared.others)] == ["", ""]
    assert rows == [128, 128, 64, 64]
