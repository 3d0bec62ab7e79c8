"""`attn_implementation="unmask"`: models of transformers compute what they do with eager attention, without leaks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

transformers = pytest.importorskip("transformers")
pytest.importorskip("unmask.hf")

from unmask.hf import attention_function, attention_layout, attention_mask  # noqa: E402

SMALL = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
BERT = {**SMALL, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 40}
DECODER = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 40, "use_cache": False}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", BERT),
    "bert as a decoder": ("Bert", {**BERT, "is_decoder": True, "use_cache": False}),
    "roberta": ("Roberta", {**BERT, "pad_token_id": 1}),
    "xlm-r": ("XLMRoberta", {**BERT, "pad_token_id": 1}),
    "electra": ("Electra", {**BERT, "embedding_size": 16}),
    "distilbert": (
        "DistilBert",
        {
            "vocab_size": 60,
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 40,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "max_position_embeddings": 40,
        },
    ),
    "modernbert": (
        "ModernBert",
        {
            **SMALL,
            "num_hidden_layers": 3,
            "local_attention": 4,
            "global_attn_every_n_layers": 3,
            "pad_token_id": 0,
            "max_position_embeddings": 40,
            "reference_compile": False,
        },
    ),
    "llama": ("Llama", DECODER),
    "qwen2 with a window": (
        "Qwen2",
        {**DECODER, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    ),
    "granite, which scales scores in its own way": ("Granite", {**DECODER, "attention_multiplier": 0.5}),
    "mistral": ("Mistral", {**DECODER, "sliding_window": 4, "head_dim": 10}),
}
OFFSETS = {"roberta": 2, "xlm-r": 2}
LENGTHS = [5, 3, 9, 1]
WIDTH = max(LENGTHS)
EXACT = {"rtol": 0.0, "atol": 1e-5}


def pair(name: str, **changes: Any) -> tuple[nn.Module, nn.Module]:
    """The model with our attention and with eager attention, of the same weights, in evaluation mode."""
    kind, settings = MODELS[name]
    made = []
    for implementation in ("unmask", "eager"):
        config = getattr(transformers, f"{kind}Config")(**{**settings, **changes})
        config._attn_implementation = implementation
        made.append(getattr(transformers, f"{kind}Model")(config).eval())
    ours, eager = made
    assert ours.config._attn_implementation == "unmask"
    generator = torch.Generator().manual_seed(0)
    for parameter in eager.parameters():
        # larger than at initialisation, so that attention is not nearly uniform
        parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    ours.load_state_dict(eager.state_dict())
    return ours, eager


def ids(lengths: list[int] = LENGTHS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(5, 60, (length,), generator=generator) for length in lengths]


def padded(documents: list[Tensor], fill: int, left: bool = False) -> dict[str, Tensor]:
    side = "left" if left else "right"
    rows = nn.utils.rnn.pad_sequence(documents, batch_first=True, padding_value=fill, padding_side=side)
    ones = [torch.ones_like(one) for one in documents]
    mask = nn.utils.rnn.pad_sequence(ones, batch_first=True, padding_side=side)
    return {"input_ids": rows, "attention_mask": mask}


def packed(name: str, documents: list[Tensor]) -> dict[str, Tensor]:
    positions = torch.cat([torch.arange(len(one)) for one in documents]) + OFFSETS.get(name, 0)
    return {"input_ids": torch.cat(documents)[None], "position_ids": positions[None]}


def run(model: nn.Module, inputs: dict[str, Any], real: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Hidden states of real tokens, (T, D), and the gradients of a loss that weighs all of them."""
    model.zero_grad()
    hidden = model(**inputs).last_hidden_state
    hidden = hidden.flatten(0, 1) if real is None else hidden[real]
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))
    (hidden * weights).sum().backward()
    gradients = {n.removeprefix("_orig_mod."): p.grad for n, p in model.named_parameters() if p.grad is not None}
    # a compiled model gives zeros to the pooler, whose output is not read
    return hidden.detach(), {n: gradient.clone() for n, gradient in gradients.items() if gradient.any()}


