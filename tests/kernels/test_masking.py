"""masking: every backend does what the reference does, bit for bit, and what BERT's rule says."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from unmask_kernels import BackendUnavailable, Documents, MaskedTokens, masking
from unmask_kernels.masking import FAMILY, MaskingCall
from unmask_kernels.masking.rule import counts, numbers
from unmask_kernels.testing import contracts
from unmask_kernels.testing.contracts import Target, backends_here
from unmask_kernels.testing.inputs import Case
from unmask_kernels.testing.masking import CASES, MASK, ORDINARY, SPECIAL, masking_case

everywhere = pytest.mark.parametrize("target", backends_here("masking"))
TOKENS = masking_case("tokens", [40, 23], padding=9, spare=4)
WORDS = masking_case("words", [40, 23], words=0.6)


def on(target: Target, case: Case, **changes: Any) -> MaskedTokens:
    return masking(**{**arguments(case, target), **changes}, backend=target.backend)


def arguments(case: Case, target: Target) -> dict[str, Any]:
    return dict(case.make(torch.float32, target.device).arguments)


def same(ours: MaskedTokens, theirs: MaskedTokens) -> None:
    for name, one, other in zip(MaskedTokens._fields, ours, theirs, strict=True):
        assert one.dtype == other.dtype and torch.equal(one.cpu(), other.cpu()), name


@everywhere
@pytest.mark.parametrize("case", CASES, ids=str)
def test_does_what_the_reference_does_bit_for_bit(case: Case, target: Target) -> None:
    with contracts.poisoned_memory():
        ours = on(target, case)
    same(ours, masking(**case.make(torch.float32).arguments, backend="reference"))


@everywhere
@pytest.mark.parametrize("case", CASES, ids=str)
def test_says_what_it_did(case: Case, target: Target) -> None:
    call = arguments(case, target)
    masked = on(target, case)
    used = masked.labels >= 0
    rows = masked.rows[used]
    assert torch.equal(masked.labels[used], call["ids"][rows].long())
    assert bool((masked.rows[~used] == 0).all()) and bool((masked.labels[~used] == -100).all())
    assert torch.equal(rows, rows.sort().values) and len(rows.unique()) == len(rows)
    untouched = torch.ones_like(call["ids"], dtype=torch.bool).index_fill_(0, rows, False)
    assert torch.equal(masked.ids[untouched], call["ids"][untouched])
    assert masked.ids.dtype == call["ids"].dtype


@everywhere
@pytest.mark.parametrize("rate", [0.05, 0.15, 0.3, 1.0])
def test_every_document_predicts_its_exact_count_and_nothing_special(rate: float, target: Target) -> None:
    lengths = [3, 4, 10, 30, 33, 50, 64]
    case = masking_case("", lengths, rate=rate, spelled=0.0)
    masked = on(target, case)
    documents: Documents = arguments(case, target)["documents"]
    rows = masked.rows[masked.labels >= 0]
    found = torch.bincount(documents.document_ids[rows], minlength=len(documents.keys)).tolist()
    assert found == [*(min(max(1, round(rate * n)), n - 2) for n in lengths), 0]
    assert not bool(SPECIAL.to(rows.device)[masked.labels[masked.labels >= 0]].any())


@everywhere
def test_whole_words_are_chosen_whole_and_greedily(target: Target) -> None:
    case = masking_case("", [61, 50, 33, 64], words=0.5, rate=0.3)
    call = arguments(case, target)
    masked = on(target, case)
    chosen = torch.zeros_like(call["word_starts"]).index_fill_(0, masked.rows[masked.labels >= 0], True)
    word = call["word_starts"].cumsum(0) - 1
    sizes = torch.bincount(word)
    touched = torch.bincount(word[chosen], minlength=len(sizes))
    assert bool(((touched == 0) | (touched == sizes)).all())
    # greedily: no word that was left would still fit
    documents: Documents = call["documents"]
    budgets = counts(documents.cu_seqlens.diff(), numbers(0.3, call["split"]))
    left = budgets - torch.bincount(documents.document_ids[chosen], minlength=len(budgets))
    assert bool((left >= 0).all()) and int(chosen.sum()) > 40
    for at in call["word_starts"].nonzero().flatten().tolist():
        ordinary = not bool(SPECIAL.to(word.device)[call["ids"][word == word[at]]].any())
        if ordinary and not bool(chosen[at]):
            assert int(sizes[word[at]]) > int(left[documents.document_ids[at]])


@everywhere
def test_a_word_that_is_longer_than_the_count_leaves_nothing_masked(target: Target) -> None:
    call = arguments(masking_case("", [12]), target)
    starts = torch.zeros_like(call["ids"], dtype=torch.bool)
    starts[[0, 1, 11]] = True
    masked = masking(**{**call, "word_starts": starts}, backend=target.backend)
    assert torch.equal(masked.ids, call["ids"]) and bool((masked.labels == -100).all())


@everywhere
def test_shares_are_within_binomial_bounds(target: Target) -> None:
    case = masking_case("", [128] * 12, rate=0.5)
    call = arguments(case, target)
    # the text uses ids below 100, so that a random replacement never looks like the original
    ids = torch.where(call["ids"] > 4, 5 + call["ids"] % 95, call["ids"])
    masked = on(target, case, ids=ids)
    new = masked.ids[masked.rows]
    n = len(new)
    assert n == 12 * 64
    kinds = [(new == MASK).sum(), ((new != MASK) & (new != masked.labels)).sum(), (new == masked.labels).sum()]
    for got, share in zip(kinds, (0.8, 0.1, 0.1), strict=True):
        assert abs(int(got) - n * share) < 5 * (n * share * (1 - share)) ** 0.5
    random = new[(new != MASK) & (new != masked.labels)].cpu()
    assert bool(torch.isin(random, ORDINARY).all()) and len(random.unique()) > 0.8 * len(random)


def test_every_place_is_chosen_equally_often() -> None:
    case = masking_case("", [64] * 800)
    masked = masking(**case.make(torch.float32).arguments, backend="torch")
    by_place = torch.bincount(masked.rows % 64, minlength=64)
    share = 10 / 62
    assert int(by_place[0]) == int(by_place[63]) == 0
    assert float((by_place[1:63] - 800 * share).abs().max()) < 5 * (800 * share * (1 - share)) ** 0.5


@everywhere
def test_a_document_is_masked_the_same_wherever_it_lies(target: Target) -> None:
    call = arguments(WORDS, target)
    whole = masking(**call, backend=target.backend)
    documents: Documents = call["documents"]
    for index, (start, length) in enumerate([(0, 40), (40, 23)]):
        offsets = torch.tensor([0, length], dtype=torch.int32, device=target.device)
        alone = Documents.build(offsets, documents.keys[index : index + 1], tokens=length, max_seqlen=64)
        rows = slice(start, start + length)
        part = {**call, "ids": call["ids"][rows], "word_starts": call["word_starts"][rows], "documents": alone}
        assert torch.equal(masking(**part, backend=target.backend).ids, whole.ids[rows])


@everywhere
@pytest.mark.parametrize("every", [500, 7], ids=["none", "some"])
def test_words_at_both_ends_may_be_chosen_and_those_that_hold_a_special_token_not(every: int, target: Target) -> None:
    # ids in text without [CLS] and [SEP], of which none or every seventh is special, wherever in a word it stands
    case = masking_case("", [21, 9, 14, 5, 40], words=0.4, rate=0.8)
    changes = {"special": torch.arange(500) % every == every - 1, "ids": case.make(torch.float32).arguments["ids"] + 5}
    documents: Documents = case.make(torch.float32).arguments["documents"]
    starts = case.make(torch.float32).arguments["word_starts"] & (documents.positions > 0)  # the first is one anyway
    changes |= {"word_starts": starts, "special": torch.cat([changes["special"], torch.zeros(5, dtype=torch.bool)])}
    masked = on(target, case, **{name: value.to(target.device) for name, value in changes.items()})
    same(masked, masking(**case.make(torch.float32).arguments | changes, backend="reference"))
    word = (starts | (documents.positions == 0)).cumsum(0) - 1
    holds = torch.zeros(int(word[-1]) + 1).index_add_(0, word, changes["special"][changes["ids"]].float()) > 0
    chosen = masked.rows[masked.labels >= 0].cpu()
    assert not holds[word[chosen]].any() and bool(holds.any()) == (every == 7)
    assert (documents.positions[chosen] == 0).any() and torch.isin(documents.cu_seqlens[1:] - 1, chosen).any()


def test_a_rate_is_a_fraction_and_shares_are_bounds_of_32_bits() -> None:
    assert numbers(0.15, (0.8, 0.1, 0.1)) == (3, 20, 3435973837, 3865470566)
    assert numbers(0.1234, (0.0, 1.0, 0.0)) == (617, 5000, 0, 1 << 32)
    assert numbers(1 / 65536, (0.7, 0.3 + 1e-9, 0.0))[:2] == (1, 65536)
    # shares that sum to more by rounding draw no more than all
    assert numbers(1.0, (0.7, 0.3 + 1e-9, 0.0))[3] == 1 << 32


@everywhere
def test_other_keys_choose_other_tokens(target: Target) -> None:
    call = arguments(masking_case("", [200]), target)
    base, other = (
        masking(**{**call, "keys": keys}, backend=target.backend) for keys in (call["keys"], call["keys"] + 1)
    )
    # two independent choices of 30 among 198 share 5 on average
    assert len(set(base.rows.tolist()) & set(other.rows.tolist())) < 15


@everywhere
@pytest.mark.parametrize("words", [None, 0.7])
def test_equal_priorities_go_by_place(words: float | None, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    if target.backend == "triton":
        pytest.skip("the kernel's random numbers cannot be replaced: see test_masking_selection.py")
    from unmask_kernels import philox

    def few(c0: Tensor, c1: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        zeros = torch.zeros_like(c0 + rest[0])
        return zeros, zeros + 1, zeros, zeros + 1

    monkeypatch.setattr(philox, "philox_4x32", few)
    masked = on(target, masking_case("", [42], words=words))
    if words is None:
        # words 0 and 2 of a call draw 0, words 1 and 3 draw 1: even places first, in order; 0 is [CLS]
        assert masked.rows.tolist() == [2, 4, 6, 8, 10, 12]
    else:
        same(masked, masking(**masking_case("", [42], words=words).make(torch.float32).arguments, backend="reference"))


@everywhere
def test_tokens_without_a_slot_are_left_as_they_are(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask_kernels import checks

    call = arguments(masking_case("", [40, 33, 50], rate=0.3), target)
    monkeypatch.setattr(checks, "reads_contents", lambda x: False)
    whole = masking(**call, backend=target.backend)
    fewer = masking(**{**call, "capacity": 15}, backend=target.backend)
    assert torch.equal(fewer.rows, whole.rows[:15]) and torch.equal(fewer.labels, whole.labels[:15])
    assert torch.equal(fewer.ids[:40], whole.ids[:40]) and torch.equal(fewer.ids[73:], call["ids"][73:])


@everywhere
@pytest.mark.parametrize("case", [TOKENS, WORDS], ids=str)
def test_registration_is_sound(case: Case, target: Target) -> None:
    call = arguments(case, target)
    documents: Documents = call["documents"]
    tensors = [call[name] for name in ("word_starts", "special", "ordinary", "keys")]
    numbers_ = (call["rate"], list(call["split"]), MASK, call["capacity"], documents.max_seqlen)
    flat = (call["ids"], *tensors, documents.cu_seqlens, documents.keys, *numbers_, target.backend)
    if target.backend != "reference":
        contracts.opcheck(torch.ops.unmask.masking_fwd.default, flat)
    again = torch.ops.unmask.masking_fwd(*flat)
    same(MaskedTokens(*again), on(target, case))


@everywhere
def test_compiles_as_one_graph(target: Target) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(partial(masking, backend=target.backend), fullgraph=True, backend="aot_eager")
    for case in (TOKENS, masking_case("", [41, 25], padding=9, spare=4)):
        same(compiled(**arguments(case, target)), on(target, case))


REFUSALS: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"ids": torch.zeros(8, dtype=torch.int64)},
        ValueError,
        "masking: ids must have shape (72,), the tokens of documents",
    ),
    ({"ids": torch.zeros(72)}, TypeError, "masking: ids must be int64 or int32, got float32"),
    (
        {"ids": torch.full((72,), 500)},
        ValueError,
        "masking: ids must be in [0, 500), the ids that special knows, got 500",
    ),
    ({"word_starts": torch.zeros(72)}, TypeError, "masking: word_starts must be bool, got float32"),
    ({"word_starts": torch.zeros(7).bool()}, ValueError, "masking: word_starts must have shape (72,)"),
    ({"special": torch.zeros(500)}, TypeError, "masking: special must be bool"),
    (
        {"ordinary": torch.zeros(0).long()},
        ValueError,
        "masking: ordinary must hold the ids that a random replacement draws",
    ),
    ({"keys": torch.zeros(3).long()}, ValueError, "masking: keys must have shape (2,), one of selection"),
    ({"rate": 0.0}, ValueError, "masking: rate must lie in (0, 1], got 0.0; BERT masks 0.15"),
    ({"split": (0.8, 0.1, 0.2)}, ValueError, "masking: split must be three shares that sum to 1"),
    ({"split": (0.8, 0.1, 0.05)}, ValueError, "masking: split must be three shares that sum to 1"),
    ({"split": (1.1, -0.1, 0.0)}, ValueError, "masking: split must be three shares that sum to 1"),
    ({"split": (0.5, 0.5)}, ValueError, "masking: split must be three shares that sum to 1, got (0.5, 0.5)"),
    ({"mask_id": 500}, ValueError, "masking: mask_id must be in [0, 500)"),
    ({"mask_id": -1}, ValueError, "masking: mask_id must be in [0, 500)"),
    ({"capacity": -1}, ValueError, "masking: capacity must be at least 0, got -1"),
    ({"capacity": 8}, ValueError, "masking: capacity is 8 but 9 slots are needed; raise it, or pack fewer tokens"),
    ({"backend": "numpy"}, ValueError, "masking: backend must be one of 'triton', 'torch', 'reference'"),
]


@pytest.mark.parametrize(("change", "error", "message"), REFUSALS, ids=[r[2][:60] for r in REFUSALS])
def test_refuses_bad_arguments_in_one_sentence(change: dict[str, Any], error: type[Exception], message: str) -> None:
    contracts.refuses(masking, TOKENS.make(torch.float32), change, error, message)


def test_triton_says_what_it_refuses() -> None:
    assert FAMILY.choose(None, MaskingCall("cuda", "sm_90", 512)) == "torch"
    reasons = FAMILY.backends["triton"].refuses(MaskingCall("cuda", "sm_90", 9000))
    assert "documents up to 4096 tokens stay in registers, may be 9000 long; use backend 'torch'" in reasons
    assert "documents up to" not in FAMILY.explain(MaskingCall("cuda", "sm_90", 4096))
    if not contracts.INTERPRETING:
        with pytest.raises(BackendUnavailable, match="needs a CUDA tensor, got cpu"):
            masking(**TOKENS.make(torch.float32).arguments, backend="triton")
