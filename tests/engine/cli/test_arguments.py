"""Options that may be repeated, and help that fills the terminal."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from rich.cells import cell_len

from unmask.cli import COMMANDS, main
from unmask.cli._arguments import join_repeated, read
from unmask.cli.pretrain import parse


@pytest.mark.parametrize(
    ("given", "joined"),
    [
        (["--input", "a", "--out", "s", "--input", "b"], ["--out", "s", "--input", "a", "b"]),
        (["--input", "a", "b", "--input=c", "--out", "s"], ["--out", "s", "--input", "a", "b", "c"]),
        (["recipe", "--out", "s"], ["recipe", "--out", "s"]),
        (["--input"], ["--input"]),
    ],
)
def test_values_of_a_repeated_option_are_joined(given: list[str], joined: list[str]) -> None:
    assert join_repeated(given, "--input") == joined


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_terminal_and_breaks_where_it_ends(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    lines = [line.strip("│").rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(cell_len, (line for line in lines if not line.startswith("usage:")))) <= 80
    indent = " " * 6
    texts = [(above, below) for above, below in itertools.pairwise(lines) if (above[:6], below[:6]) == (indent, indent)]
    assert all(len(above) + 1 + len(below.split()[0]) > 76 for above, below in texts)
    assert command not in ("prepare", "pretrain") or len(texts) > 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What it does.

    And how it
    does it.
    """

    needed: int
    """Has no
    default."""
    names: list[str] = field(default_factory=list)
    plain: float = 0.5


def test_fields_are_read_with_their_docstrings_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert read(Options, prog="it", arguments=["--needed", "3"]) == Options(needed=3)
    given = Options(needed=1, names=["a"], plain=2.0)
    assert read(Options, prog="it", arguments=["--needed", "3"], default=given).names == ["a"]
    with pytest.raises(SystemExit):
        read(Options, prog="it", arguments=["--help"])
    told = capsys.readouterr().out
    assert told.startswith("What it does.\n\nAnd how it does it.\n\nusage: it ")
    assert "Has no default. (required)" in told
    assert "(default: 0.5)" in told
    assert "(default: )" not in told


@pytest.mark.parametrize(
    ("words", "lowercase"),
    [
        (["--data.lowercase", "false"], False),
        (["--data.lowercase=False"], False),
        (["--data.no-lowercase"], False),
        (["--data.lowercase", "true"], True),
        (["--data.lowercase", "--seed", "3"], True),
    ],
)
def test_a_switch_takes_a_truth_value_as_yaml_has_it(words: list[str], lowercase: bool) -> None:
    config, _ = parse(words)
    assert config.data.lowercase is lowercase
    config, _ = parse([*words, "--data.blank-line-documents=true", "--data.input", "a.txt"])
    assert config.data.blank_line_documents


@pytest.mark.parametrize("run", ["1e6", "0x1F", "true", "null", "a b", "%s{}", "-x", "[1, 2]", '{"a": 1}'])
def test_text_on_the_command_line_is_text(run: str) -> None:
    config, _ = parse([f"--run={run}", "--data.input", run.lstrip("-"), f"n={run}"])
    assert (config.run, config.data.input) == (run, [run.lstrip("-"), f"n={run}"])
