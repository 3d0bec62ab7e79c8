"""What a run says that cannot go on: each advice is followed here, and then it goes on, or another one starts."""

import errno
import os
import re
import shlex
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from unmask.config import RunConfig, load_config, to_yaml
from unmask.errors import CheckpointError, RunError
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.checkpoint.resume import require_same_data
from unmask.train.checkpoint.state import load_facts
from unmask.train.data import Position
from unmask.train.logging.log import read_log
from unmask.train.logging.progress import Display
from unmask.train.run_folder import RunFolder, saved_config


@pytest.fixture
def run(tiny: ModuleType, tmp_path: Path) -> Path:
    """A run of six steps with checkpoints after five and six."""
    tiny.pretrain(tiny.config(tmp_path / "run", steps=6, phases=[]))
    return tmp_path / "run"


def resume(tiny: ModuleType, run: Path, **changes: Any) -> int:
    tiny.pretrain(saved_config(run, changes), resume=run)
    return int(read_log(run)[-1]["step"])


def test_settings_that_do_not_fit_the_checkpoint_are_put_back(tiny: ModuleType, run: Path) -> None:
    saved = (run / "config.yaml").read_text()
    config = saved_config(run)
    for model in (
        replace(config.model, num_layers=2),
        replace(config.model, intermediate_size=64),
    ):
        (run / "config.yaml").write_text(to_yaml(replace(config, model=model)))
        with pytest.raises(
            CheckpointError,
            match=r"(lacks .*, which the configured model has|, the configured model needs .*); put config\.yaml of "
            "the run back as it was, or start a new run",
        ):
            resume(tiny, run, **{"train.steps": 7})
    (run / "config.yaml").write_text(saved)
    assert resume(tiny, run, **{"train.steps": 7}) == 7


def test_fewer_steps_than_are_done_become_at_least_as_many(tiny: ModuleType, run: Path) -> None:
    with pytest.raises(RunError, match="but 6 steps are done; give at least that many") as told:
        resume(tiny, run, **{"train.steps": 5})
    done = re.search(r"but (\d+) steps", str(told.value))
    assert done is not None
    assert resume(tiny, run, **{"train.steps": int(done[1]) + 1}) == 7


def test_an_emptied_configuration_comes_back_from_a_copy(tiny: ModuleType, run: Path) -> None:
    saved = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text("")
    with pytest.raises(RunError, match="put the saved one back from a copy, or start a new run"):
        resume(tiny, run)
    (run / "config.yaml").write_text(saved)
    assert resume(tiny, run, **{"train.steps": 7}) == 7


