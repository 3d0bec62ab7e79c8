"""What a configuration writes as YAML is read back equal, whatever its strings and numbers are."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.config import load_config, to_yaml
from unmask.config.yaml_text import dump_yaml, parse_yaml
from unmask.errors import ConfigError

# numbers and words of YAML 1.1 and 1.2, signs of YAML, white space, line breaks of Unicode, half a surrogate pair
ODD = [
    *("1e5", "3e-4", "0x1F", "0o7", "010", "1_000", "+1", "-0", ".5", "1.", ".inf", "-.INF", ".nan", "1:30"),
    *("yes", "no", "On", "n", "null", "NULL", "~", "", "true", "=", "<<", "2024-01-01", "---", "...", "%a", "@a", "`a"),
    *("#a", "a #b", "a: b", "- a", "-", "? a", "&a", "*a", "!a", "{a", "[a]", "'a'", '"a"', "|", ">", "a\\b"),
    *(" a", "a ", "a\tb", "\ta", "\n", "a\r\nb", "a\n\n b\n", "a\x85b", "a\u2028b", "\ufeffa", "\x00", "\x1b[0m"),
    *("\U0001f600", "\U0010ffff", "\ufffe", "caf\udce9", "x" * 300 + "  y" * 100),
]
strings = st.one_of(st.sampled_from(ODD), st.text(st.characters(), max_size=12), st.text("0123_eExo.+-:~ an\n#'\""))
scalars = st.one_of(strings, st.floats(allow_nan=False), st.integers(), st.booleans(), st.none())


def read_back(mapping: dict[str, Any]) -> dict[str, Any]:
    """As a file gives it, line breaks translated."""
    written = dump_yaml(mapping).encode("utf-8")
    return parse_yaml(io.TextIOWrapper(io.BytesIO(written), encoding="utf-8").read(), source="text")


# JSON, so that 1 and 1.0 and True are three things
@settings(max_examples=300, deadline=None)
@given(st.dictionaries(strings, st.one_of(scalars, st.lists(scalars), st.dictionaries(strings, scalars))))
def test_what_is_written_is_read_back_equal(mapping: dict[str, Any]) -> None:
    assert json.dumps(read_back(mapping)) == json.dumps(mapping)


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_every_odd_string_is_read_back_as_key_and_value(text: str) -> None:
    assert read_back({text: {text: [text]}}) == {text: {text: [text]}}


@pytest.mark.parametrize("number", [1e-300, 5e-324, -0.0, 1e5, 1e16, sys.float_info.max, float("inf"), float("nan")])
def test_every_float_is_read_back_as_a_float(number: float) -> None:
    assert repr(read_back({"a": number})["a"]) == repr(number)


@pytest.mark.parametrize("text", [text for text in ODD if "\0" not in text and not text.startswith("~")], ids=ascii)
def test_a_configuration_is_read_back_equal(text: str, tmp_path: Path) -> None:
    folder = text.encode(errors="ignore").decode()
    config = load_config(None, {"run": folder, "data": {"tokenizer": folder, "input": [text], "weights": {text: 2.0}}})
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(file) == config


def test_line_ends_and_a_byte_order_mark_of_windows_are_read(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(b"\xef\xbb\xbftrain:\r\n  steps: 200\r\nrun: 'a'\r\n")
    assert (load_config(file).train.steps, load_config(file).run) == (200, "a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {store: 1e5}", "data.store must be text, got 100000.0 (float); write it in quotes"),
        (
            "data: {weights: {1e5: 2}}",
            "composition.weights must have names that are text, got 100000.0 (float); write it in quotes",
        ),
        ("seed: &x [*x]", "line 1: seed must be a whole number, got [[...]] (list)"),
        ("data: &d {input: *d}", "line 1: data.input must be a list, got a group of settings"),
        ("[" * 3000, "is nested too deep"),
        ("seed: !!int abc", "is not YAML: invalid literal for int()"),
        ("seed: !!timestamp soon", "could not determine a constructor for the tag 'tag:yaml.org,2002:timestamp'"),
        ("run: !!python/name:os.system", "could not determine a constructor for the tag"),
        ("run: !!binary aGVs", "could not determine a constructor for the tag"),
        ("a: \x01", "special characters are not allowed in"),
        ("\ttrain: {}", "line 1, is not YAML"),
        ("seed: 1\n---\nseed: 2", "line 2, is not YAML"),
        ("- a", "must hold settings as 'name: value' lines, got ['a'] (list)"),
    ],
)
def test_what_is_no_configuration_gets_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
