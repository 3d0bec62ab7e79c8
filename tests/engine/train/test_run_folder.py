"""A run directory: made once, locked, and its relative paths, which begin where the run was started."""

import multiprocessing
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from unmask.config import DataConfig, MaskingConfig, OptimizerConfig, RunConfig, TrainConfig, load_config
from unmask.config.mappings import defaults
from unmask.errors import RunError
from unmask.train.run_folder import MAY_CHANGE, RunFolder, located, saved_config

CONFIG = RunConfig(train=TrainConfig(steps=10), optimizer=OptimizerConfig(warmup_steps=2))


def test_the_saved_configuration_reads_back_equal(tmp_path: Path) -> None:
    config = replace(CONFIG, run=str(tmp_path / "a"))
    RunFolder.create(config)
    assert saved_config(tmp_path / "a") == config


def test_an_existing_run_directory_is_refused_with_the_ways_out(tmp_path: Path) -> None:
    config = replace(CONFIG, run=str(tmp_path / "a"))
    RunFolder.create(config)
    (tmp_path / "a" / "checkpoints").mkdir()
    with pytest.raises(RunError, match=r"exists already; continue it with `unmask pretrain --resume .*--run"):
        RunFolder.create(config)


def test_a_run_without_a_checkpoint_may_be_removed_and_started_with_other_data(tmp_path: Path) -> None:
    config = replace(CONFIG, run=str(tmp_path / "a run"))
    RunFolder.create(config)
    with pytest.raises(RunError, match=r"exists already, with no checkpoint yet; .*--run") as refused:
        RunFolder.create(config)
    advised = re.search("`(rm -r .*?)`", str(refused.value))
    assert advised is not None
    subprocess.run(shlex.split(advised[1]), check=True)
    other = replace(config, data=DataConfig(store="elsewhere"))
    assert RunFolder.create(other).config.data.store == "elsewhere"


def test_an_empty_directory_or_one_of_a_start_that_was_killed_may_become_a_run(tmp_path: Path) -> None:
    (tmp_path / ".config.yaml.partial").write_text("seed")
    RunFolder.create(replace(CONFIG, run=str(tmp_path)))
    assert {path.name for path in tmp_path.iterdir()} == {".lock", ".started_in", "config.yaml"}


def test_a_resumed_run_may_change_how_it_is_watched_but_not_what_it_computes(tmp_path: Path) -> None:
    run = tmp_path / "a"
    RunFolder.create(replace(CONFIG, run=str(run)))
    allowed = saved_config(run, {"train.log_every": 1, "train.steps": 20, "stream.workers": 0})
    RunFolder.reopen(run, allowed).save_config()
    assert saved_config(run) == allowed
    was = re.escape(f"optimizer.learning_rate is {CONFIG.optimizer.learning_rate} in the saved configuration, got 0.5")
    with pytest.raises(
        RunError,
        match=rf"{was}; resuming may change only data\.cache_folder, data\.cache_gb, data\.cache_patience, "
        r"data\.store, distillation\.teacher, kernels\.\*, masking\.similar_words, ",
    ):
        RunFolder.reopen(run, saved_config(run, {"optimizer.learning_rate": 0.5}))