def test_other_data_is_put_back(tiny: ModuleType, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = tiny.text()
    with monkeypatch.context() as patched:
        ids = store.ids.copy()
        ids[0] += 1
        patched.setattr(store, "ids", ids)
        with pytest.raises(
            CheckpointError, match=r"was saved, this store gives .*; put the original store back or start a new run"
        ):
            resume(tiny, run, **{"train.steps": 7})
        tiny.pretrain(tiny.config(run.with_name("new"), steps=1, phases=[]))
    assert resume(tiny, run, **{"train.steps": 7}) == 7


def test_a_configuration_that_was_not_made_from_that_of_the_run_is_made_from_it(tmp_path: Path) -> None:
    for name, text in (("store", "store"), ("input", ["corpus"])):
        path = tmp_path / name
        RunFolder.create(load_config("tiny", {"run": str(path), f"data.{name}": text, "train.steps": 5}))
        with pytest.raises(RunError, match=rf"data\.{name} is .* in the saved configuration, and this one has") as told:
            RunFolder.reopen(path, load_config("tiny", {"train.steps": 26}))
        call = re.search(r"unmask\.(load_config\(.*\)), or leave config out", str(told.value))
        assert call is not None
        reopened = RunFolder.reopen(path, eval(call[1], {"load_config": load_config})).config
        assert (getattr(reopened.data, name), reopened.train.steps) == (text, 1000)


def test_another_store_is_named_beside_that_of_the_run(tiny: ModuleType, run: Path) -> None:
    saved = saved_config(run)
    facts = load_facts(run / "checkpoints" / "step-000006" / "training")
    before, now = (replace(saved, data=replace(saved.data, store=name)) for name in ("store", "other"))
    here = Position(phase=facts.phase, index=facts.index, fingerprint="another")

    def check(now: RunConfig, here: Position) -> None:
        require_same_data(facts, here, checkpoint=run, run=run, before=before, now=now, num_steps=6)

    with pytest.raises(
        CheckpointError, match=r"data\.store is other, and the saved .* has store; leave data\.store out"
    ):
        check(now, here)
    check(before, replace(here, fingerprint=facts.fingerprint))
    check(now, replace(here, fingerprint=facts.fingerprint))


def test_training_state_that_is_gone_is_removed_to_go_on_from_the_one_before(tiny: ModuleType, run: Path) -> None:
    newest = run / "checkpoints" / "step-000006"
    (newest / "training" / "state.json").write_text("[]")
    with pytest.raises(
        CheckpointError,
        match=r"holds no training state to resume .*; remove it to go on from the one before it, or start a new run",
    ):
        load_facts(newest / "training")
    shutil.rmtree(newest)
    assert Checkpoints(folder=run / "checkpoints").latest_valid() == newest.with_name("step-000005")
    assert resume(tiny, run) == 6


def test_a_name_that_is_taken_goes_on_or_gets_another(run: Path) -> None:
    with pytest.raises(RunError) as told:
        RunFolder.create(saved_config(run))
    command = str(told.value).partition("continue it with `unmask ")[2].partition("`")[0]
    word, option, given = shlex.split(command)
    assert (word, option) == ("pretrain", "--resume")
    assert RunFolder.reopen(Path(given), saved_config(Path(given))).path == Path(given)
    assert "or choose another name with --run" in str(told.value)
    RunFolder.create(replace(saved_config(run), run=str(run.with_name("other"))))


def test_a_run_of_steps_gets_steps_and_one_of_minutes_minutes(tmp_path: Path) -> None:
    for name, value, other, mended in (
        ("a", {"train.steps": 5}, {"train.minutes": 3.0}, {"train.epochs": 1.0}),
        ("b", {"train.minutes": 3.0}, {"train.epochs": 1.0}, {"train.minutes": 4.0}),
    ):
        path = tmp_path / name
        RunFolder.create(load_config(None, {"run": str(path), **value}))
        with pytest.raises(RunError, match=f"so give .*{next(iter(mended))}.* or start a new run"):
            RunFolder.reopen(path, saved_config(path, other))
        RunFolder.reopen(path, saved_config(path, mended))


def test_what_is_no_run_names_the_run_or_starts_one(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError) as told:
        saved_config(run / "checkpoints" / "step-000006")
    way = re.search(r"with `unmask pretrain --resume (.*)`$", str(told.value))
    assert way is not None
    assert saved_config(Path(way[1])) == saved_config(run)
    with pytest.raises(RunError, match=r"start it with `unmask pretrain --run ") as absent:
        saved_config(tmp_path / "absent")
    option, name = shlex.split(str(absent.value).partition("unmask pretrain ")[2].removesuffix("`"))
    assert option == "--run"
    assert RunFolder.create(load_config(None, {"run": name})).path == tmp_path / "absent"


def test_a_model_with_fewer_layers_than_the_checkpoint_is_put_back(tiny: ModuleType, tmp_path: Path) -> None:
    config = tiny.config(tmp_path / "run", steps=1, phases=[])
    tiny.pretrain(replace(config, model=replace(config.model, num_layers=2)))
    saved = (tmp_path / "run" / "config.yaml").read_text()
    kept = saved_config(tmp_path / "run")
    fewer = replace(kept, model=replace(kept.model, num_layers=1))
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(fewer))
    with pytest.raises(
        CheckpointError,
        match=r"holds .*, which the configured model lacks; put config\.yaml of the run back as it was",
    ):
        resume(tiny, tmp_path / "run", **{"train.steps": 2})
    (tmp_path / "run" / "config.yaml").write_text(saved)
    assert resume(tiny, tmp_path / "run", **{"train.steps": 2}) == 2


