"""masking: every backend against the data loader's own masking and the collator of `transformers`, in tokens/s.

Documents have up to 512 tokens; 15% are predicted, as single tokens or as whole words. Peers:

    loader      the NumPy `Masker` of the data loader, on one core, whatever the device
    collator    the masking of `DataCollatorForLanguageModeling` on tensors, and the list of masked rows that a head on
                masked rows needs; it masks each single token with probability 0.15, so its results differ

First our results are compared bit for bit with those of the loader.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from bench.clock import PLAYBACK
from bench.lengths import DISTRIBUTIONS
from bench.roofline import copy_bandwidth
from bench.variants import checked

from unmask.config import MaskingConfig
from unmask.data.masking import Masker
from unmask.data.randomness import REPLACEMENT, SELECTION, site_key
from unmask_kernels import Documents, MaskedTokens, masking
from unmask_kernels.capability import architecture
from unmask_kernels.dispatch import BackendUnavailable
from unmask_kernels.masking import FAMILY, MaskingCall, cost

pytestmark = pytest.mark.benchmark(timer=PLAYBACK)

ON_GPU = torch.cuda.is_available()
SHAPES = (
    [
        (length_case, tokens, words)
        for length_case, tokens in ([("lognormal-512", 16384), ("lognormal-512", 65536), ("lognormal-8192", 65536)])
        for words in (False, True)
    ]
    if ON_GPU
    else [("lognormal-512", 16384, False), ("lognormal-512", 16384, True)]
)
PEERS = ("loader", "collator")
BACKENDS = [name for name in FAMILY.backends if name != "reference"]
VOCAB, MASK, RATE, SPLIT, SEED, ROTATED = 30522, 103, 0.15, (0.8, 0.1, 0.1), 7, 4


def _masker(words: bool) -> Masker:
    return Masker(
        MaskingConfig(strategy="whole_word" if words else "token", rate=RATE, split=SPLIT),
        seed=SEED,
        special_ids=[0, 100, 101, 102, MASK],
        ordinary_ids=torch.arange(1000, VOCAB).numpy(),
        mask_id=MASK,
        vocab_size=VOCAB,
    )


def _inputs(lengths: list[int], words: bool, device: torch.device, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    ids = torch.randint(1000, VOCAB, (int(offsets[-1]),), generator=generator)
    ids[offsets[:-1]], ids[offsets[1:] - 1] = 101, 102
    starts = (torch.rand(len(ids), generator=generator) < 0.75) | (ids < 1000)
    starts[offsets[:-1] + 1] = True
    names = torch.randint(-(2**62), 2**62, (len(lengths),), generator=generator)
    special = torch.zeros(VOCAB, dtype=torch.bool)
    special[[0, 100, 101, 102, MASK]] = True
    keys = [int.from_bytes(_bytes(site), "little", signed=True) for site in (SELECTION, REPLACEMENT)]
    return {
        "ids": ids.to(device),
        "documents": Documents.build(offsets.int(), names).to(device),
        "word_starts": starts.to(device) if words else None,
        "special": special.to(device),
        "ordinary": torch.arange(1000, VOCAB, device=device),
        "keys": torch.tensor(keys, device=device),
        "rate": RATE,
        "split": SPLIT,
        "mask_id": MASK,
        "capacity": int(_masker(words).counts(lengths).sum()),
    }


def _bytes(site: int) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in site_key(SEED, site))


def _collator(ids: torch.Tensor, special: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As in `DataCollatorForLanguageModeling.torch_mask_tokens`."""
    ids, labels = ids.clone(), ids.clone()
    chance = torch.full(labels.shape, RATE, device=ids.device).masked_fill_(special[labels], 0.0)
    chosen = torch.bernoulli(chance).bool()
    labels[~chosen] = -100
    replaced = torch.bernoulli(torch.full(labels.shape, 0.8, device=ids.device)).bool() & chosen
    ids[replaced] = MASK
    random = torch.bernoulli(torch.full(labels.shape, 0.5, device=ids.device)).bool() & chosen & ~replaced
    ids[random] = torch.randint(VOCAB, labels.shape, device=ids.device)[random]
    rows = chosen.nonzero()[:, 0]
    return ids, rows, labels[rows]


def _enter(
    lengths: list[int], words: bool, device: torch.device, variants: list[str]
) -> dict[str, Callable[[int], object]]:
    """Compare every backend with the loader bit for bit; then calls on inputs in turn."""
    sets = [_inputs(lengths, words, device, seed) for seed in range(ROTATED)]
    masker = _masker(words)
    host = [
        (made["ids"].cpu().numpy(), lengths, made["documents"].keys.cpu().numpy(), _numpy(made["word_starts"]))
        for made in sets
    ]
    expected = masker(*host[0])

    def loader(at: int) -> object:
        if device.type == "cuda":
            torch.cuda.synchronize()  # what the host does before the clock of the device starts would not count
        return masker(*host[at % ROTATED])

    functions: dict[str, Callable[[int], object]] = {"loader": loader}
    if not words:
        functions["collator"] = lambda at: _collator(**sets[at % ROTATED])

    def check(name: str, call: Callable[..., MaskedTokens]) -> None:
        found = call(**sets[0])
        used = found.labels >= 0
        assert found.ids.tolist() == expected.ids.tolist(), name
        assert found.rows[used].tolist() == expected.rows.tolist(), name

    for name, call in checked({name: partial(masking, backend=name) for name in variants}, check).items():
        functions[name] = lambda at, call=call: call(**sets[at % ROTATED])  # type: ignore[misc]
    return functions


def _numpy(flags: torch.Tensor | None) -> Any:
    return None if flags is None else flags.cpu().numpy()


@pytest.mark.parametrize("variant", [*PEERS, *BACKENDS])
@pytest.mark.parametrize(("length_case", "tokens", "words"), SHAPES)
def bench_masking(
    benchmark: Any, side_by_side: Any, device: torch.device, length_case: str, tokens: int, words: bool, variant: str
) -> None:
    lengths = DISTRIBUTIONS[length_case].fill(tokens)
    call = MaskingCall(device.type, architecture(torch.empty(0, device=device)), max(lengths))
    able = [name for name in BACKENDS if not FAMILY.backends[name].refuses(call)]
    if variant in BACKENDS and variant not in able:
        with pytest.raises(BackendUnavailable) as refusal:
            FAMILY.choose(variant, call)
        pytest.skip(str(refusal.value))
    if variant == "collator" and words:
        pytest.skip("the collator chooses single tokens only")
    slots = int(_masker(words).counts(lengths).sum())
    bandwidth = copy_bandwidth(str(device))
    side_by_side.run(
        benchmark,
        group="masking",
        case=f"{tokens} tokens, {length_case}, {'whole words' if words else 'tokens'}",
        variant=variant,
        enter=lambda: _enter(lengths, words, device, able),
        rounds=100 if ON_GPU else 20,
        extra={
            "baseline": "loader",
            "tokens": tokens,
            "floor_seconds": cost.bytes_forward(tokens, len(lengths), slots, 8, words=words) / bandwidth,
            "ceiling": f"copy bandwidth of this run, {bandwidth / 1e9:,.1f} GB/s",
        },
    )
