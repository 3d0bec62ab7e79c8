"""`unmask tune`: the table, the record, an interruption, a cache that cannot be written, bad input."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import unmask
from unmask.cli import main
from unmask.cli.doctor import facts, table
from unmask.commands import tune as tune_commands
from unmask.commands.tune import tuning_of
from unmask.config import load_config
from unmask.model import PretrainingModel
from unmask_kernels.tune.calls import optimizer_calls
from unmask_kernels.tune.contest import Contest
from unmask_kernels.tune.record import read_tuning
from unmask_kernels.tuned import Key, Tunable, in_effect
from unmask_kernels.verify.shapes import Shapes

SMALL = [
    *("--model.hidden_size", "16", "--model.num_heads", "2", "--model.intermediate_size", "32"),
    *("--stream.max_length", "16", "--stream.micro_batch_tokens", "64", "--data.vocab_size", "100"),
    *("--train.tokens_per_step", "64", "--train.dtype", "float32"),
]
SETTINGS = {
    name.removeprefix("--"): value if name == "--train.dtype" else int(value)
    for name, value in zip(SMALL[::2], SMALL[1::2], strict=True)
}
SHAPE = "heads of 8, float32"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Blocks of half a million scores take half the time, and so do two threads; how many calls were timed."""
    seen: list[tuple[str, int | str]] = []
    calls: list[int] = []

    def value(tunable: Tunable[int], shape: str, original: Any = Tunable.value) -> int:
        found: int = original(tunable, shape)
        seen.append((tunable.name, found))
        return found

    def set_threads(count: int, original: Any = torch.set_num_threads) -> None:
        seen.append(("threads", count))
        original(count)

    def clock(call: Callable[[], object]) -> float:
        seen.clear()
        call()
        calls.append(len(calls))
        # a training step has attention in it, too
        fast = ("threads", 2) if "threads" in dict(seen) else ("attention.scores", 1 << 19)
        return 0.5 if fast in seen else 1.0

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(Tunable, "value", value)
    monkeypatch.setattr("torch.set_num_threads", set_threads)
    monkeypatch.setattr("unmask_kernels.tune.session.DeviceClock", lambda device: clock)
    monkeypatch.setattr("unmask.commands.tune.usable_cores", lambda: 2.0)
    # the first five rounds of a contest decide as well as more do
    monkeypatch.setattr("unmask_kernels.tune.race.MOST_ROUNDS", 5)
    yield calls
    monkeypatch.undo()
    torch.set_num_threads(before)


def rows_of(out: str) -> dict[str, str]:
    return {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines() if "." in line.split()[0]}


def test_what_is_faster_is_shown_recorded_and_told_by_doctor(
    calls: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "tiny", *SMALL]) == 0
    out, err = capsys.readouterr()
    rows = rows_of(out)
    threads = "16 and 32 wide, heads of 8, float32"
    assert out.splitlines()[0].split() == ["choice", "shape", "default", "best", "ratio", "spread", "taken"]
    assert rows["attention.scores"] == f"{SHAPE} 2097152 524288 2.00 2.00-2.00 yes, same bits"
    assert rows["attention.padding"] == f"{SHAPE} 5 - - - no: the default is the fastest"
    assert rows["train.threads"] == f"{threads} 1 2 2.00 2.00-2.00 advice: --train.threads 2"
    assert "runs on this machine use what is taken from now on; --kernels.tuned never leaves it out" in out
    assert "tune: choice 1 of 4, attention.scores for heads of 8, float32\n" in err
    assert read_tuning("cpu").values() == {Key("attention.scores", SHAPE): 1 << 19}
    # without the rows of the operations, whose choice has its own tests
    told = " ".join(" ".join(table(facts(["gelu"]))).split())
    assert "tuned: attention.scores 524288 is used, 2.00 times as fast as 2097152 for heads of 8, float32" in told
    assert f"tuned: --train.threads 2 would be 2.00 times as fast as 1 for {threads}" in told

    # a second call has nothing to do, and --again does it anew
    done = len(calls)
    assert main(["tune", "tiny", *SMALL]) == 0
    assert len(calls) == done
    assert "4 of 4 were measured before; --again measures them anew" in capsys.readouterr().out
    assert main(["tune", "--again", "tiny", *SMALL]) == 0
    assert len(calls) == 2 * done


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_shows_and_keeps_what_was_measured(
    calls: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    status: int,
) -> None:
    original = tune_commands.document_lengths

    def stopped(*sizes: int) -> list[int]:
        os.kill(os.getpid(), number)
        return original(*sizes)

    # it is called by the last contest, that of threads
    monkeypatch.setattr(tune_commands, "document_lengths", stopped)
    # a shell starts a process in the background with SIGINT ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["tune", "tiny", *SMALL]) == status
    finally:
        signal.signal(signal.SIGINT, before)
    out, err = capsys.readouterr()
    assert rows_of(out).keys() == {"attention.scores", "attention.cached", "attention.padding"}
    command = " ".join(["unmask", "tune", "tiny", *SMALL])
    assert f"what is measured so far is kept; run `{command}` again to go on" in " ".join(err.split())
    assert read_tuning("cpu").values() == {Key("attention.scores", SHAPE): 1 << 19}
    assert in_effect() == {}
    # the same command goes on
    monkeypatch.setattr(tune_commands, "document_lengths", original)
    assert main(["tune", "tiny", *SMALL]) == 0
    out = capsys.readouterr().out
    assert "3 of 4 were measured before" in out
    assert "advice: --train.threads 2" in out


