"""What the errors of drop_in advise: each is followed here, and a refused model is as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import unmask
from advice import follow, refusal

transformers = pytest.importorskip("transformers")

from transformers.models.bert import modeling_bert as bert  # noqa: E402

IDS = torch.tensor([[2, 5, 6, 7, 3], [2, 8, 3, 0, 0]])
MASK = (IDS != 0).long()
LABELS = IDS.masked_fill(MASK == 0, -100)
SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 64, "max_position_embeddings": 24}


def stock(name: str = "BertModel", **options: Any) -> Any:
    return getattr(transformers, name)(transformers.BertConfig(**(SIZES | options)))


def ours(name: str = "BertModel", **options: Any) -> Any:
    return unmask.drop_in(stock(name, **options)).eval()


def runs(model: Any) -> None:
    model(IDS, MASK)


def refused(model: nn.Module, told: str, *advised: Any) -> None:
    """Require that a model is refused in these words and stays as it was."""
    classes = [type(module) for module in model.modules()]
    follow(lambda: unmask.drop_in(model), told, *advised)
    assert [type(module) for module in model.modules()] == classes


def test_a_model_without_bert_is_named() -> None:
    follow(
        lambda: unmask.drop_in("folder"),  # type: ignore[type-var]
        "drop_in: model must be a BERT model of transformers, got str; load one with AutoModel.from_pretrained(folder)",
        lambda: unmask.drop_in(stock()),
    )
    config = transformers.RobertaConfig(**SIZES)
    refused(
        transformers.RobertaModel(config),
        "drop_in: model must hold a BertModel of transformers, and RobertaModel holds none; load other "
        'models with attn_implementation="unmask" after import unmask.hf',
        lambda: runs(transformers.AutoModel.from_config(config, attn_implementation="unmask")),
    )


def test_a_model_is_replaced_once_and_undone_once() -> None:
    model = ours("BertForMaskedLM")
    told = "drop_in: the BertForMaskedLM is replaced already; call unmask.undo(model) first"
    refused(model, told, lambda: unmask.drop_in(unmask.undo(model)))
    unmask.undo(model)
    told = "undo: BertForMaskedLM must hold a model that unmask.drop_in replaced, and holds none; call unmask.drop_in"
    told += "(model) first, or leave undo out"
    follow(lambda: unmask.undo(model), told, lambda: unmask.undo(unmask.drop_in(model)), lambda: runs(model))


class Mine(transformers.BertModel):  # type: ignore[name-defined, misc]
    pass


def test_an_encoder_of_another_class_is_named() -> None:
    model = stock("BertForMaskedLM")
    model.bert.__class__ = Mine
    told = (
        "drop_in: bert (Mine) must be a BertModel of transformers itself ... call drop_in before what changes the class"
    )
    refused(model, told, lambda: setattr(ours("BertForMaskedLM").bert, "__class__", Mine))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"is_decoder": True}, "config.is_decoder of the BertModel must be False, is True"),
        (
            {"is_decoder": True, "add_cross_attention": True},
            "config.is_decoder of the BertModel must be False, is True",
        ),
        (
            {"position_embedding_type": "relative_key"},
            "config.position_embedding_type of the BertModel must be 'absolute', is 'relative_key'",
        ),
        (
            {"hidden_act": "relu"},
            "config.hidden_act of the BertModel must be one of gelu, gelu_new, gelu_pytorch_tanh, is 'relu'",
        ),
    ],
    ids=["decoder", "cross-attention", "relative positions", "activation"],
)
def test_an_encoder_that_computes_something_else_is_named(options: dict[str, Any], told: str) -> None:
    model = stock(**options)
    refused(model, f"drop_in: {told}; keep this model as it is", lambda: runs(model))


def test_weights_without_values_or_quantized_are_named() -> None:
    with torch.device("meta"):
        empty = stock()
    told = "drop_in: the BertModel must have its weights, and embeddings.word_embeddings.weight is on the meta device"
    refused(empty, told + ", without values; load the model with from_pretrained", lambda: runs(ours()))
    model = stock()
    dense = model.encoder.layer[1].output.dense
    dense.weight = nn.Parameter(dense.weight.detach().to(torch.int8), requires_grad=False)
    told = "drop_in: the BertModel must have weights of floating point, and encoder.layer.1.output.dense.weight is "
    refused(model, told + "torch.int8; load the model without quantization_config", lambda: runs(ours()))


def test_a_part_that_somebody_replaced_is_named() -> None:
    model = stock("BertForMaskedLM")
    model.bert.encoder.layer[1].intermediate = nn.Sequential(nn.Linear(32, 64), nn.GELU())
    told = (
        "drop_in: intermediate in layer 1 of bert (BertModel) must be a BertIntermediate, is Sequential; call drop_in"
    )
    refused(model, told, lambda: runs(model))


def test_a_hook_that_would_not_be_called_is_named() -> None:
    model = stock()
    layer = model.encoder.layer[0]
    hook = layer.intermediate.register_forward_hook(lambda *_: None)
    told = (
        "drop_in: intermediate of a BertLayer must have no hook, since it is not called; hook the layer itself, or a "
    )
    told += "linear layer or a norm in it, or call unmask.undo(model)"
    refused(model, told)
    hook.remove()
    model = unmask.drop_in(model)
    layer.intermediate.register_forward_hook(lambda *_: None)
    seen: list[Any] = []
    layer.register_forward_hook(lambda *_: seen.append(1))
    layer.intermediate.dense.register_forward_hook(lambda *_: seen.append(2))
    follow(lambda: runs(model), told, lambda: runs(unmask.undo(model)))
    assert seen == [2, 1]


def test_outputs_that_were_asked_for_before_leave_no_hook_behind() -> None:
    model = stock(attn_implementation="eager")
    model(IDS, MASK, output_hidden_states=True, output_attentions=True)
    runs(unmask.drop_in(model))


def test_another_bert_of_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, input_ids: Any, new_argument: Any = None) -> None:
        pass

    with monkeypatch.context() as patch:
        patch.setattr(bert.BertModel, "forward", forward)
        refused(
            stock(),
            "drop_in: transformers ... has another BertModel, whose forward takes new_argument; install transformers "
            "5.23, with which drop_in is tested, or keep the model as it is",
        )
    runs(ours())


def test_a_forward_pass_that_accelerate_wrapped_is_named() -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(mixed_precision="bf16", cpu=True)

    def unwrapped(model: Any) -> Any:
        return accelerator.unwrap_model(model, keep_fp32_wrapper=False)

    model = accelerator.prepare(stock("BertForMaskedLM"))
    told = "must have the forward of its class, and something ... with accelerator.unwrap_model(model, "
    told += "keep_fp32_wrapper=False)"
    refused(
        model,
        f"drop_in: the BertForMaskedLM {told}",
        lambda: runs(accelerator.prepare(ours("BertForMaskedLM"))),
    )
    runs(unmask.drop_in(unwrapped(model)))
    model = accelerator.prepare(ours("BertForMaskedLM"))
    follow(lambda: unmask.undo(model), f"undo: the BertForMaskedLM {told}", lambda: runs(unmask.undo(unwrapped(model))))


def test_arguments_of_decoders_and_attention_probabilities_are_named() -> None:
    model, states = ours(attn_implementation="eager"), torch.zeros(2, 5, 32)
    for name in ("encoder_hidden_states", "encoder_attention_mask", "past_key_values"):
        told = (
            f"drop_in: {name} must be None, since an encoder reads one sequence in both directions; leave it out, or "
        )
        follow(lambda name=name: model(IDS, **{name: states}), told + "call unmask.undo(model)", lambda: runs(model))
    for name, why in {"output_attentions": "attention probabilities are not kept", "is_causal": "each token"}.items():
        told = f"drop_in: {name} must be False, since {why} ... leave it out, here and in the model's config, or call "
        follow(lambda name=name: model(IDS, **{name: True}), told + "unmask.undo(model)", lambda: runs(model))
    model.config.output_attentions = True
    assert "output_attentions" in refusal(lambda: runs(model))
    unmask.undo(model)(IDS, MASK, output_attentions=True)


def test_ids_or_embedded_words_are_needed() -> None:
    model, words = ours(), torch.zeros(2, 5, 32)
    told = "drop_in: one of input_ids and inputs_embeds must be given, got ... pass input_ids, which a tokenizer makes"
    follow(lambda: model(), told, lambda: runs(model))
    follow(lambda: model(IDS, inputs_embeds=words), told.replace("...", "both; ..."), lambda: runs(model))


def test_the_pooler_needs_a_first_token() -> None:
    model, mask = ours(), MASK.flip(1)
    told = (
        "drop_in: attention_mask must begin with 1 in each row, since the pooler reads the first token, row 1 begins "
    )
    follow(lambda: model(IDS, mask), told + "with 0; set tokenizer.padding_side = 'right'", lambda: runs(model))
    # without a pooler the padding may be there
    ours("BertForMaskedLM")(IDS, mask)


def test_an_answer_is_looked_for_in_one_document() -> None:
    model, positions = ours("BertForQuestionAnswering"), torch.tensor([[0, 1, 0, 1, 2]])
    told = "drop_in: this head reads one document a row, and 1 rows hold 2; give each document a row of its own"
    follow(lambda: model(IDS[:1], position_ids=positions), told, lambda: runs(model))


def test_logits_are_read_before_the_weights_change() -> None:
    model = ours("BertForMaskedLM").train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def stepped(*, before: bool = False, labels: Any = LABELS) -> None:
        output = model(IDS, MASK, labels=labels)
        if before:
            output.logits.sum()
        (output.logits.sum() if labels is None else output.loss).backward()
        optimizer.step()
        output.logits.sum()

    told = (
        "drop_in: outputs.logits must be read before the weights change, and the optimizer has made a step since the "
    )
    told += "forward pass; read outputs.logits before optimizer.step(), or call the model without labels"
    follow(stepped, told, lambda: stepped(before=True), lambda: stepped(labels=None))
