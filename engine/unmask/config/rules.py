"""The rules of a configuration beyond its types: ranges, and settings that must agree with one another."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import chain
from operator import attrgetter
from typing import Any

from unmask.config.schema import BUDGETS, RunConfig
from unmask.errors import ConfigError
from unmask.limits import INCOMPATIBLE_OBJECTIVES, SHORTEST, SHORTEST_PAIR

__all__ = ["check", "check_changes", "several_budgets"]

# smallest value: the settings that it applies to
_AT_LEAST = {
    0: "seed data.workers objective.mlm objective.nsp objective.sop objective.clm "
    "train.warmup_steps train.weight_decay",
    1: "data.bm25_buffer data.bm25_query_terms model.num_layers model.hidden_size model.num_heads model.num_segments "
    "model.intermediate_size model.attention_window train.steps train.tokens_per_step train.micro_batch_tokens "
    "train.max_documents train.log_every train.evaluate_every train.evaluate_tokens train.save_every "
    "train.keep_checkpoints train.threads",
    SHORTEST: "data.max_length model.max_positions",
    100: "data.vocab_size",
}
_ABOVE_0 = (
    "model.layer_norm_eps model.initializer_range train.learning_rate train.eps train.clip_norm train.epochs "
    "train.minutes"
)
_BELOW_1 = "model.hidden_dropout model.attention_dropout train.beta1 train.beta2"


def check(config: RunConfig) -> None:
    """Raise ConfigError for the first setting that is out of range or contradicts another setting."""
    # The order matters: `_agreements` divides by numbers that `_ranges` has found to be above 0.
    for problem in chain(_ranges(config), _agreements(config), _objectives(config), _masking(config)):
        raise ConfigError(f"config: {problem}")


def check_changes(config: RunConfig, changes: Mapping[str, Any], *, max_length: int) -> None:
    """Raise ConfigError if `data.max_length` was changed and nothing reads it, because the phases have their own.

    A recipe may have both, since a user may remove its phases. It is a mistake to ask for a length that no phase has.

    Args:
        config: the recipe with the changes.
        changes: what the command line asks for, as a nested mapping.
        max_length: `data.max_length` of the recipe alone.
    """
    data, train = changes.get("data") or {}, changes.get("train") or {}
    lengths = [phase.max_length for phase in config.train.phases]
    asked = "max_length" in data and ("phases" not in train or config.data.max_length not in (max_length, *lengths))
    if lengths and asked:
        raise ConfigError(
            f"config: data.max_length {config.data.max_length} would change nothing, because train.phases sets the "
            f"lengths ({', '.join(map(str, lengths))}); leave it out, give --train.phases.0.max_length and so on, or "
            "write a YAML file with other train.phases ([] for one phase of this length)"
        )


def _ranges(config: RunConfig) -> Iterator[str]:
    data, model = config.data, config.model
    for least, names in _AT_LEAST.items():
        for name in names.split():
            value = attrgetter(name)(config)
            if value is not None and value < least:
                yield f"{name} must be at least {least}, got {value}"
    if model.global_every < 0 or model.global_every == 1:
        yield (
            f"model.global_every must be at least 2, or 0 to make every layer local, got {model.global_every}; "
            "leave out model.attention_window to make every layer global"
        )
    if config.seed >= 2**63:
        yield f"seed must be below 2^63, got {config.seed}"
    for name in _ABOVE_0.split():
        number = attrgetter(name)(config)
        if number is not None and number <= 0:
            yield f"{name} must be above 0, got {number}"
    for name in _BELOW_1.split():
        number = attrgetter(name)(config)
        if not 0 <= number < 1:
            yield f"{name} must be at least 0 and below 1, got {number}"
    if not 0 < data.mask_rate < 1:
        yield f"data.mask_rate must be between 0 and 1, got {data.mask_rate}; BERT masks 0.15"
    if not 0 <= data.short_pairs <= 1:
        yield f"data.short_pairs must be between 0 and 1, got {data.short_pairs}; BERT has 0.1"
    for source, weight in data.weights.items():
        if not 0 <= weight < float("inf"):
            yield f"data.weights.{source} must be a number of at least 0, got {weight}"
    if not 0 <= data.held_out <= 0.5:
        yield f"data.held_out must be between 0 and 0.5, got {data.held_out}"


def _agreements(config: RunConfig) -> Iterator[str]:
    data, model, train = config.data, config.model, config.train
    if data.store is not None and data.input:
        yield "data.store and data.input are both set; give the prepared store or the text, not both"
    if min(data.mask_split) < 0 or abs(sum(data.mask_split) - 1) > 1e-6:
        yield f"data.mask_split must be three shares that sum to 1, got {list(data.mask_split)}"
    if model.hidden_size % model.num_heads:
        yield (
            f"model.hidden_size must be a multiple of model.num_heads ({model.num_heads}), "
            f"got {model.hidden_size}; the nearest is {_nearest_multiple(model.hidden_size, model.num_heads)}"
        )
    yield from _budget(config)
    if train.tokens_per_step % train.micro_batch_tokens:
        micro = train.micro_batch_tokens
        yield (
            f"train.tokens_per_step must be a multiple of train.micro_batch_tokens ({micro}), "
            f"got {train.tokens_per_step}; the nearest is {_nearest_multiple(train.tokens_per_step, micro)}"
        )
    shortest = SHORTEST_PAIR if data.compose == "pairs" else SHORTEST
    max_length = {f"train.phases.{i}.max_length": phase.max_length for i, phase in enumerate(train.phases)}
    for name, tokens in (max_length or {"data.max_length": data.max_length}).items():
        if tokens < shortest:
            yield f"{name} must be at least {shortest}, got {tokens}"
        if tokens > model.max_positions:
            yield (
                f"{name} is {tokens} but model.max_positions is {model.max_positions}; "
                "cut the documents shorter or lengthen the position table"
            )
        if tokens > train.micro_batch_tokens:
            yield (
                f"{name} is {tokens} but train.micro_batch_tokens is {train.micro_batch_tokens}; "
                "shorten the one or raise the other, since a piece must fit in one micro-batch"
            )
    shares = [phase.share for phase in train.phases]
    if shares and (min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6):
        yield f"train.phases must have shares above 0 that sum to 1, got {shares} (sum {sum(shares):g})"


def several_budgets(given: Iterable[str]) -> str:
    """Return the problem of a run with several of `BUDGETS`."""
    names = " and ".join(f"train.{name}" for name in given)
    return f"{names} are given together, but one of them ends a run; leave out all but one"


def _budget(config: RunConfig) -> Iterator[str]:
    """Yield the problems of the setting that ends the run."""
    train = config.train
    given = [name for name in BUDGETS if getattr(train, name) is not None]
    if not given:
        yield "none of train.steps, train.epochs and train.minutes is set; give one of them"
    if len(given) > 1:
        yield several_budgets(given)
    if train.minutes is not None and len(train.phases) > 1:
        yield (
            f"train.minutes is {train.minutes:g} but train.phases has {len(train.phases)} phases, which are shares of "
            "the steps; give train.steps or train.epochs, or write a YAML file with train.phases [] for one phase at "
            "data.max_length"
        )
    if train.minutes is not None and config.data.mask_rate_end is not None:
        yield (
            f"train.minutes is {train.minutes:g} but data.mask_rate_end is {config.data.mask_rate_end:g}, which the "
            "last step has; give train.steps or train.epochs, or leave out data.mask_rate_end"
        )


def _objectives(config: RunConfig) -> Iterator[str]:
    objective, data = config.objective, config.data
    weights = asdict(objective)
    if not any(weights.values()):
        yield f"all of {', '.join(f'objective.{name}' for name in weights)} are 0; give at least one loss a weight"
    for one, other, reason in INCOMPATIBLE_OBJECTIVES:
        if weights[one] > 0 and weights[other] > 0:
            yield f"objective.{one} and objective.{other} are both above 0, but {reason}; set objective.{other} to 0"
    pairs = next((name for name in ("nsp", "sop") if weights[name] > 0), None)
    if pairs and data.compose != "pairs":
        yield (
            f"objective.{pairs} is {weights[pairs]} but data.compose is {data.compose!r}, which gives no pairs of "
            "segments; set data.compose to 'pairs'"
        )
    if data.compose == "pairs" and not pairs:
        yield (
            "data.compose is 'pairs' but objective.nsp and objective.sop are both 0; give one of them a weight, or set "
            "data.compose to 'documents'"
        )
    if pairs and config.model.num_segments < 2:
        yield f"objective.{pairs} is {weights[pairs]} but model.num_segments is 1; set it to 2, the segments of a pair"
    if pairs and config.model.causal:
        yield (
            f"objective.{pairs} is {weights[pairs]} but model.causal is true, so [CLS], which predicts the pair's "
            "label, sees nothing of the pair; set model.causal to false"
        )
    if objective.clm > 0 and not config.model.causal:
        yield (
            "objective.clm is above 0 but model.causal is false, so each token would see its answer; "
            "set model.causal to true"
        )


def _masking(config: RunConfig) -> Iterator[str]:
    data = config.data
    if data.masking == "mac" and data.similar_words is None:
        yield "data.masking is 'mac', which needs data.similar_words; give it a table of similar words"
    if data.mask_rate_end is not None and not 0 < data.mask_rate_end < 1:
        yield f"data.mask_rate_end must be between 0 and 1, got {data.mask_rate_end}"
    if data.mask_on == "device":
        yield from _device_masks(config)
    if data.static_masks is not None and data.static_masks < 1:
        yield f"data.static_masks must be at least 1, got {data.static_masks}; BERT's original made 10"
    if data.static_masks is not None and data.mask_rate_end is not None:
        yield (
            "data.static_masks and data.mask_rate_end are both set, but masks that repeat cannot follow a "
            "schedule; choose one of them"
        )


def _device_masks(config: RunConfig) -> Iterator[str]:
    """Yield the problems of masking on the device, where only tokens, words and document keys are known."""
    data = config.data
    why = "data.mask_on is 'device', which"
    if data.masking not in ("token", "whole_word"):
        yield f"{why} masks by 'token' and 'whole_word', not data.masking {data.masking!r}; set data.mask_on to 'host'"
    if data.static_masks is not None or data.mask_rate_end is not None:
        asked = "data.static_masks" if data.static_masks is not None else "data.mask_rate_end"
        yield f"{why} draws new masks at one rate, not {asked}; set data.mask_on to 'host'"
    if data.scope == "sequence":
        yield f"{why} masks documents one by one, not data.scope 'sequence'; set data.mask_on to 'host'"


def _nearest_multiple(value: int, unit: int) -> int:
    return max(1, round(value / unit)) * unit
