"""How ranks meet, and what they are told that cannot train together; `test_ranks.py` has those that train."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.distributed as dist

from advice import follow, refusal
from many import free_port
from unmask import cli
from unmask.config import RunConfig, load_config
from unmask.data.prepare import prepare
from unmask.errors import ConfigError, RunError, ToldByOther
from unmask.launch import Place
from unmask.train import parallel
from unmask.train.heartbeat import Gone
from unmask.train.parallel import ALONE, join_ranks
from unmask.train.pretrain import _require_shares, pretrain


@pytest.fixture(autouse=True)
def _no_group() -> Iterator[None]:
    assert not dist.is_initialized()
    yield
    assert not dist.is_initialized()


def as_rank(monkeypatch: pytest.MonkeyPatch, rank: int, *, size: int = 2, port: int | None = None) -> None:
    place = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port or free_port()}
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))


def test_alone_nothing_is_started_and_nothing_changes() -> None:
    numbers = torch.tensor([1.0, 2.0])
    with join_ranks(1.0) as ranks:
        assert ranks is ALONE
        ranks.sum(numbers)
        ranks.send([numbers])
        ranks.require_same("x", "a", "b")
        assert (ranks.rank, ranks.size, ranks.gather(3), ranks.totals([4.0])) == (0, 1, [3], [4.0])
        assert (ranks.first(lambda: 5), ranks.in_turn(lambda: 6)) == (5, 6)
    assert numbers.tolist() == [1.0, 2.0]


def enter() -> None:
    with join_ranks(1.0):
        pass


def test_a_rank_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    as_rank(monkeypatch, 0)
    said = refusal(enter)
    assert said.startswith("launch: rank 1 of 2 must come within 1 seconds (train.timeout_seconds), and did not; look ")
    assert said.endswith("or raise train.timeout_seconds")
    assert load_config("tiny", {"train.timeout_seconds": 1200}).train.timeout_seconds == 1200


def test_rank_0_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    as_rank(monkeypatch, 1, port=port)
    here = Place(rank=1, world_size=2, local_rank=1, address="127.0.0.1", port=port)
    there = replace(here, rank=0)
    follow(
        enter,
        f"launch: rank 1 must reach rank 0 at 127.0.0.1, port {port} ( ... ); set MASTER_ADDR to a host and "
        "MASTER_PORT to a free port there that all nodes reach",
        lambda: (parallel._meet_at(there, 5.0), parallel._meet_at(here, 5.0)),
    )


@pytest.mark.parametrize(("tokens", "size", "fitting", "more"), [(384, 2, "1 or 3", 512), (256, 3, "1 or 2", 384)])
def test_a_number_of_processes_that_does_not_divide_the_step_is_refused(
    tiny: ModuleType, tmp_path: Path, tokens: int, size: int, fitting: str, more: int
) -> None:
    config: RunConfig = tiny.config(tmp_path / "run", tokens_per_step=tokens)

    def advised() -> None:
        for number in fitting.split(" or "):
            _require_shares(config, int(number))
        _require_shares(tiny.config(tmp_path / "run", tokens_per_step=more), size)

    follow(
        lambda: _require_shares(config, size),
        f"config: train.tokens_per_step, {tokens}, has {tokens // 128} micro-batches of stream.micro_batch_tokens, "
        f"128, which {size} processes cannot share evenly; start {fitting} processes, or give "
        f"--train.tokens_per_step {more} in a new run",
        advised,
    )


def test_processes_that_cannot_share_the_first_of_steps_that_grow_are_refused(tiny: ModuleType, tmp_path: Path) -> None:
    def growing(first: int, last: int = 1536) -> RunConfig:
        run = tmp_path / "run"
        made: RunConfig = tiny.config(run, tokens_per_step=last, first_tokens_per_step=first, growth_steps=4)
        return made

    told = "config: train.first_tokens_per_step, 256, has 2 micro-batches of stream.micro_batch_tokens, 128, which 3 "
    way = (
        "processes cannot share evenly; start 1 or 2 processes, or give --train.first_tokens_per_step 384 in a new run"
    )
    follow(
        lambda: _require_shares(growing(256), 3),
        told + way,
        lambda: _require_shares(growing(256), 2),
        lambda: _require_shares(growing(384), 3),
    )
    # no first step that the last is a multiple of can be shared
    follow(
        lambda: _require_shares(growing(256, last=512), 3),
        "cannot share evenly; start 1 or 2 processes",
        lambda: _require_shares(growing(256, last=512), 1),
    )


def test_one_micro_batch_is_for_one_process(tiny: ModuleType, tmp_path: Path) -> None:
    told = r"has 1 micro-batch of .*; start 1 process, or give --train\.tokens_per_step 512"
    with pytest.raises(ConfigError, match=told):
        _require_shares(tiny.config(tmp_path / "run", tokens_per_step=128), 4)


@pytest.mark.parametrize(("count", "local_rank", "one_each", "index"), [(4, 3, False, 3), (1, 3, True, 0)])
def test_each_process_of_a_node_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, count: int, local_rank: int, one_each: bool, index: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    here = Place(rank=3, world_size=8, local_rank=local_rank, address="", port=0, one_gpu_each=one_each)
    ranks = parallel._Group(here, None, timeout=1.0, has_gloo=True)
    assert ranks.device() == torch.device("cuda", index)
    too_many = parallel._Group(replace(here, local_rank=count), None, timeout=1.0, has_gloo=True)
    if not one_each:
        fits = parallel._Group(replace(here, local_rank=count - 1), None, timeout=1.0, has_gloo=True)
        follow(
            too_many.device,
            f"needs a GPU of its own, but its node has {count} for {count + 1} processes or more; start {count} "
            "processes a node",
            fits.device,
        )


def test_a_rank_that_ends_with_the_others_raises_an_error_of_its_own() -> None:
    found = parallel._told(Gone(rank=2, by=1, text="run: rank 2 ended", status=75))
    assert isinstance(found, ToldByOther)
    assert (str(found), found.status) == (
        "run: rank 1 ends it for all (run: rank 2 ended); read what that rank says",
        75,
    )
    assert ToldByOther.status == 2


def test_a_group_of_one_that_the_caller_made_is_left_alone(tiny: ModuleType, tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{free_port()}", rank=0, world_size=1)
    try:
        run = pretrain(tiny.config(tmp_path / "run", steps=1, warmup_steps=1, phases=[]))
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()
    assert (run / "checkpoints" / "step-000001").is_dir()


def test_resume_auto_goes_on_without_the_checkpoint_that_the_run_began_from(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "texts.txt"
    text.write_text("\n\n".join(f"the old cat sat on the wall {number}" for number in range(60)))
    prepare(
        [text], tmp_path / "store", tokenizer=model_folder, blank_line_documents=True, workers=1, allow_unknown=True
    )
    words = ["pretrain", "continue", "--init.from", str(model_folder), "--data.store", str(tmp_path / "store")]
    words += ["--run", str(tmp_path / "run"), "--resume", "auto", "--stream.max_length", "24", "--stream.workers", "0"]
    words += ["--train.tokens_per_step", "64", "--stream.micro_batch_tokens", "64", "--train.evaluate_tokens", "64"]
    assert cli.main([*words, "--train.steps", "2"]) == 0
    model_folder.rename(tmp_path / "gone")
    assert cli.main([*words, "--train.steps", "3"]) == 0
    said = capsys.readouterr().out
    assert f"resumed from {tmp_path / 'run' / 'checkpoints' / 'step-000002'}" in said
    assert "done: 3 steps" in said
    # another one is another run
    assert cli.main([*words, "--init.from", str(tmp_path / "gone"), "--train.steps", "4"]) == 2
    assert "init.from" in capsys.readouterr().err


def test_resume_auto_starts_a_run_and_goes_on_with_it(
    tiny: ModuleType, tmp_path: Path, unbroken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    with pytest.raises(RunError, match="run: resume auto needs the name of the run, got none; give it one with --run"):
        pretrain(replace(tiny.config(run), run=None), resume="auto")
    said = refusal(lambda: pretrain(resume="auto"))
    assert said.startswith("pretrain: resume 'auto' needs config, got none; pass unmask.load_config('tiny', {'run': ")
    half = tiny.config(run, steps=8)
    pretrain(replace(half, train=replace(half.train, phases=[])), resume="auto")
    assert "resumed from" not in caplog.text
    with pytest.raises(RunError, match="resuming may change only"):
        pretrain(tiny.config(run), resume="auto")
    pretrain(replace(half, train=replace(half.train, phases=[], steps=9)), resume="auto")
    assert "resumed from" in caplog.text
    caplog.clear()
    pretrain(replace(half, train=replace(half.train, phases=[], steps=9)), resume="auto")
    assert "already finished: 9 steps" in caplog.text
    assert os.environ.get("WORLD_SIZE") is None
