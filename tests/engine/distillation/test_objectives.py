"""What a student learns of its teacher's states: the formulas over matrices in fp64, and where gradients go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask import EncoderConfig, PackedBatch, pack
from unmask.config.distillation import DistillationConfig
from unmask.distillation.objectives import learn_states
from unmask.distillation.student import Student
from unmask.distillation.teacher import Teacher
from unmask.model import Encoder
from unmask.objectives import score_batch

DOCUMENTS = [[2, 5, 6, 7, 3], [2, 8, 3], [2, 9, 10, 11, 12, 13, 14, 15, 3]]
DOUBLE = torch.float64
EVERY = {"embedding": 1.0, "hidden": 1.0, "attention": 1.0, "relation": 1.0}


def config(width: int, layers: int, **others: Any) -> EncoderConfig:
    sizes = {"num_heads": 4, "intermediate_size": 32, "max_positions": 16, "initializer_range": 0.3} | others
    return EncoderConfig(vocab_size=30, hidden_size=width, num_layers=layers, **sizes)


def pair(**settings: Any) -> tuple[Student, Teacher, dict[str, Any]]:
    """A student of two layers in training, without dropout, a teacher of four with much of it, and the objectives."""
    heads = settings.pop("student_heads", 4)
    free = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "num_heads": heads}
    student = Student(config(24, 2, **free), compute_dtype=DOUBLE, seed=1).double().train()
    model = Encoder(config(32, 4, hidden_dropout=0.5, attention_dropout=0.5), seed=2, pooler=False).double()
    teacher = Teacher.of(model, torch.device("cpu"))
    objectives = learn_states(student, teacher, DistillationConfig(**(EVERY | settings)), seed=0)
    student.projections.double()
    return student, teacher, {objective.name: (objective, weight) for objective, weight in objectives}


def scores(student: Student, objectives: dict[str, Any], batch: PackedBatch) -> dict[str, Tensor]:
    """The mean of each loss."""
    tallies = score_batch(student, list(objectives.values()), batch)
    return {name: tally.loss_sum / tally.count for name, tally in zip(objectives, tallies, strict=True)}


def expected(student: Student, teacher: Teacher, layers: dict[int, int]) -> dict[str, Tensor]:
    """The losses by their formulas: each document alone, whole matrices of scores, no taps."""
    sums = {name: torch.zeros((), dtype=DOUBLE) for name in EVERY}
    tokens = sum(map(len, DOCUMENTS))
    for ids in DOCUMENTS:
        ours, theirs = (states_of(encoder, ids) for encoder in (student.encoder, teacher.encoder))
        for name, places in (("embedding", {0: 0}), ("hidden", layers)):
            weight, bias = student.projections.of(name)
            for m, g in places.items():
                error = F.linear(ours[0][m], weight, bias) - theirs[0][g]
                sums[name] += error.square().mean(1).sum() / tokens
        for m, g in layers.items():
            (q, k, v), (tq, tk, tv) = ours[1][m], theirs[1][g]
            error = q @ k.mT / q.shape[-1] ** 0.5 - tq @ tk.mT / tq.shape[-1] ** 0.5
            sums["attention"] += error.square().mean() / len(DOCUMENTS)
            for (one, other), (their_one, their_other) in (((q, k), (tq, tk)), ((v, v), (tv, tv))):
                logs = (one @ other.mT / one.shape[-1] ** 0.5).log_softmax(-1)
                their_logs = (their_one @ their_other.mT / their_one.shape[-1] ** 0.5).log_softmax(-1)
                divergence = (their_logs.exp() * (their_logs - logs)).sum(-1)
                sums["relation"] += divergence.mean() / len(DOCUMENTS)
    return sums


def states_of(encoder: Encoder, ids: list[int]) -> tuple[list[Tensor], dict[int, Tensor]]:
    """Hidden states (s, D), from the embeddings on, and queries, keys and values (3, H, s, K) of each layer."""
    batch = pack([ids])
    taps, training = encoder.taps, encoder.training
    encoder.taps = None
    states, qkv = [encoder.embeddings(batch.ids, batch.documents, batch.segments, None, DOUBLE)], {}
    for number, layer in enumerate(encoder.eval().layers, start=1):
        heads = layer.qkv(states[-1]).view(len(ids), 3, layer.heads, layer.head_dim)
        qkv[number] = heads.permute(1, 2, 0, 3)
        states.append(layer(states[-1], batch.documents, None))
    encoder.taps = taps
    encoder.train(training)
    return states, qkv


@pytest.mark.parametrize("projection", ["separate", "shared"])
def test_losses_and_gradients_are_those_of_the_formulas_over_whole_matrices(projection: str) -> None:
    student, teacher, objectives = pair(projection=projection)
    # padding at the end, which counts in no loss
    batch = pack(DOCUMENTS, tokens=32, max_seqlen=16)
    found, formulas = scores(student, objectives, batch), expected(student, teacher, {1: 2, 2: 4})
    for name in EVERY:
        parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(found[name], parameters, retain_graph=True, allow_unused=True)
        others = torch.autograd.grad(formulas[name], parameters, retain_graph=True, allow_unused=True)
        torch.testing.assert_close(found[name], formulas[name], rtol=1e-7, atol=1e-9)
        for gradient, other in zip(gradients, others, strict=True):
            if other is None:
                assert gradient is None or not gradient.any()
            else:
                torch.testing.assert_close(gradient, other, rtol=1e-6, atol=1e-9)


def test_a_document_is_scored_packed_as_it_is_alone() -> None:
    student, _, objectives = pair()
    together = score_batch(student, list(objectives.values()), pack(DOCUMENTS, tokens=40, max_seqlen=16))
    alone = [score_batch(student, list(objectives.values()), pack([ids])) for ids in DOCUMENTS]
    for number, tally in enumerate(together):
        assert int(tally.count) == sum(int(one[number].count) for one in alone)
        torch.testing.assert_close(tally.loss_sum, sum(one[number].loss_sum for one in alone))


def test_the_teacher_drops_nothing_while_the_student_trains_and_gets_no_gradient() -> None:
    student, teacher, objectives = pair()
    batch = pack(DOCUMENTS)
    first = {name: float(loss.detach()) for name, loss in scores(student, objectives, batch).items()}
    # the same batch again, in another object, so the teacher reads it again
    losses = scores(student, objectives, pack(DOCUMENTS))
    assert {name: float(loss.detach()) for name, loss in losses.items()} == first
    torch.stack([*losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
    assert student.training and not teacher.encoder.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.encoder.parameters())
    assert all(parameter.grad is not None for parameter in student.projections.parameters())
    # the last layer's output is compared, so everything below it learns
    assert all(parameter.grad is not None for parameter in student.encoder.parameters())


def test_the_normalization_of_the_published_code_is_the_mean_over_a_padded_square() -> None:
    student, teacher, objectives = pair(normalization="padded_square", embedding=0.0, hidden=0.0, relation=0.0)
    found = scores(student, objectives, pack(DOCUMENTS, max_seqlen=16))["attention"]
    # the formula of the code on padded input: masked scores are 0 in both, and the mean is over the whole square
    squares = torch.zeros(2, len(DOCUMENTS), 4, 16, 16, dtype=DOUBLE)
    for row, ids in enumerate(DOCUMENTS):
        ours, theirs = (states_of(encoder, ids)[1] for encoder in (student.encoder, teacher.encoder))
        for number, (m, g) in enumerate({1: 2, 2: 4}.items()):
            (q, k, _), (tq, tk, _) = ours[m], theirs[g]
            error = q @ k.mT / q.shape[-1] ** 0.5 - tq @ tk.mT / tq.shape[-1] ** 0.5
            squares[number, row, :, : len(ids), : len(ids)] = error.square()
    torch.testing.assert_close(found, squares.mean((1, 2, 3, 4)).sum(), rtol=1e-7, atol=1e-9)


def test_the_losses_of_small_states_are_those_computed_by_hand() -> None:
    """Identical embeddings but for one number, and identical scores."""
    student, teacher, objectives = pair(relation=0.0)
    batch = pack([[2, 3]])
    scores(student, objectives, batch)
    ours, theirs = student.encoder.taps, teacher.encoder.taps
    assert ours is not None and theirs is not None
    ours.hidden_states = {0: torch.tensor([[1.0, 0.0], [0.0, 2.0]]), 1: torch.ones(2, 2), 2: torch.zeros(2, 2)}
    theirs.hidden_states = {0: torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 2: torch.ones(2, 2), 4: torch.full((2, 2), 3.0)}
    # scores [[1, 0], [0, 1]] / 1 of the student and [[0, 0], [0, 0]] of the teacher, one head of one element
    eye, none = torch.tensor([[[1.0]], [[0.0]]]), torch.zeros(2, 1, 1)
    ours.qkv = {layer: torch.stack([eye, eye, none], 1) for layer in (1, 2)}
    theirs.qkv = {layer: torch.stack([none, none, none], 1) for layer in (2, 4)}
    for name in ("embedding", "hidden"):
        student.projections.weights[name] = torch.nn.Parameter(torch.eye(2))
    found = {
        name: float(objective(student, torch.empty(0), batch).loss_sum.detach()) / int(objective.count(batch))
        for name, (objective, _) in objectives.items()
    }
    # 2^2 over two tokens and two columns; 0 and 3^2; 1^2 over four pairs, in two layers
    assert found == {"embedding": 1.0, "hidden": 9.0, "attention": 0.5}


def test_heads_are_compared_by_the_means_of_groups() -> None:
    student, teacher, objectives = pair(
        student_heads=2, heads="mean_of_groups", relation=0.0, embedding=0.0, hidden=0.0
    )
    found = scores(student, objectives, pack(DOCUMENTS))["attention"]
    total = torch.zeros((), dtype=DOUBLE)
    for ids in DOCUMENTS:
        ours, theirs = (states_of(encoder, ids)[1] for encoder in (student.encoder, teacher.encoder))
        for m, g in {1: 2, 2: 4}.items():
            (q, k, _), (tq, tk, _) = ours[m], theirs[g]
            their_scores = (tq @ tk.mT / tq.shape[-1] ** 0.5).unflatten(0, (2, 2)).mean(1)
            total += (q @ k.mT / q.shape[-1] ** 0.5 - their_scores).square().mean() / len(DOCUMENTS)
    torch.testing.assert_close(found, total, rtol=1e-7, atol=1e-9)