def test_other_settings_start_from_the_weights_with_the_command_of_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from unmask.cli import main
    from unmask.train.logging.log import read_log

    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for number in range(30):
        (tmp_path / "in" / f"{number}.txt").write_text(f"the mill {number} turned and the river ran past it. " * 4)
    small = "--model.num_layers 1 --model.hidden_size 16 --model.intermediate_size 32 --stream.max_length 32 "
    small += "--stream.micro_batch_tokens 64 --train.tokens_per_step 64 --train.evaluate_tokens 64 --stream.workers 0 "
    small += "--stream.held_out_fraction 0.2 --data.vocab_size 100 --train.steps 1"
    assert main(["pretrain", "--data.input", "in", *small.split(), "--run", "my run"]) == 0
    with pytest.raises(RunError) as told:
        RunFolder.reopen(Path("my run"), saved_config(Path("my run"), {"optimizer.learning_rate": 2e-4}))
    command = str(told.value).partition("from its weights: `unmask ")[2].removesuffix("`")
    assert main(shlex.split(command.replace("NEW", "new"))) == 0
    assert saved_config(Path("new")).optimizer.learning_rate == 2e-4
    assert read_log(Path("new"))
    assert "init: weights and tokenizer of my run" in capsys.readouterr().out
    # no weights have another size, and a run without a checkpoint has none
    for path, change in ((Path("my run"), {"model.hidden_size": 32}), (tmp_path / "none", {"seed": 7})):
        if path.name == "none":
            RunFolder.create(replace(CONFIG, run=str(path)))
        other = saved_config(path, change)
        with pytest.raises(RunError, match=r"start a new run for anything else$"):
            RunFolder.reopen(path, other)
        assert RunFolder.create(replace(other, run=str(tmp_path / f"from {path.name}")))


def test_every_setting_of_watching_may_change_and_no_other() -> None:
    watching = {"run", "masking.similar_words", "data.store", "stream.workers", "distillation.teacher"}
    watching |= {"data.cache_folder", "data.cache_gb", "data.cache_patience"}
    for name in (
        "steps",
        "epochs",
        "minutes",
        "log_every",
        "evaluate_every",
        "save_every",
        "keep_checkpoints",
        "spike_guard",
        "spike_rows",
        "spike_limit",
        "log_gradient_norms",
        "tensorboard",
        "wandb",
        "trackio",
        "mlflow",
        "threads",
        "timeout_seconds",
        "activation_checkpointing",
        "compile",
        "device",
        "graph",
        "parallel",
    ):
        watching.add(f"train.{name}")
    kernels = {name for name in defaults() if name.startswith("kernels.")}
    assert watching | kernels == MAY_CHANGE


def test_a_moved_run_resumes_where_it_is(tmp_path: Path) -> None:
    RunFolder.create(replace(CONFIG, run=str(tmp_path / "a")))
    (tmp_path / "a").rename(tmp_path / "b")
    folder = RunFolder.reopen(tmp_path / "b", saved_config(tmp_path / "b"))
    assert folder.config.run == str(tmp_path / "b")


def test_resuming_what_is_not_a_run_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, says in ((tmp_path / "empty", "it has no config.yaml"), (tmp_path / "nowhere", "no such directory")):
        with pytest.raises(RunError, match=rf"cannot be resumed: {says}; start it with `unmask pretrain --run") as told:
            saved_config(path)
        run = Path(str(told.value).partition("--run ")[2].removesuffix("`"))
        RunFolder.create(replace(CONFIG, run=str(run)))
        assert saved_config(run).run == str(run)


def test_a_run_of_nearly_the_name_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    RunFolder.create(replace(CONFIG, run="runs/longer"))
    for given in ("longer", "runs/longr"):
        with pytest.raises(RunError, match=r"did you mean `unmask pretrain --resume runs/longer`\?$"):
            saved_config(Path(given))
    assert saved_config(Path("runs/longer"))


