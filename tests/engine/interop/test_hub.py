"""Models of the Hugging Face Hub: read through huggingface_hub and its cache, and said when there is none.

The Hub is a server in this process (`local_hub.py`). Caches are in the layout of huggingface_hub, which reads them.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import unmask
from local_hub import LocalHub, commit_of, log_in
from unmask.cli import main
from unmask.data.prepare import prepare
from unmask.data.tokenizer import Tokenizer
from unmask.errors import CheckpointError, HubError, TokenizerError
from unmask.interop.find_model import find_model
from unmask.interop.hub import HubModel, NotAtHubError, hub_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def keep_in_cache(folder: Path, home: Path, repo: str = "org/name", revision: str = "main") -> Path:
    """Put the files of a folder into the cache, as a download does, and return the snapshot."""
    place = home / "hub" / f"models--{repo.replace('/', '--')}"
    snapshot = place / "snapshots" / COMMIT
    (place / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        shutil.copy(path, place / "blobs" / f"{number}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    (place / "refs").mkdir()
    (place / "refs" / revision).write_text(COMMIT)
    return snapshot


def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    others = other.state_dict()
    return all(torch.equal(value, others[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize(
    ("given", "repo", "revision", "surely"),
    [
        ("org/name", "org/name", None, False),
        ("bert-base-uncased", "bert-base-uncased", None, False),
        ("org/name@v1.0", "org/name", "v1.0", True),
        ("org/name@refs/pr/3", "org/name", "refs/pr/3", True),
        ("hf://org/name", "org/name", None, True),
        (Path("hf://org/name@v1"), "org/name", "v1", True),
        ("https://huggingface.co/org/name/", "org/name", None, True),
        (Path("https://huggingface.co/org/name/tree/v1"), "org/name", "v1", True),
        ("https://huggingface.co/org/name/blob/v1/config.json", "org/name", "v1", True),
        (Path("https://hf.co/org/name"), "org/name", None, True),
        ("https://huggingface.co/org/name.git", "org/name", None, True),
    ],
)
def test_names_and_addresses_of_models_are_understood(
    given: str | Path, repo: str, revision: str | None, surely: bool
) -> None:
    assert hub_model(given) == HubModel(repo=repo, revision=revision, surely=surely)


def test_the_command_that_downloads_a_revision_takes_any_name_of_a_branch() -> None:
    assert (
        HubModel(repo="org/name", revision="-x").download() == "`hf download org/name --revision=-x --local-dir FOLDER`"
    )
    assert "--revision 'a b'" in HubModel(repo="org/name", revision="a b").download()


@pytest.mark.parametrize(
    "given", ["./org/name", "../name", "/org/name", "~/name", "a/b/c", "a--b/c", "a..b", "name.json", "org/", "", "ä/b"]
)
def test_a_path_is_no_name_of_a_model(given: str) -> None:
    assert hub_model(given) is None


def test_a_model_is_downloaded_once_and_only_what_is_read(hub: LocalHub, model_folder: Path) -> None:
    (model_folder / "pytorch_model.bin").write_bytes(b"the same weights again")
    (model_folder / "training_args.bin").write_bytes(b"not read")
    hub.add("org/name", model_folder)
    encoder = unmask.Encoder.from_pretrained("org/name")
    assert same(encoder, unmask.Encoder.from_pretrained(model_folder))
    found = find_model("org/name")
    assert found.name == "org/name" and found.steps is None and found.run is None
    assert "pytorch_model.bin" not in {path.name for path in found.path.iterdir()}
    assert not hub.asked("training_args|GET .*pytorch_model")
    assert len(hub.asked("GET .*/resolve/.*/model.safetensors")) == 1
    for given in ("hf://org/name", "https://huggingface.co/org/name", Path("org/name")):
        assert find_model(given).path == found.path
    assert len(hub.asked("GET .*/resolve/.*/model.safetensors")) == 1


def test_weights_of_pytorch_are_taken_where_there_are_no_others(hub: LocalHub, model_folder: Path) -> None:
    expected = unmask.Encoder.from_pretrained(model_folder)
    from safetensors.torch import load_file

    torch.save(load_file(model_folder / "model.safetensors"), model_folder / "pytorch_model.bin")
    hub.add("org/name", model_folder, leave_out=("model.safetensors",))
    assert same(unmask.Encoder.from_pretrained("org/name"), expected)


def test_a_revision_is_a_branch_or_a_commit(hub: LocalHub, model_folder: Path) -> None:
    old = unmask.Encoder.from_pretrained(model_folder)
    hub.add("org/name", model_folder, revision="v1")
    unmask.PretrainingModel(old.config, seed=8).save_pretrained(model_folder)
    hub.add("org/name", model_folder)
    assert not same(unmask.Encoder.from_pretrained("org/name"), old)
    assert same(unmask.Encoder.from_pretrained("org/name@v1"), old)
    assert same(unmask.PretrainingModel.from_pretrained("org/name", revision="v1").encoder, old)
    assert find_model(f"org/name@{commit_of(hub.repos['org/name']['v1'])}").path == find_model("org/name@v1").path
    with pytest.raises(ValueError, match=r"org/name@v1 names the revision 'v1', and revision is 'main'; give one"):
        unmask.Encoder.from_pretrained("org/name@v1", revision="main")
    with pytest.raises(ValueError, match=r"revision 'v1' is for a model of the Hugging Face Hub, and .* is a folder"):
        unmask.Encoder.from_pretrained(model_folder, revision="v1")
    with pytest.raises(ValueError, match="revision must name a branch, a tag or a commit, is empty; leave it out for"):
        unmask.Encoder.from_pretrained("org/name", revision="")
    with pytest.raises(HubError, match=r"org/name of the Hugging Face Hub has no revision 'v3'; give one of v1, main"):
        unmask.Encoder.from_pretrained("org/name@v3")


def test_a_folder_of_the_name_wins(hub: LocalHub, model_folder: Path) -> None:
    shutil.copytree(model_folder, "org/name")
    assert find_model("org/name").path == Path("org/name")
    Tokenizer.load("org/name")
    assert not hub.requests


def test_every_command_takes_a_model_of_the_hub(
    hub: LocalHub, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add("org/name", model_folder)
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join("the river " * (1 + number) + "runs past the mill" for number in range(40)), "utf-8")
    store = prepare(text, tmp_path / "store", tokenizer="hf://org/name", blank_line_documents=True, workers=1)
    assert store.tokenizer_hash == Tokenizer.load(model_folder).hash
    assert main(["prepare", "--input", str(text), "--out", "again", "--tokenizer", "org/name", "--workers", "1"]) == 0
    assert main(["fill-mask", "org/name", "the [MASK]"]) == 0
    assert "org/name: 1 layers, 16 wide" in capsys.readouterr().out
    start = ["--init.from", "org/name", "--data.store", str(tmp_path / "store"), "--stream.max-length", "24"]
    short = ["--stream.micro-batch-tokens", "128", "--train.tokens-per-step", "128", "--train.steps", "1"]
    assert main(["pretrain", "--run", "run", *start, *short]) == 0
    assert main(["export", "org/name@main", "exported"]) == 0
    assert main(["evaluate", "org/name", "--store", str(tmp_path / "store"), "--split", "all"]) == 0
    assert same(unmask.Encoder.from_pretrained("exported"), unmask.Encoder.from_pretrained(model_folder))


def test_a_tokenizer_is_read_without_the_weights(hub: LocalHub, model_folder: Path) -> None:
    hub.add("org/name", model_folder)
    assert Tokenizer.load("org/name").hash == Tokenizer.load(model_folder).hash
    assert not hub.asked("resolve/.*/model.safetensors")


@pytest.mark.parametrize("reason", ["no network", "HF_HUB_OFFLINE is set"])
def test_without_the_hub_the_copy_in_the_cache_is_read(
    reason: str,
    hub: LocalHub,
    home: Path,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    snapshot = keep_in_cache(model_folder, home)
    if reason == "no network":
        without_network(monkeypatch)
    else:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert same(unmask.Encoder.from_pretrained("org/name"), unmask.Encoder.from_pretrained(model_folder))
    assert find_model(f"org/name@{COMMIT}").path == snapshot
    assert Tokenizer.load("org/name").hash == Tokenizer.load(model_folder).hash
    assert "reading the copy of org/name in its cache" in caplog.text
    with pytest.raises(NotAtHubError, match="its cache has no copy of org/name@v2"):
        find_model("org/name@v2")


def test_a_hub_that_is_down_is_one_that_cannot_be_reached(hub: LocalHub, home: Path, model_folder: Path) -> None:
    hub.add("org/name", model_folder)
    hub.failures["org/name"] = (503, "", "Service unavailable")
    with pytest.raises(NotAtHubError, match=r"cannot be reached \(it answers 503\), and its cache has no copy"):
        find_model("hf://org/name")
    keep_in_cache(model_folder, home)
    find_model("hf://org/name")


def test_without_the_hub_and_a_copy_the_command_that_downloads_it_is_named_and_works(
    hub: LocalHub, home: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/name", model_folder, revision="v1")
    with monkeypatch.context() as patched:
        without_network(patched)
        began = time.monotonic()
        with pytest.raises(HubError, match=r"cannot be reached \(ConnectError\), and its cache has no copy of") as none:
            unmask.Encoder.from_pretrained("org/name@v1")
        assert time.monotonic() - began < 5
    command = str(none.value).split("`")[1].replace("FOLDER", "downloaded").split()
    assert command[:2] == ["hf", "download"]
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "PATH": ""}
    program = [sys.executable, "-m", "huggingface_hub.cli.hf", *command[1:]]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert same(unmask.Encoder.from_pretrained("downloaded"), unmask.Encoder.from_pretrained(model_folder))


def test_a_download_that_breaks_off_goes_on_with_the_same_command(
    hub: LocalHub, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/name", model_folder)
    for error, shown in (
        (ConnectionResetError(), r"ConnectionResetError"),
        (RuntimeError("xet: closed\nat"), r"RuntimeError: xet: closed"),
    ):

        def broken(*given: object, error: Exception = error, **named: object) -> str:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr("huggingface_hub.snapshot_download", broken)
            with pytest.raises(
                HubError, match=rf"download of org/name .* broke off \({shown}\); give the same command"
            ):
                unmask.Encoder.from_pretrained("org/name")
    unmask.Encoder.from_pretrained("org/name")


def test_a_network_that_swallows_everything_is_not_waited_for(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(CheckpointError, match=r"runs/mine does not exist; .* cannot be reached \(ReadTimeout\)"):
            unmask.Encoder.from_pretrained("runs/mine")
        assert time.monotonic() - began < 5


def test_a_mistyped_folder_is_said_to_be_neither_here_nor_there(
    hub: LocalHub, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CheckpointError) as raised:
        unmask.Encoder.from_pretrained("runs/mine")
    assert str(raised.value) == (
        "runs/mine does not exist; give a run, a checkpoint of one, or a folder with config.json and weights; the "
        "Hugging Face Hub has no model runs/mine that you may read; check the name, or log in with `hf auth login` if "
        "it is private"
    )
    with pytest.raises(
        TokenizerError, match=r"runs/mine is no folder with tokenizer.json .*; the Hugging Face Hub has"
    ):
        Tokenizer.load("runs/mine")
    # what is surely a model of the Hub is not said to be a folder
    with pytest.raises(NotAtHubError, match=r"^the Hugging Face Hub has no model runs/mine that you may read"):
        Tokenizer.load("hf://runs/mine")
    hub.requests.clear()
    with pytest.raises(CheckpointError, match="does not exist; give a run"):
        unmask.Encoder.from_pretrained("./runs/mine")
    assert not hub.requests
    # the name is that of a model there, or of a folder here
    hub.add("runs/ours", model_folder)
    for name in ("runs/ours", "hf://runs/ours", model_folder):
        unmask.Encoder.from_pretrained(name)
        Tokenizer.load(name)


def test_without_huggingface_hub_the_extra_is_named(
    hub: LocalHub, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"org/name does not exist; .* pip install 'unmask\[hub\]' brings it"):
        unmask.Encoder.from_pretrained("org/name")
    with pytest.raises(NotAtHubError, match=r"^models of the Hugging Face Hub, such as org/name@v1, need hugg"):
        unmask.Encoder.from_pretrained("org/name@v1")
    # as after its installation
    monkeypatch.delitem(sys.modules, "huggingface_hub")
    hub.add("org/name", model_folder)
    hub.add("org/name", model_folder, revision="v1")
    for name in ("org/name", "org/name@v1"):
        unmask.Encoder.from_pretrained(name)


def test_what_the_hub_refuses_is_told_with_the_way_out(
    hub: LocalHub, home: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/name", model_folder)
    hub.gated.add("org/name")
    with pytest.raises(HubError, match=rf"org/name is gated .*; accept its terms at {hub.url}/org/name, log in with"):
        unmask.Encoder.from_pretrained("org/name")
    hub.gated.clear()
    hub.failures["org/name"] = (401, "", "Invalid credentials in Authorization header")
    log_in(home, "hf_wrong")
    with pytest.raises(HubError, match=r"refuses the token .* read org/name: 401 .*; log in with `hf auth login`$"):
        unmask.Encoder.from_pretrained("org/name")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match=r"; set HF_TOKEN to one that is valid .*, or unset it and log in with"):
        unmask.Encoder.from_pretrained("org/name")
    hub.failures.clear()
    # the ways out: terms accepted, a token that is valid
    unmask.Encoder.from_pretrained("org/name")


@pytest.mark.parametrize(
    ("leave_out", "message"),
    [
        (("config.json",), r"org/name of the Hugging Face Hub has no config.json, so it is no BERT model"),
        (("model.safetensors",), r"has neither model.safetensors nor pytorch_model.bin; it has tf_model.h5; take a"),
    ],
)
def test_a_repository_without_what_is_read_is_named(
    leave_out: tuple[str, ...], message: str, hub: LocalHub, model_folder: Path
) -> None:
    (model_folder / "tf_model.h5").write_bytes(b"of TensorFlow")
    hub.add("org/name", model_folder, leave_out=leave_out)
    with pytest.raises(HubError, match=message):
        unmask.Encoder.from_pretrained("org/name")
    hub.add("org/other", model_folder, leave_out=("tokenizer.json", "vocab.txt"))
    with pytest.raises(TokenizerError, match=r"has neither tokenizer.json nor vocab.txt"):
        Tokenizer.load("org/other")
