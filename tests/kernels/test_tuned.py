"""Values that a tuning changes: defaults, what is in effect, and that compiled code follows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from threading import Thread

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd

from unmask_kernels import FAMILIES, attention, linear_gelu
from unmask_kernels.dispatch import Backend
from unmask_kernels.testing import contracts
from unmask_kernels.testing.attention import attention_case
from unmask_kernels.testing.inputs import Inputs
from unmask_kernels.testing.linear_gelu import linear_gelu_case
from unmask_kernels.tuned import Key, Tunable, from_text, in_effect, to_text, tunables, using_values

SHAPE = "heads of 64, float32"


@pytest.fixture
def block() -> Iterator[Tunable[int]]:
    yield Tunable("stand_in.block", 64, 32, 128)
    del tunables["stand_in.block"]


def test_a_value_is_the_default_unless_another_one_is_in_effect_for_that_shape(block: Tunable[int]) -> None:
    assert block.value(SHAPE) == 64
    with using_values({Key(block.name, SHAPE): 32}):
        assert (block.value(SHAPE), block.value("heads of 32, float32")) == (32, 64)
        with using_values({Key(block.name, SHAPE): 128}):
            assert block.value(SHAPE) == 128
        assert block.value(SHAPE) == 32
    assert block.value(SHAPE) == 64


def test_a_value_is_in_effect_in_every_thread(block: Tunable[int]) -> None:
    seen: list[int] = []
    with using_values({Key(block.name, SHAPE): 32}):
        thread = Thread(target=lambda: seen.append(block.value(SHAPE)))
        thread.start()
        thread.join()
    assert seen == [32]


def test_only_what_differs_from_a_default_is_in_effect_and_goes_into_a_checkpoint(block: Tunable[int]) -> None:
    with using_values({Key(block.name, SHAPE): 32, Key(block.name, "other"): 64}):
        assert in_effect() == {Key(block.name, SHAPE): 32}
        text = to_text(in_effect())
    assert text == {"stand_in.block: heads of 64, float32": 32}
    assert from_text(text) == {Key(block.name, SHAPE): 32}


def test_what_a_checkpoint_of_another_version_names_is_left_out(block: Tunable[int]) -> None:
    assert from_text({"gone.block: a": 32, "stand_in.block: a": 33, "stand_in.block: b": "32", "odd": 1}) == {}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (Key("stand_in.blok", "a"), 32, "nothing is named 'stand_in.blok' to be tuned; leave it out"),
        (Key("stand_in.block", "a"), 33, "stand_in.block must be one of 64, 32, 128, got 33; leave it out, and the "),
        (Key("stand_in.block", "a"), True, "stand_in.block must be one of 64, 32, 128, got True"),
    ],
)
def test_a_value_that_is_no_candidate_is_refused(block: Tunable[int], key: Key, value: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^using_values: {message}"), using_values({key: value}):
        pass
    # the way out
    with using_values({}):
        assert block.value("a") == 64


def test_compiled_code_traces_through_a_value_and_follows_it(block: Tunable[int]) -> None:
    def scaled(x: Tensor) -> Tensor:
        dtype = str(x.dtype).removeprefix("torch.")
        return x * block.value(f"heads of {x.shape[1]}, {dtype}")

    torch._dynamo.reset()
    compiled = torch.compile(scaled, fullgraph=True, backend="eager")
    x = torch.ones(3, 64)
    assert compiled(x)[0, 0] == 64
    with using_values({Key(block.name, SHAPE): 32}):
        assert compiled(x)[0, 0] == 32
        assert compiled(torch.ones(3, 32))[0, 0] == 64
    assert compiled(x)[0, 0] == 64


class Traced(Exception):
    """A graph is there, and need not run."""


def traced(function: Callable[..., Tensor], inputs: Inputs) -> list[tuple[str, tuple[object, ...]]]:
    """The operations of the graph of a call, as (name, arguments)."""
    seen: list[tuple[str, tuple[object, ...]]] = []

    def note(graph: torch.fx.GraphModule, example: object) -> Callable[..., object]:
        seen.extend((str(node.target), node.args) for node in graph.graph.nodes if node.op == "call_function")
        return stop

    def stop(*tensors: object) -> object:
        raise Traced

    def forward(*tensors: Tensor) -> Tensor:
        return function(**(inputs.arguments | dict(zip(inputs.differentiable, tensors, strict=True))))

    torch._dynamo.reset()
    with torch.no_grad(), pytest.raises(Traced):
        torch.compile(forward, fullgraph=True, backend=aot_autograd(fw_compiler=note))(
            *(inputs.arguments[name] for name in inputs.differentiable)
        )
    return seen


def test_a_graph_of_attention_is_compiled_for_the_values_in_effect() -> None:
    inputs = attention_case("here", [70, 9], heads=1, head_dim=32, p=0.1).make(torch.float32)
    here = "heads of 32, float32, dropout"
    values = {Key("attention.fused_up_to", here): 128, Key("attention.bitmask_up_to", here): 256}
    for given, expected in (({}, (512, 512)), (values, (128, 256))):
        with using_values(given):
            contracts.full_graph(partial(attention, backend="torch"), inputs, inputs)
            [arguments] = [args for name, args in traced(attention, inputs) if "attention_fwd" in name]
        assert arguments[-3:-1] == expected


def test_a_graph_of_linear_gelu_has_the_backend_that_was_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    backends = FAMILIES["linear_gelu"].backends
    # a stand-in: right on this machine, but not chosen unless it is faster, too
    monkeypatch.setitem(backends, "triton", Backend(verified=(), must_win=True))
    monkeypatch.setattr(FAMILIES["linear_gelu"], "has_passed", lambda name, call: name == "triton")
    inputs = linear_gelu_case(5, 8, 12).make(torch.float32)
    faster = {Key("linear_gelu.backend", "8 to 12, gelu, float32"): "triton"}
    assert not any("linear_gelu_fwd" in name for name, _ in traced(linear_gelu, inputs))
    with using_values(faster):
        [arguments] = [args for name, args in traced(linear_gelu, inputs) if "linear_gelu_fwd" in name]
        assert arguments[-1] == "triton"
    # one that is wrong here is not chosen, whatever its speed
    monkeypatch.setattr(FAMILIES["linear_gelu"], "has_passed", lambda name, call: False)
    with using_values(faster):
        assert not any("linear_gelu_fwd" in name for name, _ in traced(linear_gelu, inputs))


@pytest.mark.parametrize("name", ["attention", "linear_gelu"])
def test_the_reference_is_no_backend_that_a_tuning_takes(name: str) -> None:
    """The compiler cannot trace that of attention, so it would break a full graph."""
    tunable = FAMILIES[name].fastest
    assert tunable is not None
    told = (
        f"using_values: {name}.backend must be one of first, .*, got 'reference'; leave it out, and the default first"
    )
    with pytest.raises(ValueError, match=told), using_values({Key(tunable.name, "heads of 8, float32"): "reference"}):
        pass
    # the way out
    inputs = attention_case("here", [5, 9], heads=1, head_dim=8).make(torch.float32)
    with using_values({}):
        assert any("attention_fwd" in node for node, _ in traced(attention, inputs))
