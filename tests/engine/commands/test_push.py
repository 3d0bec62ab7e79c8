"""`unmask export --push-to`: a repository with weights, config, tokenizer and card, and nothing if anything is wrong.

The Hub is a server in this process (`local_hub.py`), to which the real huggingface_hub uploads.
"""

from __future__ import annotations

import logging
import re
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import unmask
from local_hub import LocalHub
from unmask.cli import main
from unmask.commands.model_card import MARK
from unmask.errors import HubError, UnmaskError

FILES = {"README.md", "config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json"}
FILES |= {"tokenizer_config.json", "vocab.txt"}


def uploads(hub: LocalHub) -> list[str]:
    return hub.asked("POST .*/(create|branch|preupload|commit)")


def test_a_run_is_uploaded_and_read_back(
    hub: LocalHub, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run_folder), "--push-to", "org/name", "--license", "mit"]) == 0
    assert set(hub.repos["org/name"]["main"]) - {".gitattributes"} == FILES
    assert not hub.private["org/name"]
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"{hub.url}/org/name: {', '.join(sorted(FILES))}"
    assert re.fullmatch(r"org/name: .*step-000020, 20 steps; transformers.*\('org/name'\) loads it", told[1])
    # nothing is left here
    assert list(Path.cwd().iterdir()) == []
    card = hub.repos["org/name"]["main"]["README.md"].decode()
    assert "license: mit\n" in card and "# org/name\n" in card
    assert 'AutoModelForMaskedLM.from_pretrained("org/name")' in card
    found = unmask.Encoder.from_pretrained("org/name").state_dict()
    expected = unmask.Encoder.from_pretrained(run_folder).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_metadata_of_the_card_is_read_by_huggingface_hub(hub: LocalHub, run_folder: Path) -> None:
    from huggingface_hub import ModelCard

    exported = unmask.export(run_folder, "out", push_to="org/name", license="apache-2.0", languages=["en"])
    assert exported.folder == Path("out")
    assert (exported.folder / "README.md").read_bytes() == hub.repos["org/name"]["main"]["README.md"]
    data = ModelCard.load("out/README.md").data.to_dict()
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "fill-mask")
    assert (data["license"], data["language"]) == ("apache-2.0", ["en"])


def test_a_revision_is_a_branch_of_its_own(hub: LocalHub, run_folder: Path) -> None:
    exported = unmask.export(run_folder, push_to="org/name", revision="v1", private=True)
    assert hub.private["org/name"] is True
    assert set(hub.repos["org/name"]["main"]) == {".gitattributes"}
    assert set(hub.repos["org/name"]["v1"]) - {".gitattributes"} == FILES
    [upload] = exported.uploads
    assert (upload.revision, upload.url) == ("v1", f"{hub.url}/org/name/tree/v1")
    assert unmask.export(run_folder, push_to="org/name@v2").uploads[0].revision == "v2"


