"""`verify`: the kernels on the GPU at hand, for the shapes of a run.

What has passed is recorded for this machine and chosen there by itself; docs/verifying.md says what is run.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from unmask.config import RunConfig, load_config
from unmask.config.settings import described
from unmask.data.store import Store
from unmask.errors import StoreError, UnmaskError
from unmask.folders import kind_of
from unmask.train.precision import choose_precision
from unmask.train.run_folder import located, saved_config
from unmask.train.store import cache_of
from unmask.train.verification import shapes_of
from unmask_kernels import verify as kernels

__all__ = ["verify"]


def verify(
    config: RunConfig | str | Path | None = None,
    *,
    seconds: float = 120.0,
    operations: Sequence[str] | None = None,
    progress: Callable[[kernels.VerificationProgress], None] | None = None,
) -> kernels.Verification:
    """Run the kernels that a run may choose on the GPU at hand, and record what has passed.

    Example:
        >>> import unmask
        >>> found = unmask.verify("bert-base")  # doctest: +SKIP
        >>> print(*found.lines(), sep="\\n")  # doctest: +SKIP

    Args:
        config: a run's directory, a recipe, a YAML file or a configuration. None: BERT-base.
        seconds: after which what has not been run is left.
        operations: those to verify. None: all.
        progress: is told of each check.
    Returns:
        What was found: `passed`, `failed`, and the `lines` of the table.
    Raises:
        TypeError: `config` is none of these.
        ValueError: there is no such operation.
        RunError: the directory is no run.
        ConfigError: there is no such recipe or file, or a setting is wrong.
        UnmaskError: there is no GPU that can be used; one sentence says why.
    """
    if not (config is None or isinstance(config, RunConfig | str | Path)):
        raise TypeError(
            f"verify: config must be a run, a recipe, a file or a RunConfig, got {described(config)}; pass 'bert-base'"
        )
    settings = _settings_of("bert-base" if config is None else config)
    # the interpreter is the only other place where a kernel runs
    device = torch.device("cpu" if kernels.is_interpreting() else "cuda")
    try:
        kernels.require_device(str(device))
        dtype = choose_precision(settings.train.dtype, device).dtype
        # of the processes of torchrun one verifies; the others wait for it, and find nothing to do
        once = kernels.verify_once if kernels.among_ranks() else kernels.verify
        found = once(
            shapes_of(settings, dtype),
            device=str(device),
            seconds=seconds,
            operations=operations,
            progress=progress,
        )
        return found or kernels.Verification(machine={}, notes=["Verified by another process of this machine."])
    except kernels.CannotVerify as error:
        raise UnmaskError(str(error)) from None


def _settings_of(config: RunConfig | str | Path) -> RunConfig:
    """Return the configuration, with the rows of the token table if the run's store exists."""
    if isinstance(config, RunConfig):
        settings, folder = config, Path(config.run) if config.run is not None else None
    elif kind_of(Path(config)) == "run":
        settings, folder = saved_config(Path(config)), Path(config)
    else:
        settings, folder = load_config(config), None
    if settings.model.vocab_size is not None:
        return settings
    here = settings if folder is None else located(settings, folder)
    for store in (here.data.store, None if folder is None else folder / "store"):
        if store is None:
            continue
        try:
            rows = Store.open(
                store, verify=False, cache=cache_of(here) if store == here.data.store else None
            ).vocab_size
        except (StoreError, OSError):
            continue
        return replace(settings, model=replace(settings.model, vocab_size=rows))
    return settings
