"""What the groups of a configuration have to agree on. What one group can know, it checks itself (`schema`)."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from unmask.folders import is_store
from unmask.limits import INCOMPATIBLE_OBJECTIVES, SHORTEST_PAIR
from unmask.paths import as_typed, name_and_location

if TYPE_CHECKING:
    from unmask.config.schema import RunConfig

__all__ = ["disagreements"]

# parts of a step that are tried for the nearest number of tokens
_MOST_PARTS = 100_000


def disagreements(config: "RunConfig") -> Iterator[tuple[str, str]]:
    """Yield each setting that contradicts one of another group, and what is wrong with it."""
    yield from _lengths(config)
    yield from _objectives(config)
    yield from _shards(config)
    yield from _distillation(config)
    data = config.data
    if config.init.vocabulary == "extend" and data.store is None and data.tokenizer is None and not _has_store(config):
        given = as_typed(config.init.from_ or "FOLDER")
        yield (
            "init.vocabulary",
            "is 'extend', which needs a tokenizer with more entries as data.tokenizer, or a store that it made; make "
            f"one with `unmask prepare --input TEXT --tokenizer {given} --add-words WORDS.txt --out STORE`, and give "
            "--data.store STORE",
        )
    if config.masking.strategy == "mac" and config.masking.similar_words is None:
        if config.data.store:
            way = (
                f"make a table with `unmask similar-words --store {as_typed(config.data.store)} --out similar.tsv`, "
                "and add --masking.similar_words similar.tsv"
            )
        else:
            place = " in the place of data.input" if config.data.input else ""
            way = (
                "prepare the text with `unmask prepare --input TEXT --out STORE`, make a table with `unmask "
                "similar-words --store STORE --out similar.tsv`, and give --data.store STORE --masking.similar_words "
                f"similar.tsv{place}"
            )
        yield "masking.strategy", f"is 'mac', which needs masking.similar_words; {way}"
    if config.masking.place == "device" and config.composition.scope == "sequence":
        yield (
            "masking.place",
            "is 'device', which masks documents one by one, not composition.scope 'sequence'; set it to 'host'",
        )


def _shards(config: "RunConfig") -> Iterator[tuple[str, str]]:
    """What a model in shards does not have."""
    if config.train.parallel != "fsdp":
        return
    if config.optimizer.name == "muon":
        yield (
            "train.parallel",
            "is 'fsdp', but optimizer.name is 'muon', which needs whole matrices; choose adamw, stable_adamw or lamb, "
            "or set train.parallel to 'ddp'",
        )
    if config.optimizer.ema_decay is not None:
        yield (
            "train.parallel",
            f"is 'fsdp', but optimizer.ema_decay is {config.optimizer.ema_decay:g}, and the moving average is not kept "
            "in shards; leave out optimizer.ema_decay, or set train.parallel to 'ddp'",
        )
    if config.train.compile:
        yield (
            "train.parallel",
            "is 'fsdp', but train.compile makes one graph of a forward pass, and shards gather in the middle of it; "
            "set train.compile to false, or train.parallel to 'ddp'",
        )


def _has_store(config: "RunConfig") -> bool:
    """Return whether a store is among the inputs."""
    return any(is_store(Path(name_and_location(given)[1])) for given in config.data.input)


def _lengths(config: "RunConfig") -> Iterator[tuple[str, str]]:
    stream, model, train = config.stream, config.model, config.train
    micro = stream.micro_batch_tokens
    masking = config.masking
    if train.minutes is not None and masking.rate_end is not None and masking.rate_steps is None:
        yield (
            "train.minutes",
            f"is {train.minutes:g} but masking.rate_end is {masking.rate_end:g}, which the last step has; give "
            "masking.rate_steps, train.steps or train.epochs, or leave out masking.rate_end",
        )
    if train.tokens_per_step % micro:
        nearest = max(1, round(train.tokens_per_step / micro)) * micro
        needed = max([stream.max_length] if not train.phases else [phase.max_length for phase in train.phases])
        smaller = f", or set stream.micro_batch_tokens to {train.tokens_per_step}, too"
        yield (
            "train.tokens_per_step",
            f"must be a multiple of stream.micro_batch_tokens ({micro}), got {train.tokens_per_step}; the nearest is "
            f"{nearest}{smaller if needed <= train.tokens_per_step < micro else ''}",
        )
    elif train.first_tokens_per_step is not None:
        first, micro_batches = train.first_tokens_per_step, train.tokens_per_step // micro
        able = [
            number * micro for number in range(1, min(micro_batches, _MOST_PARTS) + 1) if micro_batches % number == 0
        ]
        if first != train.tokens_per_step and first not in able:
            yield (
                "train.first_tokens_per_step",
                f"must be a multiple of stream.micro_batch_tokens ({micro}), and train.tokens_per_step "
                f"({train.tokens_per_step}) a multiple of it, got {first}; the nearest is "
                f"{min(able, key=lambda tokens: abs(tokens - first))}",
            )
    lengths = {f"train.phases.{i}.max_length": phase.max_length for i, phase in enumerate(train.phases)}
    for name, tokens in (lengths or {"stream.max_length": stream.max_length}).items():
        if config.composition.strategy == "pairs" and tokens < SHORTEST_PAIR:
            yield name, f"must be at least {SHORTEST_PAIR} for pairs, got {tokens}"
        if tokens > model.max_positions:
            yield (
                name,
                f"is {tokens} but model.max_positions is {model.max_positions}; cut the documents shorter or lengthen "
                "the position table",
            )
        if tokens > micro:
            yield (
                name,
                f"is {tokens} but stream.micro_batch_tokens is {micro}; shorten the one or raise the other, since a "
                "piece must fit in one micro-batch",
            )


def _objectives(config: "RunConfig") -> Iterator[tuple[str, str]]:
    weights = asdict(config.objective)
    composition = config.composition.strategy
    if not any(weights.values()) and config.distillation.teacher is None:
        yield (
            "objective",
            f"must give one of {', '.join(weights)} a weight, got 0 for all; give --objective.mlm 1, or a teacher with "
            "`unmask distill general TEACHER`",
        )
    for one, other, reason in INCOMPATIBLE_OBJECTIVES:
        if weights[one] > 0 and weights[other] > 0:
            yield (
                f"objective.{one}",
                f"and objective.{other} are both above 0, but {reason}; set objective.{other} to 0",
            )
    pairs = next((name for name in ("nsp", "sop") if weights[name] > 0), None)
    if pairs and composition != "pairs":
        yield (
            f"objective.{pairs}",
            f"is {weights[pairs]} but composition.strategy is {composition!r}, which gives no pairs of segments; set "
            "composition.strategy to 'pairs'",
        )
    if composition == "pairs" and not pairs:
        yield (
            "composition.strategy",
            "is 'pairs' but objective.nsp and objective.sop are both 0; give one of them a weight, or set "
            "composition.strategy to 'documents'",
        )
    if pairs and config.model.num_segments < 2:
        yield (
            f"objective.{pairs}",
            f"is {weights[pairs]} but model.num_segments is 1; set it to 2, the segments of a pair",
        )
    if pairs and config.model.causal:
        yield (
            f"objective.{pairs}",
            f"is {weights[pairs]} but model.causal is true, so [CLS], which predicts the pair's label, sees nothing of "
            "the pair; set model.causal to false",
        )
    if weights["clm"] > 0 and not config.model.causal:
        yield (
            "objective.clm",
            "is above 0 but model.causal is false, so each token would see its answer; set model.causal to true",
        )


def _distillation(config: "RunConfig") -> Iterator[tuple[str, str]]:
    distillation = config.distillation
    if distillation.teacher is None:
        return
    losses = ("embedding", "hidden", "attention", "relation")
    if not any(getattr(distillation, name) for name in losses):
        yield "distillation", f"must give one of {', '.join(losses)} a weight, got 0 for all; leave one of them out"
    if config.init.from_ is not None:
        yield (
            "init.from",
            "is given with distillation.teacher, whose student begins with new weights or with layers of the teacher; "
            "leave it out, or give distillation.student_layers",
        )
    if config.train.compile:
        yield (
            "train.compile",
            "is true with distillation.teacher, whose forward pass the losses of a micro-batch share, so it is no one "
            "graph; set it to false",
        )
    if config.train.parallel == "fsdp":
        yield (
            "train.parallel",
            "is 'fsdp' with distillation.teacher, whose losses read parameters beside the student's layers; set it to "
            "'ddp'",
        )
    for name, weight in asdict(config.objective).items():
        if name != "mlm" and weight > 0:
            yield (
                f"objective.{name}",
                f"is {weight:g} with distillation.teacher, which goes with objective.mlm alone; set it to 0",
            )