def test_every_checkpoint_becomes_a_branch_and_the_newest_is_main(
    hub: LocalHub, run_folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    other = unmask.PretrainingModel(unmask.Encoder.from_pretrained(run_folder).config, seed=9)
    from unmask.train.checkpoint.checkpoints import Checkpoints

    def write(folder: Path) -> None:
        shutil.copytree(run_folder / "checkpoints/step-000010", folder, dirs_exist_ok=True)
        (folder / "manifest.json").unlink()
        other.save_pretrained(folder)

    checkpoints = Checkpoints(folder=run_folder / "checkpoints", keep=9)
    checkpoints.save(30, write, bytes_needed=0)
    (checkpoints.save(15, write, bytes_needed=0) / "config.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        assert main(["export", str(run_folder), "--push-to", "org/name", "--every-checkpoint"]) == 0
    branches = hub.repos["org/name"]
    assert set(branches) == {"main", "step-000010", "step-000020", "step-000030"}
    assert branches["main"]["model.safetensors"] == branches["step-000030"]["model.safetensors"]
    assert branches["main"]["model.safetensors"] != branches["step-000020"]["model.safetensors"]
    told = capsys.readouterr()
    assert [line.partition(": ")[0].removeprefix(f"{hub.url}/org/name") for line in told.out.splitlines()[:4]] == [
        *("/tree/step-000010", "/tree/step-000020", "/tree/step-000030"),
        "",
    ]
    assert "step-000015: config.json has 2 bytes" in told.err + caplog.text
    read = unmask.PretrainingModel.from_pretrained("org/name@step-000030").state_dict()
    assert all(torch.equal(read[name], value) for name, value in other.state_dict().items())


def test_files_of_an_earlier_model_are_removed_and_other_files_stay(hub: LocalHub, model_folder: Path) -> None:
    old = {"pytorch_model.bin": b"old", "model-00001-of-00002.safetensors": b"old", "notes.txt": b"mine"}
    hub.repos["org/name"] = {"main": dict(old)}
    unmask.export(model_folder, push_to="org/name")
    assert set(hub.repos["org/name"]["main"]) == FILES | {"notes.txt"}


def test_a_card_that_was_written_by_hand_stays(
    hub: LocalHub, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repos["org/name"] = {"main": {"README.md": b"# by hand"}}
    assert main(["export", str(model_folder), "--push-to", "org/name"]) == 0
    assert hub.repos["org/name"]["main"]["README.md"] == b"# by hand"
    assert "; the README.md there was written by hand and stays" in capsys.readouterr().out
    # one that export wrote is replaced, unless its mark was taken out
    for text, kept in ((f"{MARK} old", False), ("old", True)):
        hub.repos["org/name"]["main"]["README.md"] = text.encode()
        [upload] = unmask.export(model_folder, push_to="org/name").uploads
        assert upload.kept_card == kept
        assert (hub.repos["org/name"]["main"]["README.md"] == text.encode()) == kept


@pytest.mark.parametrize("wrong", ["tokenizer", "checkpoint", "out", "older checkpoint"])
def test_nothing_is_uploaded_if_the_checks_here_fail(
    wrong: str, hub: LocalHub, run_folder: Path, model_folder: Path
) -> None:
    given: dict[str, Any] = {"model": run_folder, "push_to": "org/name"}
    if wrong == "tokenizer":
        (model_folder / "vocab.txt").unlink()
        (model_folder / "tokenizer.json").unlink()
        given["model"] = model_folder
    elif wrong == "checkpoint":
        given["model"] = run_folder / "checkpoints/step-000020"
        (given["model"] / "config.json").write_text("{}")
    elif wrong == "out":
        Path("out").mkdir()
        Path("out/mine").touch()
        given["out"] = "out"
    else:
        from unmask.data.tokenizer import Tokenizer
        from unmask.train.checkpoint.checkpoints import Checkpoints

        def write(folder: Path) -> None:
            """Write a whole checkpoint with a tokenizer of more tokens than its model has."""
            shutil.copytree(model_folder, folder, dirs_exist_ok=True)
            words = [f"{one}{other}" for one in "abcdefghij" for other in "klmnopqrst"]
            Tokenizer.train([" ".join(words)] * 4, 300).save(folder)

        Checkpoints(folder=run_folder / "checkpoints", keep=9).save(5, write, bytes_needed=0)
        given["every_checkpoint"] = True
    with pytest.raises(UnmaskError):
        unmask.export(**given)
    assert not uploads(hub)


@pytest.mark.parametrize("name", ["name", "./org/name", "a/b/c", "org/na me", "", "/org/name"])
def test_a_name_that_is_not_one_of_the_hub_is_refused(name: str, hub: LocalHub, run_folder: Path) -> None:
    with pytest.raises(HubError, match=r"export: --push-to must be ORG/NAME, your name or your org.*, got "):
        unmask.export(run_folder, push_to=name)
    assert not hub.requests


def test_without_a_token_the_way_to_one_is_told_and_works(
    hub: LocalHub, home: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "token").unlink()
    assert main(["export", str(run_folder), "--push-to", "org/name"]) == 2
    assert capsys.readouterr().err == (
        "unmask: export: --push-to needs a token of the Hugging Face Hub that may write; log in with `hf auth login`, "
        "or set HF_TOKEN\n"
    )
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match=r"refuses the token that was sent to upload to org/name: 401 .*; set HF_TOKEN"):
        unmask.export(run_folder, push_to="org/name")
    assert not hub.repos
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    unmask.export(run_folder, push_to="org/name")
    assert "main" in hub.repos["org/name"]


def test_without_huggingface_hub_the_extra_is_named(
    hub: LocalHub, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(HubError, match=r"--push-to needs huggingface_hub; pip install 'unmask\[hub\]' brings it"):
        unmask.export(run_folder, push_to="org/name")
    # as after its installation
    monkeypatch.delitem(sys.modules, "huggingface_hub")
    unmask.export(run_folder, push_to="org/name")
    assert "main" in hub.repos["org/name"]


def test_without_a_network_the_folder_here_is_kept(
    hub: LocalHub, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(
            HubError, match=r"cannot be reached \(ConnectError\), so the upload to org/name is not comp"
        ):
            unmask.export(run_folder, "out", push_to="org/name")
    assert {path.name for path in Path("out").iterdir()} == FILES
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set, so nothing is uploaded to org/name; unset it"):
        unmask.export(run_folder, push_to="org/name")


def test_private_is_not_ignored_where_the_repository_is_public(hub: LocalHub, run_folder: Path) -> None:
    unmask.export(run_folder, push_to="org/name")
    with pytest.raises(HubError, match=r"org/name exists at the Hugging Face Hub and is public; make it private in"):
        unmask.export(run_folder, push_to="org/name", private=True)
    # as the message says
    hub.private["org/name"] = True
    unmask.export(run_folder, push_to="org/name", private=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "needs the folder to write, OUT, or --push-to ORG/NAME to upload the model"),
        ({"out": "out", "private": True}, "--private is about an upload; give --push-to ORG/NAME too, or leave it out"),
        ({"out": "out", "revision": "v1"}, "--revision is about an upload"),
        ({"out": "out", "every_checkpoint": True}, "--every-checkpoint is about an upload"),
        ({"push_to": "org/name", "every_checkpoint": True, "revision": "v1"}, "leave --revision out"),
        ({"push_to": "org/name@v2", "revision": "v1"}, "names the revision 'v2', and revision is 'v1'; give one"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    given: dict[str, Any], message: str, hub: LocalHub, run_folder: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        unmask.export(run_folder, **given)
    assert not hub.requests


def test_every_checkpoint_needs_a_run(hub: LocalHub, model_folder: Path, run_folder: Path) -> None:
    checkpoint = run_folder / "checkpoints/step-000010"
    with pytest.raises(UnmaskError, match=rf"step-000010 is one checkpoint; give its run, {run_folder}, with --every"):
        unmask.export(checkpoint, push_to="org/name", every_checkpoint=True)
    with pytest.raises(UnmaskError, match="is no run, so --every-checkpoint finds none; leave it out"):
        unmask.export(model_folder, push_to="org/name", every_checkpoint=True)
    assert not uploads(hub)
    unmask.export(model_folder, push_to="org/name")
