"""Options as dataclasses: their help, their values, and the errors for words that are none."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Literal

import pytest
from rich.cells import cell_len

from unmask.cli import COMMANDS, main
from unmask.cli._arguments import option, read
from unmask.cli.completion import whole_parser
from unmask.cli.pretrain import parse
from unmask.config.settings import Checked
from unmask.errors import UnmaskError


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_80_columns_and_is_flowed(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= 80
    # the text of an option fills its lines: one ends where the next word has no room
    texts = [(one, two) for one, two in itertools.pairwise(lines) if one[:24].isspace() and two[:24].isspace()]
    assert all(len(one) + 1 + len(two.split()[0]) > 79 for one, two in texts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Checked):
    """What it does.

    And how it
    does it.
    """

    needed: int = option(MISSING, "Has no default.", ge=1)
    names: list[str] = option(list, "Several.")
    plain_text: str = option("100%", "One.", short="-p")
    rate: float | None = option(None, "A number.")
    way: Literal["up", "down"] = option("up", "Where.")
    quick: bool = option(False, "A switch.")
    file: Path | None = option(None, "A file.", metavar="FILE")


def given(*words: str) -> Options:
    return read(Options, prog="unmask it", arguments=words)


def test_values_have_the_types_of_their_fields() -> None:
    assert given("--needed", "3") == Options(needed=3)
    assert given("--needed=1e3", "--rate", "5", "--way", "down", "--quick") == Options(
        needed=1000, rate=5.0, way="down", quick=True
    )
    assert given("--needed", "1", "--rate", "None", "--quick", "false", "-p", "1") == Options(needed=1, plain_text="1")
    assert given("--needed", "1", "--plain_text", "a", "--file", "~/x").file == Path.home() / "x"


def test_values_of_a_repeated_option_are_joined_and_the_last_of_others_counts() -> None:
    several = given("--names", "a", "--needed", "1", "--names", "b", "c", "--names=d", "--needed", "2")
    assert (several.names, several.needed) == (["a", "b", "c", "d"], 2)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "it: the following arguments are required: --needed; run `unmask it --help` for the options"),
        (["--needed", "0"], "it: --needed must be at least 1, got 0"),
        (["--needed", "1.5"], "it: --needed must be a whole number, got '1.5' (str)"),
        (["--needed", "1", "--way", "left"], "it: --way must be one of 'up', 'down', got 'left' (str)"),
        (["--needed", "1", "--quick=perhaps"], "it: --quick must be true or false, got 'perhaps' (str)"),
        (["--needed", "1", "--plain-txt", "a"], "it: --plain-txt is not an option; did you mean --plain-text?"),
        (["--needed", "1", "--zzz"], "it: --zzz is not an option; run `unmask it --help` for the options"),
        (
            ["--needed"],
            "it: argument --needed: expected one argument; write one that begins with - as in --run=-x, or run "
            "`unmask it --help` for the options",
        ),
        (["a", "--needed", "1"], "it: 'a' belongs to no option; run `unmask it --help` for the options"),
    ],
)
def test_words_that_are_no_options_are_refused_in_one_line(words: list[str], told: str) -> None:
    with pytest.raises(UnmaskError, match=f"^{re.escape(told)}$"):
        given(*words)


@pytest.mark.parametrize("words", [["--no-quick=true"], ["--no-quick", "true"], ["--no-quick=x"]])
def test_a_switch_that_is_turned_off_takes_no_value(words: list[str]) -> None:
    with pytest.raises(UnmaskError) as told:
        given("--needed", "1", *words)
    way = re.search(r"takes no value, got '.*'; write (.+) alone, or (.+) or (.+)$", str(told.value))
    assert way is not None
    assert [given("--needed", "1", word).quick for word in way.groups()] == [False, True, False]


def test_an_option_given_twice_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert given("--needed", "1", "--needed=2", "--quick", "--no-quick", "--names", "a", "--names", "b") == Options(
        needed=2, names=["a", "b"]
    )
    assert caplog.messages == [
        "it: --needed is given 2 times; the last one counts",
        "it: --quick is given 2 times; the last one counts",
    ]


def test_a_shell_without_a_script_of_ours_gets_one_from_shtab(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # its main adds the current folder to the path of this process
    monkeypatch.setattr(sys, "path", list(sys.path))
    shtab = pytest.importorskip("shtab.main").main
    assert main(["completion", "fish"]) == 2
    told = capsys.readouterr().err
    assert "SHELL must be one of 'bash', 'zsh', 'tcsh', got 'fish' (str); shtab 1.13 knows others" in told
    command = told.partition("`shtab ")[2].partition("`")[0]
    shtab(command.split())
    assert "complete -c unmask" in capsys.readouterr().out


def test_the_help_has_the_description_the_texts_and_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        given("--help")
    told = capsys.readouterr().out
    assert told.startswith("usage: unmask it --needed VALUE [OPTIONS]\n\nWhat it does.\n\nAnd how it does it.\n")
    assert "(default: 100%)" in told
    assert "{up,down}" in told
    assert "(default: )" not in told


def test_a_shell_completes_commands_options_and_values() -> None:
    import shtab

    script = shtab.complete(whole_parser(), "bash")
    assert f"_shtab_unmask_subparsers=({' '.join(COMMANDS)})" in script
    assert "--optimizer.learning_rate" in script
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    typed = "COMP_WORDS=(unmask pretrain --optimizer.lear); COMP_CWORD=2"
    asked = f'{script}\n{typed}; _shtab_unmask; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run([bash, "-c", asked], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["--optimizer.learning_rate"], done.stderr


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
