"""Twenty steps in each of other people's trainers: the losses of a plain loop; and masks that a resume repeats.

The heavy libraries are imported where they are used: the second process of DDP imports this module too.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from unmask import EncoderConfig, PackedDataset, PretrainingModel, packed_inputs
from unmask.config import StreamConfig
from unmask.data.store.memory import MemoryStore

STEPS, MICRO_BATCHES, RATE = 20, 2, 3e-3
VOCAB = 60
CONFIG = EncoderConfig(
    vocab_size=VOCAB,
    hidden_size=32,
    num_layers=2,
    num_heads=2,
    intermediate_size=64,
    max_positions=32,
    hidden_dropout=0.0,
    attention_dropout=0.0,
)
EXAMPLES = [
    {"input_ids": [2, *np.random.default_rng(n).integers(5, VOCAB, 3 + n % 20).tolist(), 3]} for n in range(186)
]


class MaskedLM(nn.Module):
    """A model as trainers of others know it: named inputs, and a loss, the mean over the tokens of a micro-batch."""

    def __init__(self) -> None:
        super().__init__()
        self.model = PretrainingModel(CONFIG, heads=("mlm",), seed=0)
        self.losses: list[float] = []

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        token_type_ids: Tensor,
        labels: Tensor,
        cu_seq_lens_q: Tensor,
        cu_seq_lens_k: Tensor,
        max_length_q: int,
        max_length_k: int,
    ) -> dict[str, Tensor]:
        lengths = {"max_length_q": max_length_q, "max_length_k": max_length_k}
        boundaries = {"cu_seq_lens_q": cu_seq_lens_q, "cu_seq_lens_k": cu_seq_lens_k}
        inputs = packed_inputs(input_ids, None, token_type_ids, position_ids, **boundaries, **lengths)
        rows = (labels[0] != -100).nonzero().flatten()
        result = self.model.mlm_loss(self.model(inputs.batch, rows=rows), labels[0, rows])
        loss: Tensor = result.loss_sum / result.count
        self.losses.append(loss.item())
        return {"loss": loss}


def model() -> MaskedLM:
    return MaskedLM().train()


def adamw(trained: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(trained.parameters(), lr=RATE, weight_decay=0.0)


def dataset(**options: Any) -> PackedDataset:
    store = MemoryStore.generated(np.random.default_rng(0).integers(3, 30, 400), vocab_size=VOCAB)
    stream = StreamConfig(max_length=32, micro_batch_tokens=96)
    return PackedDataset(store, stream, seed=1, flat=True, ordinary_ids=store.ordinary_ids, **options)


def first(batches: list[Any]) -> Any:
    """A `data_collator` for a dataset whose items are batches already."""
    (batch,) = batches
    return batch


def packed_loader() -> DataLoader[Any]:
    """Examples of a map-style dataset in micro-batches of at most 96 tokens."""
    from unmask.hf import PackedCollator, TokenBatchSampler

    collate = PackedCollator(bert_tokenizer(), tokens=96, masking="whole_word")
    sampler = TokenBatchSampler([len(one["input_ids"]) for one in EXAMPLES], 96, collator=collate)
    return DataLoader(EXAMPLES, batch_sampler=sampler, collate_fn=collate)  # type: ignore[arg-type]


def bert_tokenizer() -> Any:
    from transformers import BertTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *(f"w{n}" for n in range(40)), *(f"##x{n}" for n in range(VOCAB - 45))]
    return BertTokenizer(vocab={word: index for index, word in enumerate(words)})


def in_a_loop(batches: Iterable[dict[str, Any]]) -> list[float]:
    trained = model()
    optimizer = adamw(trained)
    for number, batch in enumerate(islice(batches, STEPS * MICRO_BATCHES)):
        (trained(**batch)["loss"] / MICRO_BATCHES).backward()
        if (number + 1) % MICRO_BATCHES == 0:
            optimizer.step()
            optimizer.zero_grad()
    return trained.losses


@pytest.fixture(autouse=True)
def _accelerate_is_not_left_set_up() -> Iterator[None]:
    yield
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def streamed() -> list[float]:
    """The losses of a plain loop on the dataset, which the other trainers must give."""
    losses = in_a_loop(DataLoader(dataset(), batch_size=None))
    assert len(set(losses)) == STEPS * MICRO_BATCHES
    return losses


def assert_equal_losses(got: list[float], expected: list[float]) -> None:
    assert len(got) == len(expected) == STEPS * MICRO_BATCHES
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def hf_arguments(folder: Path, **changes: Any) -> Any:
    from transformers import TrainingArguments

    settings: dict[str, Any] = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": MICRO_BATCHES,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
        "accelerator_config": {"dispatch_batches": False},
        "remove_unused_columns": False,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(str(folder), **settings | changes)


def test_the_trainer_of_transformers_streams_the_losses_of_a_loop(tmp_path: Path, streamed: list[float]) -> None:
    from transformers import Trainer

    trained = model()
    Trainer(trained, hf_arguments(tmp_path), train_dataset=dataset(), data_collator=first).train()
    assert_equal_losses(trained.losses, streamed)


def test_the_trainer_of_transformers_gives_the_losses_of_a_loop_for_a_map_style_dataset(tmp_path: Path) -> None:
    from transformers import Trainer

    class PackedTrainer(Trainer):
        def get_train_dataloader(self) -> Any:
            return self.accelerator.prepare(packed_loader())

    def epochs() -> Iterator[dict[str, Any]]:
        loader = packed_loader()
        while True:
            yield from loader

    trained = model()
    PackedTrainer(trained, hf_arguments(tmp_path), train_dataset=EXAMPLES).train()  # type: ignore[arg-type]
    count = len(packed_loader())
    assert count < STEPS * MICRO_BATCHES and count % MICRO_BATCHES == 0, "a second epoch, and no step of one batch"
    assert_equal_losses(trained.losses, in_a_loop(epochs()))


def test_accelerate_gives_the_losses_of_a_loop(streamed: list[float]) -> None:
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration

    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=MICRO_BATCHES,
        dataloader_config=DataLoaderConfiguration(dispatch_batches=False),
    )
    trained = model()
    wrapped, optimizer, loader = accelerator.prepare(trained, adamw(trained), DataLoader(dataset(), batch_size=None))
    for batch in islice(loader, STEPS * MICRO_BATCHES):
        with accelerator.accumulate(wrapped):
            accelerator.backward(wrapped(**batch)["loss"])
            optimizer.step()
            optimizer.zero_grad()
    assert_equal_losses(trained.losses, streamed)


def test_what_accelerate_shares_out_is_each_batch_once() -> None:
    """As the error for several processes advises: rank=0, world_size=1 and dispatch_batches=False."""
    from accelerate.data_loader import prepare_data_loader

    every = [batch["input_ids"].tolist() for batch in islice(dataset(), 12)]
    for process in (0, 1):
        one_by_one = DataLoader(dataset(rank=0, world_size=1), batch_size=1, collate_fn=first)
        loader = prepare_data_loader(one_by_one, num_processes=2, process_index=process, dispatch_batches=False)
        assert [batch["input_ids"].tolist() for batch in islice(loader, 6)] == every[process::2]


def test_a_loader_that_accelerate_prepared_continues_from_its_state() -> None:
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration

    stateful = DataLoaderConfiguration(dispatch_batches=False, use_stateful_dataloader=True)
    accelerator = Accelerator(cpu=True, dataloader_config=stateful)
    every = [batch["labels"].tolist() for batch in islice(dataset(), 12)]
    loader, again = (accelerator.prepare(DataLoader(dataset(), batch_size=None)) for _ in range(2))
    for _ in islice(loader, 5):
        state = loader.state_dict()
    again.load_state_dict(state)
    assert [batch["labels"].tolist() for batch in islice(again, 7)] == every[5:]


def lightning_losses(loader: Any, *, checkpoint: str | None = None, **settings: Any) -> list[float]:
    from pytorch_lightning import LightningModule, Trainer

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.trained = model()

        def training_step(self, batch: dict[str, Any], number: int) -> Tensor:
            loss: Tensor = self.trained(**batch)["loss"]
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return adamw(self)

    module = Module()
    shown = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", devices=1, **shown, **settings)
    trainer.fit(module, loader, ckpt_path=checkpoint)
    return module.trained.losses


def test_lightning_gives_the_losses_of_a_loop(streamed: list[float]) -> None:
    settings = {"accumulate_grad_batches": MICRO_BATCHES, "enable_checkpointing": False}
    loader = DataLoader(dataset(), batch_size=None)
    assert_equal_losses(lightning_losses(loader, max_steps=STEPS, **settings), streamed)


def test_lightning_continues_an_epoch_from_its_checkpoint(tmp_path: Path) -> None:
    from pytorch_lightning.callbacks import ModelCheckpoint
    from torchdata.stateful_dataloader import StatefulDataLoader

    def losses(**given: Any) -> list[float]:
        keep = ModelCheckpoint(tmp_path, every_n_train_steps=5, save_top_k=-1, filename="{step}")
        loader = StatefulDataLoader(dataset(endless=False), batch_size=None)
        return lightning_losses(loader, max_steps=12, callbacks=[keep], **given)

    unbroken = losses()
    assert losses(checkpoint=str(tmp_path / "step=5.ckpt")) == unbroken[5:]


def test_two_processes_of_ddp_give_the_losses_of_a_loop(tmp_path: Path, streamed: list[float]) -> None:
    """This process and another one, each on half of the micro-batches, which its dataset finds by torch.distributed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    other = mp.get_context("spawn").Process(target=_train_in_ddp, args=(1, address, tmp_path / "1"))
    other.start()
    try:
        _train_in_ddp(0, address, tmp_path / "0")
        other.join(300)
    finally:
        other.kill()
    shares = [torch.load(tmp_path / str(rank)) for rank in (0, 1)]
    assert_equal_losses([loss for together in zip(*shares, strict=True) for loss in together], streamed)


