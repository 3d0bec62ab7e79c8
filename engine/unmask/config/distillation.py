"""The settings of distillation: what a student learns from a teacher (Jiao et al. 2020, arXiv:1909.10351)."""

from dataclasses import dataclass
from typing import Literal

from unmask.config.settings import Checked, setting

__all__ = ["DistillationConfig", "GeneralDistillationConfig", "TaskDistillationConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillationConfig(Checked):
    """Which states of the teacher a student learns, and the weight of each loss."""

    teacher: str | None = setting(
        None,
        "Model to learn from: a run, a checkpoint, a Hugging Face folder or ORG/NAME of the Hub. None: no "
        "distillation.",
    )
    map: Literal["uniform", "top", "bottom", "last"] = setting(
        "uniform",
        "Which of the teacher's N layers each of the student's M layers learns. uniform: layer m learns N / M * m. "
        "top: the last M. bottom: the first M. last: the last layer alone learns the last one, as in MiniLM (Wang et "
        "al. 2020, arXiv:2002.10957).",
    )
    layers: list[int] = setting(
        list, "Layers of the teacher, counted from 1, one for each layer of the student; they take the place of `map`."
    )
    embedding: float = setting(1.0, "Weight of the loss of the embeddings' output.", ge=0)
    hidden: float = setting(1.0, "Weight of the loss of the layers' outputs.", ge=0)
    attention: float = setting(1.0, "Weight of the loss of the attention scores, before the softmax.", ge=0)
    relation: float = setting(
        0.0, "Weight of MiniLM's loss of the attention distributions and of the relations between values.", ge=0
    )
    projection: Literal["separate", "shared"] = setting(
        "separate",
        "What widens the student's states to the teacher's. separate: a matrix for the embeddings and one for all "
        "layers, as in the paper. shared: one matrix and bias for both, as in the code published with it.",
    )
    heads: Literal["equal", "mean_of_groups"] = setting(
        "equal",
        "How heads are compared. equal: one by one, for which both need as many. mean_of_groups: the means of groups "
        "of heads that follow each other.",
    )
    normalization: Literal["pairs", "padded_square"] = setting(
        "pairs",
        "What the attention loss is a mean over. pairs: pairs of tokens of one document, as in the paper. "
        "padded_square: all pairs of a padded batch, as in the code published with it.",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneralDistillationConfig(DistillationConfig):
    """Distillation on unlabelled text: the teacher, what is learnt of it, and the weight of each loss."""

    student_layers: list[int] = setting(
        list,
        "Layers of the teacher, counted from 1, that the student begins with, beside its embeddings. Empty: new "
        "weights.",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskDistillationConfig(DistillationConfig):
    """Distillation on the examples of a task: the layers first, then the predictions."""

    intermediate_epochs: float = setting(
        20.0, "Readings of the training file in which the student learns the teacher's layers. 0: none.", ge=0, le=10**4
    )
    intermediate_learning_rate: float = setting(5e-5, "Learning rate of that stage; it stays the same.", gt=0)
    intermediate_batch_size: int = setting(32, "Examples of an optimizer step of that stage.", ge=1)
    prediction_data: str | None = setting(
        None,
        "File to learn the teacher's predictions on. None: `data.train`. STS-B and SQuAD take the original examples "
        "here, and augmented ones as `data.train`.",
    )
    temperature: float = setting(1.0, "What the outputs of both models are divided by before the softmax.", gt=0)
    regression_targets: Literal["teacher", "labels"] = setting(
        "teacher",
        "What the student of a regression learns: the teacher's numbers, as in the paper, or the labels, as in the "
        "code published with it.",
    )
    stage: Literal["prediction", "intermediate"] = setting(
        "prediction",
        "What this run learns. A run that learns predictions first makes a run inside it, which learns the layers.",
    )
