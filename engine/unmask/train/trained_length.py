"""The longest sequence that a model was trained on, which may be shorter than its position table.

A position that no sequence reached has the random numbers of a new model. With `stream.max_length` 128 and
`model.max_positions` 512, these are the positions from 128 on. Only a run says what it read; an exported folder has it
in its card.
"""

import json
from contextlib import suppress

from unmask.errors import CheckpointError, ConfigError, RunError
from unmask.interop.find_model import ModelFolder
from unmask.train.checkpoint.state import load_facts
from unmask.train.run_folder import saved_config

__all__ = ["INITIAL", "trained_length"]

INITIAL = "initial.json"
"""The file of a run that says what it started from."""


def trained_length(found: ModelFolder) -> int | None:
    """Return the maximum length of the sequences that a model was trained on, [CLS] and [SEP] included.

    Of a run with phases, those up to the checkpoint count. Of a run that started from another model, that model's
    sequences count too.

    Returns:
        The length; None if no run says it.
    """
    if found.run is None:
        return None
    try:
        config = saved_config(found.run)
    except (ConfigError, RunError):
        return None
    lengths = [phase.max_length for phase in config.train.phases] or [config.stream.max_length]
    with suppress(CheckpointError):
        facts = load_facts(found.path / "training")
        # at index 0 the phase begins with the next step
        lengths = lengths[: max(1, facts.phase + (facts.index > 0))]
    if config.init.from_ is None:
        return max(lengths)
    with suppress(OSError, ValueError, AttributeError):
        before = json.loads((found.run / INITIAL).read_text("utf-8")).get("trained_length")
        return max(before, *lengths) if isinstance(before, int) else None
    return None
