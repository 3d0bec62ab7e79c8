"""Model folders with odd files: a model that round-trips, or one sentence that names the folder."""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_mutations import byte_changes, change_bytes, change_tree, tree_changes
from fuzz_outcomes import Fault, result_or_sentence, try_cases
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import unmask

# what becomes of a name and its tensor; a list, since a tensor may leave or come twice
TENSORS: dict[str, Callable[[str, torch.Tensor], list[tuple[Any, Any]]]] = {
    "gone": lambda name, value: [],
    "twice": lambda name, value: [(name, value), (f"module.{name}", value)],
    "wrapped": lambda name, value: [(f"_orig_mod.{name}", value)],
    "old name": lambda name, value: [(name.replace("LayerNorm.weight", "LayerNorm.gamma"), value)],
    "without bert.": lambda name, value: [(name.removeprefix("bert."), value)],
    "other model": lambda name, value: [(name.replace("bert.", "roberta."), value)],
    "no name": lambda name, value: [("", value)],
    "decoder": lambda name, value: [(name, value), ("cls.predictions.decoder.weight", value)],
    "bias": lambda name, value: [(name, value), ("cls.predictions.decoder.bias", value)],
    "shorter": lambda name, value: [(name, torch.atleast_1d(value)[1:].clone())],
    "longer": lambda name, value: [(name, torch.cat([value, value]))],
    "flat": lambda name, value: [(name, value.flatten())],
    "scalar": lambda name, value: [(name, value.sum())],
    "empty": lambda name, value: [(name, torch.atleast_1d(value)[:0].clone())],
    "half": lambda name, value: [(name, value.half())],
    "double": lambda name, value: [(name, value.double())],
    "whole numbers": lambda name, value: [(name, value.int())],
    "bool": lambda name, value: [(name, value > 0)],
    "float8": lambda name, value: [(name, value.to(torch.float8_e5m2))],
    "nan": lambda name, value: [(name, value * float("nan"))],
    "huge": lambda name, value: [(name, torch.full_like(value, 3e38))],
}
# these can stand in a .bin alone
TENSORS_OF_BIN: dict[str, Callable[[str, torch.Tensor], list[tuple[Any, Any]]]] = {
    "sparse": lambda name, value: [(name, value.to_sparse())],
    "meta": lambda name, value: [(name, value.to("meta"))],
    "complex": lambda name, value: [(name, value + 0j)],
    "quantized": lambda name, value: [(name, torch.quantize_per_tensor(value, 0.1, 0, torch.qint8))],
    "parameter": lambda name, value: [(name, torch.nn.Parameter(value, requires_grad=False))],
    "number": lambda name, value: [(name, 3)],
    "list": lambda name, value: [(name, value.tolist())],
    "number for a name": lambda name, value: [(3, value)],
    "subnormal": lambda name, value: [(name, value.double() * 1e-310)],
}
TENSORS_OF_ALL = TENSORS | TENSORS_OF_BIN
FORMS = ("safetensors", "shards", "bin", "bin shards")
EXAMPLES: list[dict[str, Any]] = [
    {"form": "safetensors", "trees": {}, "bytes": {}, "tensors": [(0, "huge")], "nested": ""},
    # one number in place of a vector
    {"form": "safetensors", "trees": {}, "bytes": {}, "tensors": [(0, "scalar")], "nested": ""},
]

