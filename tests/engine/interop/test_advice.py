"""Advice in the errors of model folders: whoever follows it gets the model."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import unmask
from advice import follow, refusal
from local_hub import LocalHub, commit_of, log_in
from unmask.errors import CheckpointError

Change = Callable[[Path], object]
Weights = dict[str, torch.Tensor]
TABLE = "bert.embeddings.word_embeddings.weight"
PROJECTION = "cls.predictions.decoder.weight"
CONFIG = unmask.EncoderConfig(
    vocab_size=40, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=12, max_positions=16
)


def set_config(**fields: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def set_weights(make: Callable[[Weights], Weights]) -> Change:
    def change(folder: Path) -> None:
        weights = make(load_file(folder / "model.safetensors"))
        save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")

    return change


def longer(name: str) -> Change:
    return set_weights(lambda weights: weights | {name: torch.cat([weights[name], weights[name][:3]])})


def renamed(old: str, new: str) -> Change:
    return set_weights(lambda weights: {name.replace(old, new, 1): value for name, value in weights.items()})


def without(begin: str) -> Change:
    return set_weights(lambda weights: {name: value for name, value in weights.items() if not name.startswith(begin)})


def all_of(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


# what is wrong with the folder, the end of the error, and what it advises
CASES: dict[str, tuple[Change, str, Change]] = {
    "more positions": (
        longer("bert.embeddings.position_embeddings.weight"),
        "set max_position_embeddings to 19",
        set_config(max_position_embeddings=19),
    ),
    "more segments": (
        longer("bert.embeddings.token_type_embeddings.weight"),
        "set type_vocab_size to 4",
        set_config(type_vocab_size=4),
    ),
    "a padded table": (
        all_of(longer(TABLE), set_weights(lambda w: w | {"cls.predictions.bias": torch.zeros(43)})),
        "set vocab_size to 43 if the table was padded",
        set_config(vocab_size=43),
    ),
    "not tied": (
        set_config(tie_word_embeddings=False),
        "set it to true if the token table is the projection, or read the encoder alone with "
        "unmask.Encoder.from_pretrained",
        set_config(tie_word_embeddings=True),
    ),
    "another prefix": (
        renamed("bert.", "mine."),
        "if they are BERT's, rename them so that they begin with 'bert.'",
        renamed("mine.", "bert."),
    ),
    "two encoders": (
        set_weights(lambda w: w | {f"other.{TABLE}": w[TABLE].clone()}),
        "save the one to be read alone",
        without("other."),
    ),
    "another class": (
        all_of(
            set_config(architectures=["MyEncoder"]),
            lambda folder: (folder / "config.json").write_text(
                json.dumps(
                    {k: v for k, v in json.loads((folder / "config.json").read_text()).items() if k != "model_type"}
                )
            ),
        ),
        "has no model_type, and architectures is ['MyEncoder'] (list); set model_type to 'bert' if it is BERT under "
        "another name",
        set_config(model_type="bert"),
    ),
    "a layer too many": (
        set_weights(
            lambda w: w | {name.replace(".0.", ".1."): v.clone() for name, v in w.items() if ".layer.0." in name}
        ),
        "for which the model of its config.json has no place; are both of one model, and num_hidden_layers the number "
        "of "
        "its layers?",
        without("bert.encoder.layer.1."),
    ),
    "no layer": (
        set_config(num_hidden_layers=2),
        "is it the folder of a BERT model?",
        set_config(num_hidden_layers=1),
    ),
    "quantized": (
        set_config(quantization_config={"bits": 4}),
        "take the folder of the model in float32, bfloat16 or float16",
        set_config(quantization_config=None),
    ),
    "whole numbers": (
        set_weights(lambda w: {name: value.to(torch.int8) for name, value in w.items()}),
        "take the folder of a model that was not quantized or compressed",
        lambda folder: unmask.PretrainingModel(CONFIG, seed=5).save_pretrained(folder),
    ),
    "no finite numbers": (
        set_weights(lambda w: w | {TABLE: w[TABLE] * torch.inf}),
        f"{TABLE} holds numbers that are no finite float32; take another checkpoint of the model",
        lambda folder: unmask.PretrainingModel(CONFIG, seed=5).save_pretrained(folder),
    ),
    "one weight twice": (
        set_weights(lambda w: w | {f"module.{TABLE}": w[TABLE].clone()}),
        "remove one of them",
        set_weights(lambda w: {name: value for name, value in w.items() if not name.startswith("module.")}),
    ),
    "several states": (
        lambda folder: in_a_bin_file(folder, lambda weights: {"model": weights, "state_dict": weights}),
        "save the model's alone",
        lambda folder: in_a_bin_file(folder, lambda weights: weights),
    ),
    "no state": (
        lambda folder: in_a_bin_file(folder, lambda weights: list(weights.values())),
        "save the model's state_dict() there",
        lambda folder: in_a_bin_file(folder, lambda weights: weights),
    ),
    "more than a state": (
        lambda folder: in_a_bin_file(folder, lambda weights: {**weights, "step": 3}),
        "save the model's state_dict() alone",
        lambda folder: in_a_bin_file(folder, lambda weights: weights),
    ),
    "a pointer": (
        lambda folder: (folder / "model.safetensors").write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
        ),
        "fetch it with `git lfs pull`",
        lambda folder: unmask.PretrainingModel(CONFIG, seed=5).save_pretrained(folder),
    ),
    "a folder for weights": (
        all_of(
            lambda folder: (folder / "model.safetensors").unlink(),
            lambda folder: (folder / "model.safetensors").mkdir(),
        ),
        "copy or download it again",
        all_of(
            lambda folder: (folder / "model.safetensors").rmdir(),
            lambda folder: unmask.PretrainingModel(CONFIG, seed=5).save_pretrained(folder),
        ),
    ),
    "an index without a map": (
        lambda folder: in_shards(folder, {}),
        "must hold 'weight_map', the file of each weight by its name, holds {} (dict); copy or download it again",
        lambda folder: in_shards(folder, None),
    ),
    "an index to another folder": (
        lambda folder: in_shards(folder, {TABLE: "../a.safetensors"}),
        f"must name a .safetensors file of its folder for {TABLE}, names '../a.safetensors' (str); copy or download it "
        "again",
        lambda folder: in_shards(folder, None),
    ),
    "a shard that is not there": (
        lambda folder: in_shards(folder, {TABLE: "model-2.safetensors"}),
        "lacks model-2.safetensors, which model.safetensors.index.json names, the download is not complete; copy or "
        "download it again",
        lambda folder: in_shards(folder, None),
    ),
    "a cut file": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:99]),
        "copy or download it again",
        lambda folder: unmask.PretrainingModel(CONFIG, seed=5).save_pretrained(folder),
    ),
    "a program in a file": (
        all_of(
            lambda folder: (folder / "model.safetensors").unlink(),
            lambda folder: torch.save(Path(), folder / "pytorch_model.bin"),
        ),
        "cannot be read, it is damaged or holds more than tensors; copy or download it again, or take a folder with "
        "safetensors",
        lambda folder: unmask.PretrainingModel(CONFIG, seed=5).save_pretrained(folder),
    ),
    "weights that lead nowhere": (
        all_of(
            lambda folder: (folder / "model.safetensors").unlink(),
            lambda folder: (folder / "model.safetensors").symlink_to("gone"),
        ),
        "model.safetensors is a link to gone, which is not there; copy or download it again",
        all_of(
            lambda folder: (folder / "model.safetensors").unlink(),
            lambda folder: unmask.PretrainingModel(CONFIG, seed=5).save_pretrained(folder),
        ),
    ),
    "no head": (
        without("cls."),
        "has no masked-LM head (no weights named cls.predictions.*); give a masked language model, such as a run of "
        "`unmask pretrain`, read its encoder with unmask.Encoder.from_pretrained, or pass heads=('mlm',) to "
        "PretrainingModel.from_pretrained, which makes a new one",
        lambda folder: (
            unmask.Encoder.from_pretrained(folder),
            unmask.PretrainingModel.from_pretrained(folder, heads=("mlm",)).save_pretrained(folder),
        ),
    ),
    "an activation": (
        set_config(hidden_act="relu"),
        "hidden_act must be one of 'gelu', 'gelu_new', 'gelu_pytorch_tanh', is 'relu'",
        set_config(hidden_act="gelu"),
    ),
}


def in_shards(folder: Path, places: dict[str, str] | None) -> None:
    """Put the weights into two files and an index; `places` are what it names, those of the weights by default."""
    unmask.PretrainingModel(CONFIG, seed=5).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    named = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(weights)}
    for file in set(named.values()):
        save_file({name: value for name, value in weights.items() if named[name] == file}, folder / file)
    index = {"weight_map": named if places is None else places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def in_a_bin_file(folder: Path, make: Callable[[Weights], object]) -> None:
    """Put the weights into a pytorch_model.bin, whose contents `make` makes of them."""
    made = unmask.PretrainingModel(CONFIG, seed=5)
    made.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(make(weights), folder / "pytorch_model.bin")


@pytest.mark.parametrize("case", CASES)
def test_a_folder_changed_as_its_error_advises_is_read(case: str, tmp_path: Path) -> None:
    broken, advice, mended = CASES[case]
    unmask.PretrainingModel(CONFIG, seed=5).save_pretrained(tmp_path)
    broken(tmp_path)
    with pytest.raises(CheckpointError) as raised:
        unmask.PretrainingModel.from_pretrained(tmp_path)
    assert re.search(rf"(; |: | |/){re.escape(advice)}$", str(raised.value)), raised.value
    mended(tmp_path)
    assert unmask.PretrainingModel.from_pretrained(tmp_path).config.num_layers == 1


@pytest.mark.parametrize("other", [PROJECTION, "cls.predictions.decoder.bias"])
def test_the_encoder_of_a_folder_with_an_untied_projection_is_read(other: str, tmp_path: Path) -> None:
    unmask.PretrainingModel(CONFIG, seed=5).save_pretrained(tmp_path)
    original = TABLE if other == PROJECTION else "cls.predictions.bias"
    set_weights(lambda weights: weights | {other: weights[original] + 1})(tmp_path)
    what = "projection differs from the token table" if other == PROJECTION else "bias differs from that of the head"
    with pytest.raises(
        CheckpointError,
        match=rf"the output {what} \({other}\), and both are one tensor here; read the encoder alone with unmask\.Enc",
    ):
        unmask.PretrainingModel.from_pretrained(tmp_path)
    assert unmask.Encoder.from_pretrained(tmp_path).config == CONFIG


def test_the_folder_inside_that_an_error_names_is_read(tmp_path: Path) -> None:
    unmask.PretrainingModel(CONFIG).save_pretrained(tmp_path / "trainer/checkpoint-10")
    with pytest.raises(CheckpointError) as raised:
        unmask.Encoder.from_pretrained(tmp_path / "trainer")
    advised = str(raised.value).rpartition("; ")[2].removesuffix(" has one")
    assert unmask.Encoder.from_pretrained(advised).config == CONFIG


def test_weights_under_another_name_are_read_when_renamed(tmp_path: Path) -> None:
    unmask.PretrainingModel(CONFIG).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "best.safetensors")
    with pytest.raises(CheckpointError, match=r"; best\.safetensors is there, rename it if it holds the weights$"):
        unmask.Encoder.from_pretrained(tmp_path)
    (tmp_path / "best.safetensors").rename(tmp_path / "model.safetensors")
    assert unmask.Encoder.from_pretrained(tmp_path).config == CONFIG


def test_the_weights_of_another_program_or_none_are_taken_from_a_folder_that_has_them(tmp_path: Path) -> None:
    unmask.PretrainingModel(CONFIG).save_pretrained(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").unlink()
    looked = f"{tmp_path} has no weights; looked for model.safetensors and pytorch_model.bin, whole or in shards"
    read = lambda: unmask.Encoder.from_pretrained(tmp_path)  # noqa: E731
    assert refusal(read) == f"{looked}; copy or download them too"
    (tmp_path / "tf_model.h5").write_bytes(b"")
    told = refusal(read)
    assert told.startswith(f"{looked}; tf_model.h5 is ") and told.endswith(
        ", convert it to safetensors or take a folder that has them"
    )
    (tmp_path / "model.safetensors").write_bytes(whole)
    assert read().config == CONFIG


def test_what_is_no_folder_is_named_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "model"
    unmask.PretrainingModel(CONFIG).save_pretrained(folder)
    read = unmask.Encoder.from_pretrained
    follow(
        lambda: read(folder / "config.json"),
        "config.json is a file; give the folder that it lies in, with config.json and weights",
        lambda: read(folder),
    )
    near = refusal(lambda: read(tmp_path / "runs" / "mode"))
    assert near == f"{tmp_path}/runs/mode does not exist; did you mean {folder}?"
    # a name that may be one of the Hub
    assert refusal(lambda: read("runs/mode")) == "runs/mode does not exist; did you mean runs/model?"
    told = refusal(lambda: read("runs/zzz"))
    assert told.startswith(
        "runs/zzz does not exist; give a run, a checkpoint of one, or a folder with config.json and weights; "
    )
    read("runs/model")
    (tmp_path / "link").symlink_to("gone")
    follow(
        lambda: read(tmp_path / "link"),
        "is a link to gone, which is not there; give the folder itself",
        lambda: read(folder),
    )
    follow(
        lambda: read(tmp_path / ("a" * 300)),
        "cannot be the name of a folder ( ... ); give another",
        lambda: read(folder),
    )
    (folder / "config.json").rename(folder / "kept")
    (folder / "config.json").symlink_to("gone")
    follow(
        lambda: read(folder),
        "config.json is a link to gone, which is not there; copy or download it again",
        lambda: ((folder / "config.json").unlink(), (folder / "kept").rename(folder / "config.json"), read(folder)),
    )
    told = refusal(lambda: read(tmp_path / "runs"))
    assert (
        "holds neither a run (config.yaml) nor a model (config.json); give the folder of a Hugging Face BERT model"
        in told
    )
    (folder / "adapter_config.json").write_text("{}")
    follow(
        lambda: read(folder),
        "holds an adapter (adapter_config.json), which is not read; merge it into its model with "
        "peft's merge_and_unload and save that",
        lambda: ((folder / "adapter_config.json").unlink(), read(folder)),
    )
    follow(
        lambda: read(folder, revision="v1"),
        f"from_pretrained: revision 'v1' is for a model of the Hugging Face Hub, and {folder} is a folder here; leave "
        "revision out",
        lambda: read(folder),
    )


def test_a_config_that_cannot_be_read_is_made_readable_or_copied_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unmask.PretrainingModel(CONFIG).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    whole, read_bytes = path.read_bytes(), Path.read_bytes

    def refuses(self: Path) -> bytes:
        if self == path:
            raise PermissionError(13, "Permission denied")
        return read_bytes(self)

    read = lambda: unmask.Encoder.from_pretrained(tmp_path)  # noqa: E731
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", refuses)
        assert refusal(read) == f"{path} cannot be read (Permission denied); make it readable"
    assert read().config == CONFIG
    for damaged, told in (
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "is a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`",
        ),
        (b"{", "cannot be read as JSON: ... ; copy or download it again"),
        (b"\xff{}", "cannot be read as JSON: byte 0 is not UTF-8; save it as UTF-8 or download it again"),
        (b"[]", "must hold a JSON object, holds [] (list); copy or download it again"),
    ):
        path.write_bytes(damaged)
        follow(read, told, lambda: (path.write_bytes(whole), read()))


def test_a_wrapped_module_is_merged_or_its_parametrization_removed(tmp_path: Path) -> None:
    from torch.nn.utils import parametrizations, parametrize

    encoder = unmask.Encoder(CONFIG)
    parametrizations.weight_norm(
        encoder.layers[0].feed_forward.up
        if hasattr(encoder.layers[0], "feed_forward")
        else next(module for module in encoder.layers[0].modules() if isinstance(module, torch.nn.Linear))
    )
    told = refusal(lambda: encoder.save_pretrained(tmp_path))
    assert (
        "because a module was wrapped or parametrized; merge an adapter with peft's merge_and_unload(), or take" in told
    )
    for module in encoder.modules():
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
    encoder.save_pretrained(tmp_path)
    assert unmask.Encoder.from_pretrained(tmp_path).config == CONFIG


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    unmask.PretrainingModel(CONFIG).save_pretrained(tmp_path / "made")
    return tmp_path / "made"


def from_hub(given: str = "org/name") -> unmask.Encoder:
    return unmask.Encoder.from_pretrained(given)


def test_a_repository_without_what_is_read_gets_it_or_another_is_taken(hub: LocalHub, folder: Path) -> None:
    hub.add("org/whole", folder)
    hub.add("org/name", folder, leave_out=("model.safetensors",))
    follow(
        from_hub,
        "org/name of the Hugging Face Hub has neither model.safetensors nor pytorch_model.bin; take a model with "
        "weights "
        "of PyTorch, or convert these",
        lambda: from_hub("org/whole"),
    )
    hub.repos["org/name"]["main"]["tf_model.h5"] = b""
    follow(
        from_hub,
        "has neither model.safetensors nor pytorch_model.bin; it has tf_model.h5; take a model with weights of "
        "PyTorch, or",
        # converted
        lambda: (hub.add("org/name", folder), from_hub()),
    )
    hub.add("org/bare", folder, leave_out=("config.json",))
    follow(
        lambda: from_hub("org/bare"),
        "org/bare of the Hugging Face Hub has no config.json, so it is no BERT model; take another",
        lambda: from_hub("org/whole"),
    )


@pytest.mark.parametrize("listed", [True, False])
def test_a_revision_that_is_not_there_is_one_of_those_or_a_commit_or_left_out(
    listed: bool, hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/name", folder)
    hub.add("org/name", folder, revision="v1")
    commit = commit_of(hub.repos["org/name"]["main"])
    told = "give one of main, v1, or leave it out"
    if not listed:
        monkeypatch.setattr("huggingface_hub.HfApi.list_repo_refs", None)
        told = "give a branch, a tag or the hash of a commit, or leave it out"
    follow(
        lambda: from_hub("org/name@v3"),
        f"org/name of the Hugging Face Hub has no revision 'v3'; {told}",
        *(lambda name=name: from_hub(f"org/name@{name}") for name in ("main", "v1", *([] if listed else [commit]))),
        from_hub,
    )


@pytest.mark.parametrize("said", ["", "Too old"])
def test_what_the_hub_refuses_is_asked_for_again(said: str, hub: LocalHub, folder: Path, home: Path) -> None:
    from unmask.interop.hub_upload import Uploader

    def upload() -> None:
        Uploader("org/name", private=False, mark="x").upload(folder, revision="v2", message="m")

    hub.add("org/name", folder)
    log_in(home)
    shown = f" ({said})" if said else ""
    for deed, request in (("read org/name", from_hub), ("upload to org/name", upload)):
        hub.failures["org/name"] = (410, "", said)
        follow(
            request,
            f"the Hugging Face Hub refuses to {deed}: 410{shown}; wait and give the same command again, or upgrade "
            "huggingface_hub",
            lambda request=request: (hub.failures.clear(), request()),
        )
    for status in (401, 403):
        hub.failures["org/name"] = (status, "", said)
        follow(
            upload,
            f"the Hugging Face Hub refuses the token that was sent to upload to org/name: {status}{shown}; log in with "
            "`hf auth login`",
            lambda: (hub.failures.clear(), log_in(home), upload()),
        )


def test_an_upload_that_breaks_off_is_done_again(
    hub: LocalHub, folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    from unmask.interop.hub_upload import Uploader

    def upload() -> None:
        Uploader("org/name", private=False, mark="x").upload(folder, revision=None, message="m")

    def breaks(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("Data processing error")

    hub.add("org/name", folder, leave_out=("model.safetensors",))
    log_in(home)
    with monkeypatch.context() as patched:
        patched.setattr(HfApi, "upload_folder", breaks)
        assert refusal(upload) == (
            "export: the Hugging Face Hub cannot be reached (RuntimeError: Data processing error), so the upload to "
            "org/name is not complete; give the same command again when the network is there"
        )
    upload()
    assert from_hub().config == CONFIG


def test_without_the_hub_a_downloaded_folder_is_given(
    hub: LocalHub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import snapshot_download

    hub.add("org/name", folder, revision="v1")
    with monkeypatch.context() as patched:
        patched.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        told = refusal(lambda: from_hub("org/name@v1"))
    assert told == (
        "the Hugging Face Hub cannot be reached (HF_HUB_OFFLINE is set), and its cache has no copy of org/name@v1; "
        "where "
        "there is a network, run `hf download org/name --revision v1 --local-dir FOLDER`, and give that folder"
    )
    snapshot_download("org/name", revision="v1", local_dir=tmp_path / "copy")
    assert from_hub(str(tmp_path / "copy")).config == CONFIG


def test_a_gated_model_and_a_refused_token_are_let_in(
    hub: LocalHub, folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/name", folder)
    hub.gated.add("org/name")
    follow(
        from_hub,
        f"org/name is gated at the Hugging Face Hub; accept its terms at {hub.url}/org/name, log in with `hf auth "
        f"login`, "
        "and give the same command again",
        lambda: (hub.gated.clear(), log_in(home), from_hub()),
    )
    for said, shown in (("", ""), ("Expired", " (Expired)")):
        hub.add(f"org/a{said.lower()}", folder)
        given = f"org/a{said.lower()}"
        hub.failures[given] = (403, "", said)
        begin = f"the Hugging Face Hub refuses the token that was sent to read {given}: 403{shown}; "
        assert refusal(lambda given=given: from_hub(given)) == f"{begin}log in with `hf auth login`"  # type: ignore[misc]
        with monkeypatch.context() as patched:
            patched.setenv("HF_TOKEN", "hf_wrong")
            told = refusal(lambda given=given: from_hub(given))  # type: ignore[misc]
        assert told.startswith(begin) and told.endswith(
            "set HF_TOKEN to one that is valid and has the right, or unset it and log in with `hf auth login`"
        )
        hub.failures.clear()
        from_hub(given)
    hub.add("org/name", folder, revision="v1")
    for given, revision, told in (
        ("org/name@v1", "main", "org/name@v1 names the revision 'v1', and revision is 'main'; give one"),
        ("org/name", "", "revision must name a branch, a tag or a commit, is empty; leave it out for the newest state"),
    ):
        follow(
            lambda given=given, revision=revision: unmask.Encoder.from_pretrained(given, revision=revision),  # type: ignore[misc]
            told,
            lambda given=given: unmask.Encoder.from_pretrained(given),  # type: ignore[misc]
        )
    assert unmask.Encoder.from_pretrained("org/name", revision="main").config == CONFIG


def test_a_run_without_a_whole_checkpoint_waits_goes_on_or_is_another(folder: Path, tmp_path: Path) -> None:
    from unmask.train.checkpoint.checkpoints import Checkpoints

    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("seed: 1\n")

    def save(run: Path) -> None:
        checkpoints = Checkpoints(folder=run / "checkpoints", keep=2)
        checkpoints.save(
            10, lambda target: shutil.copytree(folder, target, dirs_exist_ok=True) and None, bytes_needed=0
        )

    read = lambda: unmask.Encoder.from_pretrained(run)  # noqa: E731
    follow(
        read,
        f"{run} has no checkpoint yet; wait for the first, after train.save_every steps, or continue it with `unmask "
        f"pretrain --resume {run}`",
        lambda: (save(run), read()),
    )
    weights = run / "checkpoints" / "step-000010" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    told = refusal(read)
    assert told.startswith(f"no checkpoint in {run} is whole: ") and told.endswith("; start a new run")
    follow(
        lambda: unmask.Encoder.from_pretrained(weights.parent),
        "; copy it again, or take another checkpoint of the run",
        lambda: (weights.write_bytes(whole), unmask.Encoder.from_pretrained(weights.parent)),
    )


def test_a_model_that_transformers_would_compute_otherwise_is_saved_for_unmask_alone(tmp_path: Path) -> None:
    from dataclasses import replace

    model = unmask.PretrainingModel(replace(CONFIG, causal=True))
    follow(
        lambda: model.save_pretrained(tmp_path / "model"),
        "cannot compute this model, which has ... ; keep the checkpoint, or save with for_transformers=False, for "
        "unmask's "
        "from_pretrained alone",
        lambda: model.save_pretrained(tmp_path / "model", for_transformers=False),
    )
    assert unmask.PretrainingModel.from_pretrained(tmp_path / "model").encoder.config.causal


def test_a_dropout_that_is_no_rate_is_left_out(folder: Path) -> None:
    follow(
        lambda: unmask.Encoder.from_pretrained(folder, dropout=1.5),
        "from_pretrained: dropout must be a number of at least 0 and below 1, got 1.5; leave it out for the rates in "
        "config.json",
        lambda: unmask.Encoder.from_pretrained(folder),
        lambda: unmask.Encoder.from_pretrained(folder, dropout=0.5),
    )
