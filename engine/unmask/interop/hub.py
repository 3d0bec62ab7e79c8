"""Models of the Hugging Face Hub: their names, and the snapshot of one in the cache of `huggingface_hub`.

    ORG/NAME                              the newest state of the model
    ORG/NAME@REVISION                     a branch, a tag or a commit
    hf://ORG/NAME[@REVISION]
    https://huggingface.co/ORG/NAME[/tree/REVISION], also the address of a file of it

The Hub is asked for the newest state first. If it cannot be reached, the copy in the cache is used. Only what is read
here is downloaded: config.json, weights (safetensors if there are any), the tokenizer and the card. The package
`huggingface_hub` comes with the extra `hub`; it is imported when a model of the Hub is asked for.
"""

import logging
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unmask.errors import HubError

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

__all__ = ["HubModel", "NotAtHubError", "broken_by", "hub_model", "refusal", "snapshot"]

_log = logging.getLogger(__name__)

_ADDRESS = re.compile(r"(https?:/+(huggingface|hf)\.co/|hf:/+)(?P<rest>.*?)(\.git)?/*", re.DOTALL)
# the page of a file of a model
_FILE = re.compile(r"/(blob|resolve)/([^/]+)/.*")
_NAME = re.compile(
    r"(?P<repo>\w(?:[\w.-]*\w)?(?:/\w(?:[\w.-]*\w)?)?)(?:(?:@|/tree/)(?P<revision>[^\s@:?~^\\]+))?", re.ASCII
)
_LONGEST = 96
# what a file is called, and no model
_FILES = (".git", ".json", ".txt", ".bin", ".safetensors", ".yaml", ".yml", ".jsonl", ".gz")

# the card may say what `unmask export` keeps: the licence and the languages
_CONFIG = ("config.json", "adapter_config.json", "README.md")
# an error names these
_OTHER_TOKENIZERS = ("spiece.model", "vocab.json", "merges.txt", "tokenizer.model")
_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
    *_OTHER_TOKENIZERS,
)
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
_BIN = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin")


@dataclass(frozen=True, kw_only=True, slots=True)
class HubModel:
    """The name of a model of the Hub.

    Attributes:
        repo: ORG/NAME, or NAME for some old models.
        revision: branch, tag or commit; None for the newest state.
        surely: whether it can be nothing else: it is an address, or has a revision.
    """

    repo: str
    revision: str | None = None
    surely: bool = False

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"

    def with_revision(self, revision: str | None) -> "HubModel":
        """Return the name with a revision that was given beside it.

        Raises:
            ValueError: it is empty, or the name has another one.
        """
        if revision is None:
            return self
        if not revision:
            raise ValueError(
                "revision must name a branch, a tag or a commit, is empty; leave it out for the newest state"
            )
        if self.revision not in (None, revision):
            raise ValueError(f"{self} names the revision {self.revision!r}, and revision is {revision!r}; give one")
        return replace(self, revision=revision, surely=True)

    def download(self) -> str:
        """Return the command that downloads it to a folder."""
        revision = self.revision or ""
        if revision:
            # a branch may begin with a hyphen, as no option's value does
            revision = f" --revision{'=' if revision.startswith('-') else ' '}{shlex.quote(revision)}"
        return f"`hf download {self.repo}{revision} --local-dir FOLDER`"


class NotAtHubError(HubError):
    """The Hub has no such model, or could not be asked, so the name may be a folder that was mistyped."""


def hub_model(given: str | Path) -> HubModel | None:
    """Return the model of the Hub that `given` may name; None if it can only be a path."""
    text = str(given)
    if address := _ADDRESS.fullmatch(text):
        text = _FILE.sub(r"/tree/\2", address["rest"])
    # `Path` drops the dot of ./name, which says that a folder is meant
    found = _NAME.fullmatch(text)
    if found is None or len(found["repo"]) > _LONGEST or "--" in found["repo"] or ".." in found["repo"]:
        return None
    name = HubModel(
        repo=found["repo"], revision=found["revision"], surely=bool(address or found["revision"] is not None)
    )
    if name.surely and not name.repo.endswith(".git"):
        return name
    return None if name.repo.lower().endswith(_FILES) else name


