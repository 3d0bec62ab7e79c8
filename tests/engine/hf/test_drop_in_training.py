"""drop_in under trainers: the Trainer, LoRA, torch.compile, DDP, activation checkpointing, accelerate."""

from __future__ import annotations

import copy
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import unmask

transformers = pytest.importorskip("transformers")

STEPS, ROWS = 50, 4


def stock(name: str, **options: Any) -> Any:
    torch.manual_seed(3)
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 24, "initializer_range": 0.1}
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return getattr(transformers, name)(transformers.BertConfig(**(sizes | rates | options)))


def both(name: str, **options: Any) -> tuple[Any, Any]:
    model = stock(name, **options)
    return model, unmask.drop_in(copy.deepcopy(model))


def examples(count: int = STEPS * ROWS) -> list[dict[str, Any]]:
    """Texts of mixed length with a masked token, which is the one before it, and a class, which that decides, too."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(count):
        ids = torch.randint(5, 60, (int(torch.randint(4, 20, (), generator=generator)),), generator=generator).tolist()
        labels = [-100] * len(ids)
        labels[2], ids[2] = ids[1], 4
        made.append({"input_ids": ids, "labels": labels, "kind": ids[1] % 2})
    return made


def padded(some: list[dict[str, Any]]) -> dict[str, Tensor]:
    ids, labels = (
        nn.utils.rnn.pad_sequence([torch.tensor(one[name]) for one in some], batch_first=True, padding_value=fill)
        for name, fill in (("input_ids", 0), ("labels", -100))
    )
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(one["input_ids"]) for one in some])[:, None]
    return {"input_ids": ids, "labels": labels, "attention_mask": mask.long()}


def with_kinds(some: list[dict[str, Any]]) -> dict[str, Tensor]:
    return padded(some) | {"labels": torch.tensor([one["kind"] for one in some])}


COLLATORS: dict[str, Any] = {"BertForMaskedLM": padded, "BertForSequenceClassification": with_kinds}
BATCH = padded(examples(ROWS))


def trained(model: Any, name: str, folder: Path, **options: Any) -> list[float]:
    """The losses of the Trainer."""
    losses: list[float] = []

    class Recording(transformers.Trainer):  # type: ignore[name-defined, misc]
        def training_step(self, *arguments: Any, **options: Any) -> Any:
            loss = super().training_step(*arguments, **options)
            losses.append(float(loss))
            return loss

    common: dict[str, Any] = {"use_cpu": True, "disable_tqdm": True, "report_to": [], "save_strategy": "no"}
    common |= {"per_device_train_batch_size": ROWS, "max_steps": STEPS, "learning_rate": 3e-3, "logging_strategy": "no"}
    arguments = transformers.TrainingArguments(str(folder), **(common | options))
    collator = COLLATORS[name]
    Recording(model, arguments, train_dataset=examples(), eval_dataset=examples(8), data_collator=collator).train()
    return losses


@pytest.mark.parametrize("name", COLLATORS)
def test_fifty_steps_of_the_trainer_have_the_losses_of_transformers(name: str, tmp_path: Path) -> None:
    expected, found = (trained(model, name, tmp_path, remove_unused_columns=False) for model in both(name))
    assert len(found) == STEPS and max(found) - min(found) > 0.1
    assert found == pytest.approx(expected, abs=1e-4)


def test_the_trainer_saves_evaluates_checkpoints_activations_and_resumes(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps"}
    options |= {"eval_steps": 2, "load_best_model_at_end": True, "gradient_checkpointing": True, "bf16": True}
    options |= {"gradient_accumulation_steps": 2, "remove_unused_columns": False}
    ours = unmask.drop_in(stock("BertForMaskedLM"))
    trained(ours, "BertForMaskedLM", tmp_path, **options)
    assert ours.is_gradient_checkpointing
    read = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "checkpoint-4")
    assert type(read) is transformers.BertForMaskedLM


def test_an_optimizer_made_before_trains_the_model(tmp_path: Path) -> None:
    model = stock("BertForMaskedLM").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    before = [parameter.clone() for parameter in model.parameters()]
    unmask.drop_in(model)(**BATCH).loss.backward()
    optimizer.step()
    changed = [not torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True)]
    # the gradient of the bias of keys is zero but for rounding
    assert all(changed)


def gradients_of(model: nn.Module, batch: dict[str, Tensor] = BATCH) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(5)
    model.train()(**batch).loss.backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def same(found: dict[str, Tensor], expected: dict[str, Tensor], within: float = 1e-5) -> None:
    assert found.keys() == expected.keys() and found
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=within, atol=within, msg=name)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_drops_the_same_elements_again(reentrant: bool) -> None:
    rates = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    ours = unmask.drop_in(stock("BertForMaskedLM", **rates))
    expected = gradients_of(ours)
    calls = []
    ours.bert.encoder.layer[0].intermediate.dense.register_forward_hook(lambda *_: calls.append(1))
    ours.gradient_checkpointing_enable({"use_reentrant": reentrant})
    same(gradients_of(ours), expected)
    assert len(calls) == 2
    ours.gradient_checkpointing_disable()
    same(gradients_of(ours), expected)


@pytest.mark.parametrize("drop_in_first", [False, True], ids=["drop_in last", "drop_in first"])
def test_lora_trains_its_matrices_alone(drop_in_first: bool) -> None:
    peft = pytest.importorskip("peft")
    targets = ["query", "value", "dense"]

    def adapted(model: Any) -> Any:
        torch.manual_seed(7)
        config = peft.LoraConfig(target_modules=targets, modules_to_save=["classifier"], init_lora_weights=False)
        return peft.get_peft_model(model, config)

    batch = with_kinds(examples(ROWS))
    expected = adapted(stock("BertForSequenceClassification"))
    model = stock("BertForSequenceClassification")
    found = adapted(unmask.drop_in(model)) if drop_in_first else unmask.drop_in(adapted(model))
    same(gradients_of(found, batch), gradients_of(expected, batch))
    with torch.no_grad():
        torch.testing.assert_close(found.eval()(**batch).logits, expected.eval()(**batch).logits)
        whole = found.merge_and_unload()
        torch.testing.assert_close(whole(**batch).logits, expected(**batch).logits)
    assert type(unmask.undo(whole)) is transformers.BertForSequenceClassification


def test_lora_on_the_token_table_and_the_output_projection() -> None:
    peft = pytest.importorskip("peft")
    found = []
    for model in both("BertForMaskedLM"):
        torch.manual_seed(7)
        targets = ["word_embeddings", "decoder", "position_embeddings"]
        config = peft.LoraConfig(target_modules=targets, init_lora_weights=False)
        found.append(gradients_of(peft.get_peft_model(model, config)))
    same(found[1], found[0])


@pytest.mark.parametrize("name", COLLATORS)
def test_a_compiled_model_has_the_gradients_of_transformers(name: str) -> None:
    model, ours = both(name)
    batch = COLLATORS[name](examples(ROWS))
    # padding in between, which no value is read of
    batch["attention_mask"][0, 1] = 0
    if name == "BertForMaskedLM":
        batch["labels"][0, 1] = -100
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    expected = gradients_of(model, batch)
    found = {key.removeprefix("_orig_mod."): value for key, value in gradients_of(compiled, batch).items()}
    same(found, expected)


def test_a_compiled_model_looks_for_answers_in_padded_rows() -> None:
    ours = unmask.drop_in(stock("BertForQuestionAnswering")).eval()
    inputs = {name: BATCH[name] for name in ("input_ids", "attention_mask")}
    compiled = torch.compile(ours, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**inputs).start_logits, ours(**inputs).start_logits)


def test_two_processes_average_their_gradients(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    mp.spawn(_one_of_two, args=(address, tmp_path), nprocs=2)
    each = [gradients_of(stock("BertForMaskedLM"), padded(examples()[rank::2][:ROWS])) for rank in (0, 1)]
    for way in ("False", "True"):
        found = torch.load(tmp_path / way)
        same(
            {name: 2 * value for name, value in found.items()}, {name: each[0][name] + each[1][name] for name in found}
        )


def _one_of_two(rank: int, address: str, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    for unused in (False, True):
        ours = unmask.drop_in(stock("BertForMaskedLM"))
        wrapped = DistributedDataParallel(ours, find_unused_parameters=unused)
        gradients_of(wrapped, padded(examples()[rank::2][:ROWS]))
        if rank == 0:
            torch.save({name: one.grad for name, one in ours.named_parameters()}, folder / str(unused))
    dist.destroy_process_group()


def test_accelerate_in_mixed_precision_computes_no_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(mixed_precision="bf16", cpu=True)
    ours = unmask.drop_in(stock("BertForMaskedLM"))
    monkeypatch.setattr(type(ours.cls), "forward", None)
    prepared, optimizer = accelerator.prepare(ours, torch.optim.AdamW(ours.parameters()))
    output = prepared.train()(**BATCH)
    accelerator.backward(output.loss)
    optimizer.step()
    assert output.loss.dtype == torch.float32