def _train_in_ddp(rank: int, address: str, path: Path) -> None:
    torch.set_num_threads(1)
    limit = timedelta(seconds=300)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2, timeout=limit)
    try:
        trained = model()
        wrapped, optimizer = DistributedDataParallel(trained), adamw(trained)
        for batch in islice(DataLoader(dataset(), batch_size=None), STEPS):
            wrapped(**batch)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
        torch.save(trained.losses, path)
    finally:
        dist.destroy_process_group()


class Recorder(nn.Module):
    """Learns nothing much, and keeps the ids and labels of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 1)
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.lengths: list[list[int]] = []

    def forward(
        self, input_ids: Tensor, labels: Tensor, cu_seq_lens_q: Tensor | None = None, **inputs: Any
    ) -> dict[str, Tensor]:
        self.batches.append((input_ids, labels))
        self.lengths.append([] if cu_seq_lens_q is None else cu_seq_lens_q.diff().tolist())
        return {"loss": self.embedding(input_ids).square().mean()}

    def texts(self) -> list[list[int]]:
        return [torch.where(labels == -100, ids, labels).flatten().tolist() for ids, labels in self.batches]

    def masks(self) -> list[list[int]]:
        return [labels.flatten().tolist() for _, labels in self.batches]


def resumed_and_unbroken(folder: Path, make: Callable[[], tuple[Any, list[Any]]], workers: int) -> list[Recorder]:
    """Train twenty steps of 15 in an epoch; then resume from the checkpoint at the tenth, amid an epoch."""
    from transformers import Trainer

    recorders = []
    for checkpoint in (None, str(folder / "checkpoint-10")):
        collate, callbacks = make()
        changes = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "save_strategy": "steps"}
        arguments = hf_arguments(folder, **changes, save_steps=10, dataloader_num_workers=workers)
        recorders.append(Recorder())
        data: Any = EXAMPLES[:60]
        Trainer(recorders[-1], arguments, collate, data, callbacks=callbacks).train(resume_from_checkpoint=checkpoint)
    unbroken, resumed = recorders
    assert len(unbroken.batches) == 20 and resumed.texts() == unbroken.texts()[10:]
    return [resumed, unbroken]


def repeated_masks(resumed: Recorder, unbroken: Recorder) -> int:
    return sum(one == two for one, two in zip(resumed.masks(), unbroken.masks()[10:], strict=True))


def packed() -> tuple[Any, list[Any]]:
    from unmask.hf import EpochCallback, PackedCollator

    collate = PackedCollator(bert_tokenizer())
    return collate, [EpochCallback(collate)]


def test_a_trainer_that_resumes_repeats_ten_of_ten_masks_and_with_the_collator_of_transformers_none(
    tmp_path: Path,
) -> None:
    from transformers import DataCollatorForLanguageModeling

    ours = repeated_masks(*resumed_and_unbroken(tmp_path / "packed", packed, workers=0))
    theirs = repeated_masks(
        *resumed_and_unbroken(
            tmp_path / "padded", lambda: (DataCollatorForLanguageModeling(bert_tokenizer()), []), workers=0
        )
    )
    assert (ours, theirs) == (10, 0)


def test_workers_repeat_the_masks_too_and_the_next_epoch_has_others(tmp_path: Path) -> None:
    resumed, unbroken = resumed_and_unbroken(tmp_path, packed, workers=2)
    assert repeated_masks(resumed, unbroken) == 10
    masks_of: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for (ids, labels), cuts in zip(unbroken.batches, unbroken.lengths, strict=True):
        for part, labelled in zip(ids[0].split(cuts), labels[0].split(cuts), strict=True):
            text = torch.where(labelled == -100, part, labelled)
            masks_of.setdefault(tuple(text.tolist()), []).append(tuple(labelled.tolist()))
    twice = [masks for masks in masks_of.values() if len(masks) == 2 and len(masks[0]) > 12]
    assert len(twice) > 5 and sum(one == two for one, two in twice) < len(twice) / 3
