"""A tuning: the comparison comes first, what is decided is recorded, and an interrupted one goes on.

A stand-in operation has a tunable of its own, and a clock knows how long each of its values takes, so what is taken is
determined.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unmask_kernels import machine_record
from unmask_kernels.attention import _torch_grouped
from unmask_kernels.attention.tunables import CACHED, PADDING, SCORES
from unmask_kernels.machine_record import read_records, this_machine, update_record
from unmask_kernels.testing.inputs import Case
from unmask_kernels.tune import __main__ as command
from unmask_kernels.tune.calls import MeasuredCall, document_lengths, forward_and_backward
from unmask_kernels.tune.choices import Choice, contests
from unmask_kernels.tune.contest import Contest, hold
from unmask_kernels.tune.finding import Finding
from unmask_kernels.tune.record import KIND, read_tuned, read_tuning, write_finding
from unmask_kernels.tune.report import conclusion, table
from unmask_kernels.tune.session import Session
from unmask_kernels.tuned import Key, Tunable, in_effect, tunables
from unmask_kernels.verify.shapes import Shapes

CPU = torch.device("cpu")
SHAPE = "rows of 4"


class StandIn:
    """An operation that multiplies by two, with a tunable and a clock.

    Attributes:
        block: the tunable.
        seconds: of a call with each value.
        wrong: values with which a result is wrong.
        refused: values with which it cannot run.
        restless: values with which it gives other bits each time.
        too_many: tokens for which the memory is too small.
        seen: values of the calls so far.
    """

    def __init__(self, name: str) -> None:
        self.block: Tunable[int] = Tunable(name, 64, 32, 128)
        self.seconds = {64: 1.0, 32: 1.0, 128: 1.0}
        self.wrong: set[int] = set()
        self.refused: set[int] = set()
        self.restless: set[int] = set()
        self.too_many = 1 << 30
        self.seen: list[int] = []

    def function(self, x: Tensor) -> Tensor:
        value = self.block.value(SHAPE)
        self.seen.append(value)
        if value in self.refused:
            raise RuntimeError("out of resource: shared memory")
        if len(x) >= self.too_many:
            raise torch.OutOfMemoryError("no memory")
        y = x * 2.0
        if value in self.wrong:
            y = y * 1.01
        return y + len(self.seen) * 1e-7 * x.detach() if value in self.restless else y

    def clock(self, call: Callable[[], object]) -> float:
        call()
        return self.seconds[self.seen[-1]]

    def calls(self, shapes: Shapes) -> Iterator[MeasuredCall]:
        case = Case(name="rows", build=lambda generator: {"x": torch.randn(shapes.tokens, 4, generator=generator)})
        yield MeasuredCall(
            shape=SHAPE,
            measured=f"{shapes.tokens} rows",
            case=case,
            compared=case,
            function=self.function,
            plain=lambda x: x * 2.0,
            reference=lambda x: x + x,
            timed=partial(forward_and_backward, self.function),
            backend=lambda inputs: "torch",
        )

    def contest(self, tokens: int = 512) -> Contest:
        [contest] = contests(
            Shapes(tokens=tokens, dtype=torch.float32), CPU, (Choice(self.block, "torch", ("cpu",), self.calls),)
        )
        return contest

    def held(self, tokens: int = 512) -> Finding:
        return hold(self.contest(tokens), self.clock)


@pytest.fixture
def one() -> Iterator[StandIn]:
    yield StandIn("stand_in.one")
    del tunables["stand_in.one"]


@pytest.fixture
def two() -> Iterator[StandIn]:
    yield StandIn("stand_in.two")
    del tunables["stand_in.two"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def session(clock: Callable[[Callable[[], object]], float], **settings: Any) -> Session:
    return Session(device=CPU, clock=clock, **{"minutes": 1.0, **settings})


# the comparison, and the rule


def test_the_fastest_candidate_is_taken(one: StandIn) -> None:
    one.seconds = {64: 1.0, 32: 0.5, 128: 0.8}
    finding = one.held()
    assert (finding.best, finding.taken, finding.ratio, finding.bits) == (32, True, 2.0, "same bits")
    assert (finding.wrong, finding.rounds, finding.seconds) == ((), 25, 1.0)


def test_a_candidate_that_is_wrong_is_reported_and_never_chosen_however_fast(one: StandIn) -> None:
    one.seconds, one.wrong = {64: 1.0, 32: 0.001, 128: 0.8}, {32}
    finding = one.held()
    assert (finding.best, finding.taken) == (128, True)
    [sentence] = finding.wrong
    assert sentence.startswith("32: y: max error")
    assert "stand_in.one, rows of 4: not chosen: 32: y: max error" in "\n".join(table([finding]))


def test_a_candidate_that_gives_other_bits_each_time_is_reported_and_never_chosen(one: StandIn) -> None:
    one.seconds[32], one.restless = 0.001, {32}
    finding = one.held()
    assert not finding.taken
    assert finding.wrong[0].startswith("32: two runs on the same inputs: y differs in ")


def test_a_candidate_that_cannot_run_is_reported_and_the_others_are_timed(one: StandIn) -> None:
    one.seconds[128], one.refused = 0.5, {32}
    finding = one.held()
    assert (finding.best, finding.taken) == (128, True)
    assert finding.wrong == ("32: cannot run: RuntimeError: out of resource: shared memory",)


def test_nothing_is_timed_if_the_default_itself_is_wrong(one: StandIn) -> None:
    one.wrong = {64}
    finding = one.held()
    assert (finding.rounds, finding.taken, finding.best) == (0, False, 64)
    assert finding.wrong[0].startswith("64: y: max error")
    assert "no: nothing was timed" in "\n".join(table([finding]))


def test_too_little_memory_makes_the_call_smaller_and_says_so(one: StandIn) -> None:
    one.seconds[32], one.too_many = 0.5, 512
    finding = one.held(2048)
    assert finding.taken
    assert finding.measured.startswith("256 rows")
    one.too_many = 1
    [sentence] = one.held().wrong
    assert sentence.startswith("the memory of the device is too small for 256 rows, ")


def test_a_choice_is_made_only_where_its_backend_runs_the_call(one: StandIn) -> None:
    shapes = Shapes(tokens=512, dtype=torch.float32)
    assert list(contests(shapes, CPU, (Choice(one.block, "triton", ("cpu",), one.calls),))) == []
    assert list(contests(shapes, CPU, (Choice(one.block, "torch", ("cuda",), one.calls),))) == []


# the record


def test_what_is_taken_is_recorded_and_read(one: StandIn, two: StandIn) -> None:
    one.seconds[32] = 0.5
    session(one.clock).hold([one.contest()])
    session(two.clock).hold([two.contest()])
    tuning = read_tuning("cpu")
    assert tuning.values() == {Key("stand_in.one", SHAPE): 32}
    assert [(key.name, found.taken) for key, found in tuning.findings.items()] == [
        ("stand_in.one", True),
        ("stand_in.two", False),
    ]
    assert set(map(len, tuning.dates.values())) == {len("2026-11-30")}


def test_a_value_that_is_taken_is_in_effect_for_the_contests_after_it(one: StandIn, two: StandIn) -> None:
    one.seconds[32] = 0.5
    seen: list[dict[Key, int | str]] = []

    def clock(call: Callable[[], object]) -> float:
        call()
        seen.append(in_effect())
        return one.seconds[one.seen[-1]]

    session(clock).hold([one.contest(), two.contest()])
    assert (seen[0], seen[-1]) == ({}, {Key("stand_in.one", SHAPE): 32})
    assert in_effect() == {}


def test_an_interruption_keeps_what_is_done_and_a_second_call_goes_on(one: StandIn, two: StandIn) -> None:
    one.seconds[32] = 0.5

    def interrupted(call: Callable[[], object]) -> float:
        raise KeyboardInterrupt

    def clock(call: Callable[[], object]) -> float:
        return one.clock(call) if not two.seen else interrupted(call)

    first = session(clock)
    with pytest.raises(KeyboardInterrupt):
        first.hold([one.contest(), two.contest()])
    assert [finding.choice for finding in first.findings] == ["stand_in.one"]
    assert read_tuning("cpu").values() == {Key("stand_in.one", SHAPE): 32}

    one.seen, two.seen, two.seconds = [], [], {64: 1.0, 32: 1.0, 128: 0.5}
    second = session(two.clock)
    second.hold([one.contest(), two.contest()])
    assert (one.seen, second.known) == ([], 1)
    assert [finding.best for finding in second.findings] == [32, 128]
    assert "1 of 2 were measured before; --again measures them anew" in list(conclusion(second, "unmask tune"))
    # the way out
    third = session(one.clock, again=True)
    third.hold([one.contest()])
    assert one.seen
    assert third.known == 0


def test_another_call_of_the_same_shape_is_measured_and_replaces_the_old_one(one: StandIn) -> None:
    one.seconds[32] = 0.5
    session(one.clock).hold([one.contest(512)])
    one.seconds[32] = 1.0
    session(one.clock).hold([one.contest(1024)])
    [finding] = read_tuning("cpu").findings.values()
    assert (finding.taken, finding.measured.partition(",")[0]) == (False, "1024 rows")


def test_a_call_that_was_too_large_is_not_tried_again(one: StandIn) -> None:
    one.too_many = 512
    session(one.clock).hold([one.contest(1024)])
    one.seen = []
    again = session(one.clock)
    again.hold([one.contest(1024)])
    assert (one.seen, again.known) == ([], 1)


def test_the_time_ends_a_tuning_after_the_first_contest_at_the_earliest(one: StandIn, two: StandIn) -> None:
    short = session(one.clock, minutes=1e-9)
    short.hold([one.contest(), two.contest()])
    assert [finding.choice for finding in short.findings] == ["stand_in.one"]
    assert short.findings[0].rounds == 5
    told = list(conclusion(short, "unmask tune tiny"))
    assert "the time was too short for stand_in.two; run `unmask tune tiny` again to go on" in told
    # the way out: each call measures one more at least
    longer = session(two.clock, minutes=1e-9)
    longer.hold([one.contest(), two.contest()])
    assert len(longer.findings) == 2
    assert not longer.left


def test_a_cache_that_cannot_be_written_is_told_in_a_sentence_and_the_results_are_there(
    one: StandIn, two: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "file" / "cache"))
    one.seconds[32] = 0.5
    held = session(lambda call: one.clock(call) if not two.seen else two.clock(call))
    held.hold([one.contest(), two.contest()])
    assert [finding.best for finding in held.findings] == [32, 64]
    [told] = list(conclusion(held, "unmask tune"))
    assert told.startswith("the record is not kept, because ")
    assert "set UNMASK_CACHE to a folder that can" in told
    # the way out
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "other"))
    held = session(one.clock, again=True)
    held.hold([one.contest()])
    assert not held.not_recorded
    assert read_tuning("cpu").values()


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("driver", "made with driver other, here "),
        ("torch", "made with PyTorch other, here "),
        ("triton", "made with Triton other, here "),
        ("kernels", "made with other sources of the kernels"),
        # doctor tells for which device it was made
        ("device", ""),
    ],
)
def test_a_tuning_goes_stale_with_the_device_and_the_software_and_the_reason_is_told(
    one: StandIn, field: str, reason: str
) -> None:
    one.seconds[32] = 0.5
    finding = one.held()
    entry = {**asdict(finding), "wrong": [], "date": "2026-11-30"}
    here = this_machine("cpu")
    path = update_record(KIND, replace(here, **{field: "other"}), lambda old: {"measured": [entry]})
    assert read_tuning("cpu").findings == {}
    [record] = read_tuned()
    assert (record.path, record.ignored.startswith(reason)) == (path, True)
    # measured again, it is used
    session(one.clock).hold([one.contest()])
    assert read_tuning("cpu").values() == {Key("stand_in.one", SHAPE): 32}


def test_a_damaged_file_is_ignored_with_the_reason_and_written_anew(one: StandIn) -> None:
    one.seconds[32] = 0.5
    session(one.clock).hold([one.contest()])
    [record] = read_records(KIND)
    text = record.path.read_text()
    record.path.write_text(text[: len(text) // 2])
    assert read_tuning("cpu").values() == {}
    assert [record.ignored for record in read_tuned()] == ["damaged: its end is missing"]
    session(one.clock).hold([one.contest()])
    assert read_tuning("cpu").values() == {Key("stand_in.one", SHAPE): 32}
    assert [record.ignored for record in read_tuned()] == [""]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("best = 32", "best = 33", "stand_in.one must be one of 64, 32, 128, got 33"),
        ("best = 32", 'best = "32"', "stand_in.one must be one of 64, 32, 128, got '32'"),
        ("stand_in.one", "stand_in.gone", "nothing is named 'stand_in.gone' to be tuned"),
        ("taken = true", "taken = 1", "taken is 1"),
        ("ratio = 2.0", "", "ratio is None"),
        ("ratio = 2.0", "ratio = nan", "ratio is nan"),
        ("[[measured]]", "[measured]\nx = 1\n[[others]]", "choice is None"),
    ],
)
def test_a_record_with_an_entry_that_was_changed_is_ignored_with_the_reason(
    one: StandIn, old: str, new: str, reason: str
) -> None:
    one.seconds[32] = 0.5
    session(one.clock).hold([one.contest()])
    [record] = read_tuned()
    record.path.write_text(record.path.read_text().replace(old, new))
    assert read_tuning("cpu").values() == {}
    assert [record.ignored for record in read_tuned()] == [f"damaged: {reason}"]
    # measured again, it is used
    session(one.clock, again=True).hold([one.contest()])
    assert read_tuning("cpu").values() == {Key("stand_in.one", SHAPE): 32}
    assert [record.ignored for record in read_tuned()] == [""]


def test_a_shared_folder_gives_what_the_users_own_does_not(
    one: StandIn, two: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.seconds[32], two.seconds[128] = 0.5, 0.5
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "shared"))
    session(one.clock).hold([one.contest()])
    session(two.clock).hold([two.contest()])
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("UNMASK_SHARED_CACHE", str(tmp_path / "shared"))
    one.seconds[128] = 0.1
    session(one.clock, again=True).hold([one.contest()])
    assert read_tuning("cpu").values() == {Key("stand_in.one", SHAPE): 128, Key("stand_in.two", SHAPE): 128}


# processes

PROCESS = """
import os, signal, sys, torch
from unmask_kernels.tune.finding import Finding
from unmask_kernels.tune.record import write_finding
from unmask_kernels.tune.session import Session
from unmask_kernels.tune.choices import contests
from unmask_kernels.verify.shapes import Shapes