cases = st.fixed_dictionaries(
    {
        "form": st.sampled_from(FORMS),
        # most often one thing is odd, so that the checks behind the first one are reached
        "trees": st.dictionaries(st.sampled_from(("config", "index", "header")), tree_changes, max_size=2),
        "bytes": st.dictionaries(st.sampled_from(("config", "index", "weights")), byte_changes, max_size=1),
        "tensors": st.lists(st.tuples(st.integers(0, 99), st.sampled_from(sorted(TENSORS_OF_ALL))), max_size=2),
        "nested": st.sampled_from(("", "", "", "state_dict", "model", "other")),
    }
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good folder of each form."""
    root = tmp_path_factory.mktemp("models")
    config = unmask.EncoderConfig(
        vocab_size=12,
        hidden_size=4,
        num_layers=1,
        num_heads=2,
        intermediate_size=6,
        max_positions=8,
    )
    whole = root / "safetensors"
    unmask.PretrainingModel(config, heads=("mlm", "nsp")).save_pretrained(whole)
    weights = load_file(whole / "model.safetensors")
    names = sorted(weights)
    halves = [{name: weights[name] for name in part} for part in (names[::2], names[1::2])]
    for form, name, save in (
        ("shards", "model.safetensors", save_file),
        ("bin shards", "pytorch_model.bin", torch.save),
    ):
        folder = Path(shutil.copytree(whole, root / form, ignore=shutil.ignore_patterns("*.safetensors")))
        stem, suffix = name.split(".")
        places = {}
        for number, half in enumerate(halves, start=1):
            file = f"{stem}-{number}-of-2.{suffix}"
            save(half, folder / file)
            places |= dict.fromkeys(half, file)
        (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    folder = Path(shutil.copytree(whole, root / "bin", ignore=shutil.ignore_patterns("*.safetensors")))
    torch.save(weights, folder / "pytorch_model.bin")
    return root


def change_json(path: Path, changes: list[Any] | None) -> None:
    if changes and path.exists():
        path.write_text(json.dumps(change_tree(json.loads(path.read_text()), changes)))


def change_header(path: Path, changes: list[Any]) -> None:
    """Changes the JSON at the head of a safetensors file."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.dumps(change_tree(json.loads(content[8 : 8 + size]), changes)).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + size :])


def change_tensors(path: Path, case: dict[str, Any]) -> None:
    """Changes names and tensors of a file of weights, and where in a .bin they are."""
    in_bin = path.suffix == ".bin"
    changes = [change for change in case["tensors"] if in_bin or change[1] in TENSORS]
    if not changes and not (in_bin and case["nested"]):
        return
    pairs: list[tuple[Any, Any]] = list((torch.load(path) if in_bin else load_file(path)).items())
    for place, kind in changes:
        at = place * len(pairs) // 100
        if pairs and isinstance(pairs[at][0], str) and isinstance(pairs[at][1], torch.Tensor):
            # PyTorch cannot make every change of what an earlier one made
            with suppress(RuntimeError):
                pairs[at : at + 1] = TENSORS_OF_ALL[kind](*pairs[at])
    weights = dict(pairs)
    if in_bin:
        torch.save({case["nested"]: weights, "epoch": 3} if case["nested"] else weights, path)
    else:
        save_file({name: value.contiguous().clone() for name, value in weights.items()}, path)


def make(case: dict[str, Any], good: Path, folder: Path) -> None:
    shutil.copytree(good, folder)
    index = next(folder.glob("*.index.json"), folder / "no index")
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])[0]
    change_tensors(weights, case)
    trees = case["trees"]
    change_json(folder / "config.json", trees.get("config"))
    change_json(index, trees.get("index"))
    if trees.get("header") and weights.suffix == ".safetensors":
        change_header(weights, trees["header"])
    files = {"config": folder / "config.json", "index": index, "weights": weights}
    for name, changes in case["bytes"].items():
        if files[name].exists():
            files[name].write_bytes(change_bytes(files[name].read_bytes(), changes))


def check(model: Any, read: Callable[[Path], Any], folder: Path) -> None:
    """What is read computes, and comes back from a folder that is written."""
    encoder = getattr(model, "encoder", model)
    batch = unmask.pack([[0]])
    # finite weights may be so large that sums of them are not
    if encoder(batch.ids, batch.documents).shape != (1, encoder.config.hidden_size):
        raise Fault("hidden states of another shape", "shape")
    model.save_pretrained(folder)
    again = read(folder).state_dict()
    for name, value in model.state_dict().items():
        if not torch.equal(value, again[name]):
            raise Fault(f"{name} does not come back", "round trip")


def test_model_folders(folders: Path) -> None:
    def body(case: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "model")
            make(case, folders / case["form"], folder)
            for kind in (unmask.Encoder, unmask.PretrainingModel):
                read = kind.from_pretrained
                model = result_or_sentence(partial(read, folder), names=[str(folder)])
                if model is not None:
                    check(model, read, Path(scratch, kind.__name__))

    try_cases(body, cases, few=30, examples=EXAMPLES)
