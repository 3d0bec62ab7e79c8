"""No setting is accepted and ignored: in every context each one is given another value, and the run differs or is
refused.

What a run does: its rows, its weights at the end, what it keeps, and, for settings that are not meant to alter numbers,
how it came by them: shapes of the batches, backends chosen, workers, threads.
"""

import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from unmask.batch import PackedBatch
from unmask.config import EncoderConfig, load_config
from unmask.config.mappings import defaults, settings_of
from unmask.config.unused import _READ
from unmask.data.prepare import prepare
from unmask.data.store import Store
from unmask.data.stream.loader import Loader
from unmask.data.text.corpus import Document
from unmask.errors import UnmaskError
from unmask.model import PretrainingModel
from unmask.train.checkpoint.background import BackgroundSaves
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.logging.log import read_evaluations, read_log
from unmask.train.pretrain import pretrain
from unmask.train.step import StepReport, TrainingStep
from unmask.train.weight_average import WeightAverage
from unmask_kernels.dispatch import Call, Family
from unmask_kernels.tune.finding import Finding
from unmask_kernels.tune.record import Tuning
from unmask_kernels.tuned import in_effect

WORDS = "the cat sat on a mat dog ran fast tree house river blue green seven under".split()  # noqa: SIM905
Behaviour = Callable[[Mapping[str, Any], Mapping[str, Any]], str]
TIMES = ("tokens_per_second", "data_wait", "seconds_per_step", "peak_memory_bytes")

# of every setting, a value that its default and no context has
OTHER: dict[str, Any] = {
    "run": "other",
    "seed": 9,
    "data.store": "OTHER",
    "data.cache_folder": "elsewhere",
    "data.cache_gb": 2.0,
    "data.cache_patience": 5.0,
    "data.input": ["a.txt", "b.txt"],
    "data.text_field": "body",
    "data.blank_line_documents": True,
    "data.split_at": "^#",
    "data.encoding": "utf-16-le",
    "data.delimiter": ";",
    "data.drop_duplicates": True,
    "data.keep_indentation": True,
    "data.allow_unknown": True,
    "data.segmenter": "spaces",
    "data.tokenizer": "CASED",
    "data.vocab_size": 200,
    "data.lowercase": False,
    "data.strip_accents": False,
    "stream.max_length": 24,
    "stream.held_out_fraction": 0.3,
    "composition.strategy": "mix",
    "composition.bm25_walk": "star",
    "composition.bm25_buffer": 2,
    "composition.bm25_query_terms": 1,
    "composition.scope": "sequence",
    "composition.short_pairs": 1.0,
    "composition.weights": {"a": 2.0},
    "masking.rate": 0.4,
    "masking.rate_end": 0.5,
    "masking.rate_steps": 1,
    "masking.split": [0.0, 1.0, 0.0],
    "masking.strategy": "span",
    "masking.similar_words": "SIMILAR",
    "masking.place": "device",
    "masking.static_masks": 1,
    "stream.workers": 1,
    "model.vocab_size": 200,
    "model.num_layers": 3,
    "model.hidden_size": 12,
    "model.num_heads": 4,
    "model.intermediate_size": 24,
    "model.max_positions": 48,
    "model.num_segments": 3,
    "model.hidden_dropout": 0.5,
    "model.attention_dropout": 0.5,
    "model.layer_norm_eps": 1e-2,
    "model.initializer_range": 0.3,
    "model.activation": "gelu_tanh",
    "model.causal": True,
    "model.attention_window": 2,
    "model.global_every": 0,
    "init.from": "MODEL",
    "init.vocabulary": "extend",
    "distillation.teacher": "MODEL",
    "distillation.map": "bottom",
    "distillation.layers": [1, 1],
    "distillation.embedding": 0.5,
    "distillation.hidden": 0.5,
    "distillation.attention": 0.5,
    "distillation.relation": 0.5,
    "distillation.projection": "shared",
    "distillation.heads": "mean_of_groups",
    "distillation.normalization": "padded_square",
    "distillation.student_layers": [1, 2],
    "objective.mlm": 0.5,
    "objective.nsp": 0.5,
    "objective.sop": 0.5,
    "objective.clm": 0.5,
    "train.steps": 5,
    "train.epochs": 0.5,
    "train.minutes": 1e-4,
    "train.tokens_per_step": 192,
    "train.first_tokens_per_step": 48,
    "train.growth_steps": 1,
    "stream.micro_batch_tokens": 48,
    "stream.max_documents": 90,
    "optimizer.name": "lamb",
    "optimizer.learning_rate": 1e-3,
    "optimizer.warmup_steps": 0,
    "optimizer.schedule": "cosine",
    "optimizer.power": 3.0,
    "optimizer.decay_share": 0.8,
    "optimizer.final_share": 0.5,
    "optimizer.weight_decay": 0.5,
    "optimizer.beta1": 0.5,
    "optimizer.beta2": 0.5,
    "optimizer.eps": 1e-2,
    "optimizer.bias_correction": False,
    "optimizer.momentum": 0.5,
    "optimizer.clip_norm": 1e-3,
    "optimizer.ema_decay": 0.9,
    "train.device": "mps",
    "train.dtype": "bfloat16",
    "train.compile": True,
    "train.graph": "require",
    "train.parallel": "fsdp",
    "train.activation_checkpointing": True,
    "train.log_every": 1,
    "train.evaluate_every": 1,
    "train.evaluate_tokens": 4096,
    "train.save_every": 1,
    "train.keep_checkpoints": 1,
    "train.threads": 2,
    "train.timeout_seconds": 5.0,
    "train.spike_guard": 6.0,
    "train.spike_rows": 2,
    "train.spike_limit": 1,
    "train.log_gradient_norms": True,
    "train.tensorboard": True,
    "train.wandb": True,
    "train.trackio": True,
    "train.mlflow": True,
    "train.phases": [{"share": 1.0, "max_length": 20}],
    "kernels.attention": "reference",
    "kernels.mlm_loss": "reference",
    "kernels.layer_norm": "reference",
    "kernels.gelu": "reference",
    "kernels.linear_gelu": "reference",
    "kernels.masking": "reference",
    "kernels.embedding": "reference",
    "kernels.optimizer": "reference",
    "kernels.distill": "reference",
    "kernels.last_layer_rows": False,
    "kernels.verify": "auto",
    "kernels.tuned": "never",
}

