"""The sizes of a run are those of its checkpoint; the position table is cut or grows."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from initial_runs import extended_by_command, settings, start, trainer, weights
from unmask.config import EncoderConfig, InitConfig, load_config
from unmask.errors import ConfigError
from unmask.train.pretrain import pretrain


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
