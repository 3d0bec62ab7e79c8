"""The names of BERT's parameters here and in Hugging Face folders, and their shapes.

A row maps one of our modules to one of theirs, or to several that are stacked along the first dimension. For example,
queries, keys and values are one projection here and three there. `{i}` is the number of the layer. The tables are used
to read and to write.
"""

from collections.abc import Iterator
from typing import NamedTuple

from unmask.config import EncoderConfig

__all__ = ["ENCODER", "MLM", "NSP", "POOLER", "Parameter", "parameter_names"]

ENCODER: dict[str, tuple[str, ...]] = {
    "embeddings.word": ("embeddings.word_embeddings",),
    "embeddings.position": ("embeddings.position_embeddings",),
    "embeddings.segment": ("embeddings.token_type_embeddings",),
    "embeddings.norm": ("embeddings.LayerNorm",),
    "layers.{i}.qkv": (
        "encoder.layer.{i}.attention.self.query",
        "encoder.layer.{i}.attention.self.key",
        "encoder.layer.{i}.attention.self.value",
    ),
    "layers.{i}.attention_output": ("encoder.layer.{i}.attention.output.dense",),
    "layers.{i}.attention_norm": ("encoder.layer.{i}.attention.output.LayerNorm",),
    "layers.{i}.up": ("encoder.layer.{i}.intermediate.dense",),
    "layers.{i}.down": ("encoder.layer.{i}.output.dense",),
    "layers.{i}.norm": ("encoder.layer.{i}.output.LayerNorm",),
}
POOLER: dict[str, tuple[str, ...]] = {"pooler": ("pooler.dense",)}
MLM: dict[str, tuple[str, ...]] = {
    "mlm.dense": ("cls.predictions.transform.dense",),
    "mlm.norm": ("cls.predictions.transform.LayerNorm",),
    "mlm": ("cls.predictions",),
}
NSP: dict[str, tuple[str, ...]] = {"nsp.classifier": ("cls.seq_relationship",)}

_ONLY_WEIGHT = ("embeddings.word", "embeddings.position", "embeddings.segment")
_ONLY_BIAS = ("mlm",)
# Shapes of the weights of their modules, by fields of EncoderConfig. A norm is (hidden_size,), every other one square.
_WEIGHT_SHAPES: dict[str, tuple[str | int, ...]] = {
    "embeddings.word": ("vocab_size", "hidden_size"),
    "embeddings.position": ("max_positions", "hidden_size"),
    "embeddings.segment": ("num_segments", "hidden_size"),
    "layers.{i}.up": ("intermediate_size", "hidden_size"),
    "layers.{i}.down": ("hidden_size", "intermediate_size"),
    "mlm": ("vocab_size", "hidden_size"),
    "nsp.classifier": (2, "hidden_size"),
}


class Parameter(NamedTuple):
    """A parameter.

    Attributes:
        ours: our name.
        theirs: names of the Hugging Face parameters that are stacked in it.
        shape: shape of each of these.
    """

    ours: str
    theirs: tuple[str, ...]
    shape: tuple[int, ...]


def parameter_names(
    table: dict[str, tuple[str, ...]], config: EncoderConfig, *, ours: str = "", theirs: str = ""
) -> Iterator[Parameter]:
    """Yield the parameters of a table for a model of these sizes; `ours` and `theirs` are prefixes of the names."""
    for module, others in table.items():
        kinds = ("weight",) if module in _ONLY_WEIGHT else ("bias",) if module in _ONLY_BIAS else ("weight", "bias")
        default = ("hidden_size",) if module.endswith("norm") else ("hidden_size", "hidden_size")
        sizes = _WEIGHT_SHAPES.get(module, default)
        weight = tuple(size if isinstance(size, int) else getattr(config, size) for size in sizes)
        for i in range(config.num_layers if "{i}" in module else 1):
            for kind in kinds:
                yield Parameter(
                    f"{ours}{module.format(i=i)}.{kind}",
                    tuple(f"{theirs}{other.format(i=i)}.{kind}" for other in others),
                    weight if kind == "weight" else weight[:1],
                )
