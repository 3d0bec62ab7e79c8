"""Who a process is among those of torchrun and srun, and the commands that refuse to be started several times."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from advice import follow, refusal
from unmask import cli
from unmask.cli.pretrain import parse
from unmask.config import load_config
from unmask.config.mappings import defaults
from unmask.launch import Place, place, require_one_process

VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
TORCHRUN = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
SRUN = {
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "2",
}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *(name for name in os.environ if name.startswith("SLURM_"))):
        monkeypatch.delenv(name, raising=False)


def started(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> Place | None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return place()


def test_without_a_launcher_and_as_the_only_process_it_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place() is None
    # a batch script of Slurm has these, and torchrun with one process those
    assert started(monkeypatch, {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}) is None
    assert started(monkeypatch, {"WORLD_SIZE": "1", "RANK": "0"}) is None


def test_torchrun_and_srun_tell_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    by_slurm = Place(rank=9, world_size=16, local_rank=1, address="gpu07", port=23650, one_gpu_each=True)
    assert started(monkeypatch, SRUN) == by_slurm
    assert started(monkeypatch, {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "4000"}) == Place(
        rank=9, world_size=16, local_rank=1, address="10.0.0.7", port=4000, one_gpu_each=True
    )
    # srun starts torchrun, and torchrun the processes
    by_torchrun = Place(rank=3, world_size=4, local_rank=1, address="node1", port=29500)
    assert started(monkeypatch, TORCHRUN) == by_torchrun
    assert f"rank 3 on {os.uname().nodename} (process {os.getpid()})" == by_torchrun.name


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("node7", "node7"), ("a1,b2", "a1"), ("gpu[001-004,9],x", "gpu001"), ("r[3,5]-ib,y", "r3-ib"), ("", "localhost")],
)
def test_the_first_host_of_a_list_of_slurm(monkeypatch: pytest.MonkeyPatch, nodes: str, first: str) -> None:
    found = started(monkeypatch, SRUN | {"SLURM_STEP_NODELIST": "", "SLURM_JOB_NODELIST": nodes})
    assert found is not None
    assert found.address == first


@pytest.mark.parametrize(
    ("variables", "told", "advised"),
    [
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE is 4 but RANK is not set, ... start them with torchrun", TORCHRUN),
        (
            {"WORLD_SIZE": "4", "RANK": "0"},
            "WORLD_SIZE is 4 but MASTER_ADDR is not set, ... or unset WORLD_SIZE",
            {"WORLD_SIZE": ""},
        ),
        (
            TORCHRUN | {"RANK": "4"},
            "RANK must be below WORLD_SIZE, 4, got 4; start the processes with torchrun, or ... from 0",
            TORCHRUN,
        ),
        (
            TORCHRUN | {"LOCAL_RANK": "one"},
            "LOCAL_RANK must be a whole number, at least 0, got 'one'; start the processes with torchrun, or unset ",
            TORCHRUN,
        ),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE must be a whole number, at least 1, got '-2'; ", {"WORLD_SIZE": ""}),
        (
            {"OMPI_COMM_WORLD_SIZE": "2"},
            "OMPI_COMM_WORLD_SIZE is 2, but processes of mpirun do not find one another; start them with torchrun or "
            "srun, or unset OMPI_COMM_WORLD_SIZE to run this one alone",
            TORCHRUN,
        ),
    ],
)
def test_variables_that_do_not_fit_are_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], told: str, advised: dict[str, str]
) -> None:
    def advice() -> None:
        started(monkeypatch, advised)

    follow(lambda: started(monkeypatch, variables), f"launch: {told}", advice)


@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if name not in ("pretrain", "verify", "doctor")])
def test_a_command_of_one_process_refuses_to_be_started_several_times(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    for launcher, name in ((SRUN, "SLURM_STEP_NUM_TASKS is 16"), (TORCHRUN, "WORLD_SIZE is 4")):
        started(monkeypatch, launcher)
        assert cli.main([command, "anything"]) == 2
        rank = 9 if launcher is SRUN else 3
        told = (
            f"unmask, rank {rank}: launch: `unmask {command}` is one process, but {name}, and each process would do all"
        )
        assert told in capsys.readouterr().err
        assert cli.main([command, "--help"]) == 0
        capsys.readouterr()


def test_what_the_refusal_advises(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    started(monkeypatch, TORCHRUN)
    said = refusal(lambda: require_one_process("config"))
    assert "start it once, without torchrun or srun, or unset WORLD_SIZE in the process that is to do it" in said
    for knows in ("pretrain", "verify", "doctor"):
        require_one_process(knows)
    monkeypatch.delenv("WORLD_SIZE")
    assert cli.main(["config", "tiny"]) == 0
    assert "tokens_per_step" in capsys.readouterr().out


def test_torchrun_takes_no_option_of_ours_after_the_module() -> None:
    from torch.distributed.run import parse_args

    ours = ["pretrain", "tiny", "--run-dir", "runs/a", "--resume", "auto"]
    for name, default in defaults().items():
        ours += [] if name == "run" else [f"--{name}", str(default)]
    assert {"--seed", "--train.steps"} < set(ours)
    for how in (["-m", "unmask"], ["bin/unmask"], ["--no-python", "unmask"]):
        found = parse_args(["--nproc-per-node", "2", *how, *ours])
        assert found.training_script_args == ours
        assert found.run_path is False
    assert parse(ours[1:6]) == (replace(load_config("tiny"), run="runs/a"), "auto")
    # before the module torchrun takes it for the beginning of its own --run-path, in some versions of Python behind it
    with pytest.raises(SystemExit):
        parse_args(["--nproc-per-node", "2", "--run", "runs/a", "-m", "unmask", "pretrain"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_torchrun_trains_one_run_with_two_processes(store_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = [
        "--data.store",
        str(store_folder),
        "--run-dir",
        str(run),
        "--train.steps",
        "4",
        "--stream.max_length",
        "24",
    ]
    settings += [
        "--stream.held_out_fraction",
        "0",
        "--train.tokens_per_step",
        "128",
        "--stream.micro_batch_tokens",
        "64",
        "--model.max_positions",
        "24",
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "unmask"]
    done = subprocess.run([*command, "pretrain", *settings], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done: 4 steps") == 1
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000004"]
    assert '"ranks": 2' in (run / "checkpoints/step-000004/training/state.json").read_text()
