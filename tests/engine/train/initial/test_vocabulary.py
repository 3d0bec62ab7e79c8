"""A run with another vocabulary than its checkpoint: new entries, lost ones, and what is refused."""

import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import unmask
from initial_runs import SMALL, extended_by_command, settings, start, table, trainer, weights
from unmask.cli import main
from unmask.config import load_config
from unmask.data.prepare import prepare
from unmask.data.tokenizer import Tokenizer
from unmask.errors import ConfigError, TokenizerError
from unmask.train.run_folder import saved_config


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