def clock(call):
    call()
    clock.calls += 1
    if clock.calls == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0
clock.calls = 0
if sys.argv[1] == "write":
    for number in range(20):
        shape = f"{sys.argv[2]} {number}"
        write_finding("cpu", Finding(choice="attention.scores", shape=shape, asked="", measured="", default=1 << 21,
                                     best=1 << 20, taken=True))
else:
    shapes = Shapes(tokens=64, max_lengths=(16,), head_dim=8, num_heads=2, dtype=torch.float32)
    Session(device=torch.device("cpu"), minutes=1.0, clock=clock).hold(list(contests(shapes, torch.device("cpu"))))
"""


def started(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(PROCESS), *words], env=dict(os.environ))


def test_a_kill_in_the_middle_leaves_what_was_decided_before() -> None:
    # a contest of scores is 26 rounds of 5 calls
    assert started("150").wait(120) == -signal.SIGKILL
    assert [key.name for key in read_tuning("cpu").findings] == ["attention.scores"]
    assert [record.ignored for record in read_tuned()] == [""]


def test_two_processes_at_once_keep_each_others_findings() -> None:
    processes = [started("write", name) for name in ("a", "b")]
    assert [process.wait(120) for process in processes] == [0, 0]
    assert {key.shape for key in read_tuning("cpu").findings} == {f"{name} {n}" for name in "ab" for n in range(20)}


# the choices themselves


def test_lengths_fill_the_tokens_and_are_the_same_everywhere() -> None:
    assert document_lengths(2000, 512) == [300, 81, 512, 199, 512, 386, 10]
    for tokens, longest in ((1, 512), (4096, 128), (777, 32)):
        lengths = document_lengths(tokens, longest)
        assert (sum(lengths), max(lengths) <= longest, min(lengths) > 0) == (tokens, True, True)


def test_on_a_cpu_attention_is_compared_and_timed_with_each_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[_torch_grouped.Limits] = []
    limits_of = _torch_grouped.Limits.of

    def noted(arguments: Any) -> _torch_grouped.Limits:
        seen.append(limits_of(arguments))
        return seen[-1]

    monkeypatch.setattr(_torch_grouped.Limits, "of", noted)

    def clock(call: Callable[[], object]) -> float:
        call()
        # half the time with the smallest blocks, and with twice the padding
        return (1.0 if seen[-1].scores == 1 << 19 else 2.0) * (0.5 if seen[-1].padding == 10 else 1.0)

    shapes = Shapes(tokens=96, max_lengths=(32,), head_dim=16, num_heads=2, windows=(None, 8), dtype=torch.float32)
    held = session(clock)
    held.hold(list(contests(shapes, CPU)))
    names = ["heads of 16, float32, dropout", "heads of 16, float32, dropout, banded"]
    assert {one.key: (one.best, one.wrong) for one in held.findings} == {
        **{Key(SCORES.name, name): (1 << 19, ()) for name in names},
        **{Key(CACHED.name, name): (CACHED.default, ()) for name in names},
        **{Key(PADDING.name, name): (10, ()) for name in names},
        Key("layer_norm.block", "32 wide, float32, dropout"): (100, ()),
    }
    assert {one.scores for one in seen} == set(SCORES.candidates)
    assert {one.cached for one in seen} == set(CACHED.candidates)
    assert {one.padding for one in seen} == set(PADDING.candidates)


def test_the_module_is_a_command(
    one: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one.seconds[32] = 0.5
    monkeypatch.setattr(command, "contests", lambda shapes, device: iter([one.contest()]))
    monkeypatch.setattr("unmask_kernels.tune.session.DeviceClock", lambda device: one.clock)
    before = signal.getsignal(signal.SIGTERM)
    assert command.main(["--minutes", "1", "--tokens", "64"]) == 0
    out, err = capsys.readouterr()
    assert err == "1/1  stand_in.one, rows of 4\n"
    lines = out.splitlines()
    assert lines[0].split() == ["choice", "shape", "default", "best", "ratio", "spread", "taken"]
    assert lines[1].split() == ["stand_in.one", *SHAPE.split(), "64", "32", "2.00", "2.00-2.00", "yes,", "same", "bits"]
    assert lines[2].startswith("runs on this machine use what is taken from now on; ")

    def interrupted(call: Callable[[], object]) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        return 1.0

    monkeypatch.setattr("unmask_kernels.tune.session.DeviceClock", lambda device: interrupted)
    assert command.main(["--again"]) == 143
    out, err = capsys.readouterr()
    assert "interrupted; run `python -m unmask_kernels.tune` again to go on" in err
    assert "nothing to tune" not in out
    assert signal.getsignal(signal.SIGTERM) is before
    assert command.main(["--num-heads", "0"]) == 2
    assert capsys.readouterr().err == "tune: num_heads must be at least 1, got 0\n"
    assert command.main(["--tokens", "0"]) == 2
    assert capsys.readouterr().err == "tune: tokens must be at least 1, got 0\n"
    assert command.main(["--minutes", "nan"]) == 2
    assert capsys.readouterr().err == "tune: minutes must be a number above 0, got nan; leave it out, and it is 2\n"


def test_a_finding_without_a_home_folder_is_not_recorded(one: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNMASK_CACHE")
    monkeypatch.setattr(machine_record, "cache_folder", lambda: None)
    with pytest.raises(machine_record.NotRecorded, match="no home folder"):
        write_finding("cpu", one.held())
