"""What the errors of operations advise: each wrong call is refused in these words, and the call as advised works."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import unmask_kernels
from advice import Action, follow
from unmask_kernels import FAMILIES, Documents, philox, using
from unmask_kernels.attention.arguments import schedule
from unmask_kernels.attention.op import MAX_DROPOUT_LENGTH

BOUNDARIES = torch.tensor([0, 3, 5], dtype=torch.int32)
DOCUMENTS = Documents.build(BOUNDARIES)
KEY = philox.dropout_keys(torch.tensor(7), 1, 1)[0, 0]
X = torch.linspace(-1, 1, 40).view(5, 8)
IDS = torch.tensor([4, 1, 2, 3, 0])
# one row of documents too long for a random address; it takes no memory
LONG = Documents.build(torch.tensor([0, 2], dtype=torch.int32), max_seqlen=MAX_DROPOUT_LENGTH + 1)
TABLE, COLUMN = torch.ones(6, 8), torch.ones(8)
HEADS, MORE_HEADS = torch.ones(5, 2, 4), torch.ones(5, 6, 4)
PAIRS: dict[str, Any] = {
    **dict.fromkeys(("student_q", "student_k", "teacher_q", "teacher_k"), HEADS),
    "documents": DOCUMENTS,
}

RIGHT: dict[str, dict[str, Any]] = {
    "attention": {"qkv": torch.ones(5, 3, 2, 8), "documents": DOCUMENTS},
    "embedding": {
        "ids": IDS,
        "segments": torch.zeros(5, dtype=torch.int64),
        "documents": DOCUMENTS,
        "word": TABLE,
        "position": TABLE,
        "segment": TABLE[:2],
        "weight": COLUMN,
        "bias": COLUMN,
    },
    "gelu": {"x": X, "bias": COLUMN},
    "layer_norm": {"x": X, "residual": X, "weight": COLUMN, "bias": COLUMN},
    "linear_gelu": {"x": X, "weight": TABLE, "bias": torch.ones(6)},
    "masking": {
        "ids": IDS,
        "documents": DOCUMENTS,
        "word_starts": torch.ones(5, dtype=torch.bool),
        "rate": 0.5,
        "split": (0.8, 0.1, 0.1),
        "special": torch.tensor([True] + [False] * 5),
        "ordinary": torch.arange(1, 6),
        "mask_id": 0,
        "keys": torch.tensor([1, 2]),
        "capacity": 5,
    },
    "mlm_loss": {"hidden": X, "positions": torch.tensor([0, 2]), "labels": torch.tensor([3, 1]), "weight": TABLE},
    "attention_score_loss": PAIRS,
    "attention_relation_loss": PAIRS,
    "hidden_state_loss": {"student": X, "teacher": X[:, :6], "weight": TABLE, "bias": torch.ones(6)},
    "soft_cross_entropy": {"student_logits": X, "teacher_logits": -X},
}


def call(family: str, **changes: Any) -> Action:
    arguments = {name: value for name, value in (RIGHT[family] | changes).items() if value is not LEFT_OUT}
    return lambda: getattr(unmask_kernels, family)(**arguments)


def each(*actions: Action) -> Action:
    return lambda: [action() for action in actions]


def built(cu_seqlens: Any, **given: Any) -> Action:
    return lambda: Documents.build(cu_seqlens, **given)


def block(*args: Any, make: Callable[..., Any] = using, **given: Any) -> Action:
    def enter() -> None:
        with make(*args, **given):
            pass

    return enter


def under_compile(**given: Any) -> Action:
    def compiled() -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(torch.compiler, "is_compiling", lambda: True)
            Documents.build(BOUNDARIES, **given)

    return compiled


LEFT_OUT = object()
ONE = torch.ones(())

# what is wrong, what the message says and advises, and the same call as it advises
CASES: dict[str, tuple[Action, str, Action]] = {
    "rank": (
        call("layer_norm", x=X[0]),
        "layer_norm: x must have shape (T, D), got (8,)",
        call("layer_norm", x=X[:1], residual=X[:1]),
    ),
    "shape": (
        call("layer_norm", weight=torch.ones(7)),
        "layer_norm: weight must have shape (8,), the last dimension of x, got (7,)",
        call("layer_norm", weight=torch.ones(8)),
    ),
    "dtype": (
        call("mlm_loss", labels=torch.tensor([3, 1], dtype=torch.int32)),
        "mlm_loss: labels must be int64, got int32",
        call("mlm_loss", labels=torch.tensor([3, 1], dtype=torch.int32).long()),
    ),
    "device": (
        call("gelu", bias=COLUMN.to("meta")),
        "gelu: bias must be on cpu, the device of x, got meta; move it with bias.to('cpu')",
        call("gelu", bias=torch.ones_like(COLUMN.to("meta"), device="cpu").to("cpu")),
    ),
    "id": (
        call("embedding", ids=IDS + 2),
        "embedding: ids must be in [0, 6), the rows of word; use the tokenizer that the model was trained with, got 6",
        call("embedding", ids=IDS),
    ),
    "random address": (
        call("layer_norm", p=0.1, key=KEY),
        "layer_norm: p is 0.1, so row_keys is needed to address the random numbers; take keys from "
        "philox.dropout_keys and row_keys from Documents, or pass p=0.0",
        call("layer_norm", p=0.1, key=KEY, row_keys=DOCUMENTS.row_keys),
    ),
    "no random address": (
        call("layer_norm", p=0.1),
        "layer_norm: p is 0.1, so key is needed to address the random numbers; take keys from ... , or pass p=0.0",
        call("layer_norm", p=0.0),
    ),
    "key of another dtype": (
        call("attention", p=0.1, key=KEY.float()),
        "attention: key must be int64, got float32",
        call("attention", p=0.1, key=KEY),
    ),
    "several keys": (
        call("attention", p=0.1, key=KEY[None]),
        "attention: key must be a scalar tensor, got shape (1,)",
        call("attention", p=0.1, key=KEY),
    ),
    "probability": (
        call("attention", p=1.0, key=KEY),
        "attention: p must be at least 0 and below 1, got 1.0",
        call("attention", p=0.5, key=KEY),
    ),
    "probability near 1": (
        call("attention", p=0.999999, key=KEY),
        "attention: p must be at most 1 - 2**-16, the step of dropout's random numbers, got 0.999999",
        call("attention", p=1 - 2**-16, key=KEY),
    ),
    "documents of another class": (
        call("attention", documents=BOUNDARIES),
        "attention: documents must be Documents, got Tensor; make them with Documents.build(cu_seqlens)",
        call("attention", documents=Documents.build(BOUNDARIES)),
    ),
    "parts of qkv": (
        call("attention", qkv=torch.ones(5, 2, 2, 8)),
        "attention: qkv must hold 3 parts in dimension 1 (q, k, v), got shape (5, 2, 2, 8)",
        call("attention", qkv=torch.ones(5, 3, 2, 8)),
    ),
    "rows of qkv": (
        call("attention", qkv=torch.ones(6, 3, 2, 8)),
        "attention: qkv must have one row per token of documents (5), got 6",
        call("attention", qkv=torch.ones(6, 3, 2, 8)[:5]),
    ),
    "strides of qkv": (
        call("attention", qkv=torch.ones(5, 3, 8, 2).mT),
        "attention: qkv must be contiguous in its last dimension, got strides (48, 16, 1, 2); call qkv.contiguous()",
        call("attention", qkv=torch.ones(5, 3, 8, 2).mT.contiguous()),
    ),
    "window": (
        call("attention", window=2.5),
        "attention: window must be a whole number of tokens, or None to see the whole document, got 2.5",
        call("attention", window=2),
    ),
    "no window": (
        call("attention", window=-1),
        "attention: window must be a whole number of tokens, or None to see the whole document, got -1",
        call("attention", window=None),
    ),
    "causal": (
        call("attention", causal="yes"),
        "attention: causal must be True or False, got 'yes'",
        call("attention", causal=True),
    ),
    "a scale that is no number": (
        call("attention", scale=float("nan")),
        "attention: scale must be a finite number, got nan; leave it out, and it is head_dim ** -0.5",
        call("attention"),
    ),
    "a scale that is text": (
        call("attention", scale="0.5"),
        "attention: scale must be a finite number, got '0.5'; leave it out",
        call("attention", scale=0.5),
    ),
    "long documents with dropout": (
        call("attention", qkv=torch.ones(2, 3, 2, 8), documents=LONG, p=0.1, key=KEY),
        f"attention: with dropout a document may have {MAX_DROPOUT_LENGTH} tokens, the rows a random address can name, "
        f"documents.max_seqlen is {MAX_DROPOUT_LENGTH + 1}; pass p=0.0",
        call("attention", qkv=torch.ones(2, 3, 2, 8), documents=LONG, p=0.0, backend="reference"),
    ),
    "boundaries that are a list": (
        built([0, 3, 5]),
        "documents: cu_seqlens must be an int32 tensor, got list; use torch.tensor(cu_seqlens, dtype=torch.int32)",
        built(torch.tensor([0, 3, 5], dtype=torch.int32)),
    ),
    "keys that are a list": (
        built(BOUNDARIES, keys=[1, 2]),
        "documents: keys must be an int64 tensor, got list; use torch.tensor(keys, dtype=torch.int64)",
        built(BOUNDARIES, keys=torch.tensor([1, 2], dtype=torch.int64)),
    ),
    "boundaries of another dtype": (
        built(BOUNDARIES.long()),
        "documents: cu_seqlens must be int32, got torch.int64; use cu_seqlens.int()",
        built(BOUNDARIES.long().int()),
    ),
    "no boundaries": (
        built(BOUNDARIES[:1]),
        "documents: cu_seqlens must have shape (S + 1,) with S >= 1, got (1,)",
        built(BOUNDARIES[:2]),
    ),
    "boundaries under the compiler": (
        under_compile(),
        "documents: tokens and max_seqlen must be given for cu_seqlens on a GPU and under torch.compile, since reading "
        "them would stall the device or cut the graph",
        under_compile(tokens=5, max_seqlen=3),
    ),
    "keys of another shape": (
        built(BOUNDARIES, keys=torch.tensor([1])),
        "documents: keys must be int64 of shape (2,), one per document, got torch.int64 (1,)",
        built(BOUNDARIES, keys=torch.tensor([1, 2])),
    ),
    "boundaries that start late": (
        built(BOUNDARIES[1:]),
        "documents: cu_seqlens must start at 0, starts at 3",
        built(BOUNDARIES[1:] - 3),
    ),
    "lengths": (
        built(torch.tensor([0, 3, 2], dtype=torch.int32)),
        "documents: cu_seqlens must not decrease, entry 2 is 2 after 3; give offsets, not lengths",
        built(torch.tensor([0, 3, 2], dtype=torch.int32).cumsum(0).int()),
    ),
    "padded tokens": (
        built(BOUNDARIES, tokens=4),
        "documents: cu_seqlens must end at the number of tokens (4), ends at 5; does it count padded tokens?",
        built(BOUNDARIES.clamp(max=4), tokens=4),
    ),
    "longest document": (
        built(BOUNDARIES, max_seqlen=2),
        "documents: max_seqlen must bound every document, is 2 but one has 3 tokens",
        built(BOUNDARIES, max_seqlen=3),
    ),
    "few positions": (
        call("embedding", position=TABLE[:2]),
        "embedding: documents.max_seqlen is 3 but position has 2 rows; cut documents into pieces, or make a larger "
        "table of positions",
        call("embedding", position=TABLE[:3]),
    ),
    "few positions for whole documents": (
        call("embedding", position=TABLE[:2]),
        "cut documents into pieces",
        call("embedding", position=TABLE[:2], documents=Documents.build(torch.tensor([0, 2, 4, 5]).int())),
    ),
    "dtype of an embedding": (
        call("embedding", dtype=torch.int64),
        "embedding: dtype must be float16, bfloat16, float32 or float64, got torch.int64",
        call("embedding", dtype=torch.float64),
    ),
    "eps of an embedding": (
        call("embedding", eps=0.0),
        "embedding: eps must be above 0, got 0.0; BERT uses 1e-12",
        call("embedding", eps=1e-12),
    ),
    "empty table": (
        call("embedding", segment=TABLE[:0]),
        "embedding: segment must have at least one row, got shape (0, 8)",
        call("embedding", segment=TABLE[:1]),
    ),
    "activation": (
        call("gelu", activation="relu"),
        "gelu: activation must be one of 'gelu', 'gelu_tanh', 'geglu', 'swiglu', got 'relu'",
        call("gelu", activation="gelu_tanh"),
    ),
    "columns of a gate": (
        call("gelu", x=X[:, :7], bias=None, activation="geglu"),
        "gelu: x must have an even number of columns for activation 'geglu', a gate and a value of equal width, got",
        call("gelu", x=X[:, :6], bias=None, activation="geglu"),
    ),
    "eps": (
        call("layer_norm", eps=-1.0),
        "layer_norm: eps must be above 0, got -1.0; BERT uses 1e-12",
        call("layer_norm", eps=1e-12),
    ),
    "activation of a product": (
        call("linear_gelu", activation="relu"),
        "linear_gelu: activation must be one of 'gelu', 'gelu_tanh', 'geglu', 'swiglu', got 'relu'",
        call("linear_gelu", activation="swiglu"),
    ),
    "rows of a gate": (
        call("linear_gelu", weight=TABLE[:5], bias=None, activation="geglu"),
        "linear_gelu: weight must have an even number of rows for activation 'geglu', a gate and a value of equal",
        call("linear_gelu", weight=TABLE[:4], bias=None, activation="geglu"),
    ),
    "columns of a product": (
        call("linear_gelu", weight=TABLE[:, :5]),
        "linear_gelu: weight must have 8 columns, the last dimension of x, got shape (6, 5)",
        call("linear_gelu", x=X[:, :5], weight=TABLE[:, :5]),
    ),
    "no columns": (
        call("linear_gelu", x=X[:, :0], weight=TABLE[:, :0]),
        "linear_gelu: x must have at least one column, got shape (5, 0)",
        call("linear_gelu", x=X[:, :1], weight=TABLE[:, :1]),
    ),
    "documents of a loss": (
        call("attention_score_loss", documents=BOUNDARIES),
        "attention_score_loss: documents must be Documents, got Tensor; make them with Documents.build(cu_seqlens)",
        call("attention_score_loss", documents=Documents.build(BOUNDARIES)),
    ),
    "dtype of a teacher": (
        call("attention_score_loss", teacher_k=HEADS.bfloat16()),
        "attention_score_loss: teacher_k must be float32, the dtype of student_q, got bfloat16; "
        "use teacher_k.to(student_q.dtype)",
        call("attention_score_loss", teacher_k=HEADS.bfloat16().to(HEADS.dtype)),
    ),
    "tokens of a loss": (
        call("attention_relation_loss", student_k=HEADS[:4]),
        "attention_relation_loss: student_k must have one row per token of documents (5), got 4",
        call("attention_relation_loss", student_k=HEADS),
    ),
    "heads without elements": (
        call("attention_score_loss", student_q=HEADS[..., :0], student_k=HEADS[..., :0]),
        "attention_score_loss: student_q must have a head of at least one element, got shape (5, 2, 0)",
        call("attention_score_loss", student_q=HEADS[..., :1], student_k=HEADS[..., :1]),
    ),
    "normalization": (
        call("attention_score_loss", normalization="mean"),
        "attention_score_loss: normalization must be one of 'pairs', 'padded_square', got 'mean'",
        call("attention_score_loss", normalization="padded_square"),
    ),
    "rule of heads": (
        call("attention_score_loss", heads="first"),
        "attention_score_loss: heads must be one of 'equal', 'mean_of_groups', got 'first'",
        call("attention_score_loss", heads="mean_of_groups"),
    ),
    "more heads": (
        call("attention_score_loss", teacher_q=MORE_HEADS, teacher_k=MORE_HEADS),
        "attention_score_loss: with heads 'equal' teacher_q must have 2 heads, as student_q has, got 6; "
        "'mean_of_groups' compares means of groups of heads",
        call("attention_score_loss", teacher_q=MORE_HEADS, teacher_k=MORE_HEADS, heads="mean_of_groups"),
    ),
    "no groups of heads": (
        call("attention_score_loss", teacher_q=MORE_HEADS[:, :5], teacher_k=MORE_HEADS[:, :5], heads="mean_of_groups"),
        "attention_score_loss: with heads 'mean_of_groups' one number of heads must be a multiple of the other, got 2 "
        "of student_q and 5 of teacher_q; leave this loss out",
        # other losses take such a teacher
        call("hidden_state_loss"),
    ),
    "heads that differ": (
        call("attention_score_loss", teacher_q=MORE_HEADS[:, :5], teacher_k=MORE_HEADS[:, :5]),
        "attention_score_loss: with heads 'equal' teacher_q must have 2 heads, as student_q has, got 5; leave this",
        call("hidden_state_loss"),
    ),
    "relation heads": (
        call("attention_relation_loss", teacher_q=MORE_HEADS, teacher_k=MORE_HEADS),
        "attention_relation_loss: teacher_q must have 2 heads, as many as student_q, got 6; cut all four into the same "
        "number of relation heads with x.reshape(T, relation_heads, -1)",
        call(
            "attention_relation_loss",
            **{name: HEADS.reshape(5, 4, -1) for name in ("student_q", "student_k")},
            **{name: MORE_HEADS.reshape(5, 4, -1) for name in ("teacher_q", "teacher_k")},
        ),
    ),
    "causal loss": (
        call("attention_relation_loss", causal=1),
        "attention_relation_loss: causal must be True or False, got 1",
        call("attention_relation_loss", causal=True),
    ),
    "window of a loss": (
        call("attention_score_loss", window=1.5),
        "attention_score_loss: window must be a whole number of tokens, or None to see the whole document, got 1.5",
        each(call("attention_score_loss", window=1), call("attention_score_loss", window=None)),
    ),
    "weights": (
        call("soft_cross_entropy", weights=torch.ones(4)),
        "soft_cross_entropy: weights must have shape (5,), one weight per row, got (4,)",
        call("soft_cross_entropy", weights=torch.ones(5)),
    ),
    "rows of a teacher": (
        call("hidden_state_loss", teacher=X[:4, :6]),
        "hidden_state_loss: teacher must have 5 rows, as student has, got 4",
        call("hidden_state_loss", teacher=X[:, :6]),
    ),
    "bias alone": (
        call("hidden_state_loss", weight=None),
        "hidden_state_loss: bias needs weight, which is None; pass weight, or leave bias out",
        each(call("hidden_state_loss"), call("hidden_state_loss", teacher=X, weight=None, bias=None)),
    ),
    "projection": (
        call("hidden_state_loss", weight=None, bias=None),
        "hidden_state_loss: without weight teacher must have 8 columns, as student has, got 6; pass a weight (6, 8) "
        "that projects the student",
        call("hidden_state_loss", weight=torch.ones(6, 8), bias=None),
    ),
    "classes": (
        call("soft_cross_entropy", student_logits=X[:, :0], teacher_logits=X[:, :0]),
        "soft_cross_entropy: student_logits must have at least one class, got shape (5, 0)",
        call("soft_cross_entropy", student_logits=X[:, :1], teacher_logits=X[:, :1]),
    ),
    "temperature": (
        call("soft_cross_entropy", temperature=0),
        "soft_cross_entropy: temperature must be a finite number above 0, got 0",
        call("soft_cross_entropy", temperature=2),
    ),
    "slots": (
        call("masking", capacity=0),
        "masking: capacity is 0 but 1 slots are needed; raise it, or pack fewer tokens",
        call("masking", capacity=1),
    ),
    "slots for fewer tokens": (
        call("masking", capacity=0),
        "or pack fewer tokens",
        call(
            "masking",
            capacity=0,
            ids=IDS[:2],
            word_starts=torch.ones(2, dtype=torch.bool),
            documents=Documents.build(torch.tensor([0, 2]).int()),
        ),
    ),
    "negative slots": (
        call("masking", capacity=-1),
        "masking: capacity must be at least 0, got -1",
        call("masking", capacity=5),
    ),
    "mask id": (
        call("masking", mask_id=6),
        "masking: mask_id must be in [0, 6), the ids that special knows, got 6",
        call("masking", mask_id=5),
    ),
    "no ordinary ids": (
        call("masking", ordinary=IDS[:0]),
        "masking: ordinary must hold the ids that a random replacement draws, got none",
        call("masking", ordinary=IDS[:1]),
    ),
    "mask rate": (
        call("masking", rate=0.0),
        "masking: rate must lie in (0, 1], got 0.0; BERT masks 0.15",
        call("masking", rate=0.15),
    ),
    "mask split": (
        call("masking", split=(0.8, 0.1, 0.2)),
        "masking: split must be three shares that sum to 1, got (0.8, 0.1, 0.2)",
        call("masking", split=(0.7, 0.1, 0.2)),
    ),
    "no rows": (
        call("mlm_loss", weight=TABLE[:0]),
        "mlm_loss: weight must have a row for every id, at least one, got shape (0, 8)",
        call("mlm_loss", weight=TABLE[:4]),
    ),
    "columns of weight": (
        call("mlm_loss", weight=TABLE[:, :4]),
        "mlm_loss: weight must have 8 columns, the last dimension of hidden, got shape (6, 4)",
        call("mlm_loss", weight=TABLE),
    ),
    "hidden states without positions": (
        call("mlm_loss", positions=None),
        "mlm_loss: without positions hidden must have one row per label (2), got 5; pass positions to take rows",
        call("mlm_loss", positions=torch.tensor([0, 2])),
    ),
    "a backend that does not exist": (
        call("gelu", backend="tritn"),
        "gelu: backend must be one of 'triton', 'torch', 'reference', got 'tritn'",
        call("gelu", backend="torch"),
    ),
    "an operation that does not exist": (
        block(layernorm="torch"),
        f"using: 'layernorm' is not an operation; there are {', '.join(FAMILIES)}",
        block(layer_norm="torch"),
    ),
    "a backend that cannot run": (
        call("gelu", x=X.double(), bias=None, backend="triton"),
        "gelu: backend 'triton' cannot run this call: ... ; leave it out, and one that can is chosen",
        call("gelu", x=X.double(), bias=None),
    ),
    "fused lengths": (
        block(make=schedule, fused_up_to=7),
        "attention: fused_up_to must be one of ... , got 7",
        block(make=schedule, fused_up_to=64),
    ),
    "lengths with a bit mask": (
        block(make=schedule, bitmask_up_to=7),
        "attention: bitmask_up_to must be 0 or one of ... , got 7",
        block(make=schedule, bitmask_up_to=0),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_call_as_its_error_advises_works(case: str) -> None:
    wrong, told, advised = CASES[case]
    follow(wrong, told, advised)


def test_a_damaged_record_of_what_has_passed_is_made_again() -> None:
    from unmask_kernels.machine_record import Machine
    from unmask_kernels.passes import Entry, entries_of, table_of

    machine = Machine(**dict.fromkeys(Machine.__dataclass_fields__, "sm_90"))
    made = FAMILIES["gelu"].example("cuda", "sm_90", torch.float32)
    right = table_of(Entry("gelu", "torch", made))

    def read(table: Any, name: str = "passed") -> Action:
        return lambda: list(entries_of({name: table}, name, machine))

    again = "; run `unmask verify` again"
    for wrong, told in (
        (read({}), f"machine_record: passed must be a list, got {{}}{again}"),
        (read({}, "failed"), f"machine_record: failed must be a list, got {{}}{again}"),
        (
            read([{**right, "backend": "tritn"}]),
            f"machine_record: an entry of passed names no backend, got ... {again}",
        ),
        (read([7], "failed"), f"machine_record: an entry of failed names no backend, got 7{again}"),
        (read([{**right, "call": {}}]), f"machine_record: a call of gelu must have ... , got {{}}{again}"),
    ):
        follow(wrong, told, read([right]), read([right], "failed"))


def test_scores_are_scaled_by_a_backend_that_can() -> None:
    pytest.importorskip("triton")
    from unmask_kernels.attention import _triton

    right = RIGHT["attention"]
    follow(
        # what the kernels of both directions begin with
        lambda: _triton._shared(SimpleNamespace(scale=-0.5)),  # type: ignore[arg-type]
        "attention: backend 'triton' needs a scale above 0, got -0.5; ask for backend 'torch'",
        lambda: unmask_kernels.attention(**right, scale=-0.5, backend="torch"),
    )