def test_a_run_that_diverged_begins_again_with_a_lower_rate(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.train.trainer.GIVE_UP_AFTER", 3)
    settings: dict[str, Any] = {"steps": 6, "log_every": 1, "warmup_steps": 0, "phases": []}
    with pytest.raises(
        RunError,
        match="gradient was not finite in each of the last .* steps and no update was made in them; start a new run "
        r"with a lower optimizer\.learning_rate or a longer warm-up",
    ):
        tiny.pretrain(tiny.config(tmp_path / "high", learning_rate=1e30, **settings))
    tiny.pretrain(tiny.config(tmp_path / "low", learning_rate=1e-3, **settings))
    assert read_log(tmp_path / "low")[-1]["skipped"] == 0


def test_a_run_that_diverged_begins_again_with_a_longer_warm_up(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.train.trainer.GIVE_UP_AFTER", 3)
    settings: dict[str, Any] = {"log_every": 1, "learning_rate": 1e8, "phases": []}
    with pytest.raises(RunError, match=r"start a new run with .* or a longer warm-up"):
        tiny.pretrain(tiny.config(tmp_path / "none", steps=6, warmup_steps=0, **settings))
    advance = Display.advance

    def five_steps(display: Display) -> None:
        advance(display)
        if display._done == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Display, "advance", five_steps)
    tiny.pretrain(tiny.config(tmp_path / "longer", steps=10**9, warmup_steps=10**9, **settings))
    assert [row["skipped"] for row in read_log(tmp_path / "longer")] == [0] * 5


def test_an_empty_folder_beside_a_run_names_the_run(run: Path) -> None:
    run.with_name("runs").mkdir()
    with pytest.raises(RunError, match=r"it has no config\.yaml; did you mean `unmask pretrain --resume ") as told:
        saved_config(run.with_name("runs"))
    named = str(told.value).partition("--resume ")[2].removesuffix("`?")
    assert saved_config(Path(named)) == saved_config(run)


def test_a_model_without_its_training_is_no_run(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "checkpoints" / "step-000006", tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "training")
    with pytest.raises(
        RunError, match="it is a model without the state of its training, so give the directory of a run"
    ):
        saved_config(tmp_path / "copy")
    assert saved_config(run).run


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("how", ["full", "fills up", "has a limit"])
def test_a_disk_without_room_for_a_checkpoint_gets_room(
    kept: bool, how: str, tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    if kept:
        tiny.pretrain(tiny.config(path, steps=1, phases=[]))

    def go_on() -> None:
        if kept:
            resume(tiny, path, **{"train.steps": 2})
        else:
            tiny.pretrain(tiny.config(path, steps=1, phases=[]))

    with monkeypatch.context() as patched:
        if how == "full":
            patched.setattr(
                "unmask.train.checkpoint.checkpoints.shutil.disk_usage", lambda folder: SimpleNamespace(free=10_000)
            )
        else:
            number = errno.EFBIG if how == "has a limit" else errno.ENOSPC

            def fills_up(*arguments: Any, **options: Any) -> None:
                raise OSError(number, os.strerror(number))

            patched.setattr("safetensors.torch.save_file", fills_up)
        with pytest.raises(CheckpointError) as told:
            go_on()
    reason, first = {
        "full": ("the disk is too full", "make room"),
        "fills up": ("No space left on device", "make room"),
        "has a limit": ("File too large", "raise the limit for the size of a file (ulimit -f)"),
    }[how]
    assert f"could not be written ({reason}): it needs about " in str(told.value)
    way = f"{first} and continue with `unmask pretrain --resume {path}`"
    assert str(told.value).endswith(f"step-000001 is whole, so {way}" if kept else f"free; {way}")
    assert resume(tiny, path, **({"train.steps": 2} if kept else {})) == 2 if kept else 1


def test_of_damaged_checkpoints_none_is_left_but_a_new_run(tiny: ModuleType, run: Path) -> None:
    for path in (run / "checkpoints").glob("step-*/model.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*checkpoints is whole: .*; start a new run$"):
        resume(tiny, run, **{"train.steps": 7})
    tiny.pretrain(tiny.config(run.with_name("new"), steps=1, phases=[]))


def test_training_state_that_cannot_be_read_is_removed(tiny: ModuleType, run: Path) -> None:
    newest = run / "checkpoints" / "step-000006"
    damaged = shutil.copytree(newest, run.with_name("kept"))
    (damaged / "training" / ".metadata").write_bytes(b"x")
    from unmask.train.checkpoint.state import load_tensors

    model = torch.nn.Linear(1, 1)
    with pytest.raises(
        CheckpointError,
        match=r"\(its tensors cannot be read: .*\); remove it to go on from the one before it, or start",
    ):
        load_tensors(damaged / "training", model, torch.optim.AdamW(model.parameters()))
    shutil.rmtree(newest)
    assert resume(tiny, run) == 6