def test_what_is_no_run_is_never_advised_to_become_one(tmp_path: Path) -> None:
    """A model, a place in a model, a checkpoint of a run: a new run would lie among the files of another thing."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(
        RunError, match=r"it is a model without the state of its training, so give the directory of a run$"
    ):
        saved_config(model)
    with pytest.raises(RunError, match=r"no such directory; give the directory of a run$"):
        saved_config(model / "run")
    run = tmp_path / "a"
    RunFolder.create(replace(CONFIG, run=str(run)))
    assert saved_config(run).run == str(run)
    (run / "checkpoints" / "step-000010").mkdir(parents=True)
    for place in ("checkpoints", "checkpoints/step-000010", "checkpoints/step-7"):
        with pytest.raises(RunError) as caught:
            saved_config(run / place)
        way = re.search(r"continue the run that it lies in with `unmask pretrain --resume (.*)`$", str(caught.value))
        assert way is not None
        assert saved_config(Path(way[1])) == replace(CONFIG, run=str(run))


def test_a_run_keeps_the_kind_of_its_budget(tmp_path: Path) -> None:
    for name, value, other in (
        ("a", {"train.steps": 5}, {"train.minutes": 3.0}),
        ("b", {"train.minutes": 3.0}, {"train.epochs": 1}),
    ):
        run = tmp_path / name
        RunFolder.create(load_config(None, {"run": str(run), **value}))
        with pytest.raises(
            RunError, match=r"by the clock.* so give .*(minutes|steps or train\.epochs) or start a new run"
        ):
            RunFolder.reopen(run, saved_config(run, other))
    # the ways out
    RunFolder.reopen(tmp_path / "a", saved_config(tmp_path / "a", {"train.epochs": 1}))
    RunFolder.reopen(tmp_path / "b", saved_config(tmp_path / "b", {"train.minutes": 6}))


def test_a_folder_of_something_else_is_neither_started_nor_continued(tmp_path: Path) -> None:
    """No sentence sends to the other: what --run refuses --resume does not advise."""
    (tmp_path / "mine.txt").touch()
    with pytest.raises(RunError, match=r"it has no config\.yaml; give the directory of a run$"):
        saved_config(tmp_path)
    RunFolder.create(replace(CONFIG, run=str(tmp_path / "a")))
    assert saved_config(tmp_path / "a")
    with pytest.raises(RunError, match=r"exists already and holds no run; choose another name with --run$"):
        RunFolder.create(replace(CONFIG, run=str(tmp_path)))


def test_a_configuration_that_cannot_be_written_leaves_the_name_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, run=str(tmp_path / "a"))

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("unmask.train.run_folder.replace_text", full)
        with pytest.raises(RunError, match=r"config\.yaml could not be written \(No space left .*start again"):
            RunFolder.create(config)
    RunFolder.create(config)


def test_only_a_directory_in_which_nothing_was_trained_is_given_up(tmp_path: Path) -> None:
    for name, begun in (("log.jsonl", False), ("log.jsonl", True), ("checkpoints", True)):
        folder = RunFolder.create(replace(CONFIG, run=str(tmp_path / "a")))
        if name == "checkpoints":
            (folder.path / name).mkdir()
        else:
            (folder.path / name).write_text("{}" if begun else "")
        folder.abandon()
        assert folder.path.exists() == begun
        shutil.rmtree(folder.path, ignore_errors=True)


def _hold(folder: RunFolder, held: object, release: object) -> None:
    with folder.locked():
        held.set()  # type: ignore[attr-defined]
        release.wait(600)  # type: ignore[attr-defined]


def test_two_processes_cannot_write_to_one_run(tmp_path: Path) -> None:
    folder = RunFolder.create(replace(CONFIG, run=str(tmp_path / "a")))
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(folder, held, release))
    other.start()
    assert held.wait(600)
    with pytest.raises(RunError, match="in use by another process"), folder.locked():
        pass
    other.kill()
    other.join()
    with folder.locked():
        assert not release.is_set()


def test_what_was_there_before_stays_when_a_run_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, a link to one, the current folder, a volume: only what the run made is removed."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "volume" / "lost+found").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "empty")
    for name in (".", "../link", str(tmp_path / "volume")):
        folder = RunFolder.create(replace(CONFIG, run=name))
        (folder.path / "store").mkdir()
        (folder.path / "mine.txt").touch()
        folder.abandon()
        assert {entry.name for entry in Path(name).iterdir()} == {"mine.txt"} | (
            {"lost+found"} if "volume" in name else set()
        )
    assert (tmp_path / "link").is_symlink()


def test_directories_above_the_run_that_were_made_for_it_go_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (None, "a/b/c"):
        RunFolder.create(replace(CONFIG, run=name)).abandon()
        assert [*tmp_path.iterdir()] == []
    # but not those of another run, or that were there before
    first = RunFolder.create(replace(CONFIG, run=None))
    second = RunFolder.create(replace(CONFIG, run="runs/second"))
    first.abandon()
    assert [*Path("runs").iterdir()] == [second.path]
    second.abandon()
    assert [*Path("runs").iterdir()] == []


def test_jobs_that_give_up_do_not_take_the_folder_of_runs_from_one_that_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mkdir, removed = Path.mkdir, []

    def late(path: Path, *given: Any, **named: Any) -> None:
        if path.parent == Path("runs") and not removed:
            removed.append(path)
            Path("runs").rmdir()
        mkdir(path, *given, **named)

    monkeypatch.setattr(Path, "mkdir", late)
    assert RunFolder.create(replace(CONFIG, run=None)).path.is_dir()
    assert removed


def test_a_directory_that_was_made_keeps_what_others_put_there(tmp_path: Path) -> None:
    folder = RunFolder.create(replace(CONFIG, run=str(tmp_path / "a")))
    (folder.path / "store").symlink_to(tmp_path)
    (folder.path / "mine.txt").touch()
    folder.abandon()
    assert {entry.name for entry in folder.path.iterdir()} == {"mine.txt", "store"}


def test_giving_up_never_hides_the_first_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object, **__: object) -> None:
        raise OSError(16, "Device or resource busy")

    folder = RunFolder.create(replace(CONFIG, run=str(tmp_path / "a")))
    for name in ("rmdir", "unlink", "is_dir"):
        with monkeypatch.context() as patched:
            patched.setattr(Path, name, busy)
            folder.abandon()


def test_a_refused_directory_holds_what_it_held(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(RunError, match="exists already"):
        RunFolder.create(replace(CONFIG, run=str(tmp_path)))
    with pytest.raises(RunError, match="exists already"):
        RunFolder.create(replace(CONFIG, run=str(tmp_path / "mine.txt")))
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", ["file/run", "x" * 300])
def test_a_directory_that_cannot_be_made_is_one_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot be made \(.*\); choose another place with --run"):
        RunFolder.create(replace(CONFIG, run=str(tmp_path / name)))


def test_jobs_that_start_in_one_second_each_get_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Now(datetime):
        @classmethod
        def now(cls, tz: object = None) -> "Now":
            return cls(2026, 11, 30, 2, 3, 4)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("unmask.train.run_folder.datetime", Now)
    paths = [str(RunFolder.create(CONFIG).path) for _ in range(3)]
    assert paths == ["runs/20261130-020304", "runs/20261130-020304-2", "runs/20261130-020304-3"]


def _create(run: Path, seed: int, start: Any, won: Any) -> None:
    start.wait(30)
    try:
        RunFolder.create(replace(CONFIG, run=str(run), seed=seed))
        won.put(seed)
    except RunError as error:
        won.put(str(error))


def test_of_processes_that_begin_one_run_one_gets_it(tmp_path: Path) -> None:
    """Also in a directory that is there already; the configuration is that of the winner."""
    context = multiprocessing.get_context("fork")
    for run in (tmp_path / "new", tmp_path):
        start, won = context.Event(), context.SimpleQueue()
        others = [context.Process(target=_create, args=(run, seed, start, won)) for seed in range(1, 5)]
        for other in others:
            other.start()
        start.set()
        results = [won.get() for _ in others]
        for other in others:
            other.join(30)
        winners = [result for result in results if isinstance(result, int)]
        assert len(winners) == 1, results
        assert saved_config(run).seed == winners[0]
        assert all("exists already" in text or "in use" in text for text in results if isinstance(text, str))
        for entry in (run, *run.glob("*")) if run != tmp_path else ():
            if entry.is_file():
                entry.unlink()
        if run != tmp_path:
            run.rmdir()


def test_a_file_system_without_locks_is_said_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.lockf", none)
    with pytest.warns(UserWarning, match=r"cannot be locked \(No locks available\)"):
        assert RunFolder.create(replace(CONFIG, run=str(tmp_path / "a"))).path.is_dir()


def test_an_emptied_configuration_does_not_become_that_of_another_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    with pytest.raises(RunError, match=r"config\.yaml is empty; put the saved one back from a copy"):
        saved_config(tmp_path)


DATA = DataConfig(store="store", tokenizer="/somewhere/tokenizer", lowercase=True)
MASKING = MaskingConfig(strategy="mac", similar_words="words/table.txt")
STARTED = replace(CONFIG, data=DATA, masking=MASKING)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a store and a run that was started in it."""
    project = tmp_path / "project"
    (project / "store").mkdir(parents=True)
    (project / "words").mkdir()
    (project / "words" / "table.txt").touch()
    monkeypatch.chdir(project)
    RunFolder.create(replace(STARTED, run="runs/a"))
    return project


