"""The least bytes and operations of each operation, added up tensor by tensor; see also test_attention_cost.py."""

from __future__ import annotations

import pytest

from unmask_kernels.attention import cost as attention
from unmask_kernels.distill import cost as distill
from unmask_kernels.embedding import cost as embedding
from unmask_kernels.gelu import cost as gelu
from unmask_kernels.layer_norm import cost as layer_norm
from unmask_kernels.linear_gelu import cost as linear_gelu
from unmask_kernels.masking import cost as masking
from unmask_kernels.mlm_loss import cost as mlm_loss
from unmask_kernels.optimizer import cost as optimizer

T, D, S = 1000, 64, 2  # tokens, columns, bytes of an element of activations
ROWS = T * D * S  # bytes of an activation tensor
VECTOR, STATISTICS = 4 * D, 2 * 4 * T  # bytes of fp32 values: one a column, two a row


def test_attention_reads_and_writes_each_head_once_and_a_statistic_a_row() -> None:
    heads, width = 4, 16
    lse = 4 * T * heads
    assert attention.bytes_forward(T, heads, width, S) == 3 * ROWS + ROWS + lse
    assert attention.bytes_backward(T, heads, width, S) == (3 + 1 + 1) * ROWS + lse + 3 * ROWS


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("x_bias", [False, True])
def test_layer_norm(residual: bool, x_bias: bool) -> None:
    form = {"residual": residual, "x_bias": x_bias}
    parameters = VECTOR * (2 + x_bias)
    assert layer_norm.bytes_forward(T, D, S, **form) == (2 + residual) * ROWS + STATISTICS + parameters
    # reads weight, writes the gradients of weight and bias; reads x_bias, writes its gradient
    gradients = VECTOR * (3 + 2 * x_bias)
    assert layer_norm.bytes_backward(T, D, S, **form) == (3 + residual) * ROWS + STATISTICS + gradients
    # with dropout the gradients of x and of the residual differ, so both are written
    dropped = layer_norm.bytes_backward(T, D, S, dropout=True, **form)
    assert dropped == (3 + 2 * residual) * ROWS + STATISTICS + gradients


@pytest.mark.parametrize("bias", [False, True])
def test_gelu(bias: bool) -> None:
    assert gelu.bytes_forward(T, D, S, bias=bias) == 2 * ROWS + bias * VECTOR
    assert gelu.bytes_backward(T, D, S, bias=bias) == 3 * ROWS + bias * 2 * VECTOR
    # reads a gate and a value for each element that it writes
    assert gelu.bytes_forward(T, D, S, gated=True, bias=bias) == 3 * ROWS + bias * 2 * VECTOR
    assert gelu.bytes_backward(T, D, S, gated=True, bias=bias) == 5 * ROWS + bias * 4 * VECTOR


@pytest.mark.parametrize("gated", [False, True])
def test_linear_gelu(gated: bool) -> None:
    width = 96
    rows = width * (1 + gated)  # of the weight
    x, y, z, weight = T * D, T * width, T * rows, rows * D
    assert linear_gelu.flops_forward(T, D, width, gated=gated) == 2 * T * D * rows
    assert linear_gelu.flops_backward(T, D, width, gated=gated) == 2 * 2 * T * D * rows
    assert linear_gelu.bytes_forward(T, D, width, S, gated=gated) == (x + y + z) * S + 4 * weight
    assert linear_gelu.bytes_forward(T, D, width, S, gated=gated, keep=False) == (x + y) * S + 4 * weight
    # reads dy and z, writes dz; reads dz and the 16-bit weight, writes dx; reads dz and x, writes dweight in fp32
    moved = (y + z + z) * S + (z + weight + x) * S + (z + x) * S + 4 * weight
    assert linear_gelu.bytes_backward(T, D, width, S, gated=gated) == moved


