"""What a student learns of its teacher's states, as objectives over packed batches (arXiv:1909.10351, section 3.1).

    embedding   (E_S W_e - E_T)^2    output of the embeddings             mean over tokens and columns
    hidden      (H_S W_h - H_T)^2    outputs of layers                    mean over tokens and columns
    attention   (S_S - S_T)^2        scores before the softmax            mean over documents, their heads and pairs
    relation    KL(P_T || P_S)       P = softmax(Q K^T / sqrt(K)), plus   mean over documents, their heads and rows
                                     P = softmax(V V^T / sqrt(K)): MiniLM (arXiv:2002.10957)

Losses of the layers m of the student and g(m) of the teacher are summed over m; `layer_map` has g. Padding counts in
none of them. Gradients reach the student and its projections alone.

Shapes: T packed tokens, S documents, D and E hidden, H heads of K elements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from unmask.batch import PackedBatch
from unmask.config.distillation import DistillationConfig
from unmask.distillation.layer_map import layer_map
from unmask.distillation.projections import Projections
from unmask.distillation.student import Student
from unmask.distillation.teacher import Teacher
from unmask.errors import ConfigError
from unmask.model import EncoderConfig, PretrainingModel
from unmask.model.encoder import initialise
from unmask.model.taps import Taps
from unmask.model.task_model import TaskModel
from unmask.objectives import Objective, Tally
from unmask_kernels import attention_relation_loss, attention_score_loss, hidden_state_loss

__all__ = ["learn_states"]

# the heads of a model are its parts 1 and 2
_PART = 3


def learn_states(
    student: PretrainingModel | Student | TaskModel, teacher: Teacher, config: DistillationConfig, *, seed: int
) -> list[tuple[Objective, float]]:
    """Give a student taps and projections, and return the objectives by which it learns the teacher's states.

    Args:
        student: the student, on the CPU or where it trains. It gets the module `projections`.
        teacher: the teacher.
        config: layers, weights and variants.
        seed: seed of the projections.
    Returns:
        (objective, weight) pairs; those of weight 0 are left out.
    Raises:
        ConfigError: layers or heads of the two cannot be compared.
    """
    encoder = student.encoder
    ours, theirs = encoder.config, teacher.encoder.config
    layers = layer_map(config.map, teacher=theirs.num_layers, student=ours.num_layers, layers=config.layers)
    weights = {name: getattr(config, name) for name in _LOSSES if getattr(config, name) > 0}
    if weights.keys() & {"attention", "relation"}:
        _require_comparable(encoder.config, theirs, layers, config)
    widened = [name for name in ("embedding", "hidden") if name in weights]
    projections = Projections(ours.hidden_size, theirs.hidden_size, losses=widened, kind=config.projection)
    initialise(projections, ours.initializer_range, seed, part=_PART)
    student.projections = projections.to(next(encoder.parameters()).device)
    states = [*([0] if "embedding" in weights else []), *(layers if "hidden" in weights else [])]
    pairs = list(layers) if weights.keys() & {"attention", "relation"} else []
    encoder.taps = Taps(hidden=states, attention=pairs)
    place = {0: 0, **layers}
    teacher.encoder.taps = Taps(hidden=[place[m] for m in states], attention=[place[m] for m in pairs])
    shared = _Shared(teacher=teacher, layers=layers, config=config)
    return [(_LOSSES[name](shared), weight) for name, weight in weights.items()]


def _require_comparable(
    ours: EncoderConfig, theirs: EncoderConfig, layers: Mapping[int, int], config: DistillationConfig
) -> None:
    """Refuse heads that cannot be compared, and layers that see other tokens than those of the teacher."""
    heads, others = ours.num_heads, theirs.num_heads
    begin = f"config: distillation.heads is {config.heads!r} but the student has {heads} heads and the teacher {others}"
    if config.relation > 0 and heads != others:
        raise ConfigError(
            f"{begin}, and relations are compared head by head; give --distillation.relation 0, or a student of "
            f"{others} heads"
        )
    if config.heads == "equal" and heads != others:
        if max(heads, others) % min(heads, others) == 0:
            way = "give --distillation.heads mean_of_groups to compare the means of groups of heads, "
        else:
            way = ""
        raise ConfigError(f"{begin}; {way or 'give '}--distillation.attention 0, or a student of {others} heads")
    if max(heads, others) % min(heads, others):
        raise ConfigError(
            f"{begin}, of which neither is a multiple of the other; give --distillation.attention 0, or a student of "
            f"{others} heads"
        )
    for layer, other in layers.items():
        if ours.causal != theirs.causal or ours.window(layer - 1) != theirs.window(other - 1):
            raise ConfigError(
                f"config: layer {layer} of the student and layer {other} of the teacher do not see the same tokens, "
                "because one of them is causal or local; give --distillation.attention 0 and --distillation.relation "
                "0, or a student with the teacher's model.causal and model.attention_window"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shared:
    """What the objectives of one student share.

    Attributes:
        teacher: the teacher.
        layers: the teacher's layer for each layer of the student that learns one.
        config: variants of the losses.
    """

    teacher: Teacher
    layers: Mapping[int, int]
    config: DistillationConfig


class _Loss:
    """What the objectives share: they read all rows of the student, and states of both models."""

    name: ClassVar[str]
    heads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared

    def rows(self, batch: PackedBatch) -> None:
        """Return None: the states of all tokens are read."""

    def _tally(self, losses: list[Tensor], batch: PackedBatch) -> Tally:
        count = self.count(batch)
        return Tally(torch.stack(losses).sum(), count, torch.zeros_like(count))

    def count(self, batch: PackedBatch) -> Tensor:
        raise NotImplementedError


class _States(_Loss):
    """The losses of states of tokens."""

    def count(self, batch: PackedBatch) -> Tensor:
        """Return the number of tokens, () int64."""
        return torch.tensor(batch.real_tokens, device=batch.ids.device)

    def _layers(self) -> Mapping[int, int]:
        return self._shared.layers

    def __call__(self, model: Any, hidden: Tensor, batch: PackedBatch) -> Tally:
        """Compare the states of the two models."""
        ours = model.encoder.taps.hidden_states
        theirs = self._shared.teacher.states(batch).hidden_states
        weights = _first(batch.documents.tokens, batch.real_tokens, batch.ids.device)
        weight, bias = model.projections.of(self.name)
        return self._tally(
            [hidden_state_loss(ours[m], theirs[g], weight, bias, weights=weights) for m, g in self._layers().items()],
            batch,
        )


class _Embedding(_States):
    name = "embedding"

    def _layers(self) -> Mapping[int, int]:
        return {0: 0}


class _Hidden(_States):
    name = "hidden"


class _Pairs(_Loss):
    """The losses of pairs of tokens."""

    def count(self, batch: PackedBatch) -> Tensor:
        """Return the number of documents, () int64."""
        return torch.tensor(batch.real_documents, device=batch.ids.device)

    def __call__(self, model: Any, hidden: Tensor, batch: PackedBatch) -> Tally:
        """Compare the attention of the two models."""
        ours, theirs = model.encoder.taps.qkv, self._shared.teacher.states(batch).qkv
        documents, config = batch.documents, model.config
        weights = _first(len(documents.keys), batch.real_documents, batch.ids.device)
        losses = []
        for m, g in self._shared.layers.items():
            seen = {"causal": config.causal, "window": config.window(m - 1), "weights": weights}
            losses += self._losses(ours[m].unbind(1), theirs[g].unbind(1), documents, seen)
        return self._tally(losses, batch)

    def _losses(
        self, ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], documents: Any, seen: dict[str, Any]
    ) -> list[Tensor]:
        raise NotImplementedError


class _Attention(_Pairs):
    name = "attention"

    def _losses(
        self, ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], documents: Any, seen: dict[str, Any]
    ) -> list[Tensor]:
        config = self._shared.config
        variant: dict[str, Any] = {"normalization": config.normalization, "heads": config.heads}
        (q, k, _), (teacher_q, teacher_k, _) = ours, theirs
        return [attention_score_loss(q, k, teacher_q, teacher_k, documents, **variant, **seen)]


class _Relation(_Pairs):
    name = "relation"

    def _losses(
        self, ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], documents: Any, seen: dict[str, Any]
    ) -> list[Tensor]:
        (q, k, v), (teacher_q, teacher_k, teacher_v) = ours, theirs
        return [
            attention_relation_loss(q, k, teacher_q, teacher_k, documents, **seen),
            attention_relation_loss(v, v, teacher_v, teacher_v, documents, **seen),
        ]


_LOSSES: dict[str, Callable[[_Shared], Objective]] = {
    kind.name: kind for kind in (_Embedding, _Hidden, _Attention, _Relation)
}


def _first(length: int, count: int, device: torch.device) -> Tensor:
    """Return 1 for the first `count` of `length` rows and 0 for the padding behind them, fp32 (length,)."""
    return (torch.arange(length, device=device) < count).float()