def test_a_cache_that_cannot_be_written_is_told_and_the_table_is_there(
    calls: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "file"))
    assert main(["tune", "tiny", *SMALL, "--train.threads", "1"]) == 0
    out = capsys.readouterr().out
    assert rows_of(out)["attention.scores"].endswith("yes, same bits")
    assert f"the record is not kept, because {tmp_path}/file/tuned cannot be written" in out


def test_a_time_that_is_too_short_names_what_is_left_and_the_command_that_goes_on(
    calls: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["tune", "tiny", *SMALL, "--minutes", "1e-9"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert rows_of(out).keys() == {"attention.scores"}
    told = "the time was too short for attention.cached, attention.padding, train.threads; run "
    assert f"{told}`unmask {' '.join(words)}` again to go on" in out
    for left in (2, 1, 0):
        assert main(words) == 0
        assert ("the time was too short" in capsys.readouterr().out) == bool(left)


def test_backends_that_a_run_names_are_those_that_are_tuned(calls: list[int]) -> None:
    config = load_config("tiny", {**SETTINGS, "kernels.attention": "reference"})
    session = tuning_of(config)
    tune_commands.hold_contests(session, config)
    assert [finding.choice for finding in session.findings] == ["train.threads"]


def test_the_update_that_is_timed_is_of_the_parameters_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Shapes] = []

    def noted(shapes: Shapes, device: torch.device) -> list[Contest]:
        seen.append(shapes)
        return []

    monkeypatch.setattr(tune_commands, "contests", noted)
    config = load_config(
        "tiny",
        {**SETTINGS, "model.vocab_size": 100, "model.num_layers": 3, "train.threads": 1, "model.max_positions": 16},
    )
    tune_commands.hold_contests(tuning_of(config), config)
    call = next(optimizer_calls(seen[0]))
    model = PretrainingModel(config.model, compute_dtype=torch.float32, seed=0)
    timed = call.case.make(torch.float32).arguments["sizes"]
    assert sorted(timed) == sorted(parameter.numel() for parameter in model.parameters())


def test_the_command_is_a_function(calls: list[int]) -> None:
    findings = unmask.tune("tiny", SETTINGS, minutes=1)
    assert [finding.choice for finding in findings if finding.taken] == ["attention.scores", "train.threads"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tune", "tinny"], "config: no recipe or file is called 'tinny'; did you mean tiny?"),
        (["tune", "--minutes", "0"], "tune: --minutes must be above 0 and at most 1000, got 0"),
        (["tune", "--minute", "1"], "tune: --minute is not an option; did you mean --minutes?"),
        (["tune", "--model.layers", "1"], "did you mean --model.num_layers?"),
    ],
)
def test_bad_input_is_told_with_the_way_out(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err
