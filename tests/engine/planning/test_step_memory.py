import torch

from unmask.config import load_config
from unmask.planning.step_memory import StepMemory, Trace, example_batch, trace_step

SIZES = {
    "model.num_layers": 3,
    "model.hidden_size": 64,
    "model.num_heads": 2,
    "model.intermediate_size": 128,
    "model.vocab_size": 500,
    "stream.max_length": 64,
    "model.max_positions": 64,
    "stream.micro_batch_tokens": 512,
    "train.tokens_per_step": 512,
}


def traced(changes: dict[str, object] | None = None, dtype: torch.dtype = torch.float32) -> StepMemory:
    config = load_config(None, SIZES | (changes or {}))
    tokens = config.stream.micro_batch_tokens
    return trace_step(config, config.model, example_batch(config, config.model, [64] * (tokens // 64)), dtype=dtype)


def test_storage_is_counted_once_and_until_it_is_let_go() -> None:
    with Trace() as trace:
        a = torch.empty(100)
        view = a[:50].add_(1.0)
        b = a + 1.0
        del a
        c = torch.empty(25)
        del view
        del b
    assert [change.size for change in trace.changes] == [400, 400, 100, -400, -400]
    assert trace.fullest() == 3
    assert sum(trace.alive(3).values()) == 900
    assert list(trace.alive().values()) == [100]
    assert c.numel() == 25


def test_the_parts_are_those_that_can_be_counted_by_hand() -> None:
    found = traced()
    parameters = 500 * 64 + 64 * 64 + 2 * 64 + 2 * 64  # tables and their norm
    parameters += 3 * (4 * (64 * 64 + 64) + 64 * 128 + 128 + 128 * 64 + 64 + 4 * 64)
    parameters += 64 * 64 + 64 + 2 * 64 + 500  # the MLM head
    assert found.weights == 4 * parameters + 8  # and the seed of dropout
    assert found.optimizer == 8 * parameters
    # a layer keeps at least its input, q, k and v, the attended rows, the inputs of both norms and of the activation
    assert found.activations > 3 * 4 * 512 * (64 * 7 + 128)
    assert found.total == sum(found)


def test_gradients_of_earlier_micro_batches_are_there_from_the_beginning() -> None:
    one, several = traced(), traced({"train.tokens_per_step": 2048})
    assert one.gradients < one.weights
    assert several.gradients == several.weights - 8
    assert several.activations == one.activations


def test_memory_grows_with_tokens_and_shrinks_with_checkpointing_and_bf16() -> None:
    one = traced()
    twice = traced({"stream.micro_batch_tokens": 1024, "train.tokens_per_step": 1024})
    assert 1.9 * one.activations < twice.activations < 2.1 * one.activations
    again = traced({"train.activation_checkpointing": True})
    assert again.activations < 0.5 * one.activations
    assert again.total < one.total
    assert traced(dtype=torch.bfloat16).activations < 0.75 * one.activations


def test_what_the_optimizer_keeps_is_counted() -> None:
    matrices = 3 * (4 * 64 * 64 + 2 * 64 * 128)
    assert traced({"optimizer.name": "muon"}).optimizer == traced().optimizer - 4 * matrices


def test_every_objective_can_be_traced() -> None:
    pairs = {"composition.strategy": "pairs", "objective.sop": 1.0}
    causal = {"objective.mlm": 0.0, "objective.clm": 1.0, "model.causal": True}
    assert traced(pairs).total > 0
    # every token is predicted, not 15 % of them
    assert traced(causal).activations > traced().activations