def test_embedding() -> None:
    positions, vocabulary = 512, 3000
    # per token a row of the word table, and id, position and segment of 8 bytes each; the other tables once
    read = T * (4 * D + 3 * 8) + VECTOR * (positions + 2)
    assert embedding.bytes_forward(T, D, S, positions=positions) == read + ROWS + STATISTICS
    tables = VECTOR * (vocabulary + positions + 2)
    assert (
        embedding.bytes_backward(T, D, S, vocabulary=vocabulary, positions=positions)
        == read + ROWS + STATISTICS + tables
    )
    assert (embedding.flops_forward(T, D), embedding.flops_backward(T, D)) == (9 * T * D, 18 * T * D)


@pytest.mark.parametrize("words", [False, True])
def test_masking(words: bool) -> None:
    # per token ids in and out and one or two flags; per document an offset and a key; per slot a row and a label
    moved = T * (8 + 8 + 1 + words) + 20 * (4 + 8) + 150 * (8 + 8)
    assert masking.bytes_forward(T, 20, 150, 8, words=words) == moved


def test_mlm_loss() -> None:
    masked, vocabulary = 150, 3000
    product = 2 * masked * D * vocabulary
    table, logits = vocabulary * D, masked * vocabulary * S
    assert mlm_loss.flops_forward(masked, D, vocabulary) == product
    assert mlm_loss.flops_backward(masked, D, vocabulary) == 2 * product
    # logits: read, read, written; the table's gradient: read, written, and for every further chunk read twice and
    # written once
    assert mlm_loss.bytes_between(masked, D, vocabulary, S, 1) == 3 * logits + 2 * 4 * table
    assert mlm_loss.bytes_between(masked, D, vocabulary, S, 3) == 3 * logits + (2 + 2 * 3) * 4 * table


def test_distill() -> None:
    length, student, teacher = 512, 32, 64
    # scores of both; D k and D^T q
    scores = 2 * length * length * (student + teacher)
    assert distill.flops_by_tiles(length, student, teacher) == scores + 2 * 2 * length * length * student
    # q and k: three matrices each, and two products with the rows
    matrices = 2 * length * (student**2 + student * teacher + teacher**2)
    gradients = 2 * length * (student**2 + student * teacher)
    assert distill.flops_by_gram(length, student, teacher) == 2 * (matrices + gradients)
    assert distill.flops_by_gram(length, 64, 64) == 20 * length * 64**2
    short, long = (distill.flops_by_tiles(16, 64, 64), distill.flops_by_gram(512, 64, 64))
    assert distill.flops_score([16, 512], 3, 64, 64) == 3 * (short + long)
    assert distill.flops_relation([512], 3, student, teacher) == 3 * distill.flops_by_tiles(512, student, teacher)
    q, teacher_q = T * 2 * student * S, T * 2 * teacher * S
    # q and k are read, and so are the teacher's; two gradients are written
    assert distill.bytes_pairs(T, 2, student, teacher, S) == 2 * q + 2 * teacher_q + 2 * q
    weight = 4 * student * teacher
    assert distill.flops_hidden(T, student, teacher) == 3 * 2 * T * student * teacher
    assert distill.bytes_hidden(T, student, teacher, S) == T * (2 * student + teacher) * S + 2 * weight
    assert distill.bytes_prediction(T, 3, S) == 3 * T * 3 * S


def test_optimizer() -> None:
    weight, gradient, moments = 4 * D, 2 * D, 2 * 4 * D
    least = weight + gradient + moments + weight + moments
    assert optimizer.bytes_step(D, 2) == least
    assert optimizer.bytes_step(D, 2, clip_norm=True, copies=True) == least + gradient + 2 * D
    # a first pass without parameters, a second without gradients
    first = gradient + 2 * moments
    assert optimizer.bytes_step(D, 2, clip_update=True) == first + weight + moments + weight
    assert optimizer.bytes_step(D, 2, algorithm="lamb") == weight + first + weight + moments + weight
