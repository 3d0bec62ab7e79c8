"""`evaluate`: the loss of a model on text, as a run measures it.

Of a run or a checkpoint, the text is composed and masked as the run does it, at the maximum length of the checkpoint's
phase. So the result on its own store is the last evaluation of the run. For another folder, a recipe or YAML file gives
the composition, the masks and the length.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unmask.batch import PackedBatch
from unmask.config import ObjectiveConfig, RunConfig, load_config
from unmask.config.load import recipe_names
from unmask.config.settings import check_argument
from unmask.data.store import Store
from unmask.data.tokenizer import Tokenizer
from unmask.errors import CheckpointError, ConfigError, RunError, StoreError
from unmask.folders import kind_of
from unmask.interop.find_model import ModelFolder, find_model
from unmask.model import PretrainingModel
from unmask.objectives import TOKEN_OBJECTIVES, build_objectives
from unmask.paths import address_of, as_typed
from unmask.train.checkpoint.state import Facts, load_facts
from unmask.train.checkpoint.tokenizer_hash import require_bound
from unmask.train.data import RunData
from unmask.train.evaluate import Score, Split, as_row, part_of, score_model
from unmask.train.precision import choose_precision
from unmask.train.run_folder import located, saved_config
from unmask.train.store import cache_of, open_store
from unmask.train.threads import CrowdWatch
from unmask.train.unigram import baseline

__all__ = ["Evaluation", "EvaluationProgress", "evaluate"]

_ALL_TOKENS = 1 << 62
# a shorter evaluation does not look at what other programs do
_WATCH_AFTER_SECONDS = 3.0
# with fewer, the standard error of the loss is about a twentieth of a nat or more
_FEW_PREDICTIONS = 2_000

_log = logging.getLogger(__name__)


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
        scores: result of each objective, by its name: `scores["mlm"].accuracy`.
        weights: weight of each objective in `loss`, by its name.
        unigram_loss: loss of a model that knows only token frequencies, in nats; None if no token is predicted.
    """

    model: Path
    step: int | None
    store: Path
    split: str
    max_length: int
    tokens: int
    scores: dict[str, Score]
    weights: dict[str, float]
    unigram_loss: float | None

    @property
    def loss(self) -> float:
        """The weighted sum of the objectives' losses, in nats; not a number if one has nothing to predict."""
        return sum(weight * self.scores[name].loss for name, weight in self.weights.items())

    def numbers(self) -> dict[str, Any]:
        """Return all numbers as plain values for JSON, under the names of evaluation.jsonl; null if not finite."""
        row: dict[str, Any] = {
            "model": str(self.model),
            "step": self.step,
            "store": str(self.store),
            "split": self.split,
            "max_length": self.max_length,
            "tokens": self.tokens,
            **as_row(list(self.scores.values()), list(self.weights.values())),
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
            *map(str, self.scores.values()),
        ]
        if len(self.scores) > 1:
            lines.append(f"loss {self.loss:.3f}, the weighted sum")
        if self.unigram_loss is not None:
            more = "" if self.loss < self.unigram_loss else ", so this one has learnt no more than that; train longer"
            lines.append(f"a model that knows only token frequencies has loss {self.unigram_loss:.3f}{more}")
        predictions = min(score.count for score in self.scores.values())
        if 0 < predictions < _FEW_PREDICTIONS:
            lines.append(
                f"{predictions:,} predictions are few, so the loss is rough; compare models on more text of one store"
            )
        return "\n".join(lines)


class EvaluationProgress(NamedTuple):
    """How far `evaluate` is, reported after each micro-batch.

    Attributes:
        tokens: real tokens scored so far.
        expected: about how many they will be.
        tokens_per_second: real tokens scored in a second, on average.
    """

    tokens: int
    expected: int
    tokens_per_second: float


