"""`unmask export`: a folder that `transformers` loads, and nothing overwritten."""

import json
import re
import resource
from pathlib import Path

import pytest

from unmask.cli import main


def test_exported_folder_gives_the_same_logits_in_transformers(run_folder: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    import torch

    from unmask import PretrainingModel, pack

    out = tmp_path / "exported"
    assert main(["export", str(run_folder), str(out)]) == 0
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(out).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    ids = tokenizer("the old cat")["input_ids"]
    ours = PretrainingModel.from_pretrained(run_folder / "checkpoints" / "step-000020")
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0]
        torch.testing.assert_close(ours.mlm_logits(ours(pack([ids]))), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("heads", "named"), [(("mlm",), "AutoModelForMaskedLM"), (("mlm", "nsp"), "AutoModelForPreTraining")]
)
def test_the_class_that_export_names_loads_without_a_warning(
    model_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], heads: tuple[str, ...], named: str
) -> None:
    transformers = pytest.importorskip("transformers")
    import torch

    from unmask.model import PretrainingModel

    model = PretrainingModel(PretrainingModel.from_pretrained(model_folder).config, heads=heads, seed=4)
    model.save_pretrained(model_folder)
    assert main(["export", str(model_folder), str(tmp_path / "exported")]) == 0
    told = capfd.readouterr().out
    call = re.search(r"transformers\.(\w+)\.from_pretrained\('(.*)'\) loads it", told)
    assert call is not None, told
    assert call[1] == named
    loaders = {name: getattr(transformers, name) for name in ("AutoModelForMaskedLM", "AutoModelForPreTraining")}
    warnings = {}
    for name, loader in loaders.items():
        theirs, report = loader.from_pretrained(call[2], output_loading_info=True)
        warnings[name] = (capfd.readouterr().err, {kind: keys for kind, keys in report.items() if keys})
        if name == named:
            weights = dict(theirs.named_parameters())
            assert torch.equal(weights["cls.predictions.bias"], model.mlm.bias)
    assert "MISSING" not in warnings[named][0]
    assert "UNEXPECTED" not in warnings[named][0]
    assert not warnings[named][1]
    # the other class does warn, so the one that is named matters
    del warnings[named]
    assert all(reported for _, reported in warnings.values())


def test_exported_folder_has_the_tokenizer_whole_and_is_bound_to_it(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unmask.data.tokenizer import Tokenizer

    monkeypatch.setattr(Tokenizer, "pad_id", property(lambda _: 7, lambda *_: None), raising=False)
    out = tmp_path / "exported"
    out.mkdir()
    assert main(["export", str(model_folder), str(out)]) == 0
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        assert (out / name).read_bytes() == (model_folder / name).read_bytes()
    config = json.loads((out / "config.json").read_text())
    assert (config["pad_token_id"], config["tokenizer_hash"]) == (7, Tokenizer.load(out).hash)


def test_existing_folder_is_not_overwritten(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "exported"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    assert main(["export", str(run_folder), str(out)]) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_damaged_checkpoint_asked_for_by_name_is_refused(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = run_folder / "checkpoints" / "step-000020"
    (checkpoint / "config.json").write_text("{}")
    assert main(["export", str(checkpoint), str(tmp_path / "exported")]) == 2
    assert "config.json" in capsys.readouterr().err
    assert not (tmp_path / "exported").exists()


def test_model_without_a_tokenizer_is_refused(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model_folder / "tokenizer.json").unlink()
    assert main(["export", str(model_folder), str(tmp_path / "with vocab.txt")]) == 0
    for name in ("tokenizer.json", "vocab.txt"):
        written = (tmp_path / "with vocab.txt" / name).read_text()
        assert json.loads(written)["model"]["vocab"] if name.endswith("json") else written
    (model_folder / "vocab.txt").unlink()
    capsys.readouterr()
    assert main(["export", str(model_folder), str(tmp_path / "exported")]) == 2
    assert "has no tokenizer.json and no vocab.txt; put the model's tokenizer there" in capsys.readouterr().err


def test_exported_folder_tokenizes_in_transformers_as_it_did_in_training(model_folder: Path, tmp_path: Path) -> None:
    """transformers 5 builds the class BertTokenizer anew, so a folder that says more must not name it."""
    transformers = pytest.importorskip("transformers")
    from unmask.data.tokenizer import Tokenizer

    path = model_folder / "tokenizer.json"
    description = json.loads(path.read_text("utf-8"))
    description["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}]}
    description["model"]["max_input_chars_per_word"] = 5
    path.write_text(json.dumps(description), encoding="utf-8")
    # as a checkpoint of an earlier version has it
    settings = json.loads((model_folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "tokenize_chinese_chars": False}
    (model_folder / "tokenizer_config.json").write_text(json.dumps(settings))
    out = tmp_path / "exported"
    assert main(["export", str(model_folder), str(out)]) == 0
    ours, theirs = Tokenizer.load(out), transformers.AutoTokenizer.from_pretrained(out)
    for text in ("The OLD mill", "watched riverside cat", "the caté"):
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode_batch([text])[0]
    assert theirs("watched", add_special_tokens=False)["input_ids"] == [ours.unk_id]
    assert theirs("the")["input_ids"][0] == ours.cls_id


@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_leaves_no_half_model(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], there: bool
) -> None:
    out = tmp_path / "exported"
    if there:
        out.mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        assert main(["export", str(model_folder), str(out)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert capsys.readouterr().err == (
        f"unmask: {out / 'model.safetensors'}: File too large; raise the limit for the size of a file, ulimit -f\n"
    )
    assert out.exists() == there
    assert not there or not list(out.iterdir())
    assert main(["export", str(model_folder), str(out)]) == 0
