"""The names of BERT's parameters, ours and Hugging Face's, in one table used both ways.

A row maps one module of ours to one of theirs, or to several that are stacked along the first dimension: queries, keys
and values are one projection here and three there. `{i}` stands for the layer. Weight and bias follow the module.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["ENCODER", "MLM", "NSP", "POOLER", "parameter_names"]

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


def parameter_names(
    table: dict[str, tuple[str, ...]], num_layers: int, *, ours: str = "", theirs: str = ""
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Pairs (our parameter, their parameters) of a table, with prefixes for both sides."""
    for module, others in table.items():
        layers = range(num_layers) if "{i}" in module else range(1)
        kinds = ("weight",) if module in _ONLY_WEIGHT else ("bias",) if module in _ONLY_BIAS else ("weight", "bias")
        for i in layers:
            for kind in kinds:
                yield (
                    f"{ours}{module.format(i=i)}.{kind}",
                    tuple(f"{theirs}{other.format(i=i)}.{kind}" for other in others),
                )
