"""The tools of the benches: clock, lengths of documents, training steps, ceilings, result files."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from bench import attention_peers, machine, record, record_steps, roofline
from bench.clock import DeviceClock, peak_bytes
from bench.documents import from_distribution, from_store
from bench.engine import bench_step
from bench.lengths import DISTRIBUTIONS, LengthDistribution, random_documents
from bench.training_step import (
    GROUPED_UPDATES,
    SIZES,
    check_agreement,
    collate_with_numpy,
    make_grouped,
    make_inputs,
    to_packed,
)
from bench.transformers_step import Setting, fastest, length_grouped

from unmask_kernels import attention
from unmask_kernels.testing.attention import attention_case

ROOT = Path(__file__).resolve().parent.parent

DOCUMENTS = from_distribution(DISTRIBUTIONS["lognormal-512"], SIZES["nano"].vocab)


@pytest.mark.parametrize("case", DISTRIBUTIONS.values(), ids=str)
@pytest.mark.parametrize("tokens", [8, 511, 4096, 10_007])
def test_lengths_fill_exactly_and_stay_in_bounds(case: LengthDistribution, tokens: int) -> None:
    if tokens < case.min_length:
        with pytest.raises(ValueError, match="tokens must be at least"):
            case.fill(tokens)
        return
    lengths = case.fill(tokens, seed=3)
    assert sum(lengths) == tokens
    assert max(lengths) <= case.max_length
    assert min(lengths) >= 3
    assert lengths == case.fill(tokens, seed=3)


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("all-128", 128),
        ("all-512", 512),
        ("uniform-16-512", 264),
        ("lognormal-512", 310),
        ("lognormal-8192", 545),
        ("queries", 51),
        ("docstrings", 135),
    ],
)
def test_cases_have_the_means_they_promise(name: str, mean: float) -> None:
    assert fmean(DISTRIBUTIONS[name].draw(20_000)) == pytest.approx(mean, rel=0.03)


def test_another_seed_draws_other_documents() -> None:
    assert DISTRIBUTIONS["lognormal-512"].fill(4096, 0) != DISTRIBUTIONS["lognormal-512"].fill(4096, 1)
    first, second = (random_documents([9, 3], 50, cls_id=1, sep_id=2, first_id=5, seed=seed) for seed in (0, 1))
    assert first != second
    assert [len(ids) for ids in first] == [9, 3]
    assert all(ids[0] == 1 and ids[-1] == 2 and all(5 <= id_ < 50 for id_ in ids[1:-1]) for ids in first)


def test_the_clock_counts_seconds_and_the_memory_of_a_call() -> None:
    a = torch.randn(64, 64)
    assert 0 < DeviceClock("cpu").seconds(lambda: a @ a) < 1
    assert DeviceClock("cpu", of_process=True).seconds(lambda: time.sleep(0.2)) < 0.1
    assert peak_bytes(lambda: None, "cpu") == 0

    def two_at_once() -> None:
        first = torch.zeros(1000, dtype=torch.float32)
        second = first + 1.0
        del first
        second * 2.0

    assert 8000 <= peak_bytes(two_at_once, "cpu") < 8100  # two tensors, and scalars


def test_packed_side_holds_the_tokens_and_masks_of_the_padded_side() -> None:
    padded = {
        "input_ids": torch.tensor([[101, 103, 7, 102], [101, 9, 102, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
        "labels": torch.tensor([[-100, 5, -100, -100], [-100, 9, -100, -100]]),
    }
    packed = to_packed(padded, [4, 3], 2, seed=0)
    assert packed.ids.tolist() == [101, 103, 7, 102, 101, 9, 102]
    assert packed.documents.cu_seqlens.tolist() == [0, 4, 7]
    assert packed.masked is not None and packed.labels is not None
    assert packed.masked[:2].tolist() == [1, 5] and packed.labels[:2].tolist() == [5, 9]
    assert packed.labels[2:].eq(-100).all()


def test_numpy_masks_a_share_of_ordinary_tokens_only() -> None:
    documents = [[101, *range(1000, 1400), 102], [101, *range(1400, 1500), 102]]
    made = collate_with_numpy(documents, 3, vocab=2000)
    chosen = made["labels"] != -100
    assert 50 <= int(chosen.sum()) <= 100
    assert not chosen[:, 0].any() and not chosen[0, 401] and not chosen[1, 101:].any()
    kept = torch.where(chosen, made["labels"], made["input_ids"])
    assert kept[0].tolist() == documents[0] and kept[1, :102].tolist() == documents[1]
    assert made["attention_mask"].sum(1).tolist() == [402, 102]
    assert 0.6 < float((made["input_ids"][chosen] == 103).double().mean()) < 0.95


@pytest.mark.parametrize(("lengths", "masked"), [([6, 6], False), ([6, 4], True)])
def test_padded_attention_is_ours_and_is_masked_only_where_lengths_differ(
    lengths: list[int], masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = []
    sdpa = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *qkv, **rest: masks.append(rest.get("attn_mask")) or sdpa(*qkv, **rest),
    )
    arguments = attention_case("two", lengths).make(torch.float64).arguments
    qkv = arguments["qkv"]
    rows = torch.nn.utils.rnn.pad_sequence(qkv.split(lengths), batch_first=True)
    padded = attention_peers.padded(**{**arguments, "qkv": rows}).transpose(1, 2)
    ours = attention(qkv, arguments["documents"])
    for row, part in zip(padded, ours.split(lengths), strict=True):
        torch.testing.assert_close(row[: len(part)], part)
    assert [mask is not None for mask in masks] == [masked]


def test_flex_attention_sees_the_documents_that_ours_sees() -> None:
    arguments = attention_case("three", [6, 1, 4]).make(torch.float32).arguments
    theirs = attention_peers.flex(arguments["documents"], compiled=False)(**arguments)
    torch.testing.assert_close(theirs, attention(arguments["qkv"], arguments["documents"]))


def test_both_sides_of_a_step_have_the_same_loss() -> None:
    pytest.importorskip("transformers")
    device = torch.device("cpu")
    (inputs,) = make_inputs(DOCUMENTS, SIZES["nano"].vocab, 600, 1, device)
    assert sum(inputs.lengths) == inputs.packed.real_tokens == int(inputs.padded["attention_mask"].sum()) == 600
    assert check_agreement(SIZES["nano"], inputs, device) <= 1e-5


def test_ceilings_are_positive_and_flops_count_real_tokens() -> None:
    assert roofline.copy_bandwidth("cpu", 1 << 16) > 0
    assert roofline.matmul_rate("cpu", torch.float32, 64) > 0
    shape = {"layers": 1, "hidden": 2, "intermediate": 8, "vocab": 10}
    # three tokens: 3 * 2 * 12 for q, k, v, 4 * 2 * 9 for attention; one masked: 2 * (4 + 32) in the layer, 2 * (4 + 20)
    # in the head
    assert roofline.bert_step_flops([3], masked=1, **shape) == 3 * (72 + 72 + 72 + 48)
    # of two layers the first computes all three rows: 3 * 2 * (4 + 32) for them
    assert roofline.bert_step_flops([3], masked=1, **shape | {"layers": 2}) == 3 * (2 * (72 + 72) + 216 + 72 + 48)


def test_every_result_says_where_it_was_measured() -> None:
    found = record.benchmark_file([])
    assert {"cpu", "cores", "threads", "torch", "transformers", "python", "machine"} <= found["machine_info"].keys()
    assert found["machine_info"]["machine"] == machine.name()
    assert found["commit_info"].keys() == {"id", "dirty"}
    json.dumps(found)


def test_the_commit_can_be_named_where_there_is_no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMIT", "abc123")
    assert machine.commit() == {"id": "abc123", "dirty": False}


def test_the_loaders_that_are_compared_give_the_same_batches() -> None:
    from itertools import islice

    from bench.engine.bench_by_hand import data_loader, stream_of

    from unmask.data.stream.loader import Loader

    stream = stream_of(1024)
    theirs = [stream.to_batch(arrays) for arrays in islice(data_loader(stream, 2), 4)]
    with Loader(stream, workers=2) as loader:
        for one, two in zip(theirs, islice(loader, 4), strict=True):
            assert one.cursor == two.cursor
            assert torch.equal(one.ids, two.ids)


def test_the_text_of_a_store_is_cut_evenly_and_fills_a_step_exactly(tmp_path: Path) -> None:
    from unmask.data.store import StoredDocument, write_store

    special = {"pad": 3, "unk": 4, "cls": 1, "sep": 2, "mask": 0}
    texts = [list(range(10, 31)), [40, 41], [50] * 9]
    stored = [StoredDocument(ids=np.array(ids), source="s", content_hash=at) for at, ids in enumerate(texts)]
    write_store(tmp_path / "words", stored, tokenizer_hash="0" * 64, vocab_size=60, special_ids=special)
    documents = from_store(tmp_path / "words", max_length=12)
    assert (documents.name, documents.vocab, documents.special_ids["[MASK]"]) == ("words", 60, 0)
    pool = documents.pool(100, seed=0)
    # 21 tokens with room for 10 become three pieces of 7
    assert sorted(pool.lengths) == [4, 9, 9, 9, 11]
    read = pool.read(range(5))
    assert [len(ids) for ids in read] == pool.lengths
    assert all(ids[0] == 1 and ids[-1] == 2 for ids in read)
    assert sorted(token for ids in read for token in ids[1:-1]) == sorted(token for ids in texts for token in ids)
    for tokens in range(3, 43):
        filled = documents.fill(tokens, 5)
        assert sum(map(len, filled)) == tokens and min(map(len, filled)) >= 3
    with pytest.raises(ValueError, match="must hold at least 43 tokens, which a step reads; give more text"):
        documents.fill(43, 5)


def test_grouped_batches_are_those_of_the_sampler_of_transformers() -> None:
    pytest.importorskip("transformers")
    lengths = DISTRIBUTIONS["queries"].draw(2000)
    batches = length_grouped(lengths, 10, seed=0)
    assert sorted(index for batch in batches for index in batch) == list(range(2000))
    padded = sum(10 * max(lengths[index] for index in batch) for batch in batches)
    assert sum(lengths) / padded > 0.9


def test_grouped_rounds_cover_an_epoch_from_its_shortest_to_its_longest_batches() -> None:
    pytest.importorskip("transformers")
    documents = from_distribution(DISTRIBUTIONS["queries"], SIZES["nano"].vocab)
    rounds = make_grouped(documents, SIZES["nano"].vocab, 8, 3, torch.device("cpu"))
    tokens = [[int(padded["attention_mask"].sum()) for padded in made.padded] for made in rounds]
    assert [len(made.padded) for made in rounds] == [GROUPED_UPDATES] * 3
    # from short batches to long ones, and every quarter of the epoch is visited from its short to its long end
    in_order = [count for quarter in zip(*tokens, strict=True) for count in quarter]
    assert in_order == sorted(in_order)
    assert [made.real_tokens for made in rounds] == [sum(counts) for counts in tokens]
    mean = sum(made.real_tokens for made in rounds) / (3 * GROUPED_UPDATES * 8)
    assert mean == pytest.approx(fmean(DISTRIBUTIONS["queries"].draw(1600)), rel=0.1)


def test_the_fastest_setting_is_found_and_a_slow_dtype_costs_one_small_step() -> None:
    fp32, bf16 = torch.float32, torch.bfloat16
    settings = [Setting(dtype, attention) for dtype in (bf16, fp32) for attention in ("sdpa", "eager")]
    steps = []

    def step(setting: Setting) -> float:
        steps.append(setting)
        return {"sdpa": 2.0, "eager": 1.0}[setting.attention]

    best, others = fastest(lambda setting: 90.0 if setting.dtype == bf16 else 1.0, step, settings)
    assert best == Setting(fp32, "eager")
    assert [setting.dtype for setting in steps] == [fp32, fp32]
    assert others == {
        "transformers fp32 sdpa": "2.00 times the time",
        "transformers bf16 sdpa": "90 times the time, small model",
        "transformers bf16 eager": "90 times the time, small model",
    }


def test_a_setting_without_room_is_left_out() -> None:
    def step(setting: Setting) -> float:
        if setting.dtype == torch.float32:
            raise torch.OutOfMemoryError
        return 1.0

    settings = [Setting(dtype, "sdpa") for dtype in (torch.bfloat16, torch.float32)]
    best, others = fastest(lambda setting: 1.0, step, settings)
    assert best.dtype == torch.bfloat16
    assert others == {"transformers fp32 sdpa": "out of memory"}


@pytest.mark.parametrize("option", ["--tokens", "--rounds", "--threads", "--pad-to-multiple-of"])
def test_the_bench_of_the_step_refuses_a_number_below_one(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench_step.main(["--size", "nano", option, "0"])
    assert f"argument {option}: must be at least 1, got 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--dropout 2", "argument --dropout: must be at least 0 and below 1, got 2"),
        ("--dropout 0.1 nan", "argument --dropout: must be at least 0 and below 1, got nan"),
        ("--backend nope", "argument --backend: invalid choice: 'nope' (choose from "),
        ("--backend triton --device cpu", "cannot run this call: "),
        ("--forms compiled", "argument --forms: needs the eager step first, and our step"),
        ("--forms eager graph --device cpu", "argument --forms: graph needs a CUDA device; leave it out, or give "),
    ],
)
def test_the_bench_of_the_step_refuses_what_cannot_run_in_a_sentence(
    words: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        bench_step.main(["--size", "nano", "--tokens", "64", "--rounds", "1", "--no-peer", *words.split()])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_a_step_is_timed_beside_transformers_in_its_best_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr(machine, "DRY", True)
    out = tmp_path / "step.json"
    bench_step.main(f"--size nano --tokens 256 --rounds 1 --out {out}".split())
    rows = [row["extra_info"] for row in json.loads(out.read_text())["benchmarks"]]
    assert [row["variant"] for row in rows] == [bench_step.OURS, bench_step.THEIRS, bench_step.GROUPED]
    assert {row["baseline"] for row in rows} == {bench_step.THEIRS}
    assert all(row["dtype"] in ("fp32", "bf16") and row["case"] == "lognormal-512, dropout 0.1" for row in rows)
    assert len(rows[1]["trials"]) == 3 and rows[1]["attention"] in ("sdpa", "eager")


def test_forms_of_a_step_are_timed_in_pairs_and_only_if_their_losses_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    monkeypatch.setattr(machine, "DRY", True)
    monkeypatch.setattr(torch, "compile", lambda function, **settings: (compiled.append(settings), function)[1])
    out = tmp_path / "forms.json"
    words = f"--size nano --tokens 256 --rounds 3 --out {out} --dtype float32 --forms eager compiled".split()
    bench_step.main(words)
    assert compiled == [{"fullgraph": True, "dynamic": False}]
    rows = json.loads(out.read_text())["benchmarks"]
    assert [row["extra_info"]["variant"] for row in rows] == ["unmask", "unmask, compiled"]
    assert {row["extra_info"]["baseline"] for row in rows} == {"unmask"}
    assert {row["group"].split(",")[0] for row in rows} == {"forms of a training step"}
    eager, other = (row["stats"]["data"] for row in rows)
    ratio = sorted(one / two for one, two in zip(eager, other, strict=True))[1]
    assert f"{ratio:.2f} times the time of 'unmask, compiled' (median of 3 pairs)" in rows[0]["extra_info"]["note"]
    with pytest.raises(AssertionError, match=r"compiled has loss 1\.001, eager has 1"):
        bench_step.require_agreement({"eager": 1.0, "compiled": 1.001}, torch.float32)


def test_steps_are_recorded_each_into_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[list[str]] = []

    def run(parts: list[str]) -> int:
        ran.append(parts)
        if "--out" in parts:
            Path(parts[-1]).touch()
        return 0

    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(record_steps, "run", run)
    (tmp_path / machine.name()).mkdir()
    steps = len(record_steps.chosen([], None))
    assert record_steps.main([]) == 0
    assert len({parts[-1] for parts in ran[:-1]}) == len(ran) - 1 == steps
    assert ran[-1][-1].endswith("report.py")
    # the second time every file is there, and only the pages are written
    assert record_steps.main([]) == 0
    assert len(ran) == steps + 2
    assert f"{steps} steps, about" in capsys.readouterr().out
    # every command is one that the bench takes
    for parts in ran[:steps]:
        assert parts[3] in SIZES and parts[5] in DISTRIBUTIONS


def test_a_store_adds_its_steps_to_those_that_are_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert record_steps.main(["--documents", str(tmp_path / "words"), "--only", "mini", "store", "--dry"]) == 0
    printed = capsys.readouterr().out
    assert f"--size mini --documents {tmp_path / 'words'} --tokens" in printed and "-step-mini-words.json" in printed
    with pytest.raises(SystemExit):
        record_steps.main(["--only", "gigantic"])
    assert "no step is named so; there are: minilm queries, mini lognormal-512" in capsys.readouterr().err


def test_every_bench_finds_what_it_is_given() -> None:
    """A parameter without values, as after an edit, is no error until somebody runs the bench."""
    command = [sys.executable, "-m", "pytest", "bench", "--setup-plan", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
