"""The initial checkpoint of a run, `init.from`: its weights in a new model, with a new optimizer and from step 0.

    heads        those that the objectives use are read; one that the checkpoint lacks is new
    vocabulary   keep: the checkpoint's tokenizer made the text
                 extend, replace: the rows of new entries by `data.tokenizer.transfer`
                 rows beyond the tokenizer, of a padded table, stay as they are
    positions    fewer: the first rows of the table
                 more: row p is a copy of row p mod n, for a table of n rows (as Longformer does, Beltagy et al. 2020,
                 arXiv:2004.05150, section 5)

`initial.json` in the run directory says what the run started from, with the SHA-256 of the files of the weights. A
resumed run reads its own checkpoint, so the initial one may be gone by then.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from unmask.config import EncoderConfig, RunConfig
from unmask.config.initial import same_architecture
from unmask.data.tokenizer import Tokenizer
from unmask.data.tokenizer.folder import case_is_open
from unmask.data.tokenizer.transfer import Transfer, extension_problem, named, transfer
from unmask.errors import ConfigError, TokenizerError
from unmask.interop import hf
from unmask.interop.config_json import read_config
from unmask.interop.find_model import ModelFolder, find_model
from unmask.interop.left_out import PARTS
from unmask.interop.weights import files_of_weights
from unmask.model import PretrainingModel
from unmask.paths import as_typed, replace_text
from unmask.train.checkpoint.tokenizer_hash import require_bound
from unmask.train.run_folder import not_written
from unmask.train.trained_length import INITIAL, trained_length

__all__ = ["InitialCheckpoint"]

_log = logging.getLogger(__name__)

_WORD, _POSITION, _BIAS = "encoder.embeddings.word.weight", "encoder.embeddings.position.weight", "mlm.bias"
_RATE_OF_A_NEW_HEAD = 5e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class InitialCheckpoint:
    """A model that a run starts from.

    Attributes:
        given: as the settings name it.
        folder: where its files are.
        sizes: of the model.
        tokenizer: that the model was trained with.
        vocabulary: `init.vocabulary`.
        max_length: of the longest sequences of the run.
    """

    given: str
    folder: ModelFolder
    sizes: EncoderConfig
    tokenizer: Tokenizer
    vocabulary: Literal["keep", "extend", "replace"]
    max_length: int

    @classmethod
    def open(cls, config: RunConfig) -> "InitialCheckpoint":
        """Open the checkpoint that `config.init` names.

        Raises:
            CheckpointError, RunError: it cannot be read, is damaged, or is a model that this engine does not compute.
            TokenizerError: it has no tokenizer, or not that of its model.
        """
        given = str(config.init.from_)
        folder = find_model(given)
        sizes = read_config(folder.path)
        if not any((folder.path / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
            raise TokenizerError(
                f"init.from: {given} has no tokenizer (tokenizer.json or vocab.txt), so nothing says what its ids "
                "mean; copy the tokenizer that the model was trained with into the folder"
            )
        tokenizer = Tokenizer.load(folder.path)
        require_bound(folder.path, tokenizer, sizes.token_rows)
        return cls(
            given=given,
            folder=folder,
            sizes=sizes,
            tokenizer=tokenizer,
            vocabulary=config.init.vocabulary,
            max_length=max([phase.max_length for phase in config.train.phases] or [config.stream.max_length]),
        )

    def with_tokenizer(self, config: RunConfig) -> RunConfig:
        """Return the configuration in which the checkpoint's tokenizer reads the text, unless another one is given.

        Raises:
            TokenizerError: `data.tokenizer` is not the one that `init.vocabulary` asks for.
        """
        data = config.data
        if data.tokenizer is not None and data.store is None:
            given = Tokenizer.load(data.tokenizer, lowercase=data.lowercase)
            self.require_vocabulary(
                given, data.tokenizer, way="leave data.tokenizer out, to read the text with the checkpoint's"
            )
        if self.vocabulary != "keep" or data.store is not None or data.tokenizer is not None:
            return config
        return replace(config, data=replace(data, tokenizer=str(self.folder.path)))

    def require_vocabulary(self, tokenizer: Tokenizer, place: str | Path, *, way: str | None = None) -> None:
        """Check that the tokenizer of the text is one that `init.vocabulary` asks for.

        Args:
            tokenizer: the tokenizer.
            place: its folder, or the store that it made.
            way: how to get the right one, for the error. Default: to prepare the text again.
        Raises:
            TokenizerError: it is another one.
        """
        own = self._own_tokenizer(tokenizer)
        if self.vocabulary != "keep" and tokenizer.hash == own.hash:
            raise TokenizerError(
                f"init.vocabulary: it is {self.vocabulary!r} but the tokenizer of {place} is that of {self.given} "
                "already; leave init.vocabulary out"
            )
        if self.vocabulary == "replace" or tokenizer.hash == own.hash:
            return
        problem = extension_problem(own, tokenizer)
        if problem is None and self.vocabulary == "extend":
            return
        begin = f"init.from: the tokenizer of {place} is not that of {self.given}"
        if problem is None:
            more = len(tokenizer.vocabulary.keys() - own.vocabulary.keys())
            raise TokenizerError(
                f"{begin}: it has {more:,} new entries and keeps all others; give --init.vocabulary extend, whose new "
                "entries start from the mean of their pieces"
            )
        again = (
            f"prepare the text again with `unmask prepare --input TEXT --tokenizer {as_typed(self.given)} --out STORE` "
            "and give --data.store STORE"
        )
        raise TokenizerError(
            f"{begin}: it {problem}; {way or again}, or give --init.vocabulary replace, which takes over the rows of "
            "equal entries alone"
        )

    def _own_tokenizer(self, tokenizer: Tokenizer) -> Tokenizer:
        """Return the checkpoint's tokenizer; a bare vocabulary reads case as the tokenizer of the text does."""
        if not case_is_open(self.folder.path):
            return self.tokenizer
        return Tokenizer.load(self.folder.path, lowercase=tokenizer.lowercase)

    def sizes_for(self, model: EncoderConfig, tokenizer: Tokenizer) -> EncoderConfig:
        """Return the sizes of the run's model, with the rows that its vocabulary needs.

        Args:
            model: the sizes in the settings.
            tokenizer: that of the text.
        Raises:
            ConfigError: they are not the checkpoint's, or have too few rows for tokens.
        """
        differing = same_architecture(model, self.sizes)
        if differing is not None:
            raise ConfigError(
                f"config: model.{differing} is {getattr(model, differing)} but init.from, {self.given}, has "
                f"{getattr(self.sizes, differing)}; make the configuration with unmask.load_config, which takes the "
                "sizes from the checkpoint"
            )
        rows = self.sizes.token_rows
        needed = tokenizer.vocab_size if self.vocabulary == "replace" else max(rows, tokenizer.vocab_size)
        given = model.vocab_size
        if given is not None and (given < needed or (self.vocabulary == "keep" and given != rows)):
            raise ConfigError(
                f"config: model.vocab_size is {given} but init.from, {self.given}, with init.vocabulary "
                f"{self.vocabulary!r} has {needed} rows; leave model.vocab_size out"
            )
        return replace(model, vocab_size=given or needed)

    def fill(self, model: PretrainingModel, tokenizer: Tokenizer, *, learning_rate: float, run: Path) -> None:
        """Copy the weights into a new model, log what was done, and write `initial.json` into the run directory.

        Args:
            model: a model of the sizes of `sizes_for`, on the CPU.
            tokenizer: that of the text.
            learning_rate: of the run; a notice says when new weights need a higher one.
            run: the run directory.
        Raises:
            CheckpointError: the weights cannot be read or do not fit.
            RunError: `initial.json` cannot be written.
        """
        heads = ("mlm",) if model.nsp is None else ("mlm", "nsp")
        weights = hf.read_pretraining_model(self.folder.path, heads=heads)
        rows = None if self.vocabulary == "keep" else transfer(self.tokenizer, tokenizer)
        ours = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in weights.values():
                target = ours[name]
                if rows is not None and name in (_WORD, _BIAS):
                    value = self._token_rows(value, rows, len(target))
                elif name == _POSITION:
                    value = _positions(value, len(target))
                target.copy_(value)
        trained = trained_length(self.folder)
        self._log_start(model, trained)
        self._log_heads(
            weights.difference.new, weights.difference.unread, weights.difference.foreign, learning_rate=learning_rate
        )
        if rows is not None:
            self._log_vocabulary(rows, tokenizer)
        facts = {
            "from": self.given,
            "folder": str(self.folder.path.resolve()),
            "hub": self.folder.hub,
            "step": self.folder.steps,
            "weights": {file.name: _sha256(file) for file in files_of_weights(self.folder.path)},
            "tokenizer_hash": self.tokenizer.hash,
            "vocabulary": self.vocabulary,
            "new_entries": 0 if rows is None else len(rows.new),
            "new_parts": list(weights.difference.new),
            "positions": self.sizes.max_positions,
            "trained_length": trained,
        }
        try:
            replace_text(run / INITIAL, json.dumps(facts, indent=2) + "\n")
        except OSError as error:
            raise not_written(run / INITIAL, error) from error

    def _token_rows(self, old: Tensor, rows: Transfer, count: int) -> Tensor:
        """Return the `count` rows of a table or bias over tokens, from those of the checkpoint, (V, D) or (V,)."""
        mean = old[torch.from_numpy(self.tokenizer.used_ids)].mean(0)
        made = mean.expand(count, *old.shape[1:]).clone()
        changed = rows.sources
        if self.vocabulary == "extend":
            made[: len(old)] = old
            changed = {index: rows.sources[index] for index in rows.new.values()}
        single = [(index, ids[0]) for index, ids in changed.items() if len(ids) == 1]
        if single:
            to, come = torch.tensor(single).unbind(1)
            made[to] = old[come]
        for index, ids in changed.items():
            if len(ids) != 1:
                made[index] = old[ids].mean(0) if ids else mean
        return made

    def _log_start(self, model: PretrainingModel, trained: int | None) -> None:
        step = "" if self.folder.steps is None else f", step {self.folder.steps}"
        _log.info(f"init: weights and tokenizer of {self.given}{step}; the optimizer starts anew, at step 0")
        before, now = self.sizes.max_positions, model.config.max_positions
        if now > before:
            _log.info(
                f"init: the position table grows from {before} rows to {now}: row p is a copy of row p mod {before}, "
                "which training has to tell apart"
            )
        elif now < before:
            _log.info(f"init: the position table is cut from {before} rows to its first {now}")
        if trained is not None and trained < self.max_length:
            _log.warning(
                f"init: {self.given} was trained on sequences of at most {trained} tokens and this run reads up to "
                f"{self.max_length}; the positions from {trained} on start untrained"
            )

    def _log_heads(
        self, new: Sequence[str], unread: Sequence[str], foreign: Sequence[str], *, learning_rate: float
    ) -> None:
        if new:
            parts = " and ".join(f"no {PARTS[part]}" for part in new)
            low = "mlm" in new and learning_rate < _RATE_OF_A_NEW_HEAD / 5
            rate = (
                f", which learn slowly at optimizer.learning_rate {learning_rate:g}; "
                f"--optimizer.learning_rate {_RATE_OF_A_NEW_HEAD:g} suits a new head"
            )
            _log.warning(f"init: {self.given} has {parts}; the run starts with new weights there{rate if low else ''}")
        if unread or foreign:
            left = ", ".join([*(f"the {PARTS[part]}" for part in unread), *foreign])
            _log.info(f"init: left out {left} of {self.given}, which no objective of this run uses")

    def _log_vocabulary(self, rows: Transfer, tokenizer: Tokenizer) -> None:
        kept = len(tokenizer.vocabulary) - len(rows.new)
        text = f"init: {kept:,} entries of the vocabulary start from their old rows"
        if rows.new:
            token, index = next(iter(rows.new.items()))
            pieces = " ".join(self.tokenizer.token(piece) for piece in rows.sources[index]) or "all rows"
            text += f"; new entries: {len(rows.new):,}, each from the mean of its pieces, as {token!r} from {pieces}"
        _log.info(text)
        if rows.lost:
            _log.warning(
                f"init: the vocabulary lacks {named(rows.lost)} of the checkpoint's {len(self.tokenizer.vocabulary):,} "
                "entries; what the model knew of them is left out"
            )


def _positions(old: Tensor, count: int) -> Tensor:
    """Return a position table of `count` rows from one of n, (n, D): row p is row p mod n."""
    return old[torch.arange(count) % len(old)]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
