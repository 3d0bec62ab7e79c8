"""The settings of a fine-tuning run: one group for each component.

    data         files with examples, and the columns that hold text and label    tasks.examples
    input        how a text becomes a sequence: maximum length, long texts        tasks.encoding
    answers      what may be an answer                                            tasks.qa.answers
    head         the output layer                                                 model.task_model
    distillation the teacher, and what is learnt of it                            tasks.distilled
    optimizer    AdamW and its schedule                                           train.optim, train.schedule
    train        epochs, examples of a step, evaluation                           tasks.finetuner

The defaults are those of BERT's authors for GLUE (Devlin et al. 2019, arXiv:1810.04805, section 4.1 and appendix A.3).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from unmask.config.distillation import TaskDistillationConfig
from unmask.config.head import HeadTask
from unmask.config.settings import Checked, hints_of, setting

__all__ = [
    "AnswersConfig",
    "ExamplesConfig",
    "FinetuneConfig",
    "FinetuneOptimizerConfig",
    "FinetuneTrainConfig",
    "InputConfig",
    "OutputLayerConfig",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExamplesConfig(Checked):
    """Files with examples, and the columns that hold text and label."""

    train: str | None = setting(None, "File to train on.")
    dev: str | None = setting(None, "File to choose the best checkpoint by. None: the last step is kept.")
    test: str | None = setting(None, "File that the best checkpoint is scored on at the end.")
    layout: str | None = setting(
        None, "Benchmark whose files these are, such as sst2 or tnews. None: `text`, `pair` and `label` name columns."
    )
    text: str | None = setting(
        None,
        "Column with the text, with the first text of a pair, or with the words; a number counts columns from 1. None: "
        "`text`, or of words the first column.",
    )
    pair: str | None = setting(None, "Column with the second text of a pair.")
    label: str | None = setting(
        None,
        "Column with the label, where several classes of one text stand between commas, or with the tags. None: "
        "`label`, or of tags the last column.",
    )
    id: str | None = setting(None, "Column with the names of the examples. None: their numbers, from 0.")
    encoding: str = setting("utf-8", "Encoding of the files.")
    delimiter: str | None = setting(
        None, "Sign between the columns of separated files. None: a comma in .csv, else a tab."
    )
    labels: list[str] = setting(
        list, "Names of the classes, in the order of their numbers. Empty: those of the training file, sorted."
    )
    train_examples: int | None = setting(None, "Examples of the training file that are used, the first ones.", ge=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class InputConfig(Checked):
    """How a text becomes a sequence."""

    max_length: int = setting(
        128,
        "Maximum number of tokens of a sequence, [CLS] and [SEP] included. A pair that is longer loses tokens at the "
        "end of its longer text.",
        ge=8,
    )
    stride: int = setting(
        128, "Question answering: tokens from the start of a window of a context to that of the next one.", ge=1
    )
    max_question: int = setting(64, "Question answering: most tokens of a question; the rest is cut.", ge=1)
    long_texts: Literal["head", "head_tail", "windows"] = setting(
        "head",
        "What of a longer text is read: its head; its head in a quarter of the room and its tail in the rest (Sun et "
        "al. 2019, arXiv:1905.05583); or all of it, in windows whose predictions are averaged.",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswersConfig(Checked):
    """Question answering: what may be an answer."""

    max_tokens: int = setting(30, "Most tokens of an answer.", ge=1)
    best: int = setting(20, "Starts, ends and candidates that are compared for each question.", ge=1)
    threshold: float = setting(
        0.0, "What the score of no answer must exceed that of the best answer by, for no answer; a dev file tells it."
    )
    rules: Literal["squad", "squad2", "cmrc", "cjrc"] = setting(
        "squad",
        "Official scores. squad: of SQuAD v1.1. squad2: of v2, where a question may have no answer. cmrc: of CMRC "
        "2018, which compares characters. cjrc: of CJRC, likewise, where a question may have no answer.",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputLayerConfig(Checked):
    """The output layer, and dropout."""

    new: bool = setting(
        False, "Whether a model that has an output layer for this task gets a new one. Any other model always does."
    )
    dropout: float | None = setting(
        None, "Dropout in front of the output layer. None: the encoder's for hidden states.", ge=0, lt=1
    )
    encoder_dropout: float | None = setting(
        None, "Dropout of the encoder's hidden states and attention. None: as its config.json says.", ge=0, lt=1
    )
    frozen_layers: int = setting(
        0, "Layers that stay as they are, with the embeddings; counted from the input. 0: everything is trained.", ge=0
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneOptimizerConfig(Checked):
    """AdamW and the schedule of its learning rate."""

    learning_rate: float = setting(
        3e-5, "Peak learning rate, reached at the end of the warm-up; then it decays linearly to 0.", gt=0
    )
    warmup_share: float = setting(0.1, "Share of the steps in which the learning rate grows.", ge=0, lt=1)
    layer_decay: float = setting(
        1.0,
        "Factor of the learning rate from each layer to the one below it, as in ELECTRA (Clark et al. 2020, "
        "arXiv:2003.10555). 1: the same rate everywhere.",
        gt=0,
        le=1,
    )
    weight_decay: float = setting(0.01, "Decoupled weight decay; biases and layer norms have none.", ge=0)
    beta1: float = setting(0.9, "Decay of the first moment.", ge=0, lt=1)
    beta2: float = setting(0.999, "Decay of the second moment.", ge=0, lt=1)
    eps: float = setting(1e-6, "Added to the root of the second moment; 1e-6 as in BERT.", gt=0)
    clip_norm: float = setting(1.0, "Largest global norm of the gradient; a larger gradient is scaled down.", gt=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneTrainConfig(Checked):
    """Epochs, examples of a step, and evaluation."""

    epochs: float = setting(3.0, "Readings of the training file.", gt=0, le=10**4)
    batch_size: int = setting(32, "Examples of an optimizer step.", ge=1)
    micro_batch_tokens: int = setting(
        16384, "Tokens of one forward and backward pass, at most; a step of more tokens takes several.", ge=8
    )
    evaluate_every: int | None = setting(
        None,
        "Steps between evaluations on the dev file, each with a checkpoint. None: one at the end of an epoch.",
        ge=1,
    )
    metric: str | None = setting(
        None, "Score of the dev file by which the best checkpoint is chosen. None: the usual one of the task."
    )
    patience: int | None = setting(
        None, "Evaluations without a better score after which training stops. None: it goes on to the end.", ge=1
    )
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto",
        "Dtype of activations; auto: bfloat16 if the machine multiplies it fast, else float32. Parameters are float32.",
    )
    log_every: int = setting(20, "Steps between rows of log.jsonl.", ge=1)
    threads: int | None = setting(None, "CPU threads of PyTorch. None: its own choice.", ge=1, le=4096)
    tensorboard: bool = setting(False, "Whether to write TensorBoard events too (extra `tensorboard`).")
    wandb: bool = setting(
        False,
        "Whether to send the log to Weights & Biases too (extra `wandb`); WANDB_MODE=offline keeps it in the run "
        "directory.",
    )
    trackio: bool = setting(False, "Whether to send the log to trackio too (extra `trackio`).")
    mlflow: bool = setting(
        False, "Whether to send the log to MLflow too (extra `mlflow`), to the address in MLFLOW_TRACKING_URI."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig(Checked):
    """Everything that defines a fine-tuning run."""

    task: HeadTask = setting("classification", "What is predicted.")
    model: str = setting("", "Run, checkpoint, Hugging Face folder or ORG/NAME of the Hub to start from.")
    run: str | None = setting(None, "Directory of the run. None: a new one under runs/.")
    seed: int = setting(1, "Seed of the output layer, of the order of the examples and of dropout.", ge=0, le=2**62)
    data: ExamplesConfig = setting(ExamplesConfig, "files and columns")
    input: InputConfig = setting(InputConfig, "how a text becomes a sequence")
    answers: AnswersConfig = setting(AnswersConfig, "what may be an answer")
    head: OutputLayerConfig = setting(OutputLayerConfig, "the output layer")
    distillation: TaskDistillationConfig = setting(TaskDistillationConfig, "the teacher, and what is learnt of it")
    optimizer: FinetuneOptimizerConfig = setting(FinetuneOptimizerConfig, "AdamW and its learning rate")
    train: FinetuneTrainConfig = setting(FinetuneTrainConfig, "epochs, examples of a step, evaluation")

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        if self.train.patience is not None and self.data.dev is None:
            yield "train.patience", "is given without data.dev, so no score can stop the run; give data.dev"
        teacher, plain = self.distillation.teacher, TaskDistillationConfig()
        changed = [
            name
            for name in hints_of(TaskDistillationConfig)
            if getattr(self.distillation, name) != getattr(plain, name)
        ]
        if teacher is None and changed:
            yield (
                f"distillation.{changed[0]}",
                f"is {getattr(self.distillation, changed[0])!r} without distillation.teacher, so nothing is distilled; "
                "give the model to learn from as distillation.teacher, or leave it out",
            )
