"""drop_in: a BERT model of transformers computes the same with the encoder of this package inside it."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unmask

transformers = pytest.importorskip("transformers")

DOCUMENTS = [[2, 5, 6, 7, 3], [2, 8, 3], [2, 9, 10, 11, 12, 13, 14, 15, 3], [2, 9, 3]]
LENGTHS = [len(ids) for ids in DOCUMENTS]
INPUT_IDS = nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in DOCUMENTS], batch_first=True)
MASK = (torch.arange(9) < torch.tensor(LENGTHS)[:, None]).long()
REAL = MASK.bool()
SEGMENTS = (torch.arange(9) > 2).long() * MASK
INPUTS = {"input_ids": INPUT_IDS, "attention_mask": MASK, "token_type_ids": SEGMENTS}
LABELS = torch.where((torch.arange(9) == 1) | (torch.arange(9) == 6), INPUT_IDS, -100).masked_fill(MASK == 0, -100)
PAIRS = torch.tensor([0, 1, 1, 0])
FLAT = INPUT_IDS[REAL][None]
POSITIONS = torch.cat([torch.arange(length) for length in LENGTHS])[None]
BOUNDARIES = torch.tensor([0, 5, 8, 17, 20], dtype=torch.int32)

# each class, and the labels that give it a loss
CLASSES: dict[str, dict[str, Tensor]] = {
    "BertModel": {},
    "BertForMaskedLM": {"labels": LABELS},
    "BertForPreTraining": {"labels": LABELS, "next_sentence_label": PAIRS},
    "BertForSequenceClassification": {"labels": PAIRS},
    "BertForTokenClassification": {"labels": (LABELS % 2).masked_fill(LABELS == -100, -100)},
    "BertForNextSentencePrediction": {"labels": PAIRS},
    "BertForQuestionAnswering": {},
}


def stock(name: str, **options: Any) -> Any:
    """A model of transformers with random weights, without dropout."""
    torch.manual_seed(3)
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 24}
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = getattr(transformers, name)(transformers.BertConfig(**(sizes | rates | options)))
    for parameter in model.parameters():
        parameter.data.mul_(3).add_(0.01 * torch.randn_like(parameter))
    return model


def both(name: str, **options: Any) -> tuple[Any, Any]:
    """The model, and a copy with the encoder of this package."""
    model = stock(name, **options)
    return model, unmask.drop_in(copy.deepcopy(model))


def loss_of(output: Any) -> Tensor:
    """The loss, or something that every output of the model has a part in."""
    if "loss" in output:
        loss: Tensor = output.loss
        return loss
    hidden = [value for value in output.values() if isinstance(value, Tensor)]
    return sum(((one[REAL] if one.shape[:2] == (4, 9) else one).sin().mean() for one in hidden), torch.zeros(()))


def close(found: Any, expected: Any, name: str = "") -> None:
    """Compare at real tokens."""
    if isinstance(expected, tuple):
        assert isinstance(found, tuple) and len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            close(one, other, name)
        return
    if expected.shape[:2] == (4, 9):
        assert found.shape == expected.shape
        found, expected = found[REAL], expected[REAL]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("states", [False, True], ids=["", "hidden states"])
@pytest.mark.parametrize("name", CLASSES)
def test_outputs_and_gradients_are_those_of_transformers(name: str, states: bool, training: bool) -> None:
    outputs, gradients = [], []
    for model in both(name):
        output = model.train(training)(**INPUTS, **CLASSES[name], output_hidden_states=states)
        loss_of(output).backward()
        outputs.append(output)
        gradients.append({key: one.grad for key, one in model.named_parameters() if one.grad is not None})
    assert list(outputs[1]) == list(outputs[0]) and isinstance(outputs[1], type(outputs[0]))
    for key in outputs[0]:
        close(outputs[1][key], outputs[0][key], key)
    assert gradients[1].keys() == gradients[0].keys()
    for key, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], expected, rtol=1e-5, atol=1e-5, msg=key)


def test_choices_of_texts_are_compared_as_in_transformers() -> None:
    choices = {name: value.view(2, 2, 9) for name, value in INPUTS.items()}
    found = [model(**choices, labels=torch.tensor([1, 0])) for model in both("BertForMultipleChoice")]
    close(found[1].logits, found[0].logits)
    close(found[1].loss, found[0].loss)


def test_the_loss_of_an_answer_does_not_depend_on_the_padding_of_its_batch() -> None:
    model, ours = both("BertForQuestionAnswering")
    places = {"start_positions": torch.tensor([1, 0, 7, 1]), "end_positions": torch.tensor([2, 1, 8, 99])}
    found = ours(**INPUTS, **places)
    one_by_one = []
    for row, length in enumerate(LENGTHS):
        alone = {name: value[row : row + 1, :length] for name, value in INPUTS.items()}
        output = model(**alone)
        close(found.start_logits[row, :length], output.start_logits[0])
        one_by_one.append((output.start_logits[0], output.end_logits[0]))
    start, end = zip(*one_by_one, strict=True)
    losses = [nn.functional.cross_entropy(start[row], places["start_positions"][row]) for row in range(4)]
    ends = [nn.functional.cross_entropy(end[row], places["end_positions"][row]) for row in range(3)]
    torch.testing.assert_close(found.loss, (torch.stack(losses).mean() + torch.stack(ends).mean()) / 2)
    assert (found.start_logits.argmax(-1) < torch.tensor(LENGTHS)).all()
    assert [one.shape for one in ours(**INPUTS, return_dict=False)] == [(4, 9), (4, 9)]


def test_an_answer_that_is_labelled_in_padding_counts_as_one_behind_the_end_of_the_row() -> None:
    _, ours = both("BertForQuestionAnswering")
    padded = min(LENGTHS)
    row = LENGTHS.index(padded)
    assert padded < max(LENGTHS)

    def loss(place: int) -> torch.Tensor:
        places = torch.tensor([1, 1, 1, 1])
        places[row] = place
        ours.zero_grad()
        output = ours(**INPUTS, start_positions=places, end_positions=places)
        output.loss.backward()
        return output.loss.detach()

    outside = loss(max(LENGTHS) + 5)
    assert outside < 100
    expected = ours.qa_outputs.weight.grad.clone()
    for place in range(padded, max(LENGTHS)):
        assert loss(place) == outside
        assert torch.equal(ours.qa_outputs.weight.grad, expected)
    assert loss(padded - 1) != outside


@pytest.mark.parametrize(
    "inputs",
    [
        {"position_ids": POSITIONS},
        {"cu_seq_lens_q": BOUNDARIES, "cu_seq_lens_k": BOUNDARIES, "max_length_q": 9, "max_length_k": 9},
    ],
    ids=["position_ids", "cu_seq_lens"],
)
def test_packed_rows_give_what_each_document_gives_alone(inputs: dict[str, Any]) -> None:
    model, ours = both("BertModel")
    found = ours(FLAT, token_type_ids=SEGMENTS[REAL][None], **inputs)
    expected = model(**INPUTS)
    close(found.last_hidden_state[0], expected.last_hidden_state[REAL])
    close(found.pooler_output, expected.pooler_output)
    model, ours = both("BertForSequenceClassification")
    packed = ours(FLAT, token_type_ids=SEGMENTS[REAL][None], labels=PAIRS, **inputs)
    expected = model(**INPUTS, labels=PAIRS)
    close(packed.logits, expected.logits)
    close(packed.loss, expected.loss)
    model, ours = both("BertForMaskedLM")
    packed = ours.train()(FLAT, token_type_ids=SEGMENTS[REAL][None], labels=LABELS[REAL][None], **inputs)
    expected = model(**INPUTS, labels=LABELS)
    close(packed.loss, expected.loss)
    close(packed.logits[0], expected.logits[REAL])


def test_padding_may_stand_anywhere() -> None:
    mask = MASK.clone()
    mask[2, 3] = mask[0, 1] = mask[1, 0] = 0
    model, ours = both("BertForTokenClassification")
    found, expected = (one(INPUT_IDS, mask).logits for one in (ours, model))
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-5, atol=1e-5)
    # a row of padding alone is pooled from zeros, and nothing of another row gets there
    mask[1] = 0
    pooled = unmask.drop_in(stock("BertModel"))(INPUT_IDS, mask).pooler_output
    classes = unmask.drop_in(stock("BertForSequenceClassification"))
    assert classes(INPUT_IDS, mask).logits.isfinite().all() and pooled.isfinite().all()
    other = INPUT_IDS.clone()
    other[2] = 5
    assert torch.equal(unmask.drop_in(stock("BertModel"))(other, mask).pooler_output[1], pooled[1])


def test_words_may_be_looked_up_before() -> None:
    model, ours = both("BertForMaskedLM")
    words = model.get_input_embeddings()(INPUT_IDS).detach()
    words[0, 1] += 1.0
    found, expected = (one(inputs_embeds=words, attention_mask=MASK).logits for one in (ours, model))
    close(found, expected)


def test_the_row_of_padding_in_the_token_table_learns_nothing_from_its_place_in_texts() -> None:
    gradients = []
    for model in both("BertModel"):
        model(INPUT_IDS).last_hidden_state.sin().mean().backward()
        gradients.append(model.get_input_embeddings().weight.grad)
    assert not gradients[1][0].any()
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-5)


def test_hidden_states_of_some_layers_may_be_asked_for_by_their_numbers() -> None:
    model, ours = both("BertModel")
    states = model(**INPUTS, output_hidden_states=True).hidden_states
    found = ours(**INPUTS, output_hidden_states=[-1, 1]).hidden_states
    assert found[0] is None and len(found) == 3
    close(found[1:], states[1:])
    model.config.output_hidden_states = ours.config.output_hidden_states = True
    assert len(ours(**INPUTS, return_dict=False)) == len(model(**INPUTS, return_dict=False)) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_other_dtypes_are_computed_in(dtype: torch.dtype) -> None:
    model, ours = (one.to(dtype) for one in both("BertForMaskedLM"))
    found, expected = ours(**INPUTS).logits, model(**INPUTS).logits
    assert found.dtype == dtype
    within = 0.1 if dtype != torch.float64 else 1e-12
    torch.testing.assert_close(found[REAL], expected[REAL], rtol=0, atol=within)
    output = ours.train()(**INPUTS, labels=LABELS)
    output.loss.backward()
    assert output.logits.dtype == dtype and ours.get_input_embeddings().weight.grad.dtype == dtype


def test_autocast_reaches_the_layers_and_logits_that_are_read_after_it() -> None:
    model, ours = (one.train() for one in both("BertForMaskedLM"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = ours(**INPUTS, labels=LABELS), model(**INPUTS, labels=LABELS)
    assert found.logits.dtype == expected.logits.dtype == torch.bfloat16
    torch.testing.assert_close(found.logits[REAL], expected.logits[REAL], rtol=0, atol=0.1)
    torch.testing.assert_close(found.loss.float(), expected.loss.float(), rtol=0, atol=0.02)
    found.loss.backward()
    assert ours.get_input_embeddings().weight.grad.dtype == torch.float32


def test_dropout_is_drawn_anew_follows_the_seed_and_stops_in_evaluation() -> None:
    ours = unmask.drop_in(stock("BertModel", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)).train()
    first, second = (ours(**INPUTS).last_hidden_state for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    first = ours(**INPUTS).last_hidden_state
    torch.manual_seed(5)
    assert torch.equal(ours(**INPUTS).last_hidden_state, first)
    # the rates are those of the modules, and a module in evaluation mode drops nothing
    for module in ours.modules():
        if isinstance(module, nn.Dropout):
            module.eval() if module is ours.embeddings.dropout else setattr(module, "p", 0.0)
    assert torch.equal(ours(**INPUTS).last_hidden_state, ours.eval()(**INPUTS).last_hidden_state)


class TestLogits:
    """In training with labels, logits are computed when they are read."""

    def output(self) -> Any:
        return unmask.drop_in(stock("BertForMaskedLM")).train()(**INPUTS, labels=LABELS)

    def test_nobody_reads_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = unmask.drop_in(stock("BertForMaskedLM")).train()

        def refuse(*_: Any) -> None:
            raise AssertionError("the logits of all tokens were computed")

        monkeypatch.setattr(model.cls.predictions, "__call__", refuse)
        monkeypatch.setattr(type(model.cls.predictions), "forward", refuse)
        output = model(**INPUTS, labels=LABELS)
        output.loss.backward()
        assert list(output) == ["loss", "logits"] and len(output) == 2 and "logits" in output
        assert output["loss"] is output.loss is output[0] is output.get("loss")

    @pytest.mark.parametrize(
        "read",
        [
            lambda output: output.logits,
            lambda output: output["logits"],
            lambda output: output[1],
            lambda output: output[:][1],
            lambda output: output[-1],
            lambda output: output.to_tuple()[1],
            lambda output: output.get("logits"),
            lambda output: dict(output)["logits"],
            lambda output: {**output}["logits"],
        ],
    )
    def test_every_way_to_read_them_gives_the_same_tensor(self, read: Any) -> None:
        output = self.output()
        logits = read(output)
        assert logits.shape == (4, 9, 60) and logits is output.logits and list(output.values())[1] is logits
        assert output.get("hidden_states", 7) == 7
        with pytest.raises(KeyError):
            output["attentions"]

    def test_they_have_the_dropout_and_the_gradients_of_the_loss(self) -> None:
        model = unmask.drop_in(stock("BertForMaskedLM", hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2))
        output = model.train()(**INPUTS, labels=LABELS)
        expected = torch.autograd.grad(output.loss, list(model.parameters()), retain_graph=True)
        loss = nn.functional.cross_entropy(output.logits.view(-1, 60), LABELS.view(-1))
        torch.testing.assert_close(loss, output.loss)
        for one, other in zip(torch.autograd.grad(loss, list(model.parameters())), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)

    def test_they_are_computed_with_gradients_if_the_forward_pass_was(self) -> None:
        with torch.no_grad():
            output = self.output()
        assert not output.logits.requires_grad
        output = self.output()
        with torch.no_grad():
            assert output.logits.requires_grad

    def test_outputs_are_pickled_and_copied_with_them(self) -> None:
        with torch.no_grad():
            output, again = self.output(), self.output()
        read = pickle.loads(pickle.dumps(output))
        assert torch.equal(read.logits, output.logits)
        assert torch.equal(copy.deepcopy(again).logits, output.logits)

    def test_what_walks_over_outputs_does_not_compute_them(self) -> None:
        output = self.output()
        leaves, tree = torch.utils._pytree.tree_flatten(output)
        assert "when the outputs are asked for them" in repr(leaves[1])
        again = torch.utils._pytree.tree_unflatten(leaves, tree)
        assert type(again) is type(output) and torch.equal(again.logits, output.logits)

    def test_no_label_gives_a_loss_of_zero(self) -> None:
        model = unmask.drop_in(stock("BertForMaskedLM")).train()
        assert model(**INPUTS, labels=torch.full_like(LABELS, -100)).loss == 0

    def test_without_labels_and_in_evaluation_they_are_there_at_once(self) -> None:
        model = unmask.drop_in(stock("BertForPreTraining")).train()
        for output in (model(**INPUTS), model(**INPUTS, labels=LABELS), model.eval()(**INPUTS, labels=LABELS)):
            assert type(output).__name__ == "BertForPreTrainingOutput"
            assert dict.get(output, "prediction_logits").shape == (4, 9, 60)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_the_model_keeps_its_parameters_names_files_and_class_names(tmp_path: Path) -> None:
    model = stock("BertForMaskedLM")
    before, parameters = state(model), dict(model.named_parameters())
    ours = unmask.drop_in(model)
    assert ours is model and isinstance(ours, transformers.BertForMaskedLM) and type(ours).__name__ == "BertForMaskedLM"
    assert all(parameters[name] is value for name, value in ours.named_parameters())
    assert list(state(ours)) == list(before)
    assert ours.cls.predictions.decoder.weight is ours.bert.embeddings.word_embeddings.weight
    for name in CLASSES:
        kind = type(unmask.drop_in(stock(name)))
        theirs = inspect.signature(getattr(transformers, name).forward).parameters
        assert set(theirs) <= set(inspect.signature(kind.forward).parameters)
    ours.save_pretrained(tmp_path)
    assert '"BertForMaskedLM"' in (tmp_path / "config.json").read_text()
    read = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert type(read) is transformers.BertForMaskedLM
    assert all(torch.equal(value, before[name]) for name, value in read.state_dict().items())
    again = type(ours).from_pretrained(tmp_path).eval()
    assert torch.equal(again(**INPUTS).logits, ours.eval()(**INPUTS).logits)


def test_copies_files_and_converted_models_compute_the_same(tmp_path: Path) -> None:
    ours = unmask.drop_in(stock("BertForSequenceClassification")).eval()
    expected = ours(**INPUTS).logits
    assert torch.equal(copy.deepcopy(ours)(**INPUTS).logits, expected)
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(**INPUTS).logits, expected)
    moved = ours.to("meta")(cu_seq_lens_q=BOUNDARIES.to("meta"), max_length_q=9, input_ids=FLAT.to("meta"))
    assert moved.logits.is_meta and moved.logits.shape == (4, 2)


def test_undo_gives_the_model_back() -> None:
    for name in CLASSES:
        model, ours = both(name)
        classes = [type(module) for module in model.modules()]
        attributes = [set(vars(module)) for module in model.modules()]
        assert [type(module) for module in ours.modules()] != classes
        ours(**INPUTS, output_hidden_states=True)
        assert unmask.undo(ours) is ours
        assert [type(module) for module in ours.modules()] == classes
        assert [set(vars(module)) for module in ours.modules()] == attributes
        expected, found = model.eval()(**INPUTS), ours.eval()(**INPUTS)
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_larger_module_gets_each_encoder_in_it_replaced() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.text = stock("BertModel"), stock("BertModel")

        def forward(self, **inputs: Tensor) -> Tensor:
            found: Tensor = self.query(**inputs).pooler_output @ self.text(**inputs)[1].T
            return found

    model = Two()
    expected = model(**INPUTS)
    torch.testing.assert_close(unmask.drop_in(model)(**INPUTS), expected)
    assert type(model.query).__module__ == type(model.text).__module__ == "unmask.hf.bert_modules"


class Mine(transformers.BertForSequenceClassification):  # type: ignore[name-defined, misc]
    """A head of a user's own."""


