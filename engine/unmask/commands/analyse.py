"""`analyse`: lengths, packing, masking and burstiness of a corpus, and the distraction of a model.

A run is analysed as it trains: with its composition, scope and masking, and the attention of its newest checkpoint. A
store is analysed as `pretrain` would train on it with the recipe or YAML file and the settings that are given.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from unmask.analysis.burstiness import exponents
from unmask.analysis.distraction import Distraction, measure_distraction, reference_masses
from unmask.analysis.masks import measure_masks
from unmask.analysis.packing import describe_lengths, measure_packing, sequences_of, texts_of
from unmask.analysis.report import Report
from unmask.batch import PackedBatch
from unmask.commands.load_model import load_model
from unmask.config import RunConfig, load_config
from unmask.config.settings import check_argument
from unmask.data.stream import Stream
from unmask.data.text.remote import shown
from unmask.errors import RunError
from unmask.folders import is_store
from unmask.interop.find_model import find_model
from unmask.model import Encoder
from unmask.paths import address_of, printable
from unmask.train.data import RunData
from unmask.train.run_folder import located, saved_config
from unmask.train.store import open_store

__all__ = ["analyse", "beside"]

_log = logging.getLogger(__name__)


def analyse(
    run_or_store: str | os.PathLike[str],
    *,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    micro_batches: int = 64,
) -> Report:
    """Describe a corpus as it is composed and masked, and where the attention of a model goes.

    Example:
        >>> import unmask
        >>> report = unmask.analyse("store", settings={"masking.rate": 0.3}, micro_batches=2)
        >>> round(report.masks.rate, 1)
        0.3
        >>> files = report.write("store-analysis")  # tables and plots

    Args:
        run_or_store: a run, one of its checkpoints, or a store.
        recipe: for a store: recipe or YAML file. Default: `tiny`.
        settings: for a store: settings laid over the recipe, as for `load_config`.
        micro_batches: number of micro-batches to analyse.
    Raises:
        RunError: `run_or_store` is none of these, or a recipe or setting is given for a run.
        ConfigError: no run could have these settings.
    """
    check_argument("analyse", "micro_batches", int, micro_batches, ge=1)
    path = Path(run_or_store)
    if (address := address_of(path)) is not None:
        raise RunError(
            f"analyse: {shown(address)} is on another machine; analyse a run over it, or copy the store to this "
            "machine and give its folder"
        )
    config = _config(path, recipe, settings or {})
    data = _open(path, config)
    stream = data.stream(data.phases[-1])
    batches = list(islice(stream.batches(), micro_batches))
    special = data.store.special_ids | {f"added {token}": token for token in data.store.added_special_ids}
    masked = data.masks_text and stream.masking != "next_token"
    unigram = data.unigram()
    if unigram is not None and unigram.counted < unigram.total:
        _log.info(str(unigram))
    masks = None
    if masked:
        masks = measure_masks(batches, special, similar_words=data.similar_words)
    held_out = data.sources("held_out")
    documents = {}
    for number, name in enumerate(data.store.sources):
        lengths = data.store.lengths[data.store.source_of == number]
        if lengths.any():
            documents[name] = describe_lengths(lengths)
    return Report(
        title=printable(path.resolve().name),
        documents=documents,
        sequences=describe_lengths(np.concatenate([sequences_of(batch) for batch in batches])),
        packing=measure_packing(batches),
        masks=masks,
        burstiness=exponents(text for batch in batches for text in texts_of(batch, special, masked=masked)),
        distraction=None if is_store(path) else _distraction(path, data, batches),
        unigram_loss=None if unigram is None else unigram.loss,
        held_out_documents=sum(source.documents.size for source in held_out),
        held_out_tokens=sum(source.lengths.tokens for source in held_out),
    )


def beside(run_or_store: Path) -> Path:
    """Return the folder that the command writes to by itself: in the run, or beside the store."""
    if is_store(run_or_store):
        return run_or_store.with_name(f"{run_or_store.name}-analysis")
    return _run_of(run_or_store) / "analysis"


def _run_of(path: Path) -> Path:
    """Return the run directory of `path`, which is the directory or one of its checkpoints."""
    run = path.parent.parent if path.parent.name == "checkpoints" else path
    if not (run / "config.yaml").is_file():
        if not path.exists():
            raise RunError(f"analyse: {path} does not exist; give a run, one of its checkpoints, or a store")
        raise RunError(
            f"analyse: {path} must be a run directory (config.yaml), one of its checkpoints, or a store "
            "(manifest.json); unmask prepare makes a store, unmask pretrain a run"
        )
    return run


def _config(path: Path, recipe: str | Path | None, settings: Mapping[str, Any]) -> RunConfig:
    if is_store(path):
        if "data.store" in settings:
            raise RunError(f"analyse: {path} is the store to analyse; leave --data.store out")
        return load_config(recipe, {"data": {"input": [], "tokenizer": None}, **settings, "data.store": str(path)})
    run = _run_of(path)
    if recipe is not None:
        raise RunError(f"analyse: {run} has its own configuration; leave --recipe {recipe} out")
    if settings:
        raise RunError(f"analyse: {run} has its own configuration; leave --{next(iter(settings))} out")
    return located(saved_config(run), run)


def _open(path: Path, config: RunConfig) -> RunData:
    folder = path if is_store(path) else _run_of(path)
    store, tokenizer = open_store(config, folder)
    # The host makes the masks that the device would make, and this analysis runs on the host.
    return RunData(store, tokenizer, replace(config, masking=replace(config.masking, place="host")))


def _distraction(path: Path, data: RunData, batches: list[PackedBatch]) -> Distraction | None:
    """Return the attention of the newest checkpoint on other documents; None if the run has no checkpoint."""
    try:
        folder = find_model(path)
    except RunError:
        return None
    encoder = load_model(folder)[0].encoder if data.masks_text else Encoder.from_pretrained(folder)
    sep = data.store.special_ids["sep"]
    found = measure_distraction(encoder, batches, sep_id=sep)
    stream = data.stream(data.phases[-1])
    if stream.composition.scope == "sequence" or not stream.composition.joins:
        return found
    # In scope `document` no token attends to another document, so the reference comes from scope `sequence`.
    joined = Stream(
        data.store,
        stream.config,
        data.tokenizer.ordinary_ids,
        composition=replace(stream.composition, scope="sequence"),
        masking=stream.masking,
        pair_task=stream.pair_task,
        seed=data.phases[-1].seed,
        similar_words=data.similar_words,
    )
    causal = encoder.config.causal
    masses = [
        reference_masses(batch, sep, causal=causal)[: batch.real_tokens]
        for batch in islice(joined.batches(), len(batches))
    ]
    return replace(found, reference=float(np.concatenate(masses).mean()))