def test_where_a_run_was_started_nothing_changes(project: Path) -> None:
    config = saved_config(Path("runs/a"))
    assert (config.data, config.masking) == (DATA, MASKING)
    assert located(config, Path("runs/a")) is config


@pytest.mark.parametrize("moved", [False, True])
def test_a_run_finds_its_data_from_any_folder(moved: bool, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if moved:
        project = project.rename(project.parent / "copy")
    monkeypatch.chdir(project / "runs")
    found = located(saved_config(Path("a")), Path("a"))
    assert (found.data.store, found.masking.similar_words) == (f"{project}/store", f"{project}/words/table.txt")
    assert found.data.tokenizer == DATA.tokenizer
    # the file keeps what was given
    assert replace(saved_config(Path("a")), run=None) == STARTED


def test_inputs_keep_their_names(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "a=b.txt").touch()
    (project / "topics" / "sport").mkdir(parents=True)
    given = [
        "store",
        "n=store",
        "a=b.txt",
        "t=topics/*/",
        "no*ne",
        "docstrings:",
        "s3://bucket/*",
        f"en=https://host/a.csv?rights={'x' * 300}",
        "hf://owner/name:train",
        "/absolute",
        "n=/absolute",
        "gone.txt",
    ]
    config = replace(STARTED, data=DataConfig(input=given))
    monkeypatch.chdir(project / "runs")
    found = located(config, Path("a")).data.input
    assert found == [
        f"{project}/store",
        f"n={project}/store",
        f"{project}/a=b.txt",
        f"t={project}/topics/*/",
        *given[4:],
    ]


def test_what_is_nowhere_is_named_with_both_places_and_the_way_out(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "store").rename(project / "renamed")
    monkeypatch.chdir(project.parent)
    run = Path("project/runs/a")
    with pytest.raises(RunError) as error:
        located(saved_config(run), run)
    assert f"data.store is store, which is neither in {project}" in str(error.value)
    assert "--data.store" in str(error.value)
    # the way out works, relative to this folder, and from then on from any
    config = saved_config(run, {"data.store": "project/renamed"})
    assert located(config, run).data.store == f"{project}/renamed"
    RunFolder.reopen(run, config).save_config()
    monkeypatch.chdir(project / "runs")
    assert located(saved_config(Path("a")), Path("a")).data.store == f"{project}/renamed"


def test_a_model_of_the_hub_is_found_from_any_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project / "runs")
    run = Path("a")
    for given in ("org/name", "org/name@v1", "hf://org/name"):
        config = saved_config(run, {"data.tokenizer": given})
        assert config.data.tokenizer == given
        assert located(config, run).data.tokenizer == given
    # a folder of the name comes first, and a name without an owner is that of a folder
    (project / "runs" / "org" / "name").mkdir(parents=True)
    assert saved_config(run, {"data.tokenizer": "org/name"}).data.tokenizer == f"{project}/runs/org/name"
    assert saved_config(run, {"data.tokenizer": "words"}).data.tokenizer == f"{project}/runs/words"


def test_what_lies_here_alone_is_found_here(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a run of an earlier version, which noted nothing, is resumed."""
    (project / "store").rename(project / "runs" / "store")
    monkeypatch.chdir(project / "runs")
    assert located(saved_config(Path("a")), Path("a")).data.store == "store"
    (project / "runs" / "a" / ".started_in").unlink()
    found = located(saved_config(Path("a")), Path("a"))
    assert (found.data, found.masking) == (DATA, MASKING)
