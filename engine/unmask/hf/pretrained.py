"""What the models of `unmask.hf` have in common: their files, their inputs, and the methods that trainers call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from unmask.batch import IGNORED, PackedBatch
from unmask.hf.configuration import UnmaskConfig
from unmask.hf.state_names import name_as_in_files
from unmask.interop import hf
from unmask.interop.find_model import find_model
from unmask.interop.model_folder import CONFIG, read_object
from unmask.layouts import PackedInputs, packed_inputs
from unmask.model import Encoder, PretrainingModel
from unmask.model.checkpointing import Checkpointed

__all__ = ["STANDARD", "ReadInputs", "UnmaskPreTrainedModel", "drawn_seed"]

STANDARD = (
    *("input_ids", "attention_mask", "token_type_ids", "position_ids", "labels"),
    *("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"),
)
"""Arguments of a forward pass that describe the inputs."""

_ENTRIES = ("max_seqlen", *(field.name for field in fields(PackedBatch)))
# arguments of from_pretrained that make no difference here
_WITHOUT_MEANING = (
    *("trust_remote_code", "use_safetensors", "low_cpu_mem_usage", "weights_only"),
    *("_from_auto", "_commit_hash", "adapter_kwargs"),
)


class ReadInputs(NamedTuple):
    """What a forward pass reads.

    Attributes:
        inputs: the packed batch, and the way back to the shape of the inputs.
        rows: tokens with a label, int64 (M,), or None.
        labels: their labels, int64 (M,), or None.
        pairs: labels of documents, int64 (S,), or None.
    """

    inputs: PackedInputs
    rows: Tensor | None
    labels: Tensor | None
    pairs: Tensor | None


class UnmaskPreTrainedModel(Checkpointed, PreTrainedModel):  # type: ignore[misc]
    """What the classes have in common."""

    config_class = UnmaskConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    config: UnmaskConfig

    @property
    def encoder(self) -> Encoder:
        """The encoder."""
        model = self.model
        assert isinstance(model, Encoder | PretrainingModel)
        return model if isinstance(model, Encoder) else model.encoder

    @property
    def base_model(self) -> nn.Module:
        """The encoder."""
        return self.encoder

    def get_input_embeddings(self) -> nn.Module:
        """Return the token table."""
        return self.encoder.embeddings.word

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token table, which is also the output projection."""
        self.encoder.embeddings.word = value  # type: ignore[assignment]

    def get_output_embeddings(self) -> None:
        """Return None: the output projection is the token table, and no module of its own."""

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Refuse another number of tokens.

        Raises:
            ValueError: it differs from the rows of the token table.
        """
        table = self.get_input_embeddings()
        assert isinstance(table, nn.Embedding)
        wanted = len(table.weight) if new_num_tokens is None else new_num_tokens
        if pad_to_multiple_of:
            wanted = -(-wanted // pad_to_multiple_of) * pad_to_multiple_of
        if wanted != len(table.weight):
            raise ValueError(
                f"resize_token_embeddings: the token table has {len(table.weight)} rows, and {wanted} are asked for, "
                "which is not done here; save the model, read the folder with unmask.PretrainingModel and save that, "
                "resize BertForMaskedLM of this folder, and read it again"
            )
        return table

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the weights: the encoder and its heads draw them."""

    def name_state(self, *, heads: Sequence[str] = (), pooler: bool) -> None:
        """Give the state dict the names of the files."""
        layout = list(hf.layout(self.encoder.config, heads=heads, pooler=pooler))
        self._names_in_files = [name for one in layout for name in one.theirs]
        name_as_in_files(self, (one._replace(ours=f"model.{one.ours}") for one in layout))

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | Path, *, state_dict: dict[str, Tensor] | None = None, **options: Any
    ) -> None:
        """Write config.json and model.safetensors, with the names of BERT's weights.

        Args:
            save_directory: where to; made when it is not there.
            state_dict: the weights, if a trainer gathered them. Default: those of the model.
            options: `is_main_process`, and others of transformers that have one meaning here.
        """
        if not options.pop("is_main_process", True):
            return
        if options.pop("push_to_hub", False):
            raise ValueError(
                "save_pretrained: push_to_hub is not done here; save, and push the folder with `hf upload`"
            )
        folder = Path(save_directory)
        weights = self.state_dict() if state_dict is None else state_dict
        hf.require_parameters(folder, self._names_in_files, weights)
        folder.mkdir(parents=True, exist_ok=True)
        self.config.architectures = [type(self).__name__]
        self.config.dtype = self.dtype
        self.config.save_pretrained(folder)
        hf.save_weights(weights, folder)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        config: UnmaskConfig | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        revision: str | None = None,
        **options: Any,
    ) -> Any:
        """Read a run, a checkpoint, a folder of BERT or of these classes, or a model of the Hub; in evaluation mode.

        Args:
            pretrained_model_name_or_path: as for `unmask.Encoder.from_pretrained`.
            config: sizes and dropout. Default: those in the folder.
            dtype: of parameters and activations. Default, and "auto": that of config.json.
            torch_dtype: the older name of dtype.
            revision: branch, tag or commit of a model of the Hub.
            options: values of `UnmaskConfig` that replace the folder's, such as `hidden_dropout_prob`.
        Raises:
            TypeError: an option of transformers that is not honoured here.
            CheckpointError: as for `unmask.Encoder.from_pretrained`.
        """
        for name in _WITHOUT_MEANING:
            options.pop(name, None)
        name = str(pretrained_model_name_or_path)
        folder = find_model(pretrained_model_name_or_path, revision=None if revision == "main" else revision).path
        found, parts = cls._read(folder)
        stored = read_object(folder / CONFIG)
        chosen = UnmaskConfig.of(found.config) if config is None else config
        for option, value in options.items():
            if value is None or value is False or value in ("", {}):
                continue
            if not hasattr(chosen, option):
                raise TypeError(
                    f"from_pretrained: {option} is not honoured by {cls.__name__}; leave it out, and move or convert "
                    "the model with model.to(...) afterwards"
                )
            setattr(chosen, option, value)
        chosen.name_or_path = name
        model = cls(chosen, **parts)
        found.copy_into(model.model)
        dtype = torch_dtype if dtype is None else dtype
        if dtype is None or dtype == "auto":
            dtype = stored.get("dtype") or stored.get("torch_dtype") or torch.float32
        nn.Module.to(model, getattr(torch, dtype) if isinstance(dtype, str) else dtype)
        model.eval()  # type: ignore[no-untyped-call]
        return model

    @classmethod
    def _read(cls, folder: Path) -> tuple[hf.FolderWeights, dict[str, Any]]:
        """Return the weights in a folder, and the arguments of the class that make a model with places for them."""
        raise NotImplementedError

    def read_inputs(self, names: dict[str, Any], others: dict[str, Any]) -> ReadInputs:
        """Read the inputs: standard ones, or the entries of a PackedBatch."""
        labels = names.pop("labels", None)
        if "documents" in others:
            entries = others if labels is None else {**others, "labels": labels}
            batch = PackedBatch({name: entries[name] for name in _ENTRIES if entries.get(name) is not None})
            inputs = PackedInputs(batch=batch, shape=(1, len(batch.ids)))
            return ReadInputs(inputs, batch.masked, batch.labels, batch.pair_labels)
        for name, value in others.items():
            if value is not None and value is not False and name != "return_dict":
                raise TypeError(
                    f"{type(self).__name__}: {name} is not read: ids go in, and the last hidden states come out; leave "
                    "it out. The states of a layer are the output of encoder.layers[i], which a forward hook sees"
                )
        if names["input_ids"] is None:
            raise TypeError(f"{type(self).__name__}: input_ids must be given; a tokenizer of transformers makes them")
        inputs = packed_inputs(**names, draw_keys=self.encoder.applies_dropout())
        if labels is None:
            return ReadInputs(inputs, None, None, None)
        flat = inputs.take(labels)
        # The host waits here for a GPU.
        rows = (flat != IGNORED).nonzero().flatten()
        return ReadInputs(inputs, rows, flat.index_select(0, rows), None)


def drawn_seed() -> int:
    """Return a seed drawn from PyTorch's generator, so that weights follow `torch.manual_seed` as elsewhere."""
    return int(torch.randint(2**31, ()))
