"""The code that stands in the documentation and in examples/ runs as it is written."""

from __future__ import annotations

import doctest
import importlib.util
import re
import shlex
import types
from pathlib import Path

import pytest
import torch

import unmask
from unmask import EncoderConfig, PretrainingModel
from unmask.commands.evaluate import Evaluation

ROOT = Path(__file__).resolve().parent.parent
WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "mat", "and", "hello", "world"]
VECTORS = "From texts to vectors"
PROGRAMS = ("Classification", "Pairs of texts", "Continued pre-training")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model with BERT's ids for its special tokens, in the working directory, as the pages name it."""
    monkeypatch.chdir(tmp_path)
    config = EncoderConfig(
        vocab_size=8_000, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, max_positions=32
    )
    PretrainingModel(config, heads=("mlm", "nsp")).save_pretrained("folder")
    specials = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    vocabulary = [specials.get(index, f"[unused{index}]") for index in range(104)] + WORDS
    Path("folder/vocab.txt").write_text("\n".join(vocabulary) + "\n")
    Path("texts").mkdir()
    for number in range(20):
        Path(f"texts/{number}.txt").write_text(" ".join(WORDS[(i * number) % len(WORDS)] for i in range(200)))
    Path("folder/tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    torch.manual_seed(0)
    return tmp_path


def sections_of(page: str) -> dict[str, str]:
    """The Python blocks of each section of a page, one after the other, by its title; "" before the first one."""
    parts = ["", *re.split(r"^## (.+)$", (ROOT / page).read_text("utf-8"), flags=re.MULTILINE)]
    blocks = re.compile(r"^```python\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
    return {title: "\n".join(blocks.findall(text)) for title, text in zip(parts[::2], parts[1::2], strict=True)}


def run(code: str, name: str) -> dict[str, object]:
    names: dict[str, object] = {}
    exec(compile(code, name, "exec"), names)
    return names


@pytest.mark.parametrize("page", ["README.md", "docs/encoder.md"])
def test_the_code_of_a_page_runs(page: str, folder: Path) -> None:
    sections = sections_of(page)
    names = run("\n".join(code for title, code in sections.items() if title not in (*PROGRAMS, VECTORS)), page)
    hidden, vectors = names["hidden"], names["vectors"]
    assert isinstance(hidden, torch.Tensor) and hidden.shape == (7, 32)
    assert isinstance(vectors, torch.Tensor) and vectors.shape == (2, 32)
    if page == "README.md":
        assert list(Path("runs/mine/checkpoints").glob("step-*"))
    if page == "docs/encoder.md":
        from transformers import AutoTokenizer, BertModel

        theirs = AutoTokenizer.from_pretrained("folder")
        assert names["documents"] == theirs(["hello world", "the cat sat"])["input_ids"]
        names["first"], names["second"], names["trainer"]
        assert BertModel.from_pretrained("trained/encoder").config.hidden_size == 32


def test_the_code_for_other_trainers_runs(folder: Path) -> None:
    names = run("\n".join(sections_of("docs/other-trainers.md").values()), "docs/other-trainers.md")
    trainer = names["trainer"]
    assert trainer.global_step == 4  # type: ignore[attr-defined]


def test_the_code_for_the_whole_encoder_runs(folder: Path) -> None:
    names = run(sections_of("docs/drop-in.md")["The whole encoder"], "docs/drop-in.md")
    model = names["model"]
    assert type(model).__module__.startswith("transformers.") and names["loss"].isfinite()  # type: ignore[attr-defined]
    read = type(model).from_pretrained("mine")  # type: ignore[attr-defined]
    assert all(torch.equal(value, read.state_dict()[name]) for name, value in model.state_dict().items())  # type: ignore[attr-defined]


def test_the_code_for_attention_alone_runs_and_its_table_is_of_models_that_leak(folder: Path) -> None:
    names = run(sections_of("docs/drop-in.md")["Attention alone"], "docs/drop-in.md")
    rows, row = names["rows"], names["row"]
    assert isinstance(rows, torch.Tensor) and isinstance(row, torch.Tensor)
    torch.testing.assert_close(row[0], rows.flatten(0, 1)[[0, 1, 2, 4, 5, 6, 7]], rtol=0, atol=1e-5)
    lines = re.findall(r"^\| (.+) \| (\S+) \| (\S+) \| (\S+) \|$", (ROOT / "docs/drop-in.md").read_text("utf-8"), re.M)
    leaks = {name: (float(eager), float(sdpa), float(ours)) for name, eager, sdpa, ours in lines[1:]}
    assert all(ours < 1e-5 for *_, ours in leaks.values())
    assert [name for name, (eager, sdpa, _) in leaks.items() if min(eager, sdpa) < 0.1] == [
        "Llama",
        "Qwen2, with a sliding window",
    ]


def test_texts_become_vectors_of_what_the_encoder_reads(folder: Path) -> None:
    names = run(sections_of("docs/encoder.md")[VECTORS], VECTORS)
    vectors, encoder, tokenizer = names["vectors"], names["encoder"], names["tokenizer"]
    assert isinstance(vectors, torch.Tensor) and isinstance(encoder, unmask.Encoder)
    for text, vector in zip(names["texts"], vectors, strict=True):  # type: ignore[call-overload]
        inputs = tokenizer(text, truncation=True, max_length=32, return_tensors="pt")  # type: ignore[operator]
        with torch.no_grad():
            torch.testing.assert_close(encoder(**inputs)[0].mean(0), vector)


@pytest.mark.parametrize("title", PROGRAMS)
def test_a_complete_program_learns_and_its_folder_is_read_again(
    title: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The programs themselves assert that what they saved gives the same numbers again."""
    names = run(sections_of("docs/encoder.md")[title], title)
    shown = [float(number) for number in re.findall(r"held-out .*: ([0-9.]+)$", capsys.readouterr().out, re.MULTILINE)]
    if title == "Continued pre-training":
        before, after = shown
        assert after < before - 0.5
    else:
        (accuracy,) = shown
        assert accuracy >= 0.9
    if title == "Classification":
        theirs, again, collate = (names[name] for name in ("theirs", "again", "collate"))
        batch, _ = collate(names["held_out"])  # type: ignore[operator]
        lengths = batch.documents.cu_seqlens.diff().tolist()
        ids = torch.nn.utils.rnn.pad_sequence(batch.ids.split(lengths), batch_first=True)
        with torch.no_grad():
            expected = theirs(ids, attention_mask=(ids != 0).long()).logits  # type: ignore[operator]
            torch.testing.assert_close(again.eval()(batch), expected, rtol=0, atol=1e-5)  # type: ignore[attr-defined]


def test_the_commands_and_the_code_of_fine_tuning_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands of the page, with a model and files of the names that it gives them."""
    from unmask.cli import main
    from unmask.data.tokenizer import Tokenizer

    Tokenizer.load("folder").save("FOLDER")
    config = EncoderConfig(vocab_size=200, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64)
    PretrainingModel(config, heads=("mlm",)).save_pretrained("FOLDER")
    labelled = [(f"the {animal} {verb} on the mat", animal) for animal in ("cat", "dog") for verb in ("sat", "ran")] * 4
    for name in ("train", "dev"):
        Path(f"{name}.tsv").write_text("sentence\tlabel\n" + "".join(f"{text}\t{kind}\n" for text, kind in labelled))
    Path("test.tsv").write_text("sentence\n" + "".join(f"{text}\n" for text, _ in labelled))
    page = (ROOT / "docs/finetuning.md").read_text("utf-8")
    commands = re.findall(r"^```sh\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)[0].splitlines()
    assert [command.split()[1] for command in commands] == ["finetune", "predict", "export"]
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0
    assert Path("runs/reviews/scores.json").is_file()
    assert len(Path("predictions.jsonl").read_text().splitlines()) == len(labelled)
    names = run("\n".join(sections_of("docs/finetuning.md").values()), "docs/finetuning.md")
    assert len(names["found"].predictions) == len(labelled)  # type: ignore[attr-defined]
    assert names["classify"]("the cat ran on the mat")[0]["label"] in ("cat", "dog")  # type: ignore[operator]
    # the settings that the page names are settings
    from unmask.config.mappings import settings_of
    from unmask.tasks.config import FinetuneConfig

    # --data.folder is an option of the command, for suites
    named = set(re.findall(r"--((?:data|input|train|optimizer|head)\.\w+)", page)) - {"data.folder"}
    assert len(named) > 12 and named <= settings_of(FinetuneConfig).keys()
    from unmask.tasks.load import task_recipe_names

    table = page.partition("| recipes |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"`([a-z0-9]+)`", table)) == task_recipe_names()
    capsys.readouterr()


@pytest.mark.parametrize("name", ["prepare", "similar_words", "analyse", "load_config", "pretrain", "PackedDataset"])
def test_the_example_of_a_public_function_gives_what_it_shows(name: str, folder: Path) -> None:
    if name not in ("prepare", "load_config"):
        unmask.prepare(["texts"], "store", vocab_size=200)
    follow_example(name)


def test_the_examples_that_read_a_run_give_what_they_show(folder: Path) -> None:
    unmask.prepare(["texts"], "store", vocab_size=200)
    small = {"train.steps": 20, "train.tokens_per_step": 256, "stream.micro_batch_tokens": 256}
    unmask.pretrain(unmask.load_config("tiny", {"data.store": "store", "run": "runs/mine", **small}))
    for name in ("evaluate", "fill_mask", "export"):
        follow_example(name)
    found = run("\n".join(sections_of("docs/training.md").values()), "docs/training.md")["found"]
    assert isinstance(found, Evaluation) and found.step == 20
    run("\n".join(sections_of("docs/analysis.md").values()), "docs/analysis.md")
    assert "analysis.json" in {path.name for path in Path("store-analysis").iterdir()}


def follow_example(name: str) -> None:
    """Run the example in the docstring of a function, and compare what it gives with what it shows."""
    examples = doctest.DocTestParser().get_examples(getattr(unmask, name).__doc__)
    assert len(examples) >= 3
    names: dict[str, object] = {}
    for example in examples:
        if example.want:
            assert repr(eval(example.source, names)) == example.want.strip()
        else:
            exec(example.source, names)


def program(name: str) -> types.ModuleType:
    """A file of examples/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested_and_listed() -> None:
    names = {path.stem for path in (ROOT / "examples").glob("*.py")}
    tested = "".join((ROOT / "tests" / f"{name}.py").read_text("utf-8") for name in ("test_docs", "test_examples"))
    assert (
        len(names) >= 8
        and [name for name in names if f'("{name}")' not in tested and f'("{name}", ' not in tested] == []
    )
    page = (ROOT / "examples" / "README.md").read_text("utf-8")
    assert [name for name in names if f"`{name}.py`" not in page] == []


def test_the_example_of_pretraining_makes_a_model_from_a_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = program("pretrain_on_a_folder")
    example.main(["texts", "--steps", "3", "--vocab-size", "100", "--out", "out", "--text", "the [MASK] sat"])
    assert len(re.findall(r"^ +[0-9.]+%  \S+$", capsys.readouterr().out, re.MULTILINE)) == 5
    model = unmask.PretrainingModel.from_pretrained("out/model")
    assert 20 < model.config.vocab_size <= 100 and list(Path("out/run/checkpoints").glob("step-*"))


def test_the_example_of_a_loop_learns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = program("encoder_in_your_loop")
    assert example.main(["--steps", "100"]) > 0.9
    assert re.search(r"^accuracy on \d+ sentences .*: \d+\.\d%$", capsys.readouterr().out, re.MULTILINE)
    example.main(["--steps", "1", "--model", "folder"])


def test_the_loop_is_tested_on_sentences_that_it_does_not_train_on() -> None:
    example = program("encoder_in_your_loop")
    training, tested = dict(example.sentences(held_out=False)), dict(example.sentences(held_out=True))
    assert not training.keys() & tested.keys()
    assert sum(tested.values()) * 2 == len(tested)  # half of them in each class
