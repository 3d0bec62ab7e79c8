"""`report`: one HTML page about a run, of pre-training or of fine-tuning, that needs no other file and no network."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from unmask.analysis.masks import MaskStatistics, measure_masks
from unmask.batch import PackedBatch
from unmask.commands.load_model import load_model
from unmask.config import RunConfig, to_mapping
from unmask.config.mappings import flat
from unmask.data.compose import describe_composition
from unmask.errors import RunError, UnmaskError
from unmask.folders import FINETUNE
from unmask.interop.checkpoint_folder import newest_whole
from unmask.interop.find_model import find_model
from unmask.paths import printable
from unmask.reporting.page import cards, facts_list, page, section
from unmask.reporting.samples import samples_of
from unmask.reporting.sections import (
    cell_text,
    curves_section,
    evaluation_section,
    object_in,
    samples_section,
    settings_section,
    speed_section,
    spikes_section,
)
from unmask.tasks.config import FinetuneConfig
from unmask.tasks.finetune import SCORES, saved_finetune_config
from unmask.train.data import RunData
from unmask.train.logging.log import read_evaluations, read_log
from unmask.train.run_folder import located, not_written, saved_config
from unmask.train.spikes import read_spikes
from unmask.train.store import open_store

__all__ = ["report"]

_log = logging.getLogger(__name__)

_SAMPLES = 6


def report(run: str | Path, *, out: str | Path | None = None) -> Path:
    """Write an HTML page about a run, and return where it is.

    It has the curves, the evaluations, the speed, the settings and where the state comes from. For a run of
    pre-training whose text is there, it also has the data, the masks and what the model predicts for held-out text.

    Example:
        >>> import unmask
        >>> file = unmask.report("runs/mine")
        >>> file.name
        'report.html'

    Args:
        run: directory of the run.
        out: file to write. Default: `report.html` in the run directory.
    Raises:
        RunError: there is no run, or nothing was logged yet, or the page cannot be written.
        ConfigError: the saved settings were altered.
    """
    folder = Path(run)
    if not any((folder / name).is_file() for name in ("config.yaml", FINETUNE)):
        lacks = f"has neither config.yaml nor {FINETUNE}" if folder.exists() else "does not exist"
        raise RunError(f"report: {folder} {lacks}; give the directory of a run")
    rows, evaluations = (read_log(folder) if (folder / "log.jsonl").is_file() else []), read_evaluations(folder)
    if not rows and not evaluations:
        raise RunError(f"report: {folder} has no logged step yet; wait for the first, after train.log_every steps")
    title = printable(folder.absolute().name)
    if (folder / FINETUNE).is_file():
        text = _of_finetuning(folder, title, rows, evaluations)
    else:
        text = _of_pretraining(folder, title, rows, evaluations)
    file = folder / "report.html" if out is None else Path(out)
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        if out is None:
            raise not_written(file, error) from error
        raise RunError(
            f"report: {file} cannot be written ({error.strerror or error}); give --out another place"
        ) from error
    return file


def _of_pretraining(folder: Path, title: str, rows: list[dict[str, Any]], evaluations: list[dict[str, Any]]) -> str:
    config = located(saved_config(folder), folder)
    sections = [
        cards(_numbers(rows, evaluations)),
        curves_section(rows, evaluations, held_out="held-out"),
        evaluation_section(evaluations, None),
        spikes_section(read_spikes(folder)),
    ]
    settings, defaults = flat(to_mapping(config)), flat(to_mapping(RunConfig()))
    try:
        sections += _of_text(folder, config)
    except UnmaskError as error:
        sections.append(section("Data", note=f"The text of this run cannot be read now: {error}"))
    sections += [
        speed_section(rows),
        settings_section(settings, {name: value for name, value in settings.items() if value != defaults.get(name)}),
        _provenance(folder),
    ]
    return page(title, _subtitle("pre-training", config.seed, rows), sections)


def _of_finetuning(folder: Path, title: str, rows: list[dict[str, Any]], evaluations: list[dict[str, Any]]) -> str:
    config = saved_finetune_config(folder)
    settings, defaults = _dotted(asdict(config)), _dotted(asdict(FinetuneConfig()))
    files = {name: value for name, value in asdict(config.data).items() if name in ("train", "dev", "test") and value}
    sections = [
        cards(_numbers(rows, evaluations)),
        curves_section(_in_percent(rows), evaluations, held_out="dev file"),
        evaluation_section(evaluations, object_in(folder / SCORES)),
        section("Data", facts_list({"task": config.task, "began from": str(config.model), **files})),
        speed_section(rows),
        settings_section(settings, {name: value for name, value in settings.items() if value != defaults.get(name)}),
        _provenance(folder),
    ]
    return page(title, _subtitle(f"fine-tuning, {config.task}", config.seed, rows), sections)


def _in_percent(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows whose accuracies are in percent, as the scores of a dev file are."""
    return [
        {key: 100 * value if key.endswith("accuracy") and value is not None else value for key, value in row.items()}
        for row in rows
    ]


