"""Reads and writes Hugging Face BERT folders: weights under the names of `names.py`, sizes in `config.json`.

    BertModel              encoder with pooler            <-> Encoder
    BertForMaskedLM        encoder, MLM head              <-> PretrainingModel(heads=("mlm",))
    BertForPreTraining     encoder, pooler, MLM and NSP   <-> PretrainingModel(heads=("mlm", "nsp"))

The weights are compared with config.json before a model is made. So files that disagree are refused, whatever sizes
they claim. The names of an encoder's weights share a prefix: `bert.`, nothing, or a prefix that a trainer added. It is
read off the name of the token table.
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from unmask.config import EncoderConfig
from unmask.errors import CheckpointError
from unmask.interop import names
from unmask.interop.config_json import read_config, write_config
from unmask.interop.left_out import Difference
from unmask.interop.model_folder import CONFIG, read_object
from unmask.interop.names import Parameter
from unmask.interop.weights import read_weights

__all__ = [
    "FolderWeights",
    "checked",
    "encoder_prefix",
    "layout",
    "read_encoder",
    "read_pretraining_model",
    "require_parameters",
    "save",
    "save_weights",
]

_TABLE = "embeddings.word_embeddings.weight"
# the field of config.json that gives the length of a table
_LENGTHS = {
    _TABLE: "vocab_size",
    "embeddings.position_embeddings.weight": "max_position_embeddings",
    "embeddings.token_type_embeddings.weight": "type_vocab_size",
}
# names that people give to an encoder inside a larger module; other architectures have names of their own
_AROUND = frozenset({"model", "base_model", "bert", "encoder", "backbone", "net", "auto_model"})
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderWeights:
    """The checked weights of a folder.

    Attributes:
        config: sizes of the model.
        heads: the heads that the model gets.
        difference: what the model gets new, and what of the folder it leaves out.
        pooler: whether it gets a pooler.
        parameters: our name, their names and the shape of each parameter that the folder has; the model's others are
            new.
        tensors: the folder's tensors, by their names.
    """

    config: EncoderConfig
    heads: tuple[str, ...]
    difference: Difference
    pooler: bool
    parameters: tuple[Parameter, ...]
    tensors: dict[str, Tensor]

    def copy_into(self, module: nn.Module) -> None:
        """Copy the weights, as fp32, into a module made for this configuration; its other parameters stay."""
        ours = dict(module.named_parameters())
        with torch.no_grad():
            for name, value in self.values():
                ours[name].copy_(value)

    def values(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights, as fp32, by our names."""
        for parameter in self.parameters:
            yield parameter.ours, torch.cat([self.tensors[name].float() for name in parameter.theirs])


def read_encoder(folder: Path, *, pooler: bool | None = None, tells: bool = True) -> FolderWeights:
    """Read the encoder of a folder; see `Encoder.from_pretrained`. With `tells`, messages say what it leaves out."""
    config = read_config(folder)
    weights = read_weights(folder)
    theirs = encoder_prefix(weights, folder)
    found = f"{theirs}pooler.dense.weight" in weights
    wanted = found if pooler is None else pooler
    parameters = checked(_encoder_parameters(config, found and wanted, "", theirs), weights, theirs, folder)
    new = ["pooler"] if wanted and not found else []
    difference = Difference.of(weights, parameters, prefix=theirs, new=new)
    if tells:
        difference.log(folder)
    return FolderWeights(
        config=config, heads=(), difference=difference, pooler=wanted, parameters=parameters, tensors=weights
    )