BASE: dict[str, Any] = {
    "run": "run",
    "data.store": "STORE",
    "stream.max_length": 32,
    "stream.held_out_fraction": 0.5,
    "stream.workers": 0,
    "model.num_layers": 2,
    "model.hidden_size": 8,
    "model.num_heads": 2,
    "model.intermediate_size": 16,
    "model.max_positions": 32,
    "model.initializer_range": 0.5,
    "train.steps": 4,
    "train.tokens_per_step": 96,
    "stream.micro_batch_tokens": 96,
    "optimizer.warmup_steps": 2,
    "optimizer.learning_rate": 1e-2,
    "train.dtype": "float32",
    "train.log_every": 2,
    "train.evaluate_every": 2,
    "train.evaluate_tokens": 96,
    "train.save_every": 2,
    "train.threads": 1,
}

# contexts that take the reader from one setting or another
CONTEXTS: dict[str, dict[str, Any]] = {
    "tokens": {},
    "text": {"data.store": None, "data.input": ["a.txt"]},
    "docstrings": {"data.store": None},
    "pairs": {
        "composition.strategy": "pairs",
        "objective.nsp": 1,
        "masking.strategy": "mac",
        "masking.similar_words": "WORDS",
        "masking.rate_end": 0.6,
    },
    "pairs alone": {
        "composition.strategy": "pairs",
        "objective.sop": 1,
        "objective.mlm": 0,
        "optimizer.schedule": "polynomial",
    },
    "causal": {"objective.mlm": 0, "objective.clm": 1, "model.causal": True},
    "neighbours": {
        "composition.strategy": "bm25",
        "composition.scope": "sequence",
        "stream.max_length": 64,
        "model.max_positions": 64,
        "model.attention_window": 4,
    },
    "device": {"masking.place": "device", "masking.strategy": "whole_word", "model.attention_window": 4},
    "one layer": {
        "model.num_layers": 1,
        "train.steps": 8,
        "train.tokens_per_step": 192,
        "train.first_tokens_per_step": 96,
        "train.growth_steps": 4,
        "stream.held_out_fraction": 0,
        "train.evaluate_every": 200,
        "train.evaluate_tokens": 32768,
    },
    "checkpoint": {"init.from": "MODEL", "optimizer.schedule": "wsd", "optimizer.decay_share": 0.5},
    "muon": {"optimizer.name": "muon"},
    "teacher": {
        "distillation.teacher": "MODEL",
        "distillation.heads": "mean_of_groups",
        "objective.mlm": 0,
        "model.num_layers": 1,
        "model.num_heads": 1,
    },
    "phases": {"train.phases": [{"share": 0.5, "max_length": 16}, {"share": 0.5, "max_length": 32}], "train.steps": 8},
}


