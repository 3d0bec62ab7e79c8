"""`unmask evaluate RUN_OR_FOLDER [--store STORE]`: the loss of a model on text, as a run measures it.

Of a run or a checkpoint, the text is composed and masked as the run does it, at the maximum length of the checkpoint's
phase. So the result on its own store is the last evaluation of the run. For another folder, a recipe or YAML file gives
the composition, the masks and the length.
"""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unmask.cli._arguments import option, read
from unmask.config.settings import Checked
from unmask.errors import CheckpointError, RunError, StoreError
from unmask.interop.find_model import ModelFolder, find_model
from unmask.paths import as_typed

if TYPE_CHECKING:
    from unmask.batch import PackedBatch
    from unmask.config import RunConfig
    from unmask.data.store import Store
    from unmask.data.tokenizer import Tokenizer
    from unmask.model import PretrainingModel
    from unmask.train.checkpoint.state import Facts
    from unmask.train.evaluate import Score, Split

ALL_TOKENS = 1 << 62
# between two lines of progress; the first comes sooner
_FIRST_LINE, _LINE_SECONDS = 3.0, 30.0

_log = logging.getLogger(__name__)

__all__ = ["Evaluation", "evaluate_model", "run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Checked):
    """Score a model on text that it was not trained on."""

    model: Path = option(
        MISSING,
        "Run directory, checkpoint, or folder that transformers loads.",
        positional=True,
        metavar="RUN_OR_FOLDER",
    )
    store: Path | None = option(
        None,
        "Token store to read, made with the model's tokenizer. None: that of the run.",
        short="--data.store",
        metavar="STORE",
    )
    split: Literal["held_out", "train", "all"] = option(
        "held_out", "Documents to read: the held-out ones, those to train on, or all."
    )
    tokens: int | None = option(
        None,
        "Token capacity to read; 0 reads all. None: train.evaluate_tokens of the run, the recipe or the file.",
        ge=0,
    )
    recipe: str | None = option(
        None,
        "For a folder that is no run: recipe or YAML file with the length, composition and masking to use. None: tiny.",
    )
    json: bool = option(False, "Print the numbers as one JSON object.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        model: folder of the model.
        step: steps of its training; None if they are not known.
        store: folder of the store.
        split: documents that were read.
        max_length: maximum number of tokens of a sequence.
        tokens: real tokens that were read, [CLS] and [SEP] included.
        scores: result of each objective.
        weights: weight of each objective in `loss`, by its name.
        unigram_loss: loss of a model that knows only token frequencies, in nats; None if no token is predicted.
    """

    model: Path
    step: int | None
    store: Path
    split: str
    max_length: int
    tokens: int
    scores: "list[Score]"
    weights: dict[str, float]
    unigram_loss: float | None

    def numbers(self) -> dict[str, Any]:
        """Return all numbers as plain values for JSON, under the names of evaluation.jsonl; null if not finite."""
        import math

        from unmask.train.evaluate import as_row

        row: dict[str, Any] = {
            "model": str(self.model),
            "step": self.step,
            "store": str(self.store),
            "split": self.split,
            "max_length": self.max_length,
            "tokens": self.tokens,
            **as_row(self.scores, list(self.weights.values())),
            "unigram_loss": self.unigram_loss,
        }
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
        }

    def lines(self) -> str:
        """Return the result for a person: a line for each objective."""
        trained = "training unknown" if self.step is None else f"trained for {self.step:,} steps"
        part = {"held_out": "held-out documents", "train": "documents to train on", "all": "all documents"}[self.split]
        lines = [
            f"{self.model}: {trained}",
            f"{part} of {self.store}: {self.tokens:,} tokens, at most {self.max_length} in a sequence",
            *map(str, self.scores),
        ]
        if len(self.scores) > 1:
            lines.append(f"loss {self.numbers()['loss']:.3f}, the weighted sum")
        if self.unigram_loss is not None:
            lines.append(f"a model that knows only token frequencies has loss {self.unigram_loss:.3f}")
        return "\n".join(lines)


def run(arguments: list[str]) -> None:
    """Print the scores."""
    options = read(Options, prog="unmask evaluate", arguments=arguments)
    result = evaluate_model(
        options.model, options.store, split=options.split, tokens=options.tokens, recipe=options.recipe
    )
    print(json.dumps(result.numbers()) if options.json else result.lines())


def evaluate_model(
    folder: Path,
    store: Path | None = None,
    *,
    split: "Split" = "held_out",
    tokens: int | None = None,
    recipe: str | None = None,
) -> Evaluation:
    """Score the model in `folder`, a run, a checkpoint or a folder that transformers loads, on a store.

    The backends of the operations are the best ones of this machine.

    Args:
        folder: the model.
        store: the store. Default: that of the run.
        split: the documents to read.
        tokens: token capacity to read; 0 reads all. Default: `train.evaluate_tokens` of the configuration.
        recipe: recipe or YAML file for a folder that is no run.
    Raises:
        UnmaskError: a folder does not exist or holds something else; the store was made by another tokenizer, or has
            no document to read; or the model lacks what an objective needs.
    """
    import torch

    from unmask.data.tokenizer import Tokenizer
    from unmask.model import PretrainingModel
    from unmask.objectives import TOKEN_OBJECTIVES, build_objectives
    from unmask.train.checkpoint.tokenizer_hash import require_bound
    from unmask.train.data import RunData
    from unmask.train.evaluate import evaluate, part_of
    from unmask.train.logging.progress import clock_time
    from unmask.train.precision import choose_precision
    from unmask.train.threads import CrowdWatch
    from unmask.train.unigram import baseline

    found = find_model(folder)
    run = found.run
    facts = None if run is None else _facts_of(found)
    config = _config_of_run(run, facts, store, recipe) if run else _config_of_folder(found, store, recipe)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = choose_precision(config.train.dtype, device)
    model = PretrainingModel.from_pretrained(found, compute_dtype=precision.dtype).to(device)
    tokenizer = Tokenizer.load(found.path)
    require_bound(found.path, tokenizer, model.config.token_rows)
    if run is None:
        config = _suited(config, model, found)
    opened = _open(config, run, tokenizer, found)
    weights = {name: weight for name, weight in asdict(config.objective).items() if weight > 0}
    fraction = config.stream.held_out_fraction
    whole = RunData(opened, tokenizer, config)
    # a fraction of 0 would leave out the part that is made here
    config = replace(config, stream=replace(config.stream, held_out_fraction=fraction or 0.5))
    part = RunData(part_of(opened, split, held_out_fraction=fraction), tokenizer, config)
    phase = part.phases[-1 if facts is None else _phase_of(facts)]
    stream = part.held_out(phase)
    if stream is None:
        raise StoreError(f"evaluate: {opened.folder} has no document in the split {split!r}; give --split all")
    limit = config.train.evaluate_tokens if tokens is None else tokens or ALL_TOKENS
    expected = min(stream.tokens_per_epoch, limit)
    _log.info(f"scoring about {expected:,} tokens of {opened.folder} on {device}")
    read_tokens = 0

    def counted() -> "Iterator[PackedBatch]":
        nonlocal read_tokens
        began, due, crowd = time.monotonic(), _FIRST_LINE, CrowdWatch()
        for batch in stream.batches():
            passed = time.monotonic() - began
            if read_tokens and passed >= due:
                due = passed + _LINE_SECONDS
                left = max(0.0, passed * (expected / read_tokens - 1.0))
                speed = f"{read_tokens / max(passed, 1e-9):,.0f} tokens/s"
                _log.info(f"scored {read_tokens:,} of about {expected:,} tokens, {speed}, until {clock_time(left)}")
                notice = crowd.look(torch.get_num_threads(), option="OMP_NUM_THREADS=")
                if notice is not None and device.type == "cpu":
                    _log.warning(notice)
            read_tokens += batch.real_tokens
            yield batch

    scores = evaluate(model, build_objectives(weights), counted(), tokens=limit, device=device)
    unigram = whole.unigram(part.sources("held_out")) if weights.keys() & set(TOKEN_OBJECTIVES) else None
    return Evaluation(
        model=found.path,
        step=found.steps,
        store=opened.folder,
        split=split,
        max_length=phase.max_length,
        tokens=read_tokens,
        scores=scores,
        weights=weights,
        unigram_loss=None if unigram is None else baseline(unigram.loss, weights),
    )


def _facts_of(found: ModelFolder) -> "Facts":
    from unmask.train.checkpoint.state import load_facts

    return load_facts(found.path / "training")


def _phase_of(facts: "Facts") -> int:
    """Return the number of the phase whose steps ended at a checkpoint."""
    return facts.phase - 1 if facts.index == 0 and facts.phase > 0 else facts.phase


def _config_of_run(run: Path, facts: "Facts | None", store: Path | None, recipe: str | None) -> "RunConfig":
    from unmask.train.run_folder import located, saved_config

    if recipe is not None:
        raise RunError(f"evaluate: {run} has its own configuration; leave --recipe {recipe} out")
    config = saved_config(run)
    if store is not None:
        data = replace(config.data, store=str(store.absolute()), input=[], tokenizer=None, segmenter=None)
        config = replace(config, data=data)
    config = located(config, run)
    dtype = None if facts is None else facts.machine.get("activations")
    if config.train.dtype == "auto" and dtype in ("float32", "bfloat16"):
        config = replace(config, train=replace(config.train, dtype=dtype))  # type: ignore[arg-type]
    return config


def _config_of_folder(found: ModelFolder, store: Path | None, recipe: str | None) -> "RunConfig":
    from unmask.config import load_config

    if store is None:
        raise StoreError(
            f"evaluate: {found.path} is no run, so no store belongs to it; give one with --store, made by `unmask "
            f"prepare --input TEXT --tokenizer {as_typed(found.path)} --out STORE`"
        )
    if recipe is None:
        _log.info("length, masks and composition of recipe tiny; --recipe RUN/config.yaml for those of the run")
    return load_config(recipe, {"data": {"store": str(store), "input": [], "tokenizer": None}})


def _suited(config: "RunConfig", model: "PretrainingModel", found: ModelFolder) -> "RunConfig":
    """Return `config` with one phase no longer than the model reads, and next tokens to predict if it is causal.

    Raises:
        CheckpointError: the model has no head for pairs, and `config` needs one.
    """
    from unmask.config import ObjectiveConfig

    pairs = next((name for name in ("nsp", "sop") if getattr(config.objective, name) > 0), None)
    if pairs is not None and model.nsp is None:
        raise CheckpointError(
            f"evaluate: {found.path} has no head for pairs, which objective.{pairs} needs; give a recipe without pairs"
        )
    lengths = [phase.max_length for phase in config.train.phases] or [config.stream.max_length]
    sizes = model.config
    return replace(
        config,
        stream=replace(config.stream, max_length=min(lengths[-1], sizes.max_positions)),
        train=replace(config.train, phases=[]),
        model=replace(config.model, causal=sizes.causal, max_positions=sizes.max_positions),
        objective=ObjectiveConfig(mlm=0.0, clm=1.0) if sizes.causal else config.objective,
    )


def _open(config: "RunConfig", run: Path | None, tokenizer: "Tokenizer", found: ModelFolder) -> "Store":
    """Open the store of the configuration.

    Raises:
        StoreError: there is none, or another tokenizer made it.
    """
    from unmask.data.store import Store
    from unmask.train.store import open_store

    if config.data.store is not None or run is None:
        assert config.data.store is not None
        store = Store.open(config.data.store)
    else:
        store, _ = open_store(config, run)
    if store.tokenizer_hash != tokenizer.hash:
        raise StoreError(
            f"evaluate: {store.folder} was made by tokenizer {store.tokenizer_hash[:12]} with {store.vocab_size:,} "
            f"tokens, {found.path} has {tokenizer.hash[:12]} with {tokenizer.vocab_size:,}, so the ids mean other "
            f"words; make a store with `unmask prepare --input TEXT --tokenizer {as_typed(found.path)} --out STORE`"
        )
    return store
