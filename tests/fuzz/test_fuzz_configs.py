"""Configurations as files and as command lines, changed: one that is read back equal, or one sentence."""

from __future__ import annotations

import sys
import tempfile
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from fuzz_mutations import ODD, byte_changes, change_bytes, change_tree, odd_values, tree_changes
from fuzz_outcomes import Fault, result_or_sentence, try_cases
from hypothesis import strategies as st

from unmask.cli.pretrain import parse
from unmask.config import RunConfig, load_config, to_mapping, to_yaml
from unmask.config.mappings import defaults
from unmask.terminal import lasting
from unmask.train.run_folder import RunFolder, saved_config

NAMES = sorted(defaults())
EXAMPLES: list[dict[str, Any]] = [
    # half a surrogate pair as a path
    {"tree": [("replace", [0, 0], 19)], "bytes": [], "overrides": {}, "words": []},
]

cases = st.fixed_dictionaries(
    {
        "tree": tree_changes,
        "bytes": byte_changes,
        "overrides": st.dictionaries(st.sampled_from(NAMES), odd_values, max_size=2),
        "words": st.lists(st.tuples(st.sampled_from(NAMES), odd_values, st.booleans()), max_size=2),
    }
)


def write(case: dict[str, Any], path: Path) -> None:
    mapping = change_tree(to_mapping(load_config("bert-mini")), case["tree"])
    text = yaml.safe_dump(mapping, sort_keys=False, allow_unicode=True)
    path.write_bytes(change_bytes(text.encode("utf-8", "surrogatepass"), case["bytes"]))


def words(case: dict[str, Any]) -> list[str]:
    """The options of a command line; no word can hold a NUL."""
    given: list[str] = []
    for name, odd, joined in case["words"]:
        value = str(ODD[odd]).replace("\0", "0").replace("\ud800", "\udcff")
        given += [f"--{name}={value}"] if joined else [f"--{name}", value]
    return given


def check_round_trip(config: RunConfig, path: Path) -> None:
    path.write_text(to_yaml(config), encoding="utf-8")
    if load_config(path, saved=True) != config:
        raise Fault("a configuration is not read back as it was written", "round trip")


def from_command_line(arguments: list[str]) -> RunConfig | None:
    try:
        # as in a command, whose output takes every text
        with redirect_stderr(lasting(sys.stderr)):
            return parse(arguments)[0]
    except SystemExit as end:
        # the options are of the command line's library, which has printed what is wrong
        if end.code != 2:
            raise Fault(f"ended with {end.code}", "status") from None
        return None


def test_configurations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def body(case: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory(dir=tmp_path) as scratch:
            path, run = Path(scratch, "given.yaml"), Path(scratch, "run")
            write(case, path)
            overrides = {name: ODD[odd] for name, odd in case["overrides"].items()}
            for read in (
                lambda: load_config(path, overrides),
                lambda: from_command_line([str(path), *words(case)]),
            ):
                config = result_or_sentence(read, names=["config"])
                if config is not None:
                    check_round_trip(config, Path(scratch, "again.yaml"))
            run.mkdir()
            path.rename(run / "config.yaml")
            resumed = result_or_sentence(
                partial(from_command_line, ["--resume", str(run), *words(case)]), names=["config"]
            )
            if resumed is not None:
                check_round_trip(resumed, Path(scratch, "again.yaml"))
            saved = result_or_sentence(lambda: saved_config(run, overrides), names=["config"])
            if saved is not None:
                result_or_sentence(lambda: RunFolder.reopen(run, saved))
                check_round_trip(saved, Path(scratch, "again.yaml"))
            capsys.readouterr()

    try_cases(body, cases, few=10, examples=EXAMPLES)
