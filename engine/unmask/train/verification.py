"""The kernels of a run on the GPU at hand: whether they are verified there, and verifying them before the first step.

    kernels.verify   a GPU without a record                        a record of a failure
    tell             one line says so, with the command            one line
    auto             verifies, at most two minutes, then trains    one line
    never            trains                                        trains
    require          verifies, and trains if everything passes     refuses to train

What has not passed is not chosen: PyTorch's own operations run in its place.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from unmask.config import EncoderConfig, RunConfig
from unmask.errors import RunError
from unmask_kernels import FAMILIES
from unmask_kernels.verify import CannotVerify, Shapes, Verification, VerificationProgress, standing, verify_once

__all__ = ["prepare_kernels", "shapes_of"]

_log = logging.getLogger(__name__)

_BERT_VOCABULARY = 30522


def shapes_of(config: RunConfig, dtype: torch.dtype, model: EncoderConfig | None = None) -> Shapes:
    """Return the sizes with which a run calls the operations.

    Args:
        config: of the run.
        dtype: of activations.
        model: sizes with those that the run takes from its tokenizer. Default: `config.model`.
    """
    model = model or config.model
    lengths = [phase.max_length for phase in config.train.phases] or [config.stream.max_length]
    return Shapes(
        dtype=dtype,
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        head_dim=model.head_dim,
        intermediate_size=model.intermediate_size,
        vocab_size=model.vocab_size or _BERT_VOCABULARY,
        num_segments=model.num_segments,
        activation=model.activation,
        causal=model.causal,
        windows=tuple(dict.fromkeys(model.window(layer) for layer in range(model.num_layers))),
        hidden_dropout=model.hidden_dropout,
        attention_dropout=model.attention_dropout,
        max_lengths=tuple(dict.fromkeys(lengths)),
    )


def prepare_kernels(
    config: RunConfig,
    shapes: Shapes,
    device: torch.device,
    run: Path,
    progress: Callable[[VerificationProgress], None] | None = None,
) -> None:
    """Do what `kernels.verify` asks for, before the first step.

    Args:
        config: of the run.
        shapes: of its calls.
        device: on which it trains.
        run: its directory, for the message.
        progress: is told of each check.
    Raises:
        RunError: `kernels.verify` is require, and something has not passed.
    """
    mode = config.kernels.verify
    # a backend that is named runs, verified or not; without a teacher no loss of distill runs
    operations = [name for name in FAMILIES if name not in config.kernels.named() and name != "distill"]
    known = standing(shapes, str(device), operations)
    if known == "nothing to verify" and mode != "tell":
        _log.info(f"kernels: kernels.verify is {mode}, and there is nothing to verify on {device}")
    if mode == "never" or known in ("verified", "nothing to verify"):
        return
    command = f"unmask verify {run}"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this device"
    if mode == "tell":
        instead = f"on {name} for the shapes of this run, so PyTorch's operations run in their place"
        if known == "failed":
            # a run does not try again what has failed
            _log.warning(f"kernels: some have failed {instead}; `{command}` runs them again and shows what is wrong")
        else:
            _log.warning(
                f"kernels: some are not verified {instead}; `{command}` verifies them in at most two minutes, or "
                "--kernels.verify auto in the next run"
            )
        return
    problem = ""
    if known == "unknown":
        _log.info(f"kernels: verifying those of this run on {name}, for at most two minutes")
    try:
        found = verify_once(shapes, device=str(device), operations=operations, progress=progress)
        if found is not None:
            _tell(found)
    except CannotVerify as error:
        problem = str(error)
    known = standing(shapes, str(device), operations)
    if known == "verified":
        return
    problem = problem or "some have failed" if known == "failed" else problem or "some were not run"
    if mode == "require":
        raise RunError(
            f"kernels: kernels.verify is require, but not everything has passed on this machine ({problem}); "
            f"train with --kernels.verify auto, which takes what has passed, and `{command}` then shows what has not"
        )
    _log.warning(f"kernels: PyTorch's operations run in place of what has not passed ({problem}); `{command}` shows it")


def _tell(found: Verification) -> None:
    passed = ", ".join(dict.fromkeys(f"{one.family} {one.backend}" for one in found.passed)) or "nothing"
    _log.info(f"kernels: verified in {found.seconds:.0f} s: {passed}")
    for line in list(found.lines())[1 + len({(one.family, one.backend) for one in found.outcomes}) :]:
        _log.warning(f"kernels: {line}")
