"""Which family an event of the profiler belongs to, and whose time it is."""

from dataclasses import dataclass

import pytest

from unmask.planning.operations import DATA, STEP, Operation, family_of, operations_of, shares_of


@dataclass
class Event:
    name: str
    cpu_parent: "Event | None" = None
    self_cpu_time_total: float = 0.0
    self_device_time_total: float = 0.0


def events() -> list[Event]:
    """A step of 100 microseconds: data, attention with a product in it, a product, an update, and something before."""
    step = Event(STEP, None, 5.0)
    attention = Event("unmask::attention_fwd", step, 10.0)
    linear = Event("aten::linear", step, 1.0)
    update = Event("Optimizer.step#AdamW.step", step, 4.0, 2.0)
    return [
        *(step, attention, linear, update, Event(DATA, step, 10.0)),
        *(Event("aten::bmm", attention, 20.0, 30.0), Event("aten::addmm", linear, 39.0, 40.0)),
        *(Event("aten::mul", update, 6.0, 8.0), Event("aten::sum", step, 5.0, 10.0)),
        Event("aten::randn", None, 1000.0, 1000.0),
    ]


def shares(operations: list[Operation]) -> dict[str, tuple[float, float]]:
    return {one.name: (round(one.share, 4), one.calls) for one in shares_of(operations)}


def test_time_belongs_to_the_outermost_operation_and_adds_up_to_the_step() -> None:
    found = operations_of(events(), steps=1, seconds=1e-4, on_gpu=False)
    assert shares(found) == {
        "products": (0.4, 1),
        "attention": (0.3, 1),
        "data": (0.1, 1),
        "optimizer": (0.1, 1),
        "python": (0.05, 0),
        "other": (0.05, 1),
    }
    assert sum(one.share for one in found) == pytest.approx(1.0)
    assert [(one.name, one.family) for one in found[:2]] == [("aten::addmm", "products"), ("aten::bmm", "attention")]


def test_on_a_gpu_the_time_of_kernels_counts_and_the_rest_is_idle() -> None:
    found = operations_of([*events(), *events()], steps=2, seconds=1.5e-4, on_gpu=True)
    assert shares(found)["attention"] == (0.2, 1)
    assert shares(found)["idle"] == (0.4, 0)
    assert sum(one.share for one in found) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("unmask::attention_bwd", "attention"),
        ("LayerNormBackward", "layer_norm"),
        ("aten::native_layer_norm", "layer_norm"),
        ("unmask::mlm_loss_fwd", "loss"),
        ("unmask::linear_gelu_fwd", "products"),
        ("unmask::gelu_bwd", "gelu"),
        ("aten::mm", "products"),
        ("aten::mm_out_of_nowhere", None),
        ("aten::_foreach_norm", "optimizer"),
        ("aten::add_", None),
    ],
)
def test_a_name_has_its_family(name: str, family: str | None) -> None:
    assert family_of(name) == family
