"""How fast a model learns: `unmask pretrain` beside the Trainer of `transformers`, the same minutes each.

    PYTHONPATH=engine:kernels:. python bench/engine/bench_learning.py TEXTS --work FOLDER --minutes 30 --out auto

Both sides have the same corpus, tokenizer, model, dropout, optimizer and tokens an optimizer step, and one schedule of
the learning rate over the share of the minutes that has passed (`train/schedule.py`), so it is scaled to the steps that
each side makes. They run one after the other. The next round begins with the other one and has another seed.

    unmask         `unmask pretrain` with `train.minutes`. Its own saves and short evaluations count. It is stopped at
                   a third and at two thirds, as by a scheduler, and goes on; a new start of the loop counts too.
    transformers   its Trainer and its MLM collator, with the texts one after the other in full rows, as its example
                   script makes them, and the fastest of its dtypes and implementations of attention here. Saves do not
                   count.

Checkpoints of both at each tenth and third are scored afterwards by one function, on the same held-out pieces and
masks: `unmask.evaluate` on a folder of either side. Such a piece has [CLS] and [SEP], as ours have in training; in rows
of the example script they stand where a document begins and ends.

Where the curve of ours crosses the last loss of the other side, its learning rate is still high. `--sooner 2` also
trains ours for half the minutes, with the whole schedule in them.

FOLDER keeps the token store and the curves of finished sides, and the same command goes on with those that are missing.
Any other option is a setting of the run, such as `--optimizer.learning_rate 1e-3`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import machine, pairs, record
from bench.pairs import OURS, timed
from bench.transformers_step import SETTINGS, Setting, TransformersStep, fastest
from numpy.typing import NDArray

import unmask
from unmask.cli.pretrain import parse
from unmask.config import RunConfig, to_mapping, to_yaml
from unmask.data.store import Store
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.checkpoint.state import load_facts
from unmask.train.deadline import Deadline
from unmask.train.logging.progress import Display
from unmask.train.pretrain import train_run
from unmask.train.schedule import TimedSchedule

STOCK = "transformers"
THIRDS = (1 / 3, 2 / 3)
MARKS = sorted({*THIRDS, *(tenth / 10 for tenth in range(1, 11))})
"""Shares of the minutes at which a side is scored."""
NEVER = 1_000_000_000

Point = dict[str, float]
"""A score: minutes, step, tokens, loss, masked_accuracy and masked_tokens."""


def run_config(given: argparse.Namespace, store: Path) -> RunConfig:
    """Return the configuration of our side; the other side takes its sizes and rates."""
    settings = {
        "data.store": str(store),
        "stream.max_length": given.length,
        "stream.micro_batch_tokens": given.tokens,
        "stream.held_out_fraction": given.held_out,
        "optimizer.learning_rate": 1e-3,
        "train.tokens_per_step": given.tokens,
        "train.minutes": given.minutes,
        "train.evaluate_every": NEVER,
        "train.evaluate_tokens": given.tokens,
        "train.save_every": NEVER,
        "train.keep_checkpoints": 2 * len(MARKS),
        # the warm-up of a timed run ends after a tenth of the time at the latest
        "optimizer.warmup_steps": NEVER,
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    config, _ = parse(["bert-mini", *words, *given.settings])
    return config


@contextmanager
def stopping(minutes: float, marks: list[float]) -> Iterator[None]:
    """Let a run stop with SIGTERM at the first step after each of the marks, shares of its minutes; then one goes."""
    advance = Display.advance

    def advancing(display: Display) -> None:
        advance(display)
        assert display._seconds_left is not None
        if marks and 1.0 - display._seconds_left() / (60.0 * minutes) >= marks[0]:
            marks.pop(0)
            os.kill(os.getpid(), signal.SIGTERM)

    Display.advance = advancing  # type: ignore[method-assign]
    try:
        yield
    finally:
        Display.advance = advance  # type: ignore[method-assign]


def train_ours(config: RunConfig, run: Path) -> list[tuple[Path, Point]]:
    """Train our side, and return its checkpoints with their minutes, steps and tokens."""
    minutes = config.train.minutes
    assert minutes is not None
    marks = [*THIRDS]
    with stopping(minutes, marks):
        for number in range(len(THIRDS) + 1):
            left = len(marks)
            ending = train_run(None if number else replace(config, run=str(run)), resume=run if number else None)
            if ending.stopped and len(marks) == left:
                sys.exit(f"bench_learning: stopped by {ending.stopped}; the same command begins this side anew")
    checkpoints, found = Checkpoints(folder=run / "checkpoints"), []
    for step in checkpoints.steps():
        facts = load_facts(checkpoints.path(step) / "training")
        assert facts.seconds is not None
        point = {"minutes": facts.seconds / 60.0, "step": facts.step, "tokens": facts.tokens}
        found.append((checkpoints.path(step), point))
    return found


def full_rows(store: Store, held_out: float, length: int) -> NDArray[np.int64]:
    """Return the training documents between [CLS] and [SEP], one after the other, cut into rows of `length`."""
    chosen = np.flatnonzero(~store.held_out_mask(held_out))
    sizes = store.lengths[chosen].astype(np.int64)
    ends = np.cumsum(sizes + 2)
    ids = np.full(ends[-1], -1, dtype=np.int64)
    ids[ends - sizes - 2], ids[ends - 1] = store.special_ids["cls"], store.special_ids["sep"]
    ids[ids < 0], _ = store.gather(chosen, np.zeros_like(sizes), sizes)
    return ids[: ids.size // length * length].reshape(-1, length)


def best_setting(config: RunConfig, rows: NDArray[np.int64], vocab: int, kept: Path) -> tuple[Setting, dict[str, str]]:
    """Return the fastest setting of `transformers` here, and how the others did; the file keeps both."""
    if kept.exists():
        known = json.loads(kept.read_text())
        return next(one for one in SETTINGS if str(one) == known["fastest"]), known["trials"]
    model, device = config.model, torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def seconds(setting: Setting, ids: NDArray[np.int64], layers: int) -> float:
        step = TransformersStep.build(
            vocab=vocab,
            layers=layers,
            hidden=model.hidden_size,
            heads=model.num_heads,
            intermediate=model.intermediate_size,
            max_length=config.stream.max_length,
            dropout=model.hidden_dropout,
            setting=setting,
            device=device,
        )
        some = torch.from_numpy(ids).to(device)
        batch = {"input_ids": some, "attention_mask": torch.ones_like(some), "labels": some}
        # the loss is read, so a GPU has finished
        return min(timed(lambda: float(step(batch))).clock for _ in range(2))

    size = config.train.tokens_per_step // config.stream.max_length
    found, trials = fastest(
        lambda setting: seconds(setting, rows[:1], 1), lambda setting: seconds(setting, rows[:size], model.num_layers)
    )
    kept.write_text(json.dumps({"fastest": str(found), "trials": trials}) + "\n")
    return found, trials


def train_theirs(
    config: RunConfig, store: Store, rows: NDArray[np.int64], setting: Setting, folder: Path
) -> list[tuple[Path, Point]]:
    """Train the other side, and return its saved models with their minutes, steps and tokens."""
    from transformers import (
        AutoTokenizer,
        BertConfig,
        BertForMaskedLM,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )
    from transformers.utils import logging

    logging.disable_progress_bar()

    model, optimizer, length = config.model, config.optimizer, config.stream.max_length
    assert config.train.minutes is not None
    deadline = Deadline(config.train.minutes)
    schedule = TimedSchedule(optimizer, lambda: deadline.share)
    special = [store.special_ids[name] for name in ("cls", "sep")]
    found: list[tuple[Path, Point]] = []

    class Rows(torch.utils.data.Dataset[dict[str, Any]]):
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, at: int) -> dict[str, Any]:
            return {
                "input_ids": rows[at].tolist(),
                "special_tokens_mask": np.isin(rows[at], special).astype(np.int64).tolist(),
            }

    class Timed(Trainer):  # type: ignore[misc]
        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda step: schedule(step) / config.optimizer.learning_rate
            )
            return self.lr_scheduler

    class Marks(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            deadline.start()

        def on_step_end(self, _: Any, state: Any, control: Any, **__: Any) -> None:
            seconds = deadline.own
            if len(found) < len(MARKS) and deadline.share >= MARKS[len(found)]:
                path, step = folder / f"step-{state.global_step:06d}", state.global_step
                point = {"minutes": seconds / 60.0, "step": step, "tokens": step * size * length}
                found.append((path, point))
                trainer.model.save_pretrained(path)
                tokenizer.save_pretrained(path)
                # what this took does not count
                deadline.resume(seconds)
                deadline.start()
            control.should_training_stop = seconds >= deadline.seconds

    size = config.train.tokens_per_step // length
    store.load_tokenizer().save(folder / "tokenizer", max_length=length)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    torch.manual_seed(config.seed)
    sizes = BertConfig(
        vocab_size=store.vocab_size,
        num_hidden_layers=model.num_layers,
        hidden_size=model.hidden_size,
        num_attention_heads=model.num_heads,
        intermediate_size=model.intermediate_size,
        max_position_embeddings=model.max_positions,
        hidden_dropout_prob=model.hidden_dropout,
        attention_probs_dropout_prob=model.attention_dropout,
        pad_token_id=store.special_ids["pad"],
        attn_implementation=setting.attention,
    )
    arguments = TrainingArguments(
        str(folder / "trainer"),
        max_steps=NEVER,
        per_device_train_batch_size=size,
        learning_rate=optimizer.learning_rate,
        weight_decay=optimizer.weight_decay,
        adam_beta1=optimizer.beta1,
        adam_beta2=optimizer.beta2,
        adam_epsilon=optimizer.eps,
        max_grad_norm=optimizer.clip_norm,
        bf16=setting.dtype == torch.bfloat16,
        seed=config.seed,
        dataloader_drop_last=True,
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        remove_unused_columns=False,
    )
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=config.masking.rate)
    trainer = Timed(
        BertForMaskedLM(sizes), arguments, train_dataset=Rows(), data_collator=collator, callbacks=[Marks()]
    )
    trainer.train()
    return found


def scored(models: Sequence[tuple[Path, Point]], store: Path, recipe: Path, tokens: int) -> list[Point]:
    """Return the points with the held-out loss of each model, which is exported first if it is a checkpoint of ours."""
    curve = []
    for model, point in models:
        with tempfile.TemporaryDirectory(prefix="unmask-bench-") as folder:
            exported = model
            if (model / "training").exists():
                exported = Path(folder) / "model"
                unmask.export(model, exported)
            found = unmask.evaluate(exported, store, recipe=recipe, tokens=tokens)
        score = found.scores["mlm"]
        curve.append(point | {"loss": score.loss, "masked_accuracy": score.accuracy, "masked_tokens": score.count})
        print(f"{point['minutes']:.2f} minutes, step {point['step']}: {score}", flush=True)
    return curve


def in_words(config: RunConfig, store: Store, rows: int, setting: Setting, trials: dict[str, str]) -> str:
    """Return the setting of both sides."""
    model, train, optimizer = config.model, config.train, config.optimizer
    others = "; ".join(f"{name.removeprefix('transformers ')} {told}" for name, told in trials.items())
    return (
        f"{model.num_layers} layers, hidden {model.hidden_size}, vocabulary {store.vocab_size:,}, "
        f"dropout {model.hidden_dropout:g}; {train.tokens_per_step:,} tokens a step, sequences of at most "
        f"{config.stream.max_length}; {rows:,} such rows of training text; {optimizer.name}, learning rate "
        f"{optimizer.learning_rate:g}, schedule {optimizer.schedule} over the minutes; unmask "
        f"{machine.SHORT[machine.fast_dtype()]}, {setting} (tried as well: {others})"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both sides in each round, score them, and write the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="folder of texts")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps what is finished")
    parser.add_argument("--minutes", type=float, default=30.0, help="of a side (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="times that both train (default: %(default)s)")
    parser.add_argument(
        "--sooner", type=float, nargs="*", default=[], metavar="N", help="also train ours for the minutes divided by N"
    )
    parser.add_argument("--length", type=int, default=128, help="maximum length (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of an optimizer step (default: %(default)s)")
    parser.add_argument("--vocab-size", type=int, help="entries of the tokenizer (default: that of unmask prepare)")
    parser.add_argument("--split-at", default="^#", help="where documents begin in a text file (default: %(default)s)")
    parser.add_argument("--held-out", type=float, default=0.02, help="share of held-out documents")
    parser.add_argument("--score-tokens", type=int, default=65536, help="tokens that a score reads")
    parser.add_argument("--out", type=Path, help="result file to write ('auto' for bench/results)")
    given, given.settings = parser.parse_known_args(arguments)
    if given.tokens % given.length:
        # else the rows of the other side would not make up a step of as many tokens
        parser.error(f"argument --tokens: must be a multiple of --length {given.length}, got {given.tokens}")
    folder = given.work / "store"
    if not folder.exists():
        unmask.prepare(given.texts, folder, vocab_size=given.vocab_size, split_at=given.split_at)
    store, config = Store.open(folder), run_config(given, folder)
    recipe = given.work / "run.yaml"
    if recipe.exists() and recipe.read_text() != to_yaml(config):
        sys.exit(f"bench_learning: --work {given.work} holds rounds with other settings; give another folder")
    recipe.write_text(to_yaml(config))
    rows = full_rows(store, given.held_out, given.length)
    setting, trials = best_setting(config, rows, store.vocab_size, given.work / "setting.json")
    print(f"{setting}; tried as well: {trials}", flush=True)
    name = given.texts.resolve().name
    content = {
        "learning": name,
        "minutes": given.minutes,
        "setting": in_words(config, store, len(rows), setting, trials),
        "settings": record.without_folders(to_mapping(config)),
        "command": pairs.command(__file__, sys.argv[1:] if arguments is None else arguments),
        "rounds": [],
    }
    shorter = {f"{OURS}, {given.minutes / times:g} minutes": given.minutes / times for times in given.sooner}
    sides = {STOCK: given.minutes, OURS: given.minutes} | shorter
    for number in range(given.rounds):
        curves, seeded = {}, replace(config, seed=config.seed + number)
        for side in [*sides][:: 1 if number % 2 == 0 else -1]:
            run = given.work / f"round-{number + 1}-{side.replace(', ', '-').replace(' ', '-')}"
            kept = run.with_name(f"{run.name}.json")
            if not kept.exists():
                # a side that did not finish begins anew
                shutil.rmtree(run, ignore_errors=True)
                if side == STOCK:
                    models = train_theirs(seeded, store, rows, setting, run)
                else:
                    models = train_ours(replace(seeded, train=replace(config.train, minutes=sides[side])), run)
                kept.write_text(json.dumps(scored(models, folder, recipe, given.score_tokens)) + "\n")
                shutil.rmtree(run)
            curves[side] = json.loads(kept.read_text())
        masked = {point["masked_tokens"] for curve in curves.values() for point in curve}
        assert len(masked) == 1, f"all scores must read the same masked tokens, got {masked}"
        content["rounds"].append(curves)
        if given.out:
            auto = record.RESULTS / machine.name() / f"learning-{name}.json"
            record.save(auto if str(given.out) == "auto" else given.out, record.stamp() | content)


if __name__ == "__main__":
    main()
