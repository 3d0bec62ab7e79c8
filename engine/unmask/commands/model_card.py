"""The model card that `export` writes as README.md: what the files of a run or a folder say about the model.

The card begins with metadata for the Hugging Face Hub, as YAML between two lines `---`. It states only what files say:
the sources of the store, steps and tokens, settings that differ from the defaults, held-out losses, seed and versions.
What nobody wrote down is listed as not known. Paths of this machine are left out.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.commands.load_model import config_of
from unmask.config import to_mapping
from unmask.config.load import changed_settings
from unmask.config.settings import counted
from unmask.config.yaml_text import dump_yaml, parse_yaml
from unmask.data.store import Store
from unmask.data.store.manifest import Manifest, read_manifest
from unmask.errors import CheckpointError, ConfigError, RunError, StoreError
from unmask.interop.hub import hub_model
from unmask.objectives import STATE_OBJECTIVES
from unmask.paths import address_of, printable
from unmask.train.checkpoint.state import Facts, load_facts
from unmask.train.logging.log import read_evaluations
from unmask.train.run_folder import located
from unmask.train.store import cache_of
from unmask.train.trained_length import INITIAL, trained_length

if TYPE_CHECKING:
    from unmask.config import RunConfig
    from unmask.data.tokenizer import Tokenizer
    from unmask.interop.find_model import ModelFolder
    from unmask.model import Encoder, PretrainingModel

__all__ = ["CARD", "MARK", "CardChoices", "markdown_table", "markdown_text", "model_card"]

CARD = "README.md"
MARK = "<!-- Written by unmask export, which writes it anew. Take this line out to keep what you write here. -->"

_ROWS = 10
# settings that are places on this machine
_PLACES = {
    "run": None,
    "data": ("store", "input", "tokenizer"),
    "masking": ("similar_words",),
    "init": None,
    "distillation": ("teacher",),
}
# what the metadata of another card may say
_KEPT = ("license", "license_name", "license_link", "language")
_HEAD = re.compile(r"---\n(.*?)\n---\s*(\n|$)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class CardChoices:
    """What no file says.

    Attributes:
        name: ORG/NAME at the Hub; None for a card that is not uploaded.
        license: identifier of the licence, as the Hub has it.
        languages: codes of the languages.
    """

    name: str | None = None
    license: str | None = None
    languages: Sequence[str] = ()


def model_card(
    found: "ModelFolder",
    model: "PretrainingModel | Encoder",
    tokenizer: "Tokenizer",
    choices: CardChoices,
    *,
    loader: str,
) -> str:
    """Return the text of the card of a model.

    Args:
        found: the checkpoint or folder that was read.
        model: its model.
        tokenizer: its tokenizer.
        choices: what the user says.
        loader: class of `transformers` that loads it without a warning.
    """
    config, facts = config_of(found), _facts_of(found)
    initial = _initial_of(found)
    metadata = _metadata(found, config, initial, choices)
    name = choices.name or (found.run.absolute().name if found.run else found.hub or found.path.absolute().name)
    parts = [
        f"---\n{dump_yaml(metadata)}---\n\n{MARK}\n\n# {markdown_text(name)}\n\n"
        f"{_what_it_is(found, model, tokenizer, facts)}",
        _how_to_load(choices.name, loader),
    ]
    if config is not None and found.run is not None:
        parts.append(_data(found.run, config, tokenizer))
        parts.append(_training(config, facts, initial))
        parts.extend(_losses(found.run, found.steps))
    parts.append(_not_known(metadata, found))
    return "\n\n".join(parts) + "\n"


def _metadata(
    found: "ModelFolder", config: "RunConfig | None", initial: Mapping[str, Any], choices: CardChoices
) -> dict[str, Any]:
    fills = config is None or config.objective.mlm > 0
    metadata: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "fill-mask" if fills else "feature-extraction",
        "tags": ["bert", "unmask"],
    }
    if found.run is None:
        metadata |= _metadata_beside(found.path)
    if choices.license is not None:
        metadata = {name: value for name, value in metadata.items() if not name.startswith("license")}
        metadata["license"] = choices.license
    if choices.languages:
        metadata["language"] = list(choices.languages)
    origin = found.hub or initial.get("hub")
    if isinstance(origin, str) and (model := hub_model(origin)) is not None:
        metadata["base_model"] = model.repo
    return metadata


def _metadata_beside(folder: Path) -> dict[str, Any]:
    """Return licence and languages of the card that a folder has."""
    with suppress(OSError, UnicodeDecodeError, ConfigError):
        if head := _HEAD.match((folder / CARD).read_text("utf-8")):
            found = parse_yaml(head[1], source=str(folder / CARD))
            return {name: found[name] for name in _KEPT if isinstance(found.get(name), str | list)}
    return {}


def _what_it_is(
    found: "ModelFolder", model: "PretrainingModel | Encoder", tokenizer: "Tokenizer", facts: Facts | None
) -> str:
    from unmask.model import Encoder

    config = model.config
    heads = "with its masked-LM and next-sentence heads"
    if isinstance(model, Encoder):
        heads = "without heads"
    elif model.nsp is None:
        heads = "with its masked-LM head"
    parameters = sum(one.numel() for one in model.parameters())
    lines = [
        f"A BERT encoder {heads}: {config.num_layers} layers, {config.hidden_size} wide, {config.num_heads} "
        f"attention heads, {tokenizer.vocab_size:,} tokens of vocabulary, sequences of up to {config.max_positions} "
        f"tokens, {parameters:,} parameters."
    ]
    trained = trained_length(found)
    if trained is not None and trained < config.max_positions:
        lines.append(
            f"It was trained on sequences of at most {trained} tokens. The positions from {trained} on are untrained, "
            f"so cut longer texts: `tokenizer(text, truncation=True, max_length={trained})`."
        )
    if facts is not None:
        version = facts.machine.get("unmask", "")
        lines.append(f"Pre-trained with unmask {version}: {facts.step:,} steps, {facts.tokens:,} tokens.")
    return "\n".join(lines)


def _how_to_load(name: str | None, loader: str) -> str:
    place = json.dumps(name or "FOLDER")
    where = "" if name else "FOLDER is the folder of this file.\n\n"
    return (
        f"## How to load it\n\n{where}```python\nfrom transformers import {loader}, AutoTokenizer\n\n"
        f"tokenizer = AutoTokenizer.from_pretrained({place})\nmodel = {loader}.from_pretrained({place})\n```\n\n"
        f"`unmask.Encoder.from_pretrained({place})` is the encoder for packed documents."
    )


def _data(run: Path, config: "RunConfig", tokenizer: "Tokenizer") -> str:
    case = "drops case" if tokenizer.lowercase else "keeps case"
    lines = ["## Data", "", f"Tokenizer: {tokenizer.kind}, {tokenizer.vocab_size:,} entries, {case}."]
    manifest = _manifest_of(run, config, tokenizer)
    if manifest is None:
        lines.append("The store of the text was not at hand when this card was written.")
        return "\n".join(lines)
    held_out = 100 * config.stream.held_out_fraction
    lines.append(
        f"The text has {counted(manifest['documents'], 'document')} and {manifest['tokens']:,} tokens; "
        f"{held_out:.3g}% of the documents are held out from training."
    )
    rows = [(markdown_text(one["name"]), f"{one['documents']:,}", f"{one['tokens']:,}") for one in manifest["sources"]]
    return "\n".join([*lines, "", *markdown_table(("source", "documents", "tokens"), rows)])


def _manifest_of(run: Path, config: "RunConfig", tokenizer: "Tokenizer") -> Manifest | None:
    """Return the manifest of the run's store; None if it is gone, or another one is in its place."""
    with suppress(StoreError, RunError):
        given = located(config, run).data.store
        store = run / "store" if given is None else given
        if address_of(store) is None:
            manifest = read_manifest(Path(store))
        else:
            manifest = Store.open(store, cache=cache_of(config)).manifest
        return manifest if manifest["tokenizer_hash"] == tokenizer.hash else None
    return None


