import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from unmask.errors import CheckpointError
from unmask.interop.checkpoint_folder import verify_checkpoint
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.checkpoint.state import Facts, load_facts, load_tensors, save_state, state_bytes, state_of


def write_numbers(folder: Path) -> None:
    (folder / "model.bin").write_bytes(bytes(range(256)) * 40)
    (folder / "training").mkdir()
    (folder / "training" / "state.json").write_text("{}")


def filled(tmp_path: Path, *steps: int, keep: int = 9) -> Checkpoints:
    checkpoints = Checkpoints(folder=tmp_path / "checkpoints", keep=keep)
    for step in steps:
        checkpoints.save(step, write_numbers, bytes_needed=0)
    return checkpoints


def test_the_newest_of_the_kept_ones_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = filled(tmp_path, 5, 10, 15, keep=2)
    assert checkpoints.steps() == [10, 15]
    assert checkpoints.latest_valid() == tmp_path / "checkpoints" / "step-000015"
    assert caplog.messages == []


def test_no_checkpoint_at_all_is_not_an_error(tmp_path: Path) -> None:
    assert filled(tmp_path).latest_valid() is None


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink], ids=["truncated", "flipped", "missing"])
@pytest.mark.parametrize("name", ["model.bin", "training/state.json", "manifest.json"])
def test_damage_is_named_and_the_one_before_is_used(
    tmp_path: Path, name: str, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = filled(tmp_path, 5, 10)
    damage(checkpoints.path(10) / name)  # type: ignore[operator]
    assert checkpoints.latest_valid() == checkpoints.path(5)
    (sentence,) = caplog.messages
    assert name in sentence
    assert "step-000010" in sentence
    assert "falling back" in sentence


def test_a_damaged_checkpoint_is_set_aside_and_its_step_can_be_saved_again(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path, 5, 10)
    truncate(checkpoints.path(10) / "model.bin")
    checkpoints.latest_valid()
    assert checkpoints.steps() == [5]
    assert (checkpoints.folder / "step-000010.damaged").is_dir()
    checkpoints.save(10, write_numbers, bytes_needed=0)
    assert verify_checkpoint(checkpoints.path(10))["step"] == 10


def test_every_bit_of_the_manifest_counts(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path, 5)
    manifest = checkpoints.path(5) / "manifest.json"
    original = manifest.read_bytes()
    for place in range(0, len(original), 7):
        content = bytearray(original)
        content[place] ^= 1
        manifest.write_bytes(bytes(content))
        with pytest.raises(CheckpointError, match=r"manifest\.json"):
            verify_checkpoint(checkpoints.path(5))


def test_when_none_is_whole_all_are_named(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path, 5, 10)
    for step in (5, 10):
        truncate(checkpoints.path(step) / "model.bin")
    with pytest.raises(CheckpointError, match=r"step-000010.*step-000005.*start a new run"):
        checkpoints.latest_valid()
    assert checkpoints.steps() == [5, 10]


def test_a_newer_format_asks_for_an_upgrade_and_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = filled(tmp_path, 5)
    with monkeypatch.context() as patched:
        patched.setattr("unmask.interop.checkpoint_folder.FORMAT", 3)
        checkpoints.save(10, write_numbers, bytes_needed=0)
    with pytest.raises(CheckpointError) as caught:
        checkpoints.latest_valid()
    assert str(caught.value) == (
        f"checkpoint {checkpoints.path(10)} was written by format 3; this version reads 1 - upgrade unmask"
    )


def test_what_an_interrupted_save_left_is_ignored_and_cleaned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = filled(tmp_path, 5)
    leftover = checkpoints.folder / ".step-000010.partial"
    leftover.mkdir()
    write_numbers(leftover)
    assert checkpoints.steps() == [5]
    checkpoints.clean()
    assert not leftover.exists()
    assert "interrupted" in caplog.messages[0]


def test_a_disk_that_is_too_full_is_noticed_before_writing(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path, 5)
    with pytest.raises(CheckpointError, match=r"step-000010 could not be written .*needs about 2,305,843,009,213"):
        checkpoints.save(10, write_numbers, bytes_needed=2**61)
    assert checkpoints.latest_valid() == checkpoints.path(5)


def test_a_disk_that_fills_up_in_mid_save_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path, 5)

    def write(folder: Path) -> None:
        write_numbers(folder)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(CheckpointError, match=r"No space left on device.* bytes, .* are free; step-000005 is whole"):
        checkpoints.save(10, write, bytes_needed=1000)
    assert list(checkpoints.folder.iterdir()) == [checkpoints.path(5)]
    assert checkpoints.latest_valid() == checkpoints.path(5)


