"""`tune`: measure the choices that only this machine can make, at the sizes of a run, and keep what was found.

The operations' choices are those of `unmask_kernels.tune`. On a CPU the number of threads is measured too, by a whole
training step. It is only advice: nothing sets it by itself, because it changes the order of sums, and because the best
number depends on what else runs.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from unmask.batch import PackedBatch, assemble
from unmask.config import EncoderConfig, RunConfig, load_config
from unmask.config.settings import check_argument
from unmask.model import PretrainingModel
from unmask.objectives import build_objectives
from unmask.train.optim import build_optimizer
from unmask.train.precision import choose_precision
from unmask.train.step import TrainingStep
from unmask.train.threads import step_shape, usable_cores
from unmask.train.verification import shapes_of
from unmask_kernels import using
from unmask_kernels.tune.calls import document_lengths
from unmask_kernels.tune.choices import contests
from unmask_kernels.tune.contest import Contest, Contestant, Prepared
from unmask_kernels.tune.finding import Finding
from unmask_kernels.tune.session import Session, TuningProgress
from unmask_kernels.tuned import Key
from unmask_kernels.verify.shapes import Shapes

__all__ = ["hold_contests", "tune", "tuning_of"]

_log = logging.getLogger(__name__)

_MINUTES = {"cuda": 2.0, "cpu": 5.0}
# a CPU takes seconds for a step of these
_MOST_TOKENS_ON_A_CPU = 2048
_MOST_LAYERS = 2
_MASKED = 0.15
# relative: a sum of fp32 numbers in another order, and of bf16 numbers
_AGREEMENT = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def tune(
    recipe_or_yaml: str = "bert-base",
    settings: Mapping[str, Any] | None = None,
    *,
    minutes: float | None = None,
    again: bool = False,
) -> list[Finding]:
    """Measure the choices that only this machine can make, and keep them in the user's cache.

    Runs on this machine use what is taken from then on.

    Example:
        >>> import unmask
        >>> findings = unmask.tune("tiny", minutes=0.5)
        >>> [finding.choice for finding in findings if finding.taken]  # doctest: +SKIP
        ['attention.scores']

    Args:
        recipe_or_yaml: recipe or YAML file with the sizes of the model, the lengths and the micro-batches.
        settings: settings laid over the recipe, as for `load_config`.
        minutes: after which no further choice is measured. Default: 2 on a GPU, 5 on a CPU.
        again: whether to measure also what is recorded already.
    Returns:
        One finding for each choice and shape.
    Raises:
        ConfigError: a setting is wrong.
    """
    if minutes is not None:
        check_argument("tune", "minutes", float, minutes, gt=0)
    config = load_config(recipe_or_yaml, settings)
    session = tuning_of(config, minutes=minutes, again=again)
    hold_contests(session, config)
    if session.not_recorded:
        _log.warning(session.not_recorded)
    return session.findings


def tuning_of(
    config: RunConfig,
    *,
    minutes: float | None = None,
    again: bool = False,
    tell: Callable[[TuningProgress], None] = lambda progress: None,
) -> Session:
    """Return a tuning for the device that a run of `config` would have; nothing is measured yet."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Session(device=device, minutes=minutes or _MINUTES[device.type], again=again, tell=tell)


def hold_contests(session: Session, config: RunConfig) -> None:
    """Measure what can be chosen for runs of `config`, with the backends that it names."""
    device = session.device
    shapes = _shapes(config, device)
    with using(**config.kernels.named()):
        found = list(contests(shapes, device))
        if device.type == "cpu":
            found += _thread_contest(config, shapes)
        session.hold(found)


def _shapes(config: RunConfig, device: torch.device) -> Shapes:
    """Return the sizes of a micro-batch of a run; on a CPU of fewer tokens."""
    tokens = config.stream.micro_batch_tokens
    shapes = shapes_of(config, choose_precision(config.train.dtype, device).dtype)
    return replace(shapes, tokens=tokens if device.type == "cuda" else min(tokens, _MOST_TOKENS_ON_A_CPU))


def _thread_contest(config: RunConfig, shapes: Shapes) -> list[Contest]:
    """Return the contest of thread counts; none where there is one core, or the configuration names a number."""
    default, cores = torch.get_num_threads(), int(usable_cores())
    counts = sorted({1, *(1 << power for power in range(1, cores.bit_length())), cores} - {default})
    counts = [count for count in counts if count <= cores]
    if config.train.threads is not None or not counts:
        return []
    layers = min(config.model.num_layers, _MOST_LAYERS)
    return [
        Contest(
            key=Key("train.threads", step_shape(config.model, shapes.dtype)),
            measured=f"a training step of {layers} layers on {shapes.tokens} tokens",
            default=default,
            prepare=lambda: _prepare_steps(config, shapes, layers, default, counts),
            advice=True,
        )
    ]


def _prepare_steps(config: RunConfig, shapes: Shapes, layers: int, default: int, counts: list[int]) -> Prepared:
    vocab_size = config.model.vocab_size or config.data.vocab_size
    encoder = replace(config.model, num_layers=layers, vocab_size=vocab_size, causal=False)
    model = PretrainingModel(encoder, compute_dtype=shapes.dtype, seed=config.seed)
    step = TrainingStep(
        model=model, objectives=build_objectives({"mlm": 1.0}), optimizer=build_optimizer(model, config.optimizer)
    )
    batch = _batch(encoder, shapes)

    def results(count: int) -> dict[str, torch.Tensor]:
        with _threads(count):
            step.optimizer.zero_grad(set_to_none=True)
            _, sums, _ = step.accumulate([batch])
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            return {"loss": sums, "gradient norm": torch.nn.utils.get_total_norm(gradients)}

    # the weights change with each step that is timed, so the comparison comes first, as for every choice
    truth = results(default)

    def check(count: int) -> str:
        for name, value in results(count).items():
            apart = float((value - truth[name]).abs().max() / truth[name].abs().max())
            if not apart <= _AGREEMENT[shapes.dtype]:
                return f"its {name} is {apart:.2g} of it away from that with {default} threads"
        return ""

    def run(count: int) -> None:
        with _threads(count):
            step([batch])

    def contestant(count: int) -> Contestant:
        return Contestant(count, lambda: run(count), lambda: check(count), lambda: results(count))

    return Prepared(contestant(default), [contestant(count) for count in counts])


def _batch(encoder: EncoderConfig, shapes: Shapes) -> PackedBatch:
    """Return a micro-batch of random ids with masked tokens."""
    random = np.random.Generator(np.random.PCG64(0))
    lengths = np.array(document_lengths(shapes.tokens, shapes.max_length))
    ids = random.integers(encoder.token_rows, size=shapes.tokens)
    masked = np.flatnonzero(random.random(shapes.tokens) < _MASKED)
    return assemble(
        ids,
        lengths,
        keys=np.arange(len(lengths), dtype=np.int64),
        tokens=shapes.tokens,
        sequences=len(lengths),
        max_seqlen=shapes.max_length,
        masked=masked,
        labels=ids[masked],
    )


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