def _training(config: "RunConfig", facts: Facts | None, initial: Mapping[str, Any]) -> str:
    lengths = [phase.max_length for phase in config.train.phases] or [config.stream.max_length]
    mapping = to_mapping(config)
    rows = [
        ("objectives", ", ".join(_objectives_of(mapping))),
        ("maximum length", ", then ".join(map(str, lengths)) + " tokens"),
        ("tokens of a step", f"{config.train.tokens_per_step:,}"),
        ("seed", str(config.seed)),
    ]
    if initial:
        rows.insert(0, ("started from", _start(initial)))
    if facts is not None:
        machine = facts.machine
        versions = [f"{name} {machine[name]}" for name in ("unmask", "torch", "python") if name in machine]
        rows += [
            ("computed on", f"{machine.get('device', 'unknown')}, activations in {machine.get('activations')}"),
            ("versions", ", ".join(versions)),
        ]
    settings = dump_yaml(_without_places(changed_settings(mapping))) or "{}\n"
    command = "unmask pretrain settings.yaml"
    if config.distillation.teacher is not None:
        command = "unmask distill general TEACHER --student settings.yaml"
    return "\n".join(
        [
            "## Training",
            "",
            *markdown_table(("", ""), [(name, markdown_text(value)) for name, value in rows]),
            "",
            f"The settings that differ from the defaults of unmask. `{command} --data.store STORE` "
            "trains with them, where `settings.yaml` holds these lines and `unmask prepare` made STORE."
            + (
                " It also needs `--masking.similar_words`, a table that `unmask similar-words` makes."
                if mapping["masking"]["similar_words"] is not None
                else ""
            ),
            "",
            f"```yaml\n{settings}```",
        ]
    )