FASTER = Finding(
    choice="attention.scores",
    shape="heads of 4, float32",
    asked="",
    measured="",
    default=1 << 21,
    best=1 << 20,
    taken=True,
)
TUNING = Tuning(findings={FASTER.key: FASTER}, dates={FASTER.key: ""})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small documents of two sources as a store, another store, another tokenizer, two tables of similar words."""
    folder = tmp_path_factory.mktemp("text")
    generator = np.random.default_rng(0)
    for name, count in (("a", 7), ("b", 7), ("c", 12)):
        documents = []
        for number in range(count):
            few = generator.choice(WORDS, 6)
            sentences = [" ".join(generator.choice(few, 5)).capitalize() + "." for _ in range(2 + number % 4)]
            documents.append(" ".join(sentences))
        (folder / f"{name}.txt").write_text("\n\n".join(documents))
    common: dict[str, Any] = {"blank_line_documents": True, "workers": 1}
    prepare([folder / "a.txt", folder / "b.txt"], folder / "STORE", vocab_size=120, **common)
    prepare([folder / "c.txt"], folder / "OTHER", tokenizer=folder / "STORE" / "tokenizer", **common)
    prepare([folder / "a.txt"], folder / "cased", vocab_size=120, lowercase=False, **common)
    (folder / "cased" / "tokenizer").rename(folder / "CASED")
    for name, step in (("WORDS", 1), ("SIMILAR", 2)):
        pairs = zip(WORDS, WORDS[step:] + WORDS[:step], strict=True)
        (folder / name).write_text("".join(f"{word}\t{other}:0.9\n" for word, other in pairs))
    sizes = {name.removeprefix("model."): value for name, value in BASE.items() if name.startswith("model.")}
    config = EncoderConfig(vocab_size=Store.open(folder / "STORE").vocab_size, **sizes)
    PretrainingModel(config).save_pretrained(folder / "MODEL")
    shutil.copytree(folder / "STORE" / "tokenizer", folder / "MODEL", dirs_exist_ok=True)
    return folder


@pytest.fixture
def watched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What runs do from now on, but for their numbers."""
    seen: list[str] = []

    def load(self: Loader, stream: Any, original: Any = Loader.__init__, **settings: Any) -> None:
        seen.append(f"loader {settings['workers']}")
        original(self, stream, **settings)

    def step(self: TrainingStep, batches: list[PackedBatch], original: Any = TrainingStep.__call__) -> StepReport:
        seen.append(
            f"step {self.all_rows} {[(len(b.documents.keys), len(b.ids), b.word_starts is None) for b in batches]} "
            f"{in_effect()}"
        )
        return original(self, batches)

    def average(self: WeightAverage, *given: Any, original: Any = WeightAverage.update) -> None:
        # what is exported is not written here
        seen.append(f"average {self._decay}")
        original(self, *given)

    def choose(self: Family, asked: str | None, call: Call, original: Any = Family.choose) -> str:
        chosen: str = original(self, asked, call)
        seen.append(f"{self.name} {chosen}")
        return chosen

    def save(self: Checkpoints, step: int, write: Any, *, bytes_needed: int, beside: int | None) -> None:
        seen.append(f"save {step} {self.keep}")

    def guard(factor: float, rows: int, logged: Any) -> MagicMock:
        seen.append(f"guard {factor} {rows}")
        return MagicMock(look=lambda row: None)

    def text(inputs: Any, out: Path, *, progress: Any, **settings: Any) -> Store:
        seen.append(f"prepare {inputs} {settings}")
        return Store.open(folder / "STORE")

    monkeypatch.setattr("unmask.train.pretrain.read_tuning", lambda device: TUNING)
    monkeypatch.setattr("unmask.train.run_folder.RunFolder.save_config", lambda self: None)
    monkeypatch.setattr(TrainingStep, "__call__", step)
    monkeypatch.setattr(Family, "choose", choose)
    monkeypatch.setattr(WeightAverage, "update", average)
    monkeypatch.setattr(Checkpoints, "save", save)
    # what a thread does comes between other things
    monkeypatch.setattr(BackgroundSaves, "begin", lambda self, state, save, optimizer: save({}))
    monkeypatch.setattr(Loader, "__init__", load)

    def compiled(function: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
        seen.append(f"compile {settings}")
        return function

    monkeypatch.setattr("torch.compile", compiled)
    monkeypatch.setattr("torch.set_num_threads", lambda count: seen.append(f"threads {count}"))
    monkeypatch.setattr("unmask.train.store.prepare", text)
    monkeypatch.setattr("unmask.train.store.docstring_corpus", lambda: [Document(text="a", source="b", origin="c")])
    monkeypatch.setattr("unmask.train.store.cache_folder", lambda: folder / "cache")
    monkeypatch.setattr(
        "unmask.train.verification.prepare_kernels",
        lambda config, *rest: seen.append(f"verify {config.kernels.verify}"),
    )
    monkeypatch.setattr("unmask.train.pretrain.require_installed", lambda names: seen.append(f"to {names}"))
    monkeypatch.setattr("unmask.train.logging.log.senders", lambda *_, **__: [])
    monkeypatch.setattr("unmask.train.spike_return.SpikeGuard", guard)
    return seen


@pytest.fixture
def behaviour(folder: Path, watched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Behaviour:
    """What a run of these settings does, under those changed on the command line; of a refusal, its sentence."""
    numbers = itertools.count()

    def placed(value: Any) -> Any:
        if isinstance(value, list):
            return [placed(item) for item in value]
        return str(folder / value) if isinstance(value, str) and (folder / value).exists() else value

    def behave(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> str:
        here = tmp_path / str(next(numbers))
        here.mkdir()
        monkeypatch.chdir(here)
        # JSON is YAML, and read faster
        Path("base.yaml").write_text(json.dumps({key: placed(value) for key, value in settings.items()}))
        watched.clear()
        try:
            run = pretrain(load_config("base.yaml", {key: placed(value) for key, value in changes.items()}))
        except UnmaskError as refused:
            return f"refused: {refused}"
        rows = [{k: row[k] for k in row if k not in TIMES} for row in read_log(run) + read_evaluations(run)]
        return "\n".join([run.name, *map(json.dumps, rows), *sorted(set(watched))])

    return behave


def test_every_setting_has_another_value_here() -> None:
    assert set(OTHER) == set(settings_of())


def ignored(behaviour: Behaviour, context: str, names: Iterable[str]) -> list[str]:
    """Those settings of which another value is accepted and changes nothing."""
    settings = {**BASE, **CONTEXTS[context]}
    before = behaviour(settings, {})
    assert not before.startswith("refused"), before
    assert behaviour(settings, {}) == before
    others = {name: defaults()[name] if settings.get(name) == OTHER[name] else OTHER[name] for name in names}
    return [name for name, value in others.items() if behaviour(settings, {name: value}) == before]


def test_a_setting_that_is_accepted_and_ignored_is_found(behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.config.unused._READ", ())
    names = ["composition.scope", "masking.rate", "model.attention_window", "train.evaluate_tokens"]
    assert ignored(behaviour, "one layer", names) == [
        "composition.scope",
        "model.attention_window",
        "train.evaluate_tokens",
    ]


@pytest.mark.parametrize("context", CONTEXTS)
def test_what_a_choice_may_leave_unread_changes_a_run_or_is_refused(behaviour: Behaviour, context: str) -> None:
    assert not ignored(behaviour, context, sorted({name for row in _READ for name in row.settings}))


@pytest.mark.slow
@pytest.mark.parametrize("context", CONTEXTS)
def test_another_value_of_any_setting_changes_a_run_or_is_refused(behaviour: Behaviour, context: str) -> None:
    assert not ignored(behaviour, context, OTHER)