def assert_same(found: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]]) -> None:
    torch.testing.assert_close(found[0], expected[0], **EXACT)
    assert found[1].keys() == expected[1].keys() and len(found[1]) > 10
    scale = max(float(one.abs().max()) for one in expected[1].values())
    for name, gradient in found[1].items():
        torch.testing.assert_close(gradient, expected[1][name], rtol=0, atol=1e-5 * max(1.0, scale), msg=name)


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("name", MODELS)
def test_a_padded_batch_has_the_outputs_and_gradients_of_eager_attention(name: str, left: bool) -> None:
    ours, eager = pair(name)
    inputs = padded(ids(), ours.config.pad_token_id or 0, left)
    real = inputs["attention_mask"].bool()
    assert_same(run(ours, inputs, real), run(eager, inputs, real))


@pytest.mark.parametrize("name", MODELS)
def test_a_packed_document_has_the_outputs_and_gradients_of_the_document_alone(name: str) -> None:
    ours, eager = pair(name)
    found = run(ours, packed(name, ids()))
    real = padded(ids(), 0)["attention_mask"].bool()
    assert_same(found, run(eager, padded(ids(), ours.config.pad_token_id or 0), real))
    # boundaries say the same as positions that restart
    boundaries = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()], dtype=torch.int32)
    flat = {"cu_seq_lens_q": boundaries, "cu_seq_lens_k": boundaries, "max_length_q": WIDTH, "max_length_k": WIDTH}
    assert_same(run(ours, {**packed(name, ids()), **flat}), found)


def test_the_table_of_the_page_is_of_models_that_leak_without_our_attention() -> None:
    sys.path.append(str(Path(__file__).parents[3]))
    from bench import leaks

    page = leaks.PAGE.read_text("utf-8")
    assert [name for name in leaks.MODELS if f"\n| {name} | " not in page] == []
    kind, settings, first, mask = leaks.MODELS["RoBERTa"]
    models = leaks.of_random_weights(kind, {**settings, "num_hidden_layers": 2})
    found = leaks.differences(models, first=first, mask=mask, lengths=(7, 3))
    assert found["unmask"] < 1e-5 and min(found["eager"], found["sdpa"]) > 0.1
    table = leaks.table(iter([("RoBERTa", found)]))
    assert table.splitlines()[0] == '| model | `"eager"` | `"sdpa"` | `"unmask"` |' and len(table.splitlines()) == 3


HEADS: dict[str, tuple[str, dict[str, Tensor]]] = {
    "BertModel": ("bert", {}),
    "BertForMaskedLM": ("tokens", {}),
    "BertForPreTraining": ("tokens", {"next_sentence_label": torch.tensor([0, 1, 1, 0])}),
    "BertForNextSentencePrediction": ("rows", {}),
    "BertForSequenceClassification": ("rows", {}),
    "BertForTokenClassification": ("tokens", {}),
    "BertForQuestionAnswering": ("spans", {}),
    "BertForMultipleChoice": ("choices", {}),
    "BertLMHeadModel": ("tokens", {}),
}


@pytest.mark.parametrize("name", HEADS)
def test_every_output_of_the_bert_classes_is_that_of_eager_attention(name: str) -> None:
    kind, more = HEADS[name]
    # the loss of question answering is over all places, padding included, whose states are 0 here
    inputs = {**padded(ids([6, 6, 6, 6]) if kind == "spans" else ids(), 0), **more}
    if kind == "tokens":
        inputs["labels"] = inputs["input_ids"].where(inputs["attention_mask"] == 1, -100) % 2
        inputs["labels"] = inputs["labels"].where(inputs["attention_mask"] == 1, -100)
    elif kind == "rows":
        inputs["labels"] = torch.tensor([0, 1, 1, 0])
    elif kind == "spans":
        inputs.update(start_positions=torch.tensor([1, 0, 2, 0]), end_positions=torch.tensor([2, 1, 5, 0]))
    elif kind == "choices":
        inputs = {key: value.view(2, 2, -1) for key, value in inputs.items()}
        inputs["labels"] = torch.tensor([0, 1])
    settings = {**BERT, "is_decoder": name == "BertLMHeadModel", "use_cache": False}
    outputs = []
    for implementation in ("unmask", "eager"):
        torch.manual_seed(0)
        config = transformers.BertConfig(**settings, attn_implementation=implementation)
        model = getattr(transformers, name)(config).eval()
        assert model.config._attn_implementation == implementation
        with torch.no_grad():
            outputs.append(model(**inputs, output_hidden_states=True))
    found, expected = outputs
    assert list(found) == list(expected) and len(found.hidden_states) == 3
    real = inputs["attention_mask"].flatten(0, -2).bool()
    for key in expected:
        for one, other in zip(_tensors(found[key]), _tensors(expected[key]), strict=True):
            if one.shape[:2] == real.shape:
                one, other = one[real], other[real]
            torch.testing.assert_close(one, other, **EXACT, msg=key)


