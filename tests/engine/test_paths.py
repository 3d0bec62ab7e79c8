"""Paths as people write them: the home folder everywhere, names that are no text, commands that can be copied."""

import os
import pwd
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from unmask.cli import main
from unmask.cli.pretrain import parse
from unmask.config import load_config
from unmask.config.load import read_settings
from unmask.errors import ConfigError
from unmask.paths import as_typed, expanded, expanded_input, printable


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return folder


def test_a_leading_tilde_is_the_home_folder(home: Path) -> None:
    given = ["~", "~/a", "./~", "a~", "a/~", "/~/a", ""]
    assert [expanded(path) for path in given] == [str(home), f"{home}/a", "./~", "a~", "a/~", "/~/a", ""]
    named = ["~/a", "name=~/a", "name=a", "hf://owner/name:train"]
    assert [expanded_input(path) for path in named] == [
        f"{home}/a",
        f"name={home}/a",
        "name=a",
        "hf://owner/name:train",
    ]
    (Path.cwd() / "name=~").mkdir()
    assert expanded_input("name=~") == "name=~"


def test_a_home_that_nobody_knows_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no user is called nobody-here; write the path out, or \./~nobody-here/a"):
        expanded("~nobody-here/a")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    with pytest.raises(ConfigError, match="neither HOME nor the list of users says where that is"):
        expanded("~/a")


def test_names_that_no_library_can_open_are_refused() -> None:
    with pytest.raises(ConfigError, match="holds a NUL"):
        load_config(None, {"data.store": "a\0b"})
    with pytest.raises(ConfigError, match=r"the name caf\\xe9 must be UTF-8"):
        load_config(None, {"run": os.fsdecode(b"caf\xe9")})


def test_half_a_surrogate_pair_is_no_matter_of_the_locale() -> None:
    with pytest.raises(ConfigError, match=r"^config: data.store: the name \\ud800 holds half a surrogate pair"):
        load_config(None, {"data": {"store": "\ud800"}})


def test_every_path_of_a_configuration_begins_at_home(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "run: ~/r\ndata:\n  input: [~/a, b=~/c]\n  tokenizer: ~/t\nmasking:\n  strategy: mac\n  similar_words: ~/s\n"
    )
    config = load_config(file)
    assert (config.run, config.data.input) == (f"{home}/r", [f"{home}/a", f"b={home}/c"])
    assert (config.data.tokenizer, config.masking.similar_words) == (f"{home}/t", f"{home}/s")
    given, _ = parse(["--run=~/r", "--data.store=~/s"])
    assert (given.run, given.data.store) == (f"{home}/r", f"{home}/s")


def test_every_command_reads_a_home_folder(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each says what it did not find, or finds it; none takes `~` for a name."""
    (home / "a.txt").write_text("a mill turns by the river\n" * 20)
    assert main(["prepare", "--input=n=~/a.txt", "--out=~/store", "--vocab_size", "120", "--workers", "1"]) == 0
    assert (home / "store" / "manifest.json").is_file()
    (home / "c.yaml").write_text("seed: 7\n")
    assert read_settings("~/c.yaml").settings == {"seed": 7}
    for command in (
        ["pretrain", "--resume=~/r"],
        ["plot", "~/r"],
        ["fill-mask", "~/r", "[MASK]"],
        ["export", "~/r", "~/o"],
        ["analyse", "~/r"],
    ):
        assert main(command) == 2, command
        assert f"{home}/r" in capfd.readouterr().err, command
    assert list(Path.cwd().iterdir()) == []


def test_what_is_no_text_is_shown_as_escapes() -> None:
    assert printable(os.fsdecode(b"caf\xe9 \xc3\xa9")) == "caf\\xe9 \u00e9"
    assert printable("a\nb\tc\x1b[0m\u2028\u3000%{}") == "a\\x0ab\\x09c\\x1b[0m\\u2028\u3000%{}"


@pytest.mark.parametrize("name", ["-x", "~", "a b", "a'b", "$HOME", "a*", "plain", "/a/b"])
def test_a_command_that_is_shown_can_be_copied(name: str) -> None:
    words = shlex.split(as_typed(name))
    assert words == [name if name[0] not in "-~" else f"./{name}"]


def test_a_source_is_named_by_a_file_whose_name_is_no_text(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from unmask.data.store import Store

    file = tmp_path / os.fsdecode(b"caf\xe9.txt")
    file.write_text("a mill turns by the river\n" * 20)
    store = tmp_path / "store"
    command = ["prepare", "--input", str(file), "--out", str(store), "--vocab_size", "120", "--workers", "1"]
    assert main(command) == 0
    assert "caf\\xe9: 1 document" in capfd.readouterr().out
    assert Store.open(store).sources == ["caf\\xe9"]


def test_a_name_in_utf8_is_itself_where_the_locale_knows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under LC_ALL=C without UTF-8 mode Python hands each byte on as half a surrogate pair."""
    name = "m\u00fchle".encode().decode("ascii", "surrogateescape")
    assert printable(name) == "m\u00fchle"
    with pytest.raises(ConfigError, match="the name m\u00fchle needs a locale that knows UTF-8; set PYTHONUTF8=1"):
        expanded(name)
    # one process in a locale that knows none refuses the name, and one with the variable takes it
    command = [
        sys.executable,
        "-c",
        "import sys; from unmask.paths import expanded; print(ascii(expanded(sys.argv[1])))",
    ]
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHON"))}
    plain |= {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    refused = subprocess.run([*command, "m\u00fchle"], env=plain, capture_output=True, text=True)
    if refused.returncode == 0:
        pytest.skip("the locale C knows UTF-8 here")
    assert "needs a locale that knows UTF-8; set PYTHONUTF8=1" in refused.stderr
    done = subprocess.run([*command, "m\u00fchle"], env=plain | {"PYTHONUTF8": "1"}, capture_output=True, text=True)
    assert done.stdout == "'m\\xfchle'\n"
