"""Uploads folders of models to the Hugging Face Hub, each to a branch of one repository.

`huggingface_hub` does it, with the token of `hf auth login` or HF_TOKEN. A file of an earlier model that the new one
does not have is removed from the branch, so that no loader mixes the two. A card that somebody wrote by hand stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unmask.errors import HubError
from unmask.interop.hub import HubModel, broken_by, hub_model, refusal

if TYPE_CHECKING:
    pass

__all__ = ["Upload", "Uploader", "upload_target"]

_MAIN = "main"
# files that belong to a model; the Hub may have them from an earlier upload
_OF_A_MODEL = [
    *("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
    *("vocab.txt", "special_tokens_map.json", "added_tokens.json"),
]
_CARD = "README.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """What was uploaded, and where it is.

    Attributes:
        repo: ORG/NAME.
        revision: the branch.
        url: address of the branch.
        files: names of the files.
        kept_card: whether a card that was written by hand stayed at the Hub.
    """

    repo: str
    revision: str
    url: str
    files: tuple[str, ...]
    kept_card: bool

    def line(self) -> str:
        """Return a line that says what was uploaded."""
        card = f"; the {_CARD} there was written by hand and stays" if self.kept_card else ""
        return f"{self.url}: {', '.join(self.files)}{card}"


def upload_target(given: str, *, revision: str | None = None) -> HubModel:
    """Return the repository and branch to upload to; checks what can be checked without a network.

    Raises:
        HubError: `given` is not ORG/NAME, huggingface_hub is not installed, or there is no token.
        ValueError: two revisions are given.
    """
    model = hub_model(given)
    if model is None or model.repo.count("/") != 1:
        raise HubError(
            "export: --push-to must be ORG/NAME, your name or your organisation at the Hugging Face Hub and a name for "
            f"the model, got {given!r}"
        )
    try:
        from huggingface_hub import get_token
    except ImportError:
        raise HubError("export: --push-to needs huggingface_hub; pip install 'unmask[hub]' brings it") from None
    if get_token() is None:
        raise HubError(
            "export: --push-to needs a token of the Hugging Face Hub that may write; log in with `hf auth login`, or "
            "set HF_TOKEN"
        )
    return model.with_revision(revision)


class Uploader:
    """Uploads to one repository, which it makes if it does not exist.

    Args:
        repo: ORG/NAME.
        private: whether a new repository is private.
        mark: text of a card that may be replaced.
    Raises:
        HubError: the Hub cannot be reached or refuses; or the repository exists and is public, and `private` is True.
    """

    def __init__(self, repo: str, *, private: bool, mark: str) -> None:
        from huggingface_hub import HfApi

        self.repo = repo
        self._mark = mark
        self._api = HfApi(library_name="unmask")
        with _failures(repo):
            # None: an organisation decides what its new repositories are
            self._api.create_repo(repo, private=private or None, exist_ok=True)
            if private and not self._api.model_info(repo).private:
                raise HubError(
                    f"export: {repo} exists at the Hugging Face Hub and is public; make it private in its settings, or "
                    "leave --private out"
                )

    def upload(self, folder: Path, *, revision: str | None, message: str) -> Upload:
        """Upload the files of a folder in one commit.

        Args:
            folder: the folder.
            revision: branch, which is made if it does not exist. Default: main.
            message: title of the commit.
        Raises:
            HubError: the Hub cannot be reached or refuses.
        """
        branch = revision or _MAIN
        with _failures(self.repo):
            if branch != _MAIN:
                self._api.create_branch(self.repo, branch=branch, exist_ok=True)
            kept = self._has_card_of_others(branch)
            self._api.upload_folder(
                repo_id=self.repo,
                folder_path=folder,
                revision=branch,
                commit_message=message,
                ignore_patterns=[_CARD] if kept else None,
                delete_patterns=_OF_A_MODEL,
            )
        names = sorted(path.name for path in folder.iterdir() if not (kept and path.name == _CARD))
        tree = "" if branch == _MAIN else f"/tree/{branch}"
        url = f"{self._api.endpoint}/{self.repo}{tree}"
        return Upload(repo=self.repo, revision=branch, url=url, files=tuple(names), kept_card=kept)

    def _has_card_of_others(self, branch: str) -> bool:
        if not self._api.file_exists(self.repo, _CARD, revision=branch):
            return False
        card = Path(self._api.hf_hub_download(self.repo, _CARD, revision=branch))
        return self._mark not in card.read_text("utf-8", errors="replace")


@contextmanager
def _failures(repo: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into errors that name the way out."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HfHubHTTPError as error:
        raise HubError(refusal(error, f"upload to {repo}")) from None
    except errors.OfflineModeIsEnabled:
        raise HubError(f"export: HF_HUB_OFFLINE is set, so nothing is uploaded to {repo}; unset it") from None
    except (errors.LocalEntryNotFoundError, errors.HTTPError, ConnectionError, TimeoutError, RuntimeError) as error:
        raise HubError(
            f"export: the Hugging Face Hub cannot be reached ({broken_by(error)}), so the upload to {repo} is not "
            "complete; give the same command again when the network is there"
        ) from None
