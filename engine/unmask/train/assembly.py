"""From a configuration to the parts of a run: device, model, objectives, data."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from unmask.config import RunConfig
from unmask.model import EncoderConfig, PretrainingModel
from unmask.objectives import Objective, build_objectives
from unmask.train.precision import choose_precision
from unmask.train.sources import Sources
from unmask.train.stores import open_store

__all__ = ["Parts", "assemble"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What a trainer works with; replace one to try another.

    Fields: device; model with its heads, on that device; (objective, weight) pairs; sources of batches.
    """

    device: torch.device
    model: PretrainingModel
    objectives: Sequence[tuple[Objective, float]]
    sources: Sources


def assemble(config: RunConfig, run: Path, say: Callable[[str], None]) -> Parts:
    """Build every part of the run that lives in `run`; prepares the text when no store exists yet."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    store, tokenizer = open_store(config, run, say)
    sources = Sources(store, tokenizer, config, composed=run / "composed")
    stream = sources.stream(sources.segments[0])
    epoch_tokens = stream.tokens_per_epoch
    epochs = config.train.steps * config.train.tokens_per_step / epoch_tokens
    say(f"data: {epoch_tokens:,} tokens to train on, about {epochs:,.1f} epochs in {config.train.steps:,} steps")
    say(f"data: {stream.composition.describe(store.sources)}")
    if sources.similar_words is not None:
        say(f"similar words: {sources.similar_words.coverage}")
    precision = choose_precision(config.train.dtype, device)
    weights = {name: weight for name, weight in asdict(config.objective).items() if weight > 0}
    encoder = EncoderConfig(vocab_size=sources.store.vocab_size, **asdict(config.model))
    objectives = build_objectives(weights)
    heads = sorted({"mlm", *(head for objective, _ in objectives for head in objective.heads)})
    model = PretrainingModel(encoder, heads=heads, compute_dtype=precision.dtype, seed=config.seed).to(device)
    size = sum(p.numel() for p in model.parameters())
    say(f"model: {size:,} parameters on {device}, activations in {str(precision.dtype)[6:]} ({precision.reason})")
    return Parts(device=device, model=model, objectives=objectives, sources=sources)