def read_pretraining_model(folder: Path, *, heads: Sequence[str] | None = None) -> FolderWeights:
    """Read the encoder and its heads; see `PretrainingModel.from_pretrained`.

    The caller logs the `difference` between the folder and the model.
    """
    config = read_config(folder)
    weights = read_weights(folder)
    theirs = encoder_prefix(weights, folder)
    outer = theirs.removesuffix("bert.")
    bias, copy_of_bias = (f"{outer}cls.predictions.{name}" for name in ("bias", "decoder.bias"))
    if bias not in weights and copy_of_bias in weights:
        # The two are tied, and a file that holds no tensor twice may have kept either.
        weights[bias] = weights[copy_of_bias]
    marks = {"mlm": bias, "nsp": f"{outer}cls.seq_relationship.weight", "pooler": f"{theirs}pooler.dense.weight"}
    found = [name for name, mark in marks.items() if mark in weights]
    if heads is None:
        if "mlm" not in found:
            raise CheckpointError(
                f"{folder} has no masked-LM head (no weights named cls.predictions.*); give a masked language model, "
                "such as a run of `unmask pretrain`, read its encoder with unmask.Encoder.from_pretrained, or pass "
                "heads=('mlm',) to PretrainingModel.from_pretrained, which makes a new one"
            )
        heads = [name for name in ("mlm", "nsp") if name in found]
    # The next-sentence head reads the pooler, and comes with it.
    wanted = [*heads, "pooler"] if "nsp" in heads else [*heads]
    new = [part for part in wanted if part not in found and not (part == "pooler" and "nsp" in found)]
    read = [part for part in wanted if part not in new]
    parameters = checked(_model_parameters(config, read, theirs), weights, theirs, folder)
    if "mlm" in read:
        _require_tied(folder, weights, outer, table=f"{theirs}{_TABLE}")
    return FolderWeights(
        config=config,
        heads=tuple(heads),
        difference=Difference.of(weights, parameters, prefix=theirs, new=new),
        pooler="nsp" in heads,
        parameters=parameters,
        tensors=weights,
    )


def _require_tied(folder: Path, weights: dict[str, Tensor], outer: str, *, table: str) -> None:
    """Refuse a masked-LM head whose output projection is not the token table."""
    bias, copy_of_bias = (f"{outer}cls.predictions.{name}" for name in ("bias", "decoder.bias"))
    projection = f"{outer}cls.predictions.decoder.weight"
    if projection not in weights and read_object(folder / CONFIG).get("tie_word_embeddings", True) is not True:
        raise CheckpointError(
            f"{folder}: {CONFIG} says tie_word_embeddings false, but there is no output projection ({projection}); set "
            "it to true if the token table is the projection, or read the encoder alone with "
            "unmask.Encoder.from_pretrained"
        )
    for name, original in {projection: table, copy_of_bias: bias}.items():
        if name in weights and not _equal(weights[name], weights[original]):
            what = "projection differs from the token table"
            if original == bias:
                what = "bias differs from that of the head"
            raise CheckpointError(
                f"{folder}: the output {what} ({name}), and both are one tensor here; read the encoder alone "
                "with unmask.Encoder.from_pretrained"
            )


def save(
    module: nn.Module,
    config: EncoderConfig,
    folder: Path,
    *,
    architecture: str,
    pad_id: int = 0,
    for_transformers: bool = True,
) -> None:
    """Write an `Encoder` as BertModel, or a `PretrainingModel` as BertForMaskedLM or BertForPreTraining.

    The arguments are those of `PretrainingModel.save_pretrained`.
    """
    ours = dict(module.named_parameters())
    heads = {"BertModel": (), "BertForMaskedLM": ("mlm",), "BertForPreTraining": ("mlm", "nsp")}[architecture]
    parameters = list(layout(config, heads=heads, pooler="pooler.weight" in ours or "nsp" in heads))
    require_parameters(folder, (parameter.ours for parameter in parameters), ours)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(config, folder, architecture=architecture, pad_id=pad_id, for_transformers=for_transformers)
    weights: dict[str, Tensor] = {}
    for parameter in parameters:
        parts = ours[parameter.ours].detach().chunk(len(parameter.theirs))
        weights.update(zip(parameter.theirs, parts, strict=True))
    save_weights(weights, folder)


def require_parameters(folder: Path, names: Iterable[str], there: Collection[str]) -> None:
    """Raise a `CheckpointError`, before `folder` is made, unless a model has all parameters of its files."""
    if absent := [name for name in names if name not in there]:
        raise CheckpointError(
            f"{folder}: the model has no parameter {absent[0]}, because a module was wrapped or parametrized; merge an "
            "adapter with peft's merge_and_unload(), or take a parametrization away with "
            "torch.nn.utils.parametrize.remove_parametrizations, and save then"
        )


def layout(config: EncoderConfig, *, heads: Sequence[str], pooler: bool) -> Iterator[Parameter]:
    """Yield the parameters of an `Encoder` as BertModel, or with heads those of a `PretrainingModel`."""
    if not heads:
        return _encoder_parameters(config, pooler, "", "")
    return _model_parameters(config, (*heads, "pooler") if pooler else heads, "bert.")


