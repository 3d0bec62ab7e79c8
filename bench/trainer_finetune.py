"""Fine-tuning with the Trainer of `transformers`, at the settings of a run of ours and from the same weights.

It reads the inputs that `task.inputs` makes, padded by its own collator in batches of nearly equal length
(`train_sampling_strategy="group_by_length"`), its fastest order. Dropout, AdamW with its exclusions, the schedule of
the learning rate, clipping, steps and evaluations are ours, and `task.scores` scores its predictions. A difference
remains: its loss of question answering takes the softmax over padding too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unmask.config import OptimizerConfig
from unmask.tasks.config import FinetuneConfig
from unmask.tasks.finetuner import LabelledFile
from unmask.tasks.initial_model import InitialModel
from unmask.tasks.inputs import ModelInputs
from unmask.tasks.outputs import Outputs
from unmask.tasks.scores.scoring import Scores
from unmask.tasks.task import Task, head_of
from unmask.tasks.tasks import open_training_file
from unmask.train.precision import choose_precision
from unmask.train.schedule import StepSchedule

__all__ = ["save_initial", "train_theirs"]

_CLASSES = {"entities": "TokenClassification", "qa": "QuestionAnswering"}
# padded tokens of one forward pass of an evaluation, as in `unmask.tasks.outputs`
_TOKENS = 8192
_RESAMPLES = 1000
_IGNORED = -100


def save_initial(config: FinetuneConfig, folder: Path, *, new_weights: bool = False) -> None:
    """Write the model that a run of ours begins with, as `transformers` loads it; with `new_weights`, from no model."""
    initial = InitialModel.open(config)
    task, _ = open_training_file(config, None)
    head = head_of(task, config, initial.sizes.hidden_dropout)
    if new_weights:
        from unmask.model.encoder import with_dropout
        from unmask.model.task_model import TaskModel

        model = TaskModel(with_dropout(initial.sizes, config.head.encoder_dropout), head, seed=config.seed)
    else:
        model = initial.build(head, config=config, dtype=torch.float32)
    model.save_pretrained(folder, pad_id=initial.tokenizer.pad_id)
    initial.tokenizer.save(folder, max_length=config.input.max_length)


def train_theirs(config: FinetuneConfig, folder: Path) -> dict[str, Any]:
    """Fine-tune and score, and return the scores, the seconds of training without evaluations, and the inputs read.

    Args:
        config: settings of the run of ours beside it.
        folder: for the initial model.
    """
    import transformers

    if config.optimizer.layer_decay != 1 or config.head.frozen_layers or config.train.patience is not None:
        raise SystemExit(
            "bench_finetune_runs: the Trainer has no optimizer.layer_decay, head.frozen_layers and train.patience; "
            "leave them out, or give --peer none"
        )
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    save_initial(config, folder)
    initial = InitialModel.open(config)
    task, examples = open_training_file(config, None)
    train = task.inputs(examples, initial.tokenizer)
    files = {}
    for part, name in (("dev", config.data.dev), ("test", config.data.test)):
        read = [] if name is None else task.read(Path(name))
        if task.has_labels(read) and read:
            files[part] = LabelledFile(examples=read, inputs=task.inputs(read, initial.tokenizer))
    model_class = getattr(transformers, f"BertFor{_CLASSES.get(config.task, 'SequenceClassification')}")
    torch.manual_seed(config.seed)
    model = model_class.from_pretrained(folder)
    run = _Run(config=config, task=task, model=model, dev=files.get("dev"))
    run.train(_rows(train, config.task), transformers.AutoTokenizer.from_pretrained(folder), folder / "trainer")
    found: dict[str, Any] = {"seed": config.seed, "seconds": run.seconds, "best_step": run.best_step, "intervals": {}}
    for part, file in files.items():
        scores = run.scores(file, resamples=_RESAMPLES)
        found[part], found["intervals"][part] = scores.values, scores.intervals
    return found


@dataclass(kw_only=True, slots=True)
class _Run:
    """A run of the Trainer.

    Attributes:
        config: settings of the run.
        task: what the outputs mean.
        model: trained by `train`, which leaves the weights of the best evaluation in it.
        dev: scored when our run scores it; None keeps the last step.
        seconds: of training, without evaluations.
        best_step: the step with the best score of `dev`.
    """

    config: FinetuneConfig
    task: Task
    model: Any
    dev: LabelledFile | None
    seconds: float = 0.0
    best_step: int = 0

    def train(self, rows: list[dict[str, Any]], tokenizer: Any, folder: Path) -> None:
        """Train on the rows."""
        from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding

        settings, optimizer = self.config.train, self.config.optimizer
        every = -(-len(rows) // settings.batch_size)
        steps = max(1, round(settings.epochs * every))
        rates = OptimizerConfig(
            learning_rate=optimizer.learning_rate, warmup_steps=round(optimizer.warmup_share * steps)
        )
        schedule = StepSchedule(rates, steps)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        bf16 = choose_precision(settings.dtype, device).dtype is torch.bfloat16
        collator = DataCollatorForTokenClassification if self.config.task == "entities" else DataCollatorWithPadding
        arguments = {
            "max_steps": steps,
            "per_device_train_batch_size": settings.batch_size,
            "train_sampling_strategy": "group_by_length",
            "optim": "adamw_torch_fused",
            "learning_rate": optimizer.learning_rate,
            "weight_decay": optimizer.weight_decay,
            "adam_beta1": optimizer.beta1,
            "adam_beta2": optimizer.beta2,
            "adam_epsilon": optimizer.eps,
            "max_grad_norm": optimizer.clip_norm,
            "seed": self.config.seed,
            "bf16": bf16,
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
        }
        _trainer(self, schedule, folder, arguments)(rows, collator(tokenizer), settings.evaluate_every or every)

    def scores(self, file: LabelledFile, *, resamples: int = 0) -> Scores:
        """Return the scores of the model on a file."""
        outputs = self._outputs(file.inputs)
        return self.task.scores(
            self.task.predictions(outputs, file.inputs, file.examples), file.examples, resamples=resamples
        )

    @torch.no_grad()
    def _outputs(self, inputs: ModelInputs) -> Outputs:
        device, training = self.model.device, self.model.training
        self.model.eval()
        found: list[Any] = [None] * len(inputs)
        for some in inputs.cut(np.argsort(-inputs.lengths, kind="stable"), _TOKENS):
            spans = [slice(inputs.ends[one] - inputs.lengths[one], inputs.ends[one]) for one in some]
            ids, kinds, mask = (
                torch.nn.utils.rnn.pad_sequence([torch.from_numpy(values[span]) for span in spans], batch_first=True)
                for values in (inputs.ids, inputs.segments, np.ones_like(inputs.ids))
            )
            output = self.model(ids.to(device), attention_mask=mask.to(device), token_type_ids=kinds.to(device))
            if self.config.task == "qa":
                logits = torch.stack([output.start_logits, output.end_logits], -1)
            else:
                logits = output.logits
            for index, one in zip(some.tolist(), logits.float().cpu().numpy(), strict=True):
                kept = one[: inputs.lengths[index]] if self.config.task == "qa" else one
                found[index] = kept if inputs.words is None else kept[inputs.words[index]]
        self.model.train(training)
        return Outputs(logits=found, loss=None)


def _trainer(run: _Run, schedule: StepSchedule, folder: Path, arguments: Mapping[str, Any]) -> Any:
    """Return what trains `run.model` on rows with the Trainer, and evaluates."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Scheduled(Trainer):  # type: ignore[misc]
        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            rate = run.config.optimizer.learning_rate
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda step: schedule(step) / rate if step < schedule.steps else 0.0
            )
            return self.lr_scheduler

    class Evaluations(TrainerCallback):  # type: ignore[misc]
        def __init__(self, every: int) -> None:
            self.every, self.began = every, 0.0
            self.best: float | None = None
            self.weights: dict[str, torch.Tensor] | None = None

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, _: Any, state: Any, __: Any, **___: Any) -> None:
            step, last = state.global_step, state.global_step == schedule.steps
            if step % self.every and not last:
                return
            run.seconds += time.perf_counter() - self.began
            score = None
            if run.dev is not None:
                score = run.scores(run.dev).values[run.config.train.metric or run.task.metric]
            if self.best is None or score is None or (score < self.best if run.task.best_is_low else score > self.best):
                self.best, run.best_step = score, step
                self.weights = {name: value.clone() for name, value in run.model.state_dict().items()}
            self.began = time.perf_counter()

    def train(rows: list[dict[str, Any]], collator: Any, every: int) -> None:
        evaluations = Evaluations(every)
        trainer = Scheduled(
            run.model,
            TrainingArguments(str(folder), **arguments),
            data_collator=collator,
            train_dataset=rows,
            callbacks=[evaluations],
        )
        trainer.train()
        assert evaluations.weights is not None
        run.model.load_state_dict(evaluations.weights)

    return train


def _rows(inputs: ModelInputs, task: str) -> list[dict[str, Any]]:
    """Return inputs as rows of a dataset, with the names of the arguments of the model."""
    rows = []
    for index, (length, end) in enumerate(zip(inputs.lengths.tolist(), inputs.ends.tolist(), strict=True)):
        span = slice(end - length, end)
        row: dict[str, Any] = {
            "input_ids": inputs.ids[span].tolist(),
            "token_type_ids": inputs.segments[span].tolist(),
            "attention_mask": [1] * length,
        }
        if task == "entities":
            assert inputs.words is not None and inputs.tags is not None
            labels = np.full(length, _IGNORED)
            labels[inputs.words[index]] = inputs.tags[index]
            row["labels"] = labels.tolist()
        else:
            assert inputs.targets is not None
            target = inputs.targets[index].tolist()
            row |= {"start_positions": target[0], "end_positions": target[1]} if task == "qa" else {"labels": target}
        rows.append(row)
    return rows