def evaluate(
    model: str | Path,
    store: str | os.PathLike[str] | None = None,
    *,
    split: Split = "held_out",
    tokens: int | None = None,
    recipe: str | Path | None = None,
    progress: Callable[[EvaluationProgress], None] | None = None,
) -> Evaluation:
    """Score a model on a store.

    The backends of the operations are the best ones of this machine.

    Example:
        >>> import unmask
        >>> found = unmask.evaluate("runs/mine", split="all", tokens=4096)
        >>> found.step
        20
        >>> loss, accuracy = found.loss, found.scores["mlm"].accuracy

    Args:
        model: a run, whose newest whole checkpoint is read; a checkpoint; a model folder; or `ORG/NAME` of the Hub.
        store: the store, or its folder. Default: that of the run.
        split: the documents to read.
        tokens: token capacity to read; 0 reads all. Default: `train.evaluate_tokens` of the configuration.
        recipe: recipe or YAML file with length, composition and masks for a folder that is no run. Default: `tiny`.
        progress: called after each micro-batch.
    Raises:
        SettingError: `tokens` or `split` is none of the possible values; a `ValueError`.
        RunError: `recipe` is given for a run; or the run has no checkpoint.
        CheckpointError: `model` holds no model or a damaged one, or lacks what an objective needs.
        StoreError: there is no store, another tokenizer made it, or it has no document to read.
        ConfigError: the recipe is wrong.
    """
    check_argument("evaluate", "split", Split, split)
    check_argument("evaluate", "tokens", int | None, tokens, ge=0)
    found = find_model(model)
    run = found.run
    if run is not None and kind_of(run) == "fine-tuning run":
        raise RunError(
            f"evaluate: {run} is a run of unmask finetune, and its scores are in scores.json there; score another file "
            f"with `unmask predict {as_typed(run)} FILE`"
        )
    facts = None if run is None else load_facts(found.path / "training")
    if run is not None and (learnt := saved_config(run)).distillation.teacher is not None and not learnt.objective.mlm:
        raise RunError(
            f"evaluate: {run} learnt from a teacher without objective.mlm, so it predicts no token; read its held-out "
            f"losses in {run / 'evaluation.jsonl'}"
        )
    folder = None if store is None else Path(store)
    config = _config_of_run(run, facts, folder, recipe) if run else _config_of_folder(found, folder, recipe)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = choose_precision(config.train.dtype, device)
    loaded = PretrainingModel.from_pretrained(found, compute_dtype=precision.dtype).to(device)
    tokenizer = Tokenizer.load(found.path)
    require_bound(found.path, tokenizer, loaded.config.token_rows)
    if run is None:
        config = _suited(config, loaded, found)
    opened = _open(config, run, tokenizer, found)
    weights = {name: weight for name, weight in asdict(config.objective).items() if weight > 0}
    fraction = config.stream.held_out_fraction
    whole = RunData(opened, tokenizer, config)
    if config.train.epochs is not None:
        # the part that is made here may leave no document whose epochs could be counted
        config = replace(config, train=replace(config.train, epochs=None, steps=whole.num_steps))
    # a fraction of 0 would leave out the part that is made here
    config = replace(config, stream=replace(config.stream, held_out_fraction=fraction or 0.5))
    part = RunData(part_of(opened, split, held_out_fraction=fraction), tokenizer, config)
    phase = part.phases[-1 if facts is None else _phase_of(facts)]
    stream = part.held_out(phase)
    if stream is None:
        raise StoreError(f"evaluate: {opened.folder} has no document in the split {split!r}; give --split all")
    limit = config.train.evaluate_tokens if tokens is None else tokens or _ALL_TOKENS
    expected = min(stream.tokens_per_epoch, limit)
    _log.info(f"scoring about {expected:,} tokens of {opened.folder} on {device}")
    counted = _Counted(stream.batches(), expected=expected, progress=progress, on_cpu=device.type == "cpu")
    scores = score_model(loaded, build_objectives(weights), counted, tokens=limit, device=device)
    unigram = whole.unigram(part.sources("held_out")) if weights.keys() & set(TOKEN_OBJECTIVES) else None
    return Evaluation(
        model=found.path,
        step=found.steps,
        store=opened.folder,
        split=split,
        max_length=phase.max_length,
        tokens=counted.tokens,
        scores={one.name: one for one in scores},
        weights=weights,
        unigram_loss=None if unigram is None else baseline(unigram.loss, weights),
    )