def snapshot(model: HubModel, *, files: Literal["model", "tokenizer"]) -> Path:
    """Return the folder of a model's files in the cache, after downloading what is missing or newer.

    Args:
        model: the model.
        files: "model": config.json, weights and tokenizer; "tokenizer": without the weights.
    Raises:
        NotAtHubError: huggingface_hub is not installed; the Hub has no such model; or it cannot be reached, and the
            cache has no copy.
        HubError: the Hub does not give it: it is gated, the token is refused, or there is no such revision; or it has
            no weights that are read here.
    """
    try:
        from huggingface_hub import HfApi, constants, snapshot_download
    except ImportError:
        raise NotAtHubError(
            f"models of the Hugging Face Hub, such as {model}, need huggingface_hub; pip install 'unmask[hub]' brings "
            "it"
        ) from None
    api = HfApi(library_name="unmask")
    try:
        with _answers(model, api):
            # This first request has a time limit, and so a mistyped path does not wait for a network that is not there.
            info = api.model_info(model.repo, revision=model.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except _Unreachable as problem:
        return _cached(model, files, str(problem))
    names = [sibling.rfilename for sibling in info.siblings or []]
    weights = _SAFETENSORS if {*_SAFETENSORS[:2]} & {*names} else _BIN
    if files == "model" and "config.json" not in names:
        raise HubError(f"{model} of the Hugging Face Hub has no config.json, so it is no BERT model; take another")
    if files == "model" and not {*weights[:2]} & {*names}:
        others = [name for name in names if re.search(r"\.(h5|msgpack|onnx|gguf|bin|safetensors|ot|ckpt)$", name)]
        has = f"; it has {', '.join(others[:3])}" if others else ""
        raise HubError(
            f"{model} of the Hugging Face Hub has neither model.safetensors nor pytorch_model.bin{has}; take a model "
            "with weights of PyTorch, or convert these"
        )
    wanted = [*_CONFIG, *_TOKENIZER, *(weights if files == "model" else ())]
    try:
        with _answers(model, api):
            folder = snapshot_download(
                model.repo,
                revision=model.revision,
                allow_patterns=wanted,
                library_name="unmask",
            )
    except _Unreachable as problem:
        raise HubError(
            f"the download of {model} from the Hugging Face Hub broke off ({problem}); give the same command again, "
            "and it goes on where it was"
        ) from None
    return Path(folder)


class _Unreachable(Exception):
    """The Hub gave no answer, or none now; the message says why."""


@contextmanager
def _answers(model: HubModel, api: "HfApi") -> Iterator[None]:
    """Turn what huggingface_hub raises into errors that name the way out, and a lack of answers into `_Unreachable`."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.GatedRepoError:
        raise HubError(
            f"{model} is gated at the Hugging Face Hub; accept its terms at {constants.ENDPOINT}/{model.repo}, log in "
            "with `hf auth login`, and give the same command again"
        ) from None
    except errors.RevisionNotFoundError:
        raise HubError(_no_revision(model, api)) from None
    except errors.RepositoryNotFoundError:
        raise NotAtHubError(
            f"the Hugging Face Hub has no model {model.repo} that you may read; check the name, or log in with "
            "`hf auth login` if it is private"
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status == 429 or status >= 500:
            raise _Unreachable(f"it answers {status}") from None
        raise HubError(refusal(error, f"read {model}")) from None
    except errors.OfflineModeIsEnabled:
        raise _Unreachable("HF_HUB_OFFLINE is set") from None
    except (errors.LocalEntryNotFoundError, errors.HTTPError, ConnectionError, TimeoutError, RuntimeError) as error:
        raise _Unreachable(broken_by(error)) from None


def broken_by(error: Exception) -> str:
    """Return what broke off a connection: the name of the error, and what the library of the transfer says."""
    # hf_xet, which moves large files, raises RuntimeError alone
    said = f": {str(error).splitlines()[0]}" if isinstance(error, RuntimeError) and str(error) else ""
    return f"{type(error.__cause__ or error).__name__}{said}"


def refusal(error: "HfHubHTTPError", deed: str) -> str:
    """Return the error for a request that the Hub refuses, with the way out.

    Args:
        error: of huggingface_hub.
        deed: what was asked for: "read ORG/NAME".
    """
    status = error.response.status_code
    said = f" ({error.server_message})" if error.server_message else ""
    if status not in (401, 403):
        return (
            f"the Hugging Face Hub refuses to {deed}: {status}{said}; wait and give the same command again, or upgrade "
            "huggingface_hub"
        )
    refused = f"the Hugging Face Hub refuses the token that was sent to {deed}: {status}{said}"
    if os.environ.get("HF_TOKEN"):
        way = "set HF_TOKEN to one that is valid and has the right, or unset it and log in with `hf auth login`"
        return f"{refused}; {way}"
    return f"{refused}; log in with `hf auth login`"


def _no_revision(model: HubModel, api: "HfApi") -> str:
    names: list[str] = []
    with suppress(Exception):
        refs = api.list_repo_refs(model.repo)
        names = [ref.name for ref in (*refs.branches, *refs.tags)]
    known = f"give one of {', '.join(names)}" if names else "give a branch, a tag or the hash of a commit"
    return f"{model.repo} of the Hugging Face Hub has no revision {model.revision!r}; {known}, or leave it out"


def _cached(model: HubModel, files: str, reason: str) -> Path:
    """Return the folder of the copy in the cache.

    Raises:
        NotAtHubError: there is none.
    """
    from huggingface_hub import try_to_load_from_cache

    needed = [("config.json",), (*_SAFETENSORS[:2], *_BIN[:2])]
    if files == "tokenizer":
        needed = [("tokenizer.json", "vocab.txt", *_OTHER_TOKENIZERS)]
    found: list[str] = []
    for names in needed:
        paths = (try_to_load_from_cache(model.repo, name, revision=model.revision) for name in names)
        found += [path for path in paths if isinstance(path, str)][:1]
    if len(found) < len(needed):
        raise NotAtHubError(
            f"the Hugging Face Hub cannot be reached ({reason}), and its cache has no copy of {model}; where there is "
            f"a network, run {model.download()}, and give that folder"
        )
    _log.warning(f"the Hugging Face Hub cannot be reached ({reason}); reading the copy of {model} in its cache")
    return Path(found[0]).parent
