"""Models of unmask.hf: registered, standard in and out, saved in the files that unmask reads."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unmask import Encoder, EncoderConfig, PretrainingModel, pack
from unmask.errors import CheckpointError

transformers = pytest.importorskip("transformers")
unmask_hf = pytest.importorskip("unmask.hf")

CONFIG = EncoderConfig(vocab_size=60, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64, max_positions=24)
LOCAL = replace(CONFIG, attention_window=2, global_every=2, causal=True, activation="gelu_tanh")
DOCUMENTS = [[2, 5, 6, 7, 3], [2, 8, 3], [2, 9, 10, 11, 12, 13, 14, 15, 3], [2, 9, 3]]
INPUT_IDS = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in DOCUMENTS], batch_first=True)
MASK = (torch.arange(9) < torch.tensor([len(ids) for ids in DOCUMENTS])[:, None]).long()
SEGMENTS = (torch.arange(9) > 2).long() * MASK
INPUTS = {"input_ids": INPUT_IDS, "attention_mask": MASK, "token_type_ids": SEGMENTS}
LABELS = torch.where((torch.arange(9) == 1) | (torch.arange(9) == 6), INPUT_IDS, -100).masked_fill(MASK == 0, -100)
PAIRS = torch.tensor([0, 1, 1, 0])
CLASSES = {
    "AutoModel": ("UnmaskModel", "BertModel"),
    "AutoModelForMaskedLM": ("UnmaskForMaskedLM", "BertForMaskedLM"),
    "AutoModelForPreTraining": ("UnmaskForPreTraining", "BertForPreTraining"),
}


def saved(folder: Path, config: EncoderConfig = LOCAL) -> PretrainingModel:
    model = PretrainingModel(config, heads=("mlm", "nsp"), seed=4).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3)
    model.save_pretrained(folder, for_transformers=False)
    return model


def same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("auto", CLASSES)
def test_a_model_that_transformers_has_no_class_for_is_read_by_its_auto_class(auto: str, tmp_path: Path) -> None:
    ours = saved(tmp_path)
    model = getattr(transformers, auto).from_pretrained(tmp_path)
    assert type(model).__name__ == CLASSES[auto][0] and not model.training and model.name_or_path == str(tmp_path)
    assert (model.config.model_type, model.config.attention_window, model.config.causal) == ("unmask", 2, True)
    assert model.encoder.config == LOCAL
    with torch.no_grad():
        hidden = model.base_model(**INPUTS)
        torch.testing.assert_close(hidden, ours.encoder(**INPUTS), rtol=0, atol=0)
    assert isinstance(transformers.AutoConfig.from_pretrained(tmp_path), unmask_hf.UnmaskConfig)


@pytest.mark.parametrize("auto", CLASSES)
def test_outputs_and_losses_are_those_of_bert_on_the_same_weights(auto: str, tmp_path: Path) -> None:
    saved(tmp_path, CONFIG)
    ours = getattr(unmask_hf, CLASSES[auto][0]).from_pretrained(tmp_path)
    theirs = getattr(transformers, CLASSES[auto][1]).from_pretrained(tmp_path).eval()
    inputs: dict[str, Tensor] = dict(INPUTS)
    if auto != "AutoModel":
        inputs["labels"] = LABELS
    if auto == "AutoModelForPreTraining":
        inputs["next_sentence_label"] = PAIRS
    with torch.no_grad():
        found, expected = ours(**inputs), theirs(**inputs)
        if "next_sentence_label" in inputs:
            order = {name.replace("next_sentence", "sentence_order"): value for name, value in inputs.items()}
            assert torch.equal(ours(**order).loss, found.loss)
    assert type(found) is not dict and list(found) == [name for name in expected if name in found]
    for name in expected:
        one, other = found[name], expected[name]
        if one.dim() == 3:
            one, other = one[MASK.bool()], other[MASK.bool()]
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4, msg=name)
    as_tuple = ours(**inputs, return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], found[0])


def test_training_stores_no_logits_and_has_the_gradients_of_evaluation_mode(tmp_path: Path) -> None:
    saved(tmp_path, replace(CONFIG, hidden_dropout=0.0, attention_dropout=0.0))
    model = unmask_hf.UnmaskForMaskedLM.from_pretrained(tmp_path)
    gradients = []
    for training, asked, expected in (
        (True, None, False),
        (True, True, True),
        (False, None, True),
        (False, False, False),
    ):
        model.train(training).zero_grad()
        output = model(**INPUTS, labels=LABELS, return_logits=asked)
        assert (output.logits is not None) == expected
        output.loss.backward()
        gradients.append({name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None})
    assert model.train()(**INPUTS).logits.shape == (4, 9, 60)  # without labels nobody reads anything else
    for other in gradients[1:]:
        assert other.keys() == gradients[0].keys()
        for name, gradient in other.items():
            torch.testing.assert_close(gradient, gradients[0][name], rtol=1e-4, atol=1e-5, msg=name)


def test_the_number_of_items_divides_the_summed_loss(tmp_path: Path) -> None:
    saved(tmp_path)
    model = unmask_hf.UnmaskForMaskedLM.from_pretrained(tmp_path)
    mean = model(**INPUTS, labels=LABELS).loss
    count = int((LABELS != -100).sum())
    torch.testing.assert_close(model(**INPUTS, labels=LABELS, num_items_in_batch=2 * count).loss, mean / 2)
    assert model.accepts_loss_kwargs and not unmask_hf.UnmaskModel.accepts_loss_kwargs
    nothing = model(**INPUTS, labels=torch.full_like(LABELS, -100))
    assert nothing.loss == 0


@pytest.mark.parametrize("name", ["UnmaskModel", "UnmaskForMaskedLM", "UnmaskForPreTraining"])
def test_flat_inputs_and_a_packed_batch_give_the_same_as_padded_ones(name: str, tmp_path: Path) -> None:
    saved(tmp_path)
    model = getattr(unmask_hf, name).from_pretrained(tmp_path)
    flat = {
        "input_ids": INPUT_IDS[MASK.bool()][None],
        "token_type_ids": SEGMENTS[MASK.bool()][None],
        "position_ids": torch.arange(9).expand(4, 9)[MASK.bool()][None],
    }
    packed = pack(DOCUMENTS, [row[: len(ids)].tolist() for row, ids in zip(SEGMENTS, DOCUMENTS, strict=True)])
    kept = LABELS[MASK.bool()]
    rows = (kept != -100).nonzero().flatten()
    packed = replace(packed, masked=rows, labels=kept[rows], pair_labels=PAIRS)
    others: dict[str, Tensor] = {} if name == "UnmaskModel" else {"labels": LABELS}
    if name == "UnmaskForPreTraining":
        others["next_sentence_label"] = PAIRS
    with torch.no_grad():
        padded = model(**INPUTS, **others)
        if others:
            others["labels"] = kept[None]
        for found in (model(**flat, **others), model(**packed)):
            for key, value in found.items():
                expected = padded[key]
                if expected.dim() == 3:
                    value, expected = value[0], expected[MASK.bool()]
                torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", ["UnmaskModel", "UnmaskForMaskedLM", "UnmaskForPreTraining"])
def test_a_saved_model_is_read_by_its_class_by_unmask_and_by_load_state_dict(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    kind = getattr(unmask_hf, name)
    torch.manual_seed(5)
    model = kind(unmask_hf.UnmaskConfig.of(LOCAL)).eval()
    model.save_pretrained(tmp_path)
    same_state(kind.from_pretrained(tmp_path).state_dict(), model.state_dict())
    encoder = Encoder.from_pretrained(tmp_path)
    assert encoder.config == LOCAL
    torch.testing.assert_close(encoder(**INPUTS), model.base_model(**INPUTS), rtol=0, atol=0)
    if name != "UnmaskModel":
        assert (PretrainingModel.from_pretrained(tmp_path).nsp is None) == (name == "UnmaskForMaskedLM")
    weights = load_file(tmp_path / "model.safetensors")
    assert weights.keys() == model.state_dict().keys() and any("attention.self.query" in one for one in weights)
    torch.manual_seed(6)
    other = kind(unmask_hf.UnmaskConfig.of(LOCAL))
    assert not torch.equal(other.get_input_embeddings().weight, model.get_input_embeddings().weight)
    other.load_state_dict(weights)
    same_state(other.state_dict(), model.state_dict())
    # the files of a model of unmask's own classes have the same names
    own = (
        Encoder(CONFIG) if name == "UnmaskModel" else PretrainingModel(CONFIG, heads=("mlm", "nsp")[: len(name) // 10])
    )
    own.save_pretrained(tmp_path / "own")
    assert load_file(tmp_path / "own" / "model.safetensors").keys() == weights.keys()


def test_a_model_can_be_pickled_and_copied(tmp_path: Path) -> None:
    model = unmask_hf.UnmaskForMaskedLM(unmask_hf.UnmaskConfig.of(CONFIG)).eval()
    again = pickle.loads(pickle.dumps(model))
    same_state(again.state_dict(), model.state_dict())
    again.load_state_dict(model.state_dict())


def test_options_replace_values_and_dtypes_of_the_folder(tmp_path: Path) -> None:
    saved(tmp_path)
    model = transformers.AutoModel.from_pretrained(tmp_path, hidden_dropout_prob=0.3, dtype=torch.float16)
    assert model.encoder.config.hidden_dropout == 0.3 and model.dtype == torch.float16
    assert model(**INPUTS).last_hidden_state.dtype == torch.float16
    model.save_pretrained(tmp_path / "half")
    for options, dtype in (
        ({}, torch.float16),
        ({"dtype": "auto"}, torch.float16),
        ({"dtype": "float32"}, torch.float32),
    ):
        again = unmask_hf.UnmaskModel.from_pretrained(tmp_path / "half", **options)
        assert again.dtype == again.encoder.compute_dtype == dtype
    # as sentence-transformers calls it; and a rate of 0 is a value
    again = transformers.AutoModel.from_pretrained(tmp_path, subfolder="", cache_dir=None, hidden_dropout_prob=0.0)
    assert again.encoder.config.hidden_dropout == 0.0 != again.encoder.config.attention_dropout
    with pytest.raises(TypeError, match="from_pretrained: device_map is not honoured by UnmaskModel; leave it out"):
        unmask_hf.UnmaskModel.from_pretrained(tmp_path, device_map="auto")


def test_a_model_without_a_pooler_has_no_pooler_output(tmp_path: Path) -> None:
    Encoder(CONFIG, pooler=False).save_pretrained(tmp_path)
    model = unmask_hf.UnmaskModel.from_pretrained(tmp_path)
    assert model(**INPUTS).pooler_output is None


def test_what_is_not_computed_is_refused_by_name() -> None:
    model = unmask_hf.UnmaskForMaskedLM(unmask_hf.UnmaskConfig.of(CONFIG))
    for name in ("inputs_embeds", "output_attentions", "output_hidden_states"):
        with pytest.raises(TypeError, match=f"{name} is not read: ids go in, .* leave it out"):
            model(**INPUTS, **{name: True})
    with pytest.raises(TypeError, match="input_ids must be given"):
        model(attention_mask=MASK)
    with pytest.raises(ValueError, match="does not support Flash Attention 2"):
        unmask_hf.UnmaskModel(unmask_hf.UnmaskConfig.of(CONFIG, attn_implementation="flash_attention_2"))
    seen: list[Any] = []
    model.encoder.layers[0].register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    model(**INPUTS)
    assert seen[0].shape == (20, 32)


def test_another_number_of_tokens_is_refused_and_the_advice_works(tmp_path: Path) -> None:
    model = unmask_hf.UnmaskForMaskedLM(unmask_hf.UnmaskConfig.of(CONFIG)).eval()
    assert model.resize_token_embeddings() is model.resize_token_embeddings(60) is model.get_input_embeddings()
    with pytest.raises(ValueError, match=r"the token table has 60 rows, and 64 are asked for, .* save the model, read"):
        model.resize_token_embeddings(pad_to_multiple_of=64)
    model.save_pretrained(tmp_path / "ours")
    PretrainingModel.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "bert")
    theirs = transformers.BertForMaskedLM.from_pretrained(tmp_path / "bert")
    theirs.resize_token_embeddings(64)
    theirs.save_pretrained(tmp_path / "resized")
    again = unmask_hf.UnmaskForMaskedLM.from_pretrained(tmp_path / "resized")
    assert again(**INPUTS).logits.shape == (4, 9, 64)
    torch.testing.assert_close(again(**INPUTS).logits[..., :60], model(**INPUTS).logits, rtol=1e-4, atol=1e-4)


def test_checkpointing_of_the_layers_is_that_of_the_encoder() -> None:
    model = unmask_hf.UnmaskForMaskedLM(unmask_hf.UnmaskConfig.of(CONFIG))
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing and model.encoder.layer_checkpointing is not None
    model.gradient_checkpointing_disable()
    assert model.encoder.layer_checkpointing is None


def test_lora_trains_every_linear_layer_of_a_registered_model() -> None:
    peft = pytest.importorskip("peft")
    model = unmask_hf.UnmaskForMaskedLM(unmask_hf.UnmaskConfig.of(CONFIG))
    options = peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    adapted = peft.get_peft_model(model, options)
    before = {name: x.detach().clone() for name, x in adapted.named_parameters()}
    optimizer = torch.optim.SGD([x for x in adapted.parameters() if x.requires_grad], lr=0.1)
    adapted(**INPUTS, labels=LABELS).loss.backward()
    optimizer.step()
    moved = {name for name, x in adapted.named_parameters() if not torch.equal(x, before[name])}
    assert len(moved) == 2 * (4 * 2 + 1) and all("lora_" in name for name in moved)
    expected = adapted.eval()(**INPUTS).logits
    torch.testing.assert_close(adapted.merge_and_unload()(**INPUTS).logits, expected, rtol=1e-4, atol=1e-4)


def test_without_transformers_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name == "unmask.hf" or name.startswith("unmask.hf.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"unmask.hf needs transformers .*; pip install unmask\[transformers\]"):
        __import__("unmask.hf")


def test_a_model_under_an_adapter_is_not_saved_as_if_it_were_whole(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    saved(tmp_path / "bert", CONFIG)
    model = unmask_hf.UnmaskForMaskedLM.from_pretrained(tmp_path / "bert")
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear"))
    with pytest.raises(CheckpointError, match=r"merge an adapter with peft's merge_and_unload\(\)"):
        wrapped.base_model.model.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    wrapped.merge_and_unload().save_pretrained(tmp_path / "folder")
    assert unmask_hf.UnmaskForMaskedLM.from_pretrained(tmp_path / "folder").config.hidden_size == CONFIG.hidden_size
