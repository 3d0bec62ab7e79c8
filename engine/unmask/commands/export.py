"""`export`: weights, config.json, tokenizer and card of a model as a folder that `from_pretrained` loads.

The folder stays on this machine, is uploaded to the Hugging Face Hub, or both. Everything is written and checked here
before anything is uploaded.
"""

import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from unmask.commands.load_model import load_model
from unmask.commands.model_card import CARD, MARK, CardChoices, model_card
from unmask.data.tokenizer import Tokenizer
from unmask.errors import CheckpointError, HubError, RunError, TokenizerError
from unmask.interop.checkpoint_folder import damage_of, folder_of_step, steps_in
from unmask.interop.config_json import foreign_settings
from unmask.interop.find_model import ModelFolder, find_model
from unmask.interop.hub_upload import Upload, Uploader, upload_target
from unmask.interop.model_folder import CONFIG, read_object
from unmask.interop.task_folder import read_head, read_task_model, save_task_model
from unmask.model import Encoder, PretrainingModel
from unmask.model.task_model import TaskModel
from unmask.train.checkpoint.tokenizer_hash import bind, require_bound

__all__ = ["Exported", "export"]

_log = logging.getLogger(__name__)

_FILES = (
    *("config.json", "model.safetensors", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "vocab.txt", CARD),
)
_LICENSE = re.compile(r"[a-z0-9]+([.-][a-z0-9]+)*")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|multilingual|code")


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What `export` wrote.

    Attributes:
        folder: the folder; None if the model was only uploaded.
        model: folder of the model that was read, such as the newest checkpoint of a run.
        step: steps of its training; None if they are not known.
        loader: class of `transformers` that loads the folder without a warning.
        uploads: what was uploaded to the Hugging Face Hub.
    """

    folder: Path | None
    model: Path
    step: int | None
    loader: str
    uploads: tuple[Upload, ...] = ()

    def line(self) -> str:
        """Return a line that says what was written and how to load it."""
        trained = "" if self.step is None else f", {self.step:,} steps"
        place = str(self.folder) if self.folder is not None else self.uploads[-1].repo
        call = f"transformers.{self.loader}.from_pretrained({place!r})"
        return f"{place}: {self.model}{trained}; {call} loads it"


def export(
    model: str | Path,
    out: str | Path | None = None,
    *,
    push_to: str | None = None,
    private: bool = False,
    revision: str | None = None,
    every_checkpoint: bool = False,
    license: str | None = None,
    languages: Sequence[str] = (),
) -> Exported:
    """Write a model, its tokenizer and a model card to the new folder `out`, upload them, or both.

    The card, README.md, says what the files of the run say: the data, the settings, the held-out losses.

    Example:
        >>> import unmask
        >>> exported = unmask.export("runs/mine", "exported")
        >>> exported.loader
        'AutoModelForMaskedLM'
        >>> encoder = unmask.Encoder.from_pretrained("exported")

    Args:
        model: a run, whose newest whole checkpoint is read; a checkpoint; a model folder; or a model of the Hub.
        out: the folder to make. It must not exist, or be empty. May be left out with `push_to`.
        push_to: ORG/NAME at the Hugging Face Hub to upload to; made if it does not exist.
        private: whether a new repository is private.
        revision: branch to upload to. Default: main.
        every_checkpoint: whether each whole checkpoint of the run is uploaded, to a branch of its name (step-000500),
            beside the newest one on main.
        license: licence of the model for the card, as the Hub names it, such as "apache-2.0". Default: not said.
        languages: codes of the languages of the text for the card, such as "en". Default: not said.
    Raises:
        RunError: `out` is not empty or missing; `model` is a run without a checkpoint, or no run with
            `every_checkpoint`.
        CheckpointError: `model` holds no model; the checkpoint is damaged; or transformers does not compute the model.
        TokenizerError: the tokenizer is missing, or belongs to another model.
        HubError: the Hub cannot be reached or refuses, or there is no token.
        ValueError: an option of the upload is given without `push_to`, or licence or language is no code.
    """
    _require_choices(out, push_to, private, revision, every_checkpoint, license, languages)
    target = None if push_to is None else upload_target(push_to, revision=revision)
    choices = CardChoices(name=None if target is None else target.repo, license=license, languages=languages)
    folder = None if out is None else Path(out)
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} exists and is not an empty folder; choose another name")
    found = find_model(model)
    if target is None:
        assert folder is not None
        return _write(found, folder, choices)
    every = _checkpoints_of(found, Path(model)) if every_checkpoint else []
    with tempfile.TemporaryDirectory(prefix="unmask-export-") as room:
        written = _write(found, folder or Path(room) / "newest", choices)
        # a branch and what goes there, main last
        branches: list[tuple[str | None, Exported]] = [
            (one.path.name, written if one.path == found.path else _write(one, Path(room) / one.path.name, choices))
            for one in every
        ]
        branches.append((target.revision, written))
        try:
            uploads = _upload(branches, Uploader(target.repo, private=private, mark=MARK))
        except HubError as error:
            if folder is None:
                raise
            raise HubError(f"{error}; {folder} is whole, so leave it out of the command that you give again") from None
    return replace(written, folder=folder, uploads=tuple(uploads))


def _upload(branches: Sequence[tuple[str | None, Exported]], uploader: Uploader) -> list[Upload]:
    uploads = []
    for branch, one in branches:
        assert one.folder is not None
        steps = "" if one.step is None else f" after {one.step:,} steps"
        uploads.append(uploader.upload(one.folder, revision=branch, message=f"Model{steps}, by unmask export"))
    return uploads


def _require_choices(
    out: str | Path | None,
    push_to: str | None,
    private: bool,
    revision: str | None,
    every_checkpoint: bool,
    license: str | None,
    languages: Sequence[str],
) -> None:
    if push_to is None:
        if out is None:
            raise ValueError("export: needs the folder to write, OUT, or --push-to ORG/NAME to upload the model")
        asked = {"--private": private, "--revision": revision is not None, "--every-checkpoint": every_checkpoint}
        if stray := next((name for name, given in asked.items() if given), None):
            raise ValueError(f"export: {stray} is about an upload; give --push-to ORG/NAME too, or leave it out")
    if revision is not None and every_checkpoint:
        raise ValueError(
            "export: --every-checkpoint names its branches by their steps and the newest one main; leave --revision out"
        )
    if license is not None and not _LICENSE.fullmatch(license):
        raise ValueError(
            f"export: --license must be an identifier of the Hugging Face Hub, such as apache-2.0, mit, cc-by-4.0 or "
            f"other, got {license!r}"
        )
    wrong = next((code for code in languages if not _LANGUAGE.fullmatch(code)), None)
    if wrong is not None:
        raise ValueError(
            f"export: --language must be codes of ISO 639, such as en, de or zh, or multilingual, got {wrong!r}"
        )


def _checkpoints_of(found: ModelFolder, given: Path) -> list[ModelFolder]:
    """Return the whole checkpoints of the run `given`, whose newest one is `found`, the oldest first."""
    if found.run is None:
        raise RunError(f"export: {found.name} is no run, so --every-checkpoint finds none; leave it out")
    if given.resolve() == found.path.resolve():
        raise RunError(
            f"export: {given} is one checkpoint; give its run, {found.run}, with --every-checkpoint, or leave that out"
        )
    place = found.path.parent
    whole = []
    for step in steps_in(place):
        path = folder_of_step(place, step)
        if (damage := damage_of(path, model_only=True)) is not None:
            _log.warning(f"{damage}; it is left out")
        else:
            whole.append(ModelFolder(path=path, steps=step, run=found.run))
    return whole


def _write(found: ModelFolder, out: Path, choices: CardChoices) -> Exported:
    """Write one model to the folder `out`, or nothing."""
    if not any((found.path / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise TokenizerError(
            f"{found.path} has no tokenizer.json and no vocab.txt; put the model's tokenizer there first"
        )
    # The model is read and written again, not copied, so that it passes our checks of names and shapes.
    if read_head(found.path) is not None:
        return _write_task_model(found, out, choices)
    loaded: PretrainingModel | Encoder
    if read_object(found.path / CONFIG).get("architectures") == ["BertModel"]:
        loaded, tokenizer = Encoder.from_pretrained(found), Tokenizer.load(found.path)
        require_bound(found.path, tokenizer, loaded.config.token_rows)
    else:
        loaded, tokenizer = load_model(found)
    if foreign := foreign_settings(loaded.config):
        raise CheckpointError(
            f"{found.path}: transformers cannot compute this model, which has {' and '.join(foreign)}; read it with "
            f"unmask.{type(loaded).__name__}.from_pretrained({str(found.path)!r})"
        )
    # Any other class of transformers warns that it leaves weights out or makes new ones.
    loader = "AutoModel"
    if isinstance(loaded, PretrainingModel):
        loader = "AutoModelForMaskedLM" if loaded.nsp is None else "AutoModelForPreTraining"
    card = model_card(found, loaded, tokenizer, choices, loader=loader)
    with _whole_or_nothing(out):
        loaded.save_pretrained(out, pad_id=tokenizer.pad_id)
        # The tokenizer is written again too: the files of another program may name a class that transformers rebuilds.
        tokenizer.save(out)
        bind(out, tokenizer)
        (out / CARD).write_text(card, encoding="utf-8")
    return Exported(folder=out, model=found.path, step=found.steps, loader=loader)


def _write_task_model(found: ModelFolder, out: Path, choices: CardChoices) -> Exported:
    """Write a fine-tuned model to the folder `out`, or nothing."""
    from unmask.commands.task_card import LOADERS, task_card

    folder = read_task_model(found.path)
    loaded = TaskModel.from_pretrained(found)
    tokenizer = Tokenizer.load(found.path)
    require_bound(found.path, tokenizer, loaded.config.token_rows)
    card = task_card(found, loaded, tokenizer, choices)
    with _whole_or_nothing(out):
        save_task_model(loaded, loaded.config, loaded.head, out, pad_id=tokenizer.pad_id, settings=folder.settings)
        tokenizer.save(out)
        bind(out, tokenizer)
        (out / CARD).write_text(card, encoding="utf-8")
    return Exported(folder=out, model=found.path, step=found.steps, loader=LOADERS[loaded.head.task])


@contextmanager
def _whole_or_nothing(out: Path) -> Iterator[None]:
    """Make the folder `out`; if what is done in this context fails, take back what was written there."""
    there = out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        # Half a model is useless, and the same command must work again.
        for name in _FILES:
            (out / name).unlink(missing_ok=True)
        if not there:
            out.rmdir()
        raise
