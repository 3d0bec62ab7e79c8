"""Relative paths of a run begin where it was started, wherever it is resumed."""

from dataclasses import replace
from pathlib import Path

import pytest

from unmask.config import DataConfig, RunConfig, TrainConfig
from unmask.errors import RunError
from unmask.train.run_folder import RunFolder, located, saved_config

DATA = DataConfig(
    store="store", masking="mac", similar_words="words/table.txt", tokenizer="/somewhere/tokenizer", lowercase=True
)
CONFIG = RunConfig(data=DATA, train=TrainConfig(steps=10, warmup_steps=2))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a store and a run that was started in it."""
    project = tmp_path / "project"
    (project / "store").mkdir(parents=True)
    (project / "words").mkdir()
    (project / "words" / "table.txt").touch()
    monkeypatch.chdir(project)
    RunFolder.create(replace(CONFIG, run="runs/a"))
    return project


def test_where_a_run_was_started_nothing_changes(project: Path) -> None:
    config = saved_config(Path("runs/a"))
    assert config.data == DATA
    assert located(config, Path("runs/a")) is config


@pytest.mark.parametrize("moved", [False, True])
def test_a_run_finds_its_data_from_any_folder(moved: bool, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if moved:
        project = project.rename(project.parent / "copy")
    monkeypatch.chdir(project / "runs")
    data = located(saved_config(Path("a")), Path("a")).data
    assert (data.store, data.similar_words) == (f"{project}/store", f"{project}/words/table.txt")
    assert data.tokenizer == DATA.tokenizer
    # the file keeps what was given
    assert saved_config(Path("a")).data == DATA


def test_inputs_keep_their_names(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "a=b.txt").touch()
    given = ["store", "n=store", "a=b.txt", "hf://owner/name:train", "/absolute", "n=/absolute", "gone.txt"]
    config = replace(CONFIG, data=DataConfig(input=given))
    monkeypatch.chdir(project / "runs")
    found = located(config, Path("a")).data.input
    assert found == [f"{project}/store", f"n={project}/store", f"{project}/a=b.txt", *given[3:]]


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


def test_what_lies_here_alone_is_found_here(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a run of an earlier version, which noted nothing, is resumed."""
    (project / "store").rename(project / "runs" / "store")
    monkeypatch.chdir(project / "runs")
    assert located(saved_config(Path("a")), Path("a")).data.store == "store"
    (project / "runs" / "a" / ".started_in").unlink()
    assert located(saved_config(Path("a")), Path("a")).data == DATA