def test_a_head_of_your_own_keeps_its_class() -> None:
    model = Mine(stock("BertModel").config)
    expected = model.eval()(**INPUTS).logits
    torch.testing.assert_close(unmask.drop_in(model)(**INPUTS).logits, expected)
    assert type(model) is Mine and type(model.bert).__module__ == "unmask.hf.bert_modules"


def test_the_token_table_may_get_another_size() -> None:
    logits = []
    for model in both("BertForMaskedLM"):
        torch.manual_seed(1)
        model.resize_token_embeddings(70, mean_resizing=False)
        logits.append(model(**INPUTS).logits)
        assert model.cls.predictions.decoder.weight is model.get_input_embeddings().weight
    assert logits[1].shape == (4, 9, 70)
    close(logits[1], logits[0])


def test_hooks_of_layers_linear_layers_and_norms_are_called() -> None:
    model = unmask.drop_in(stock("BertForMaskedLM"))
    layer, seen = model.bert.encoder.layer[0], []
    watched = {
        "encoder": model.bert.encoder,
        "embeddings": model.bert.embeddings,
        "layer": layer,
        "words": model.bert.embeddings.word_embeddings,
        "query": layer.attention.self.query,
        "output": layer.attention.output.dense,
        "norm": layer.output.LayerNorm,
        "up": layer.intermediate.dense,
        "head": model.cls,
        "bert": model.bert,
    }
    expected = model.eval()(**INPUTS).logits
    for name, module in watched.items():
        module.register_forward_hook(lambda *_, name=name: seen.append(name))
    torch.testing.assert_close(model(**INPUTS).logits, expected)
    assert set(seen) == set(watched)
    seen.clear()
    model.train()(**INPUTS, labels=LABELS).loss.backward()
    assert set(seen) == set(watched)
