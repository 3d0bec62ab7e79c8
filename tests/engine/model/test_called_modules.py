"""Each module of a model is called where calling it matters: hooks, parametrizations, other classes, LoRA adapters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from unmask import EncoderConfig, PackedBatch, PretrainingModel, pack
from unmask.errors import CheckpointError
from unmask.model.layer import Linear, is_plain
from unmask_kernels import mlm_loss

CONFIG = EncoderConfig(vocab_size=60, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, max_positions=24)
DOCUMENTS = [[2, 5, 6, 7, 3], [2, 8, 3], [2, 9, 10, 11, 12, 13, 14, 15, 3], [2, 9, 3]]
ROWS, LABELS = torch.tensor([1, 7, 12]), torch.tensor([20, 21, 22])
LINEAR = ["qkv", "attention_output", "up", "down", "pooler", "dense", "classifier"]


def a_batch() -> PackedBatch:
    return pack(DOCUMENTS, keys=range(4))


def a_model(seed: int = 3) -> PretrainingModel:
    return PretrainingModel(CONFIG, heads=("mlm", "nsp"), seed=seed)


def loss_of(model: Any) -> Tensor:
    """Both losses, so that every parameter has a gradient."""
    hidden = model(a_batch())
    pairs = model.nsp_logits(hidden[a_batch().documents.first_rows()]).float()
    words = model.mlm_loss(hidden[ROWS], LABELS)
    loss: Tensor = words.loss_sum + nn.functional.cross_entropy(pairs, torch.tensor([0, 1, 0, 1]))
    return loss


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    model.zero_grad()
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    return {name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None}


def leaf_modules(model: nn.Module) -> dict[str, nn.Module]:
    # a list of layers is not called, as everywhere in PyTorch
    return {name: module for name, module in model.named_modules() if name and not isinstance(module, nn.ModuleList)}


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_a_hook_fires_on_every_module_and_changes_nothing(kind: str) -> None:
    model = a_model()
    plain, expected = loss_of(model).detach(), gradients_of(model)
    fired = set()
    for name, module in leaf_modules(model).items():
        getattr(module, f"register_{kind}_hook")(lambda *_, name=name: fired.add(name))
    torch.testing.assert_close(loss_of(model).detach(), plain)
    found = gradients_of(model)
    assert fired == set(leaf_modules(model))
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


def test_what_a_hook_returns_is_used() -> None:
    model = a_model().eval()
    before = model(a_batch())
    hook = model.encoder.layers[0].up.register_forward_hook(lambda *arguments: arguments[2] * 0)
    assert not torch.allclose(model(a_batch()), before)
    hook.remove()
    assert torch.equal(model(a_batch()), before)


def test_a_global_hook_sees_the_modules_that_are_fused_otherwise() -> None:
    model, seen = a_model(), []
    with nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module)):
        loss_of(model)
    assert {id(module) for module in leaf_modules(model).values()} <= {id(module) for module in seen}


def test_a_plain_module_is_fused_and_gives_the_bits_of_a_called_one_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    model = a_model()
    layer = model.encoder.layers[0]
    assert is_plain(layer.up, Linear)
    fused = model(a_batch())
    layer.up.forward = layer.up.forward  # as accelerate does where it moves weights between devices
    assert not is_plain(layer.up, Linear)
    assert torch.equal(model(a_batch()), fused)


def test_the_embeddings_drop_the_same_elements_when_they_are_called() -> None:
    model = a_model()
    embeddings, batch = model.encoder.embeddings, a_batch()
    key = torch.tensor(7)
    for segments in (None, (torch.arange(20) % 2)):
        fused = embeddings(batch.ids, batch.documents, segments, key, torch.float32)
        hook = embeddings.word.register_forward_hook(lambda *_: None)
        called = embeddings(batch.ids, batch.documents, segments, key, torch.float32)
        hook.remove()
        assert torch.equal(called == 0, fused == 0) and (fused == 0).any()
        torch.testing.assert_close(called, fused)


def test_an_id_that_is_not_of_the_vocabulary_is_named_by_called_embeddings_too() -> None:
    model = a_model()
    model.encoder.embeddings.word.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"ids must be in \[0, 60\), the rows of word; use the tokenizer .* got 60"):
        model(pack([[2, 60, 3]]))


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


@pytest.mark.parametrize("name", LINEAR)
def test_a_parametrized_layer_computes_with_its_parametrization(name: str) -> None:
    model, doubled = a_model(), a_model()
    for path, module in model.named_modules():
        if path.split(".")[-1] == name:
            parametrize.register_parametrization(module, "weight", Doubled())
            other = doubled.get_submodule(path)
            assert isinstance(other, nn.Linear)
            other.weight.data.mul_(2)
    torch.testing.assert_close(loss_of(model), loss_of(doubled))


def test_a_parametrized_token_table_is_also_the_output_projection() -> None:
    model, doubled = a_model(), a_model()
    parametrize.register_parametrization(model.encoder.embeddings.word, "weight", Doubled())
    doubled.encoder.embeddings.word.weight.data.mul_(2)
    torch.testing.assert_close(loss_of(model), loss_of(doubled))


def test_a_layer_of_another_class_is_called() -> None:
    class Half(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / 2

    model, halved = a_model(), a_model()
    for layer, other in zip(model.encoder.layers, halved.encoder.layers, strict=True):
        half = Half(32, 64)
        half.load_state_dict(layer.up.state_dict())
        layer.up = half
        other.up.weight.data.div_(2)
        other.up.bias.data.div_(2)
    torch.testing.assert_close(loss_of(model), loss_of(halved))


def test_a_model_with_hooks_and_parametrizations_compiles_as_one_graph() -> None:
    model = PretrainingModel(replace(CONFIG, num_layers=1)).eval()
    layer = model.encoder.layers[0]
    parametrize.register_parametrization(layer.up, "weight", Doubled())
    layer.down.register_forward_hook(lambda module, inputs, output: output + 1)
    expected = model(a_batch())
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(a_batch()), expected)


peft = pytest.importorskip("peft")


def adapted(model: PretrainingModel, **options: Any) -> Any:
    return peft.get_peft_model(model, peft.LoraConfig(r=4, init_lora_weights=False, **options))


def trained(model: nn.Module, steps: int = 2) -> set[str]:
    """Train the parameters that are not frozen; return the names of those that moved."""
    before = {name: x.detach().clone() for name, x in model.named_parameters()}
    optimizer = torch.optim.SGD([x for x in model.parameters() if x.requires_grad], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {name for name, x in model.named_parameters() if not torch.equal(x, before[name])}


@pytest.mark.parametrize("targets", ["all-linear", *LINEAR])
def test_lora_trains_each_linear_layer_and_merges_into_the_same_model(targets: str) -> None:
    names = LINEAR if targets == "all-linear" else [targets]
    model = adapted(a_model(), target_modules=targets if targets == "all-linear" else [targets])
    moved = trained(model)
    places = [path for path, _ in a_model().named_modules() if path.split(".")[-1] in names]
    assert len(places) == sum(2 if name in ("qkv", "attention_output", "up", "down") else 1 for name in names)
    assert moved == {f"base_model.model.{path}.lora_{part}.default.weight" for path in places for part in "AB"}
    model.eval()
    expected = loss_of(model)
    merged = model.merge_and_unload()
    assert isinstance(merged, PretrainingModel)
    torch.testing.assert_close(loss_of(merged), expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(expected, loss_of(a_model().eval()))


def test_lora_trains_the_token_table_which_is_also_the_output_projection() -> None:
    model = adapted(a_model(), target_modules=["word", "up"])
    moved = trained(model)
    assert {name.split(".")[-2] if "weight" in name else name.split(".")[-1] for name in moved} == {"default"}
    assert any("lora_embedding_A" in name for name in moved) and any("lora_embedding_B" in name for name in moved)
    expected = loss_of(model.eval())
    torch.testing.assert_close(loss_of(model.merge_and_unload()), expected, rtol=1e-4, atol=1e-4)


def test_modules_that_lora_saves_whole_are_trained() -> None:
    model = adapted(a_model(), target_modules=["qkv"], modules_to_save=["mlm", "pooler", "norm"])
    moved = {name for name in trained(model) if "lora_" not in name}
    assert moved and all("modules_to_save.default" in name for name in moved)
    parts = {"encoder.pooler", "encoder.embeddings.norm", "encoder.layers.1.norm", "mlm"}
    assert all(any(f"model.{part}.modules_to_save" in name for name in moved) for part in parts)
    expected = loss_of(model.eval())
    torch.testing.assert_close(loss_of(model.merge_and_unload()), expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_without_a_target_is_told_to_name_one() -> None:
    with pytest.raises(ValueError, match="specify `target_modules`"):
        adapted(a_model())


def test_the_loss_of_a_model_is_that_of_the_table_it_reads() -> None:
    model = a_model().eval()
    hidden = model(a_batch())[ROWS]
    expected = mlm_loss(model.mlm.transform(hidden), None, LABELS, model.get_input_embeddings().weight, model.mlm.bias)
    assert torch.equal(model.mlm_loss(hidden, LABELS).loss_sum, expected.loss_sum)


def test_a_wrapped_model_is_not_saved_and_its_merged_one_is(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = EncoderConfig(
        vocab_size=40, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, max_positions=16
    )
    model = peft.get_peft_model(PretrainingModel(config), peft.LoraConfig(target_modules=["qkv", "up"]))
    with pytest.raises(CheckpointError, match=r"merge an adapter with peft's merge_and_unload\(\)"):
        model.base_model.model.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    model.merge_and_unload().save_pretrained(tmp_path / "folder")
    assert PretrainingModel.from_pretrained(tmp_path / "folder").config == config
    encoder = PretrainingModel(config).encoder
    parametrize.register_parametrization(encoder.layers[0].up, "weight", nn.Identity())
    with pytest.raises(CheckpointError, match=r"torch\.nn\.utils\.parametrize\.remove_parametrizations"):
        encoder.save_pretrained(tmp_path / "encoder")
    parametrize.remove_parametrizations(encoder.layers[0].up, "weight")
    encoder.save_pretrained(tmp_path / "encoder")


def test_ids_under_both_names_are_refused() -> None:
    config = EncoderConfig(
        vocab_size=40, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, max_positions=16
    )
    ids = torch.ones(1, 4, dtype=torch.int64)
    with pytest.raises(TypeError, match="two names of the same argument, and both are given; leave one out"):
        PretrainingModel(config).encoder(ids, input_ids=ids)
