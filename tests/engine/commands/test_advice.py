"""What the errors of export and fill-mask advise: each is followed here, and then there is a model or a prediction."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import unmask
from advice import Action, follow, refusal
from local_hub import LocalHub, log_in
from unmask.config import load_config, to_yaml


def export(model: Path, *out: str, **options: Any) -> Action:
    """Export to a new folder of this name, if one is given."""

    def write() -> None:
        for name in out:
            shutil.rmtree(name, ignore_errors=True)
        unmask.export(model, *out, **options)

    return write


def test_a_text_gets_a_mask_and_is_shortened(model_folder: Path) -> None:
    def fill(text: str) -> Action:
        return lambda: unmask.fill_mask(model_folder, text)

    follow(
        fill("the river"),
        "fill-mask: 'the river' has no [MASK]; put one where a word is to be predicted",
        fill("the [MASK]"),
    )
    follow(
        fill("the <mask>"),
        "fill-mask: 'the <mask>' has no [MASK]; write it so, in capitals and square brackets",
        fill("the [MASK]"),
    )
    follow(
        fill("the " * 40 + "[MASK]"),
        "fill-mask: the text has 43 tokens, the model reads 24; shorten it",
        fill("the " * 21 + "[MASK]"),
    )


def test_a_model_that_cannot_fill_a_mask_is_replaced_by_another(run_folder: Path, tmp_path: Path) -> None:
    import torch

    trained = {"objective.clm": 1, "objective.mlm": 0, "model.causal": True}
    other = shutil.copytree(run_folder, tmp_path / "other")
    (other / "config.yaml").write_text(to_yaml(load_config(None, trained)))
    follow(
        lambda: unmask.fill_mask(other, "the [MASK]"),
        f"{other}/checkpoints/step-000020 was trained without objective.mlm and never learnt to fill a [MASK]; take a "
        f"run "
        "with it",
        lambda: unmask.fill_mask(run_folder, "the [MASK]"),
    )
    model = unmask.PretrainingModel.from_pretrained(run_folder)
    with torch.no_grad():
        model.encoder.embeddings.word.weight[5:] = 3e38
    model.save_pretrained(tmp_path / "diverged")
    for path in (run_folder / "checkpoints" / "step-000020").glob("*token*"):
        shutil.copy(path, tmp_path / "diverged")
    shutil.copy(run_folder / "checkpoints" / "step-000020" / "vocab.txt", tmp_path / "diverged")
    follow(
        lambda: unmask.fill_mask(tmp_path / "diverged", "the [MASK]"),
        "fill-mask: the model gives scores that are not finite, so its weights are damaged or its training diverged; "
        "take "
        "another checkpoint",
        lambda: unmask.fill_mask(run_folder / "checkpoints" / "step-000010", "the [MASK]"),
    )


def test_options_of_an_export_are_mended(hub: LocalHub, run_folder: Path) -> None:
    push: dict[str, Any] = {"push_to": "org/name"}
    follow(
        export(run_folder),
        "export: needs the folder to write, OUT, or --push-to ORG/NAME to upload the model",
        export(run_folder, "out"),
        export(run_folder, **push),
    )
    for option, given in (("--private", {"private": True}), ("--revision", {"revision": "v1"})):
        hub.repos.clear()
        follow(
            export(run_folder, "out", **given),
            f"export: {option} is about an upload; give --push-to ORG/NAME too, or leave it out",
            export(run_folder, "out", **push, **given),
            export(run_folder, "out"),
        )
    follow(
        export(run_folder, **push, every_checkpoint=True, revision="v1"),
        "export: --every-checkpoint names its branches by their steps and the newest one main; leave --revision out",
        export(run_folder, **push, every_checkpoint=True),
    )
    follow(
        export(run_folder, "out", license="Apache 2"),
        "export: --license must be an identifier of the Hugging Face Hub, such as apache-2.0, mit, cc-by-4.0 or "
        "other, got "
        "'Apache 2'",
        *(export(run_folder, "out", license=name) for name in ("apache-2.0", "mit", "cc-by-4.0", "other")),
    )
    follow(
        export(run_folder, "out", languages=["English"]),
        "export: --language must be codes of ISO 639, such as en, de or zh, or multilingual, got 'English'",
        *(export(run_folder, "out", languages=[code]) for code in ("en", "de", "zh", "multilingual")),
    )
    follow(
        export(run_folder, push_to="name"),
        "export: --push-to must be ORG/NAME, your name or your organisation at the Hugging Face Hub and a name for the "
        "model, got 'name'",
        export(run_folder, **push),
    )


def test_checkpoints_are_those_of_a_run(hub: LocalHub, run_folder: Path, model_folder: Path) -> None:
    push: dict[str, Any] = {"push_to": "org/name", "every_checkpoint": True}
    one = run_folder / "checkpoints" / "step-000010"
    follow(
        export(one, **push),
        f"export: {one} is one checkpoint; give its run, {run_folder}, with --every-checkpoint, or leave that out",
        export(run_folder, **push),
        export(one, push_to="org/name"),
    )
    follow(
        export(model_folder, **push),
        f"export: {model_folder} is no run, so --every-checkpoint finds none; leave it out",
        export(model_folder, push_to="org/name"),
    )


def test_an_export_has_a_new_folder_and_a_tokenizer(run_folder: Path, tmp_path: Path, model_folder: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    follow(
        lambda: unmask.export(run_folder, tmp_path / "full"),
        f"{tmp_path}/full exists and is not an empty folder; choose another name",
        lambda: unmask.export(run_folder, tmp_path / "other"),
    )
    bare = tmp_path / "bare"
    shutil.copytree(
        model_folder, bare, ignore=lambda folder, names: [name for name in names if "token" in name or "voc" in name]
    )
    follow(
        lambda: unmask.export(bare, tmp_path / "out"),
        f"{bare} has no tokenizer.json and no vocab.txt; put the model's tokenizer there first",
        lambda: (shutil.copy(model_folder / "vocab.txt", bare), unmask.export(bare, tmp_path / "out")),
    )


def test_a_model_that_transformers_cannot_compute_is_read_by_unmask(model_folder: Path, tmp_path: Path) -> None:
    model = unmask.PretrainingModel.from_pretrained(model_folder)
    unmask.PretrainingModel(replace(model.encoder.config, causal=True)).save_pretrained(
        model_folder, for_transformers=False
    )
    told = refusal(lambda: unmask.export(model_folder, tmp_path / "out"))
    assert f"{model_folder}: transformers cannot compute this model, which has " in told
    call = told.partition("; read it with ")[2]
    assert eval(call, {"unmask": unmask}).encoder.config.causal


def test_a_token_and_a_network_are_needed(
    hub: LocalHub, run_folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = export(run_folder, push_to="org/name")
    (home / "token").unlink()
    told = "export: --push-to needs a token of the Hugging Face Hub that may write; log in with `hf auth login`, or set"
    assert told in refusal(upload)
    with monkeypatch.context() as patched:
        patched.setenv("HF_TOKEN", "hf_right")
        upload()
    log_in(home)
    with monkeypatch.context() as patched:
        patched.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert refusal(export(run_folder, "whole", push_to="org/name")) == (
            "export: HF_HUB_OFFLINE is set, so nothing is uploaded to org/name; unset it; whole is whole, so leave it "
            "out "
            "of the command that you give again"
        )
    upload()
    hub.private["org/name"] = False
    follow(
        export(run_folder, push_to="org/name", private=True),
        "export: org/name exists at the Hugging Face Hub and is public; make it private in its settings, or leave "
        "--private out",
        lambda: (hub.private.update({"org/name": True}), export(run_folder, push_to="org/name", private=True)()),
        upload,
    )
