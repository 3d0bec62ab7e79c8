"""`unmask export RUN_OR_CHECKPOINT [OUT] [--push-to ORG/NAME]`: weights, config.json, tokenizer and card as a folder
that `from_pretrained` loads, here or at the Hugging Face Hub.
"""

from dataclasses import MISSING, dataclass
from pathlib import Path

from unmask.cli._arguments import option, read
from unmask.config.settings import Checked

__all__ = ["run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Checked):
    """Write a model as a folder that transformers loads, with a model card; upload it with --push-to.

    Everything is written and checked on this machine before anything is uploaded.
    """

    model: Path = option(
        MISSING,
        "Run directory (its newest whole checkpoint), checkpoint, model folder, or ORG/NAME of the Hugging Face Hub.",
        positional=True,
        metavar="RUN_OR_CHECKPOINT",
    )
    out: Path | None = option(
        None,
        "Folder to make; must not exist, or be empty. May be left out with --push-to.",
        positional=True,
        metavar="OUT",
    )
    push_to: str | None = option(
        None,
        "Repository at the Hugging Face Hub to upload to; made if it does not exist. Needs the extra `hub`, and the "
        "token of `hf auth login` or HF_TOKEN.",
        metavar="ORG/NAME",
    )
    private: bool = option(False, "Whether a repository that is made is private.")
    revision: str | None = option(None, "Branch to upload to. None: main.", metavar="BRANCH")
    every_checkpoint: bool = option(
        False, "Whether to upload each checkpoint of the run to a branch such as step-000500; main has the newest one."
    )
    license: str | None = option(
        None, "Licence of the model for its card, as the Hub names it: apache-2.0, mit, cc-by-4.0.", metavar="NAME"
    )
    language: list[str] = option(list, "Codes of the text's languages for the card: en, zh.", metavar="CODE")


def run(arguments: list[str]) -> None:
    """Export and print what was written and what was uploaded."""
    options = read(Options, prog="unmask export", arguments=arguments)
    from unmask.commands.export import export

    exported = export(
        options.model,
        options.out,
        push_to=options.push_to,
        private=options.private,
        revision=options.revision,
        every_checkpoint=options.every_checkpoint,
        license=options.license,
        languages=options.language,
    )
    for upload in exported.uploads:
        print(upload.line())
    print(exported.line())