def _subtitle(kind: str, seed: int, rows: list[dict[str, Any]]) -> str:
    steps = f"{rows[-1]['step']:,} steps" if rows else "no step logged yet"
    return f"A run of unmask: {kind}, {steps}, seed {seed}."


def _numbers(rows: list[dict[str, Any]], evaluations: list[dict[str, Any]]) -> dict[str, str]:
    """Return the numbers that people look for first."""
    found: dict[str, str] = {}
    if rows:
        last = rows[-1]
        found["steps"] = cell_text(last["step"])
        found["real tokens"] = cell_text(last.get("tokens"))
        found["training loss"] = cell_text(last.get("loss"))
        found["tokens per second"] = cell_text(last.get("tokens_per_second"))
    if evaluations:
        found["held-out loss"] = cell_text(evaluations[-1].get("loss"))
    return {name: value for name, value in found.items() if value != cell_text(None)}


def _of_text(folder: Path, config: RunConfig) -> list[str]:
    """Return the sections on data, masks and predictions."""
    if config.data.store is None and not (folder / "store").exists():
        raise RunError(f"report: the text of {folder} is not prepared; continue the run, which prepares it")
    store, tokenizer = open_store(config, folder)
    data = RunData(store, tokenizer, replace(config, masking=replace(config.masking, place="host")))
    stream = data.stream(data.phases[-1])
    counts = {
        "store": store.location,
        "documents": cell_text(store.num_documents),
        "tokens": cell_text(store.num_tokens),
        "sources": ", ".join(store.sources),
        "vocabulary": cell_text(store.vocab_size),
        "held-out documents": cell_text(sum(source.documents.size for source in data.sources("held_out"))),
        "held-out tokens": cell_text(data.text_tokens("held_out")),
        "tokens of an epoch": cell_text(stream.tokens_per_epoch),
        "composition": describe_composition(stream.composition, store.sources, stream.pair_task),
        "fingerprint of the stream": stream.fingerprint,
    }
    found = [section("Data", facts_list(counts))]
    held_out = data.held_out(data.phases[-1])
    batch = None if held_out is None else next(iter(held_out.batches()), None)
    if batch is None or batch.labels is None:
        return found
    if held_out is not None and held_out.masking != "next_token":
        special = store.special_ids | {f"added {token}": token for token in store.added_special_ids}
        masks = measure_masks([batch], special, similar_words=data.similar_words)
        if masks is not None:
            found.append(section("Masks", facts_list(_masks(config, masks)), note="Counted in a held-out micro-batch."))
        if config.objective.mlm > 0:
            found.append(_predictions(folder, batch))
    return found


def _masks(config: RunConfig, masks: MaskStatistics) -> dict[str, str]:
    parts = {"become [MASK]": masks.masked, "become a similar word": masks.similar, "become another token": masks.other}
    return {
        "strategy": config.masking.strategy,
        "tokens to predict": f"{masks.rate:.1%} of {masks.tokens:,}",
        **{name: f"{share:.1%}" for name, share in parts.items() if share},
        "stay": f"{masks.kept:.1%}",
        "whole words": f"{masks.intact:.1%} of the {masks.words:,} words with a prediction",
    }


def _predictions(folder: Path, batch: PackedBatch) -> str:
    try:
        found = find_model(folder)
    except RunError:
        return ""
    model, tokenizer = load_model(found)
    note = (
        f"What {found.path.name} predicts for the masked tokens of held-out text, with its probability; where it is "
        "wrong, the token that stood there follows."
    )
    return samples_section(samples_of(model, tokenizer, batch, count=_SAMPLES), note=note)


def _provenance(folder: Path) -> str:
    """Return where the newest state comes from: machine, versions, threads, initial checkpoint."""
    newest, _ = newest_whole(folder / "checkpoints") if (folder / "checkpoints").exists() else (None, ())
    state = {} if newest is None else object_in(newest / "training" / "state.json")
    values = {} if newest is None else {"newest checkpoint": newest.name}
    values |= {name: str(value) for name, value in state.get("machine", {}).items()}
    values |= {name: cell_text(state[name]) for name in ("threads", "ranks", "fingerprint", "skipped") if name in state}
    values |= {
        f"initial checkpoint: {name}": cell_text(value) for name, value in object_in(folder / "initial.json").items()
    }
    return section("Provenance", facts_list(values))


def _dotted(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _dotted(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = value
    return found