def save_weights(weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write weights, by the names that they have in the file.

    Raises:
        OSError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    file = folder / "model.safetensors"
    try:
        # a file holds no tensor twice, and parts of one tensor share its memory
        save_file({name: value.cpu().contiguous().clone() for name, value in weights.items()}, file, {"format": "pt"})
    except SafetensorError as error:
        # the library keeps the number only as text
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from None


def _encoder_parameters(config: EncoderConfig, pooler: bool, ours: str, theirs: str) -> Iterator[Parameter]:
    table = names.ENCODER | (names.POOLER if pooler else {})
    return names.parameter_names(table, config, ours=ours, theirs=theirs)


def _model_parameters(config: EncoderConfig, parts: Sequence[str], theirs: str) -> Iterator[Parameter]:
    """Yield the parameters of the encoder and of these parts: "mlm", "nsp", "pooler"."""
    table = (names.MLM if "mlm" in parts else {}) | (names.NSP if "nsp" in parts else {})
    return chain(
        _encoder_parameters(config, "pooler" in parts, "encoder.", theirs),
        names.parameter_names(table, config, theirs=theirs.removesuffix("bert.")),
    )


def encoder_prefix(weights: dict[str, Tensor], folder: Path) -> str:
    """Return the prefix of `embeddings.` and `encoder.` in the names of a folder's weights."""
    found = [name.removesuffix(_TABLE) for name in weights if f".{name}".endswith(f".{_TABLE}")]
    if len(found) > 1:
        begin = " and ".join(map(repr, sorted(found)))
        raise CheckpointError(
            f"{folder} holds {len(found)} encoders, with names that begin with {begin}; save the one to be read alone"
        )
    if not found:
        return "bert." if any(name.startswith("bert.") for name in weights) else ""
    steps = found[0].split(".")[:-1]
    if steps and steps[-1] != "bert" and not all(step in _AROUND or step.isdecimal() for step in steps):
        raise CheckpointError(
            f"{folder}: the names of its weights begin with {found[0]!r}, which is not BERT; if they are BERT's, "
            "rename them so that they begin with 'bert.'"
        )
    return found[0]


def checked(
    parameters: Iterable[Parameter], weights: dict[str, Tensor], prefix: str, folder: Path
) -> tuple[Parameter, ...]:
    """Refuse weights that lack a parameter of the model in config.json, or have one that it does not.

    The first parameter without weights is refused. So `parameters` must be a generator: config.json may claim any
    number of layers.
    """
    found: list[Parameter] = []
    for parameter in parameters:
        for name in parameter.theirs:
            if name not in weights:
                raise CheckpointError(f"{folder} lacks the weight {name}; is it the folder of a BERT model?")
            _check_weight(name, weights[name], parameter.shape, folder)
        found.append(parameter)
    used = {name for parameter in found for name in parameter.theirs}
    for name in weights:
        inner = name.removeprefix(prefix)
        # Without these weights the encoder would be another model. Heads and buffers may stay unread.
        of_encoder = name.startswith(prefix) and inner.startswith(("encoder.", "embeddings."))
        if of_encoder and name not in used and not inner.endswith(("position_ids", "token_type_ids")):
            raise CheckpointError(
                f"{folder} has the weight {name}, for which the model of its config.json has no place; are both of one "
                "model, and num_hidden_layers the number of its layers?"
            )
    return tuple(found)


def _check_weight(name: str, value: Tensor, shape: tuple[int, ...], folder: Path) -> None:
    if tuple(value.shape) != shape:
        longer = value.dim() == len(shape) and value.shape[1:] == shape[1:] and len(value) > shape[0]
        field = next((field for table, field in _LENGTHS.items() if longer and name.endswith(table)), None)
        remedy = f"set {field} to {len(value)}" if field else "take both from one model"
        if field == "vocab_size":
            remedy += " if the table was padded"
        raise CheckpointError(
            f"{folder}: {name} must have shape {shape}, as config.json says, got {tuple(value.shape)}; {remedy}"
        )
    if value.dtype not in _DTYPES or value.layout != torch.strided or value.is_meta:
        kind = str(value.dtype).removeprefix("torch.")
        if value.layout != torch.strided or value.is_meta:
            kind += " without its values" if value.is_meta else " and sparse"
        raise CheckpointError(
            f"{folder}: {name} must be dense float32, float64, bfloat16 or float16, is {kind}; take the folder of a "
            "model that was not quantized or compressed"
        )
    if not value.float().isfinite().all():
        raise CheckpointError(
            f"{folder}: {name} holds numbers that are no finite float32; take another checkpoint of the model"
        )


def _equal(one: Tensor, other: Tensor) -> bool:
    comparable = one.shape == other.shape and one.dtype in _DTYPES and one.layout == torch.strided and not one.is_meta
    return comparable and torch.equal(one.float(), other.float())