def _tensors(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


@pytest.fixture
def layouts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The layouts that are read during a test."""
    read: list[Any] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        read.append(attention_layout.read_layout(*arguments, **options))
        return read[-1]

    monkeypatch.setattr(attention_mask, "read_layout", counted)
    return read


@pytest.mark.parametrize(("name", "times"), [("bert", 1), ("llama", 1), ("modernbert", 2)])
def test_documents_are_read_once_for_each_mask_of_a_forward_pass(name: str, times: int, layouts: list[Any]) -> None:
    ours, _ = pair(name)
    for inputs in (padded(ids(), 0), packed(name, ids()), padded(ids([2, 7]), 0)):
        layouts.clear()
        ours(**inputs)
        assert len(layouts) == times
    # of the newest batch, not of an earlier one
    assert layouts[-1].documents.cu_seqlens.tolist() == [0, 2, 9]


def test_a_row_of_padding_alone_is_no_document() -> None:
    ours, eager = pair("bert")
    inputs = padded(ids(), 0)
    inputs["attention_mask"][1] = 0
    real = inputs["attention_mask"].bool()
    assert_same(run(ours, inputs, real), run(eager, inputs, real))
    inputs["attention_mask"][:] = 0
    assert ours(**inputs).last_hidden_state.isfinite().all()


def test_padding_between_tokens_is_left_out() -> None:
    for name in ("bert", "llama"):
        ours, eager = pair(name)
        inputs = padded(ids(), 0)
        inputs["attention_mask"][2, [2, 5, 6]] = 0
        real = inputs["attention_mask"].bool()
        assert_same(run(ours, inputs, real), run(eager, inputs, real))


def test_padded_rows_may_hold_several_documents() -> None:
    ours, eager = pair("bert")
    documents = ids([3, 4, 2])
    inputs = padded([torch.cat(documents[:2]), documents[2]], 0)
    inputs["position_ids"] = torch.tensor([[0, 1, 2, 0, 1, 2, 3], [0, 1, 0, 0, 0, 0, 0]])
    found = ours(**inputs).last_hidden_state[inputs["attention_mask"].bool()]
    alone = torch.cat([eager(one[None]).last_hidden_state[0] for one in documents])
    torch.testing.assert_close(found, alone, **EXACT)


def test_dropout_is_drawn_from_the_generator_of_pytorch() -> None:
    ours, eager = pair("bert", attention_probs_dropout_prob=0.5)
    inputs = padded(ids(), 0)
    real = inputs["attention_mask"].bool()
    expected = eager(**inputs).last_hidden_state[real]
    ours.train()
    torch.manual_seed(3)
    first, second = (ours(**inputs).last_hidden_state[real].detach() for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(ours(**inputs).last_hidden_state[real], first)
    assert not torch.allclose(first, second, atol=1e-2) and not torch.allclose(first, expected, atol=1e-2)
    layer = ours.encoder.layer[0].attention.self
    query = torch.zeros(1, 4, 200, 8)
    ones = torch.ones(1, 4, 200, 8)
    mask = attention_mask.BatchMask(
        causal=False, window=None, real=None, position_ids=None, reads_positions=False, restarts=False
    )
    out, probabilities = attention_function.attention_of_layer(layer, query, query, ones, mask, dropout=0.5)
    # each of 200 probabilities of 1 / 200 is kept and doubled, or dropped
    assert probabilities is None and out.shape == (1, 200, 4, 8)
    assert abs(float(out.mean()) - 1) < 0.01 and 0.03 < float(out[..., 0].std()) < 0.12


@pytest.mark.parametrize("name", ["bert", "modernbert", "llama"])
def test_gradient_checkpointing_gives_the_same_bits_with_dropout(name: str) -> None:
    rate = "attention_probs_dropout_prob" if name == "bert" else "attention_dropout"
    ours, _ = pair(name, **{rate: 0.2})
    ours.train()
    results = []
    for reentrant in (None, False, True):
        if reentrant is not None:
            ours.gradient_checkpointing_enable({"use_reentrant": reentrant})
        if reentrant:
            ours.enable_input_require_grads()
        torch.manual_seed(0)
        inputs = padded(ids(), 0)
        results.append(run(ours, inputs, inputs["attention_mask"].bool()))
    for hidden, gradients in results[1:]:
        assert torch.equal(hidden, results[0][0]) and gradients.keys() == results[0][1].keys()
        assert all(torch.equal(gradients[key], results[0][1][key]) for key in gradients)


@pytest.mark.parametrize("name", ["bert", "modernbert", "llama"])
def test_a_compiled_model_computes_the_same_without_a_break(name: str) -> None:
    few = (
        {"num_hidden_layers": 2, "global_attn_every_n_layers": 2} if name == "modernbert" else {"num_hidden_layers": 1}
    )
    ours, _ = pair(name, **few)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager", dynamic=False)
    fill = ours.config.pad_token_id or 0
    if name == "llama":
        flat = packed(name, ids())
        assert_same(run(compiled, flat), run(ours, flat))
    else:
        inputs = padded(ids(), fill, left=name == "bert")
        real = inputs["attention_mask"].bool()
        assert_same(run(compiled, inputs, real), run(ours, inputs, real))


def test_what_a_trainer_passes_along_has_no_meaning_for_attention() -> None:
    config = transformers.LlamaConfig(**DECODER, attn_implementation="unmask")
    model = transformers.LlamaForCausalLM(config)
    labels = ids()[0][None]
    passed = {
        "shift_labels": labels.roll(-1, 1),
        "num_items_in_batch": 4,
        "ignore_index": -100,
        "token_type_ids": labels,
    }
    assert model(labels, labels=labels, **passed).loss.isfinite()


def test_a_decoder_generates_without_a_cache_what_it_does_with_eager_attention() -> None:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**DECODER, "use_cache": True})).eval()
    generated = []
    for implementation in ("unmask", "eager"):
        model.set_attn_implementation(implementation)
        generated.append(model.generate(ids()[0][None], min_new_tokens=4, max_new_tokens=4, use_cache=False))
    assert torch.equal(*generated) and generated[0].shape == (1, 9)


def test_half_precision_and_autocast_run() -> None:
    ours, _ = pair("bert")
    inputs = padded(ids(), 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ours(**inputs).last_hidden_state.isfinite().all()
    assert ours.half()(**inputs).last_hidden_state.dtype == torch.float16


def test_a_saved_model_does_not_ask_for_unmask(tmp_path: Any) -> None:
    ours, _ = pair("bert")
    ours.save_pretrained(tmp_path)
    assert "unmask" not in (tmp_path / "config.json").read_text()
    again = transformers.AutoModel.from_pretrained(tmp_path, attn_implementation="unmask")
    assert again.config._attn_implementation == "unmask"
    again.set_attn_implementation("eager")
    assert again.config._attn_implementation == "eager"


def test_a_model_without_masks_is_computed() -> None:
    made = []
    for implementation in ("unmask", "eager"):
        torch.manual_seed(0)
        small = {**SMALL, "image_size": 16, "patch_size": 8}
        del small["vocab_size"]
        made.append(transformers.ViTModel(transformers.ViTConfig(**small, attn_implementation=implementation)).eval())
    ours, eager = made
    pixels = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(ours(pixels).last_hidden_state, eager(pixels).last_hidden_state, **EXACT)