def test_an_error_that_is_not_the_disks_passes_unchanged_and_leaves_nothing(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path, 5)

    def write(folder: Path) -> None:
        write_numbers(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(10, write, bytes_needed=0)
    assert list(checkpoints.folder.iterdir()) == [checkpoints.path(5)]


class Pair(nn.Module):
    """A matrix that is trained and one that never gets a gradient."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.used = nn.Linear(width, width)
        self.unused = nn.Linear(width, width)


FACTS = Facts(
    step=3,
    phase=0,
    index=6,
    cursor=(0, 1, 2),
    fingerprint="f",
    tokens=9,
    skipped=1,
    threads=2,
    machine={"torch": "2"},
    interval=[0.1, 1.0],
)


def trained(steps: int) -> tuple[Pair, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Pair()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for _ in range(steps):
        advance(model, optimizer)
    return model, optimizer


def advance(model: Pair, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model.used(torch.randn(4, 64)).square().sum().backward()
    optimizer.step()


def test_state_comes_back_to_the_bit_and_generators_with_it(tmp_path: Path) -> None:
    model, optimizer = trained(3)
    save_state(tmp_path, state_of(model, optimizer), FACTS)
    advance(model, optimizer)
    again, its_optimizer = trained(1)
    load_tensors(tmp_path, again, its_optimizer)
    advance(again, its_optimizer)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert load_facts(tmp_path) == FACTS


def test_a_model_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    model, optimizer = trained(1)
    save_state(tmp_path / "training", state_of(model, optimizer), FACTS)
    other = Pair(width=32)
    with pytest.raises(CheckpointError, match=r"used\.weight has shape \(64, 64\), .* needs \(32, 32\)"):
        load_tensors(tmp_path / "training", other, torch.optim.AdamW(other.parameters()))
    other = nn.Sequential(nn.Linear(2, 2))  # type: ignore[assignment]
    with pytest.raises(CheckpointError, match=r"lacks 0\.weight"):
        load_tensors(tmp_path / "training", other, torch.optim.AdamW(other.parameters()))


def test_the_estimate_of_bytes_covers_what_is_written(tmp_path: Path) -> None:
    model, optimizer = trained(1)
    save_state(tmp_path, state_of(model, optimizer), FACTS)
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) < state_bytes(model)
    # value, two moments, and the value again for transformers
    large = nn.Linear(10_000, 10_000, device="meta")
    assert state_bytes(large) > 4 * 4 * 10_000 * 10_000


_SAVE_UNDER_A_LIMIT = """
import sys, resource
from pathlib import Path
import torch
from unmask.errors import CheckpointError
from unmask.model import EncoderConfig, PretrainingModel
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.checkpoint.state import Facts, save_state, state_of
model = PretrainingModel(
    EncoderConfig(vocab_size=2000, hidden_size=64, num_layers=1, num_heads=1, intermediate_size=64), heads=("mlm",)
)
optimizer = torch.optim.AdamW(model.parameters())
facts = Facts(step=1, phase=0, index=0, cursor=None, fingerprint="", tokens=0, skipped=0, threads=1,
              machine={}, interval=[])
def write_safetensors(target):
    model.save_pretrained(target)
def write_training(target):
    save_state(target / "training", state_of(model, optimizer), facts)
both = [(Checkpoints(folder=Path(sys.argv[1], w.__name__)), w) for w in (write_safetensors, write_training)]
for checkpoints, write in both:
    checkpoints.save(1, write, bytes_needed=0)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for checkpoints, write in both:
    try:
        checkpoints.save(2, write, bytes_needed=3_000_000)
    except CheckpointError as error:
        print(error)
    assert checkpoints.latest_valid() == checkpoints.path(1)
    assert [p.name for p in checkpoints.folder.iterdir()] == ["step-000001"]
"""


def test_a_write_that_the_system_refuses_is_a_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SAVE_UNDER_A_LIMIT, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert len(told) == 2
    for sentence in told:
        assert "step-000002 could not be written" in sentence
        assert "needs about 3,000,000 bytes" in sentence
        assert "step-000001 is whole" in sentence
