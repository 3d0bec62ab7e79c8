"""`unmask analyse RUN_OR_STORE [-o FOLDER]`: lengths, packing, masking, burstiness and, for a model, distraction.

A run is looked at as it trains: its own composition, scope and masking, and the attention of its newest checkpoint. A
store has none of these, so a recipe or YAML file says them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from unmask.cli._arguments import read
from unmask.errors import RunError
from unmask.folders import is_store
from unmask.paths import printable

if TYPE_CHECKING:
    from unmask.analysis.distraction import Distraction
    from unmask.analysis.report import Report
    from unmask.batch import PackedBatch
    from unmask.config import RunConfig
    from unmask.train.sources import Sources

__all__ = ["analyse", "run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Describe a corpus as it is composed and masked, and where the attention of a model goes."""

    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_STORE")]
    """Run directory, one of its checkpoints, or a store."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = None
    """Folder for tables and plots; none: analysis in the run directory, or <store>-analysis beside a store."""
    recipe: str | None = None
    """For a store: recipe or YAML file whose lengths, composition and masking are looked at; none: tiny."""
    micro_batches: int = 64
    """Micro-batches to look at."""


def run(arguments: list[str]) -> None:
    """Print the tables and write them with the plots."""
    options = read(Options, prog="unmask analyse", arguments=arguments)
    if options.micro_batches < 1:
        raise ValueError(f"analyse: --micro-batches must be at least 1, got {options.micro_batches}")
    report = analyse(options.path, recipe=options.recipe, micro_batches=options.micro_batches)
    print(report.tables())
    store = is_store(options.path)
    beside = options.path.with_name(f"{options.path.name}-analysis") if store else _run_of(options.path) / "analysis"
    for file in report.write(options.out or beside):
        print(file)


def analyse(
    path: Path, *, recipe: str | None = None, micro_batches: int = 64, say: Callable[[str], None] = print
) -> "Report":
    """Analyse the run, checkpoint or store at `path`.

    Raises:
        RunError: `path` is none of these, or a recipe is given for a run.
    """
    from unmask.analysis.burstiness import exponents
    from unmask.analysis.masks import measure_masks
    from unmask.analysis.packing import describe_lengths, measure_packing, sequences_of, texts_of
    from unmask.analysis.report import Report

    config = _config(path, recipe)
    sources = _open(path, config, say)
    stream = sources.stream(sources.segments[-1])
    batches = list(islice(stream.batches(), micro_batches))
    special = sources.store.special_ids | {f"added {token}": token for token in sources.store.added_special_ids}
    masked = stream.config.masking != "next_token"
    masks = None
    if masked:
        masks = measure_masks(batches, special, similar_words=sources.similar_words)
    documents = {}
    for number, name in enumerate(sources.store.sources):
        lengths = sources.store.lengths[sources.store.source_of == number]
        if lengths.any():
            documents[name] = describe_lengths(lengths)
    return Report(
        title=printable(path.resolve().name),
        documents=documents,
        sequences=describe_lengths(np.concatenate([sequences_of(batch) for batch in batches])),
        packing=measure_packing(batches),
        masks=masks,
        burstiness=exponents(text for batch in batches for text in texts_of(batch, special, masked=masked)),
        distraction=None if is_store(path) else _distraction(path, sources, batches),
    )


def _run_of(path: Path) -> Path:
    """The run directory that a path names, or whose checkpoint it is."""
    run = path.parent.parent if path.parent.name == "checkpoints" else path
    if not (run / "config.yaml").is_file():
        if not path.exists():
            raise RunError(f"analyse: {path} does not exist; give a run, one of its checkpoints, or a store")
        raise RunError(
            f"analyse: {path} must be a run directory (config.yaml), one of its checkpoints, or a store "
            "(manifest.json); unmask prepare makes a store, unmask pretrain a run"
        )
    return run


def _config(path: Path, recipe: str | None) -> "RunConfig":
    from unmask.config import load_config
    from unmask.train.run_folder import saved_config
    from unmask.train.start_folder import located

    if is_store(path):
        return load_config(recipe, {"data": {"store": str(path), "input": [], "tokenizer": None}})
    run = _run_of(path)
    if recipe is not None:
        raise RunError(f"analyse: {run} has its own configuration; leave --recipe {recipe} out")
    return located(saved_config(run), run)


def _open(path: Path, config: "RunConfig", say: Callable[[str], None]) -> "Sources":
    from unmask.train.sources import Sources
    from unmask.train.stores import open_store

    folder = path if is_store(path) else _run_of(path)
    store, tokenizer = open_store(config, folder, say)
    # nothing is counted on a device, and the host makes the same masks
    return Sources(store, tokenizer, replace(config, data=replace(config.data, mask_on="host")))


def _distraction(path: Path, sources: "Sources", batches: "list[PackedBatch]") -> "Distraction | None":
    """Attention of the newest checkpoint on other documents; None while the run has no checkpoint."""
    from unmask.analysis.distraction import measure_distraction, reference_masses
    from unmask.cli._folders import find_model, load_model
    from unmask.data.stream import Stream

    try:
        model, _ = load_model(find_model(path))
    except RunError:
        return None
    sep = sources.store.special_ids["sep"]
    found = measure_distraction(model.encoder, batches, sep_id=sep)
    stream = sources.stream(sources.segments[-1])
    if stream.composition.scope == "sequence" or not stream.composition.joins:
        return found
    # In scope `document` a chunk is no more than an order of documents; the other scope tells how much there is of it.
    joined = Stream(
        sources.store,
        replace(stream.config, composition=replace(stream.composition, scope="sequence")),
        sources.tokenizer.ordinary_ids,
        similar_words=sources.similar_words,
    )
    causal = model.encoder.config.causal
    masses = [
        reference_masses(batch, sep, causal=causal)[: batch.real_tokens]
        for batch in islice(joined.batches(), len(batches))
    ]
    return replace(found, reference=float(np.concatenate(masses).mean()))
