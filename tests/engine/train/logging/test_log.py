import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from unmask.errors import RunError
from unmask.paths import replace_text
from unmask.train.logging.log import RunLog, read_evaluations, read_log


def test_every_row_is_on_disk_as_soon_as_it_is_written(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.write({"step": 1, "loss": 2.5})
    assert read_log(tmp_path) == [{"step": 1, "loss": 2.5}]
    log.close()


def test_a_row_is_whole_where_the_system_takes_it_in_parts(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    file = log._rows._file
    log._rows._file = SimpleNamespace(write=lambda data: file.write(data[:3]), close=file.close)  # type: ignore[assignment]
    log.write({"step": 1, "loss": 2.5})
    log.close()
    assert read_log(tmp_path) == [{"step": 1, "loss": 2.5}]


def test_resuming_cuts_off_later_rows_and_a_torn_last_line(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for step in (10, 20, 30):
        log.write({"step": step})
        log.write_evaluation({"step": step, "loss": 1.0})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as lines:
        lines.write('{"step": 4')
    log = RunLog(tmp_path, done=20)
    assert log.evaluated == 20
    log.write({"step": 25})
    log.close()
    assert [row["step"] for row in read_log(tmp_path)] == [10, 20, 25]
    assert [row["step"] for row in read_evaluations(tmp_path)] == [10, 20]


def test_evaluations_have_a_file_of_their_own(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.write_evaluation({"step": 2, "loss": 2.0})
    assert read_log(tmp_path) == []
    assert read_evaluations(tmp_path) == [{"event": "evaluate", "step": 2, "loss": 2.0}]
    log.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
@pytest.mark.parametrize(("begun", "way"), [(True, "--resume"), (False, "start again")])
def test_a_full_disk_is_a_sentence_with_the_way_on(tmp_path: Path, begun: bool, way: str) -> None:
    if begun:
        (tmp_path / "checkpoints").mkdir()
    log = RunLog(tmp_path)
    log._rows._file.close()
    log._rows._file = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115 - closed with the log
    with pytest.raises(RunError, match=rf"log\.jsonl could not be written \(No space left on device\).*{way}"):
        log.write({"step": 1})
    log.close()


def test_what_is_replaced_is_flushed_first_and_its_name_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    monkeypatch.setattr("unmask.paths.sync", lambda path: flushed.append(path.name))
    replace_text(tmp_path / "config.yaml", "seed: 1\n")
    assert flushed == [".config.yaml.partial", tmp_path.name]
    assert (tmp_path / "config.yaml").read_text() == "seed: 1\n"


def test_a_text_that_cannot_be_replaced_stays_and_nothing_is_left_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "config.yaml"
    file.write_text("seed: 1\n")
    monkeypatch.setattr("unmask.paths.sync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_text(file, "seed: 2\n")
    assert file.read_text() == "seed: 1\n"
    assert list(tmp_path.iterdir()) == [file]


def test_a_number_that_is_not_finite_becomes_null(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.write({"step": 1, "loss": float("nan"), "gradient_norm": float("inf")})
    log.close()
    row = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=pytest.fail)
    assert row == {"step": 1, "loss": None, "gradient_norm": None}


def test_the_log_knows_its_last_row_also_when_it_is_opened_again(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    assert (log.logged, log.evaluated) == ((0, 0), -1)
    log.write({"step": 10, "tokens": 900})
    log.write({"step": 20, "tokens": 1900})
    assert log.logged == (20, 1900)
    log.close()
    assert RunLog(tmp_path, done=15).logged == (10, 900)
