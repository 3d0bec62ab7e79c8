"""What `attn_implementation="unmask"` does not compute: it is refused by name, and what the refusal advises works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advice import Action, follow

transformers = pytest.importorskip("transformers")
pytest.importorskip("unmask.hf")

from transformers import masking_utils  # noqa: E402

from unmask.hf.attention_function import attention_of_layer  # noqa: E402
from unmask.hf.attention_layout import Boundaries, read_layout  # noqa: E402
from unmask.hf.attention_mask import BatchMask  # noqa: E402

SIZES = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
BERT: dict[str, Any] = {**SIZES, "max_position_embeddings": 40}
IDS = torch.tensor([[2, 5, 6, 7, 8, 3]])
MASK = torch.tensor([[1, 1, 1, 1, 0, 0]])
EAGER = "; use attn_implementation='eager' for this model"


def model(kind: str = "Bert", implementation: str = "unmask", **settings: Any) -> nn.Module:
    config = getattr(transformers, f"{kind}Config")(**{**BERT, **settings}, attn_implementation=implementation)
    return getattr(transformers, f"{kind}Model")(config).eval()


def asked(kind: str = "Bert", settings: dict[str, Any] | None = None, **inputs: Any) -> tuple[Action, Action]:
    """A forward pass with attention of unmask, and the same with that of eager."""
    made = model(kind, **(settings or {}))

    def run(implementation: str) -> object:
        made.set_attn_implementation(implementation)
        return made(**{"input_ids": IDS, **inputs})

    return lambda: run("unmask"), lambda: run("eager")


def after_a_cache() -> tuple[Action, Action]:
    made = model("Llama", use_cache=True)

    def run(implementation: str) -> object:
        made.set_attn_implementation(implementation)
        past = made(input_ids=IDS).past_key_values
        return made(input_ids=IDS[:, :1], past_key_values=past)

    return lambda: run("unmask"), lambda: run("eager")


def mask_of(make: Callable[..., Any], **more: Any) -> tuple[Action, Action]:
    def run(implementation: str) -> object:
        config = transformers.LlamaConfig(**SIZES, attn_implementation=implementation, attention_chunk_size=2)
        return make(config=config, inputs_embeds=torch.zeros(1, 6, 16), attention_mask=None, **more)

    return lambda: run("unmask"), lambda: run("eager")


def layer(**arguments: Any) -> tuple[Action, Action]:
    """A call of the attention function by a layer, and one without these arguments."""

    def run(**given: Any) -> object:
        module = nn.Module()
        module.is_causal = False  # type: ignore[assignment]
        query = torch.zeros(1, 2, 6, 8)
        return attention_of_layer(
            module, **{"query": query, "key": query, "value": query, "attention_mask": None, **given}
        )

    return lambda: run(**arguments), run


def any_token(*indices: Any) -> Tensor:
    return indices[2] >= 0


POSITIONS = torch.arange(6)[None]
BOUNDARIES = {"cu_seq_lens_q": torch.tensor([0, 4, 6], dtype=torch.int32), "max_length_q": 4}
RESTARTING = torch.tensor([[0, 1, 2, 3, 0, 1]])
CAUSAL = BatchMask(causal=True, window=None, real=None, position_ids=None, reads_positions=False, restarts=False)
DECODER = {"is_decoder": True, "add_cross_attention": True}

CASES: dict[str, tuple[tuple[Action, Action], str]] = {
    "a cache of earlier tokens": (after_a_cache(), "1 queries see 7 keys, as with a cache of earlier tokens"),
    "cross-attention": (
        asked(settings=DECODER, encoder_hidden_states=torch.zeros(1, 6, 16)),
        "BertConfig is of a model with cross-attention",
    ),
    "an encoder and a decoder": (
        asked("Bart", {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1}),
        "BartConfig is of a model with cross-attention",
    ),
    "encoder_hidden_states in a model without a setting for it": (
        mask_of(masking_utils.create_bidirectional_mask, encoder_hidden_states=torch.zeros(1, 6, 16)),
        "encoder_hidden_states are given (cross-attention)",
    ),
    "a mask of the caller's own": (
        asked(attention_mask=torch.zeros(1, 1, 6, 6)),
        "BertSelfAttention passes a mask of shape (1, 1, 6, 6), of the model's or the caller's own",
    ),
    "a mask for the tokens of each query": (
        asked(attention_mask=torch.ones(1, 8, dtype=torch.int64)),
        "6 queries see 8 keys",
    ),
    "a function of the caller's own": (
        mask_of(masking_utils.create_bidirectional_mask, and_mask_function=any_token),
        "the mask has a function of the caller's own",
    ),
    "chunked attention": (
        mask_of(masking_utils.create_chunked_causal_mask, past_key_values=None),
        "the model asks for the mask chunked_overlay",
    ),
    "blocks of other tokens": (
        mask_of(
            masking_utils.create_causal_mask,
            past_key_values=None,
            block_sequence_ids=torch.tensor([[0, 0, -1, -1, 1, 1]]),
        ),
        "the model asks for the mask or_masks",
    ),
    "soft caps": (
        asked("Gemma2", {"head_dim": 8, "num_key_value_heads": 2}),
        "Gemma2Attention passes softcap (soft-capped scores)",
    ),
    "probabilities": (
        asked(output_attentions=True),
        "BertSelfAttention passes output_attentions (attention probabilities as an output)",
    ),
    "an argument of a later version": (
        asked(wavelength=3.0),
        "BertSelfAttention passes wavelength (an argument that unmask does not know)",
    ),
    "sinks": (layer(s_aux=torch.zeros(2)), "Module passes s_aux (attention sinks)"),
    "a bias": (layer(position_bias=torch.zeros(1, 2, 6, 6)), "Module passes position_bias (a bias for positions)"),
    "a paged cache": (layer(cache=object()), "Module passes cache (a paged cache)"),
    "documents by number": (
        asked(seq_idx=torch.zeros(1, 6, dtype=torch.int32)),
        "BertSelfAttention passes seq_idx (documents by number",
    ),
    "positions of another kind": (
        layer(position_ids=torch.zeros(3, 1, 6, dtype=torch.int64)),
        "position_ids have the shape (3, 1, 6), where input_ids have (1, 6)",
    ),
    "narrower values": (
        layer(value=torch.zeros(1, 2, 6, 4)),
        "Module has values of 4 elements and queries of 8",
    ),
    "more keys": (layer(key=torch.zeros(1, 2, 7, 8)), "Module lets 6 queries see 7 keys"),
    "no mask in a causal model": (layer(is_causal=True), "Module passes no mask, with is_causal=True"),
    "a mask of other rows": (
        layer(
            attention_mask=BatchMask(
                causal=False,
                window=None,
                real=MASK.bool().repeat(2, 1),
                position_ids=None,
                reads_positions=False,
                restarts=False,
            )
        ),
        "a mask made for rows of shape (2, 6) is passed with queries of (1, 6)",
    ),
    "a window without a mask": (
        layer(sliding_window=3),
        "Module passes no mask, with is_causal=False and sliding_window=3",
    ),
    "is_causal against the mask": (
        layer(attention_mask=CAUSAL, is_causal=False),
        "Module passes is_causal=False with a mask for True",
    ),
    "a window against the mask": (
        layer(attention_mask=CAUSAL, sliding_window=3),
        "Module passes sliding_window=3 with a mask without a window",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_computed_is_refused_and_eager_attention_computes_it(case: str) -> None:
    (wrong, advised), told = CASES[case]
    follow(wrong, f"attn_implementation='unmask': {told} ... which is not computed here{EAGER}", advised)


JUMPING = torch.tensor([[0, 1, 5, 6, 0, 1]])
HOLE = torch.tensor([[1, 1, 0, 1, 1, 1]])
LOCAL = {"num_hidden_layers": 3, "local_attention": 4, "pad_token_id": 0}


def passing(kind: str, wrong: dict[str, Any], *advised: dict[str, Any], **settings: Any) -> tuple[Action, list[Action]]:
    """A forward pass with inputs that are refused, and some with each of the inputs that are advised."""
    made = model(kind, **settings)

    def run(inputs: dict[str, Any], implementation: str = "unmask") -> Action:
        def forward() -> object:
            made.set_attn_implementation(implementation)
            return made(input_ids=IDS, **inputs)

        return forward

    return run(wrong), [*(run(inputs) for inputs in advised), run(wrong, "eager")]


INPUTS: dict[str, tuple[tuple[Action, list[Action]], str]] = {
    "positions that jump": (
        passing("Bert", {"position_ids": JUMPING}, {"position_ids": RESTARTING}),
        "position_ids must count up by 1 and restart at the first position of their row, and do neither somewhere; "
        "pass positions that restart where a document begins, or use attn_implementation='eager'",
    ),
    "boundaries without positions": (
        passing("Bert", BOUNDARIES, {**BOUNDARIES, "position_ids": RESTARTING}),
        "with cu_seq_lens_q, position_ids must be given and restart at each boundary, else the model counts through "
        "the row; pass both, as DataCollatorWithFlattening(return_flash_attn_kwargs=True) makes them",
    ),
    "boundaries without positions, which layers do not get": (
        passing("ModernBert", BOUNDARIES, {**BOUNDARIES, "position_ids": RESTARTING}, **LOCAL),
        "with cu_seq_lens_q, position_ids must be given and restart at each boundary",
    ),
    "padding within a window": (
        passing("ModernBert", {"attention_mask": HOLE}, {"attention_mask": HOLE.flip(1).sort().values}, **LOCAL),
        "attention_mask must have no padding between the tokens of a document in layers with a window, and has some; "
        "pad on one side only, or use attn_implementation='eager'",
    ),
}


@pytest.mark.parametrize("case", INPUTS)
def test_inputs_that_are_refused_and_those_that_are_advised(case: str) -> None:
    (wrong, advised), told = INPUTS[case]
    follow(wrong, f"attn_implementation='unmask': {told}", *advised)


def test_the_collator_of_transformers_makes_what_is_advised_for_packed_rows() -> None:
    collator = transformers.DataCollatorWithFlattening(return_flash_attn_kwargs=True)
    inputs = collator([{"input_ids": [2, 5, 3]}, {"input_ids": [2, 6, 7, 3]}])
    del inputs["labels"]
    made = model()
    (hidden,) = made(**inputs).last_hidden_state
    for found, document in zip(hidden.split([3, 4]), ([2, 5, 3], [2, 6, 7, 3]), strict=True):
        torch.testing.assert_close(found, made(torch.tensor([document])).last_hidden_state[0], rtol=0, atol=1e-5)


def test_layers_that_get_no_positions_where_these_may_restart() -> None:
    """As under torch.compile, which does not let the forward pass of the model be looked at."""

    def layout(real: Tensor | None = None, **given: Any) -> Action:
        how = {"real": real, "given": Boundaries(**given), "local": False, "reads_positions": False}
        # a model does not ask whether positions restart where it is given an attention mask
        return lambda: read_layout((1, 6), torch.device("cpu"), **how, restarts=real is None)

    follow(
        layout(),
        "attn_implementation='unmask': under torch.compile this model passes no position_ids to its layers, so "
        "documents in a row are not known; pass attention_mask if each row is one document, else cu_seq_lens_q and "
        "max_length_q",
        layout(real=MASK.bool()),
        layout(**BOUNDARIES),
    )


def test_under_torch_compile_other_masks_are_refused_or_made_without_it() -> None:
    config = transformers.LlamaConfig(**SIZES, attn_implementation="unmask", attention_chunk_size=2)

    def run(x: Tensor) -> Tensor:
        masking_utils.create_chunked_causal_mask(
            config=config, inputs_embeds=x, attention_mask=None, past_key_values=None
        )
        return x + 1

    told = "under torch.compile, the model asks for a mask that is neither causal nor has a window"
    with pytest.raises(torch._dynamo.exc.Unsupported, match=told):
        torch.compile(run, backend="eager", fullgraph=True)(torch.zeros(1, 6, 16))
    config._attn_implementation = "eager"
    torch.compile(run, backend="eager", fullgraph=True)(torch.zeros(1, 6, 16))