class _Counted:
    """Micro-batches, counted as they are scored.

    Args:
        batches: the micro-batches.
        expected: about how many real tokens they have.
        progress: called after each.
        on_cpu: whether the CPU scores them, so that other programs may slow it down.
    """

    def __init__(
        self,
        batches: Iterator[PackedBatch],
        *,
        expected: int,
        progress: Callable[[EvaluationProgress], None] | None,
        on_cpu: bool,
    ) -> None:
        self.tokens = 0
        self.expected = expected
        self._batches = batches
        self._progress = progress
        self._on_cpu = on_cpu

    def __iter__(self) -> Iterator[PackedBatch]:
        began, crowd = time.monotonic(), CrowdWatch()
        for batch in self._batches:
            self.tokens += batch.real_tokens
            yield batch
            passed = time.monotonic() - began
            if self._progress is not None:
                speed = self.tokens / max(passed, 1e-9)
                self._progress(EvaluationProgress(self.tokens, max(self.expected, self.tokens), speed))
            if self._on_cpu and passed >= _WATCH_AFTER_SECONDS:
                notice = crowd.look(torch.get_num_threads(), option="OMP_NUM_THREADS=")
                if notice is not None:
                    _log.warning(notice)


def _phase_of(facts: Facts) -> int:
    """Return the number of the phase whose steps ended at a checkpoint."""
    return facts.phase - 1 if facts.index == 0 and facts.phase > 0 else facts.phase


def _config_of_run(run: Path, facts: Facts | None, store: Path | None, recipe: str | Path | None) -> RunConfig:
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


def _config_of_folder(found: ModelFolder, store: Path | None, recipe: str | Path | None) -> RunConfig:
    if store is None:
        raise StoreError(
            f"evaluate: {found.name} is no run, so no store belongs to it; give one with --store, made by `unmask "
            f"prepare --input TEXT --tokenizer {as_typed(found.name)} --out STORE`"
        )
    if recipe is None:
        _log.info("length, masks and composition of recipe tiny; --recipe RUN/config.yaml for those of the run")
    try:
        return load_config(recipe, {"data": {"store": str(store), "input": [], "tokenizer": None}})
    except ConfigError as error:
        if recipe not in recipe_names():
            raise
        # a recipe that needs a setting, as macbert needs its table
        raise ConfigError(
            f"{error}; for evaluate, write the setting to a file with `unmask config {recipe} --masking.similar_words "
            "similar.tsv > mine.yaml`, and give --recipe mine.yaml"
        ) from None


def _suited(config: RunConfig, model: PretrainingModel, found: ModelFolder) -> RunConfig:
    """Return `config` with one phase no longer than the model reads, and next tokens to predict if it is causal.

    Raises:
        CheckpointError: the model has no head for pairs, and `config` needs one.
    """
    pairs = next((name for name in ("nsp", "sop") if getattr(config.objective, name) > 0), None)
    if pairs is not None and model.nsp is None:
        raise CheckpointError(
            f"evaluate: {found.name} has no head for pairs, which objective.{pairs} needs; give a recipe without pairs"
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


def _open(config: RunConfig, run: Path | None, tokenizer: Tokenizer, found: ModelFolder) -> Store:
    """Open the store of the configuration.

    Raises:
        StoreError: there is none, or another tokenizer made it.
    """
    if config.data.store is not None or run is None:
        assert config.data.store is not None
        if run is not None and address_of(config.data.store) is None and not Path(config.data.store).exists():
            raise StoreError(
                f"evaluate: {config.data.store}, the store of {run}, is not there; give its place now with --store"
            )
        store = Store.open(config.data.store, cache=cache_of(config))
    else:
        store, _ = open_store(config, run)
    if store.tokenizer_hash != tokenizer.hash:
        raise StoreError(
            f"evaluate: {store.location} was made by tokenizer {store.tokenizer_hash[:12]} with {store.vocab_size:,} "
            f"tokens, {found.name} has {tokenizer.hash[:12]} with {tokenizer.vocab_size:,}, so the ids mean other "
            f"words; make a store with `unmask prepare --input TEXT --tokenizer {as_typed(found.name)} --out STORE`"
        )
    return store
