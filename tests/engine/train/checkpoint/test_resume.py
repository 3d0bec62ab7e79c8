"""However a run stops, what it leaves behind goes on to the same bits."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from unmask.config import MaskingConfig, RunConfig
from unmask.errors import CheckpointError, RunError
from unmask.train.checkpoint.state import Facts, load_facts
from unmask.train.evaluate import score_model
from unmask.train.logging.log import read_log
from unmask.train.logging.progress import Display
from unmask.train.run_folder import saved_config
from unmask.train.schedule import StepSchedule


def resume(tiny: ModuleType, run: Path, **changes: Any) -> None:
    tiny.pretrain(saved_config(run, changes), resume=run)


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    """Do something right after update number `step`."""
    original = Display.advance

    def advance(display: Display) -> None:
        original(display)
        if display._done == step:
            action()

    monkeypatch.setattr(Display, "advance", advance)


@pytest.mark.parametrize(
    ("step", "number"), [(1, signal.SIGTERM), (7, signal.SIGINT), (8, signal.SIGTERM), (15, signal.SIGINT)]
)
def test_after_a_polite_stop(
    tiny: ModuleType,
    tmp_path: Path,
    unbroken: Path,
    caplog: pytest.LogCaptureFixture,
    step: int,
    number: signal.Signals,
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patched:
        at_step(patched, step, lambda: os.kill(os.getpid(), number))
        assert tiny.pretrain(tiny.config(run)) == run
    said = caplog.text
    assert f"{number.name}: stopped after step {step}, saved; continue with `unmask pretrain --resume {run}`" in said
    assert "fill-mask" not in said
    assert (run / "checkpoints" / f"step-{step:06d}").is_dir()
    resume(tiny, run)
    tiny.assert_same_end(run, unbroken)


@pytest.mark.parametrize("inside", [False, True])
def test_a_stop_does_not_wait_for_an_evaluation_which_the_resumed_run_makes(
    tiny: ModuleType, tmp_path: Path, unbroken: Path, caplog: pytest.LogCaptureFixture, inside: bool
) -> None:
    run = tmp_path / "run"
    evaluated = []

    def stopped(*arguments: Any, **options: Any) -> Any:
        evaluated.append(1)
        if len(evaluated) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return score_model(*arguments, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("unmask.train.trainer.score_model", stopped)
        if not inside:
            at_step(patched, 8, lambda: os.kill(os.getpid(), signal.SIGTERM))
        tiny.pretrain(tiny.config(run))
    assert len(evaluated) == 1 + inside
    assert caplog.text.count("held-out at step") == 1
    assert (run / "checkpoints" / "step-000008").is_dir()
    resume(tiny, run)
    assert "fill-mask" in caplog.text
    tiny.assert_same_end(run, unbroken)


def test_after_an_error_in_mid_run_and_after_the_end(tiny: ModuleType, tmp_path: Path, unbroken: Path) -> None:
    run = tmp_path / "run"

    def fail() -> None:
        raise MemoryError

    for step in (4, 7, 12):
        with pytest.MonkeyPatch.context() as patched:
            at_step(patched, step, fail)
            go = partial(resume, tiny, run) if run.exists() else partial(tiny.pretrain, tiny.config(run))
            with pytest.raises(MemoryError):
                go()
    resume(tiny, run)
    tiny.assert_same_end(run, unbroken)
    resume(tiny, run)
    tiny.assert_same_end(run, unbroken)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_with_workers_and_either_activation_dtype(tiny: ModuleType, tmp_path: Path, dtype: str) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    tiny.pretrain(tiny.config(whole, workers=1, dtype=dtype))
    with pytest.MonkeyPatch.context() as patched:
        at_step(patched, 11, lambda: os.kill(os.getpid(), signal.SIGTERM))
        tiny.pretrain(tiny.config(parted, workers=1, dtype=dtype))
    resume(tiny, parted, **{"stream.workers": 0})
    tiny.assert_same_end(parted, whole)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [truncate, flip_a_bit])
def test_from_the_one_before_when_the_newest_checkpoint_is_damaged(
    tiny: ModuleType,
    tmp_path: Path,
    unbroken: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patched:
        at_step(patched, 12, lambda: os.kill(os.getpid(), signal.SIGTERM))
        tiny.pretrain(tiny.config(run))
    damage(run / "checkpoints" / "step-000012" / "training" / "__0_0.distcp")
    caplog.clear()
    resume(tiny, run)
    said = caplog.text
    assert "step-000012: training/__0_0.distcp" in said
    assert "resumed from" in said
    assert "step-000010" in said
    tiny.assert_same_end(run, unbroken)


def test_after_the_disk_was_full_in_mid_save(
    tiny: ModuleType, tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def full(folder: Path, *rest: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patched:
        at_step(patched, 9, lambda: patched.setattr("unmask.train.saver.save_state", full))
        with pytest.raises(CheckpointError, match=r"step-000010 could not be written .*step-000005 is whole"):
            tiny.pretrain(tiny.config(run))
    resume(tiny, run)
    tiny.assert_same_end(run, unbroken)


@pytest.mark.parametrize("step", [4, 9])
def test_after_the_directory_was_moved_away_in_mid_run(
    tiny: ModuleType, tmp_path: Path, unbroken: Path, caplog: pytest.LogCaptureFixture, step: int
) -> None:
    """What is saved from then on would be a folder of checkpoints that the advice at the end cannot continue."""
    run, moved = tmp_path / "run", tmp_path / "moved"

    def move_and_stop() -> None:
        run.rename(moved)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patched:
        at_step(patched, step, move_and_stop)
        tiny.pretrain(tiny.config(run))
    said = caplog.text
    assert f"the run directory {run} was moved or removed while it trained, so it is made anew for the" in said
    assert f"continue with `unmask pretrain --resume {run}`" in said
    # to be one run again: the log lies there
    shutil.copytree(run / "checkpoints" / f"step-{step:06d}", moved / "checkpoints" / f"step-{step:06d}")
    resume(tiny, run)
    expected, got = tiny.parameters(unbroken), tiny.parameters(run)
    assert all((got[name] == value).all() for name, value in expected.items())
    resume(tiny, moved)
    tiny.assert_same_end(moved, unbroken)


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    tiny: ModuleType, tmp_path: Path, unbroken: Path
) -> None:
    run = tmp_path / "run"

    def fail() -> None:
        raise MemoryError

    with pytest.MonkeyPatch.context() as patched:
        at_step(patched, 4, fail)
        with pytest.raises(MemoryError):
            tiny.pretrain(tiny.config(run))
    assert not (run / "checkpoints").exists()
    resume(tiny, run)
    tiny.assert_same_end(run, unbroken)


def test_other_data_is_refused(tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    tiny.pretrain(tiny.config(run, steps=4, phases=[]))
    store, _ = tiny.text()
    ids = store.ids.copy()
    ids[0] += 1
    monkeypatch.setattr(store, "ids", ids)
    with pytest.raises(CheckpointError, match="was trained on other data"):
        resume(tiny, run, **{"train.steps": 8})


def test_other_steps_under_a_scheduled_mask_rate_are_refused_with_the_saved_number(
    tiny: ModuleType, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = tiny.config(run, steps=4, phases=[])
    tiny.pretrain(replace(config, masking=MaskingConfig(rate_end=0.3)))
    with pytest.raises(CheckpointError, match=r"0\.3, by the end of train\.steps 4; .* with the saved train\.steps 4$"):
        resume(tiny, run, **{"train.steps": 8})
    resume(tiny, run)


def test_a_mask_rate_with_steps_of_its_own_goes_on_with_more_steps_as_in_the_longer_run(
    tiny: ModuleType, tmp_path: Path
) -> None:
    def config(run: Path, steps: int) -> RunConfig:
        made: RunConfig = tiny.config(run, steps=steps, phases=[], schedule="wsd", decay_share=0.2)
        return replace(made, masking=MaskingConfig(rate=0.3, rate_end=0.1, rate_steps=5))

    whole, run = tmp_path / "whole", tmp_path / "run"
    tiny.pretrain(config(whole, 12))
    with pytest.MonkeyPatch.context() as patched:
        at_step(patched, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        tiny.pretrain(config(run, 8))
    resume(tiny, run, **{"train.steps": 12})
    assert tiny.without_times(run)[-1]["step"] == 12
    tiny.assert_same_end(run, whole)


def test_steps_that_move_the_phases_are_refused_with_the_saved_number(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    at_step(monkeypatch, 9, lambda: os.kill(os.getpid(), signal.SIGTERM))
    tiny.pretrain(tiny.config(run))
    with pytest.raises(CheckpointError, match=r"of phase 0; resume with the saved train\.steps 16$"):
        resume(tiny, run, **{"train.steps": 40})
    resume(tiny, run, **{"train.steps": 16})
    assert read_log(run)[-1]["step"] == 16


def test_the_store_may_lie_elsewhere_and_the_threads_may_change_which_is_said(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    tiny.pretrain(tiny.config(run, steps=4, phases=[]))
    caplog.clear()
    resume(tiny, run, **{"train.steps": 6, "data.store": "moved", "train.threads": 2})
    assert "threads were 1, now 2: same data and masks, but sums may round differently" in caplog.text
    resume(tiny, run, **{"train.steps": 8, "train.threads": 1})
    assert read_log(run)[-1]["step"] == 8


def test_auto_stays_what_it_was_where_another_machine_would_choose_otherwise(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr("unmask.train.precision._fast_bfloat16", lambda device: (True, "fast"))
    tiny.pretrain(tiny.config(run, steps=4, phases=[], dtype="auto"))
    state = json.loads((run / "checkpoints" / "step-000004" / "training" / "state.json").read_text())
    assert state["machine"]["activations"] == "bfloat16"
    assert {"device", "unmask", "torch", "python"} <= state["machine"].keys()
    monkeypatch.setattr("unmask.train.precision._fast_bfloat16", lambda device: (False, "slow"))
    caplog.clear()
    resume(tiny, run, **{"train.steps": 6})
    said = caplog.text
    assert "train.dtype is auto: activations stay in bfloat16, as saved" in said
    assert "activations in bfloat16 (train.dtype is auto, and the checkpoint has bfloat16; slow, so expect" in said
    assert "activations was" not in said
    assert "asked for" not in said
    assert saved_config(run).train.dtype == "auto"


def test_a_tampered_fingerprint_is_refused(tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    tiny.pretrain(tiny.config(run, steps=4, phases=[]))

    def tampered(folder: Path) -> Facts:
        facts = load_facts(folder)
        object.__setattr__(facts, "fingerprint", "0" * 64)
        return facts

    monkeypatch.setattr("unmask.train.pretrain.load_facts", tampered)
    with pytest.raises(CheckpointError, match="stream 0000000000000000 was saved"):
        resume(tiny, run, **{"train.steps": 5})


def test_more_steps_go_on_at_a_learning_rate_that_is_said_and_fewer_than_done_are_refused(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    tiny.pretrain(tiny.config(run, steps=4, phases=[]))
    caplog.clear()
    resume(tiny, run, **{"train.steps": 6})
    optimizer = saved_config(run).optimizer
    rate = StepSchedule(optimizer, 6)(4)
    told = "train.steps 4 is now train.steps 6: the learning rate decays by the whole run"
    assert f"{told}, so it goes on at {rate:.3g} where it would have been 0" in caplog.text
    caplog.clear()
    resume(tiny, run)
    assert "train.steps 6 is now" not in caplog.text
    with pytest.raises(RunError, match=r"train\.steps is 5 but 6 steps are done"):
        resume(tiny, run, **{"train.steps": 5})
    resume(tiny, run)
    assert read_log(run)[-1]["step"] == 6


def trapezoid(tiny: ModuleType, run: Path, steps: int) -> RunConfig:
    """The last three steps of ten decay, and the last five of sixteen; the newest checkpoint alone is kept."""
    changes = {"phases": [], "schedule": "wsd", "decay_share": 0.3, "keep_checkpoints": 1}
    made: RunConfig = tiny.config(run, steps=steps, **changes)
    return made


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@pytest.fixture
def longer(tiny: ModuleType, tmp_path: Path) -> Path:
    tiny.pretrain(trapezoid(tiny, tmp_path / "longer", 16))
    return tmp_path / "longer"


@pytest.mark.parametrize("stopped", [None, 9], ids=["finished", "in the decay"])
def test_more_steps_of_a_trapezoid_go_on_from_before_its_decay_as_in_the_longer_run(
    stopped: int | None, tiny: ModuleType, tmp_path: Path, longer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patched:
        if stopped:
            at_step(patched, stopped, lambda: os.kill(os.getpid(), signal.SIGTERM))
        tiny.pretrain(trapezoid(tiny, run, 10))
    last = f"step-{stopped or 10:06d}"
    assert names(run) == ["step-000007", last]
    caplog.clear()
    resume(tiny, run, **{"train.steps": 16})
    assert (
        "train.steps 10 is now 16: the run goes on from step-000007, before its decay; the checkpoint after it is kept "
        f"as {last}.decayed" in caplog.text
    )
    tiny.assert_same_end(run, longer)
    assert names(run) == sorted([f"{last}.decayed", "step-000011", "step-000016"])


def test_a_trapezoid_that_is_stopped_before_its_decay_goes_on_with_more_steps(
    tiny: ModuleType, tmp_path: Path, longer: Path
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patched:
        at_step(patched, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
        tiny.pretrain(trapezoid(tiny, run, 10))
    resume(tiny, run, **{"train.steps": 16})
    tiny.assert_same_end(run, longer)
    assert names(run) == ["step-000011", "step-000016"]


def test_without_the_checkpoint_before_its_decay_a_trapezoid_goes_on_from_the_newest_and_says_so(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    tiny.pretrain(trapezoid(tiny, run, 10))
    shutil.rmtree(run / "checkpoints" / "step-000007")
    resume(tiny, run, **{"train.steps": 16})
    assert "the checkpoint before the decay, step-000007, is gone, so the run goes on from step-000010" in caplog.text
    assert read_log(run)[-1]["step"] == 16


@pytest.mark.parametrize("schedule", ["cosine", "polynomial", "wsd"])
def test_every_schedule_goes_on_in_its_middle_to_the_same_bits(schedule: str, tiny: ModuleType, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    tiny.pretrain(tiny.config(whole, schedule=schedule, final_share=0.1))
    with pytest.MonkeyPatch.context() as patched:
        at_step(patched, 14, lambda: os.kill(os.getpid(), signal.SIGTERM))
        tiny.pretrain(tiny.config(run, schedule=schedule, final_share=0.1))
    resume(tiny, run)
    tiny.assert_same_end(run, whole)


GROWING: dict[str, Any] = {"tokens_per_step": 512, "first_tokens_per_step": 128, "growth_steps": 9}


@pytest.mark.parametrize("stopped", [2, 5, 8, 11])
def test_a_run_whose_steps_grow_goes_on_at_its_place_in_the_text(
    stopped: int, tiny: ModuleType, tmp_path: Path, growing: Path
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patched:
        at_step(patched, stopped, lambda: os.kill(os.getpid(), signal.SIGTERM))
        tiny.pretrain(tiny.config(run, **GROWING))
    resume(tiny, run)
    tiny.assert_same_end(run, growing)


@pytest.fixture(scope="session")
def growing(_tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "growing"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("unmask.train.pretrain.open_store", _tiny.open_text)
        _tiny.pretrain(_tiny.config(run, **GROWING))
    return run