def _objectives_of(mapping: Mapping[str, Any]) -> list[str]:
    """Return the names of the losses, those of distillation first."""
    distillation = mapping["distillation"]
    states = [] if distillation["teacher"] is None else [name for name in STATE_OBJECTIVES if distillation[name] > 0]
    return [*states, *(name for name, weight in mapping["objective"].items() if weight > 0)]


def _start(initial: Mapping[str, Any]) -> str:
    hub, step, new = (initial.get(name) for name in ("hub", "step", "new_entries"))
    origin = hub if isinstance(hub, str) else "another model" if step is None else "another run"
    after = f" after {step:,} steps" if isinstance(step, int) else ""
    entries = f", with {new:,} new entries in the vocabulary" if isinstance(new, int) and new else ""
    return f"{origin}{after}{entries}"


def _without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for group, value in settings.items():
        if group in _PLACES:
            names = _PLACES[group]
            value = {} if names is None else {name: one for name, one in value.items() if name not in names}
        if value != {}:
            kept[group] = value
    return kept


def _losses(run: Path, step: int | None) -> Iterator[str]:
    rows = [row for row in _evaluations(run) if step is None or row.get("step", 0) <= step]
    rows = [row for row in rows if isinstance(row.get("loss"), float)]
    if not rows:
        return
    chosen = sorted({round(at * (len(rows) - 1) / (_ROWS - 1)) for at in range(_ROWS)})
    names = {
        "step": ("step", "{:,}"),
        "loss": ("loss", "{:.3f}"),
        "perplexity": ("perplexity", "{:.1f}"),
        "masked_accuracy": ("accuracy of masked tokens", "{:.1%}"),
        "max_length": ("maximum length", "{}"),
    }
    there = {name: shown for name, shown in names.items() if all(row.get(name) is not None for row in rows)}
    if len({row.get("max_length") for row in rows}) == 1:
        there.pop("max_length", None)
    cells = [[form.format(rows[at][name]) for name, (_, form) in there.items()] for at in chosen]
    unigram = rows[-1].get("unigram_loss")
    plain = "" if unigram is None else f" A model that knows only how often each token occurs has {unigram:.3f}."
    table = "\n".join(markdown_table([title for title, _ in there.values()], cells))
    yield f"## Held-out loss\n\nIn nats, on documents that training never sees.{plain}\n\n{table}"


def _evaluations(run: Path) -> list[dict[str, Any]]:
    with suppress(RunError, OSError):
        return read_evaluations(run)
    return []


def _not_known(metadata: Mapping[str, Any], found: "ModelFolder") -> str:
    lines = ["## What this card does not say", ""]
    if found.run is None:
        lines.append("- How the model was trained, and on which text: the folder that it was read from does not say.")
    else:
        lines.append("- Which texts the sources hold, where they come from and who may use them.")
    if "license" not in metadata:
        lines.append("- Under which licence the model may be used.")
    if "language" not in metadata:
        lines.append("- Which languages it knows.")
    lines.append(
        "- How good it is at a task, and which errors and prejudices it took from its text: nobody measured it."
    )
    return "\n".join(lines)


def _facts_of(found: "ModelFolder") -> Facts | None:
    with suppress(CheckpointError):
        return load_facts(found.path / "training") if (found.path / "training").is_dir() else None
    return None


def _initial_of(found: "ModelFolder") -> dict[str, Any]:
    """Return what a run noted about the model that it started from; empty if it started with new weights."""
    with suppress(OSError, ValueError):
        value = json.loads((found.run / INITIAL).read_text("utf-8")) if found.run else {}
        return value if isinstance(value, dict) else {}
    return {}


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def markdown_text(value: str) -> str:
    """Return a text of a file as Markdown takes it: on one line, no markup, no end of a table's cell."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", printable(value))
