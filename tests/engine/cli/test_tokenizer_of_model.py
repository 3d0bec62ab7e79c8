"""A model and a tokenizer that do not belong together are refused by everything that loads both."""

from collections.abc import Callable
from pathlib import Path

import pytest

from unmask.cli import main
from unmask.data.tokenizer import Tokenizer


def change_vocabulary(folder: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Rewrite the vocabulary of the tokenizer in `folder`."""
    tokens = change((folder / "vocab.txt").read_text().splitlines())
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    Tokenizer.load(folder).save(folder)


CHANGES = {
    "smaller": (lambda tokens: tokens[:-1], "tokens, the model"),
    "larger": (lambda tokens: [*tokens, "##zzz"], "tokens, the model"),
    "permuted": (lambda tokens: [*tokens[:-2], tokens[-1], tokens[-2]], "gives other ids"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_another_vocabulary_is_refused(
    kind: str, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = tmp_path / "exported"
    assert main(["export", str(model_folder), str(exported)]) == 0
    change, reason = CHANGES[kind]
    change_vocabulary(exported, change)
    for command in (["fill-mask", str(exported), "a [MASK]"], ["export", str(exported), str(tmp_path / "again")]):
        capsys.readouterr()
        assert main(command) == 2
        told = capsys.readouterr().err
        assert reason in told
        assert "put the tokenizer that the model was trained with into the folder" in told
    assert not (tmp_path / "again").exists()


def test_a_folder_that_records_no_tokenizer_passes_by_its_size(model_folder: Path) -> None:
    assert "tokenizer_hash" not in (model_folder / "config.json").read_text()
    assert main(["fill-mask", str(model_folder), "a [MASK]"]) == 0
