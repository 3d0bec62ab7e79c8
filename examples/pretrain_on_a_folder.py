"""Pre-train a small BERT on a folder of text, then let it fill in a masked word.

    python examples/pretrain_on_a_folder.py                            # the pages of this project, about a minute
    python examples/pretrain_on_a_folder.py texts/ --steps 5000        # text of your own: .txt, .md, .jsonl, .parquet

It makes three things in the folder `--out`: `store`, the text as token ids; `run`, the log and the checkpoints; and
`model`, a folder that `unmask.Encoder.from_pretrained` and `transformers` load.
"""

import argparse
from pathlib import Path

import unmask

PAGES = Path(__file__).resolve().parent.parent / "docs"


def main(arguments: list[str] | None = None) -> None:
    """Prepare the text, train on it, save the model, and show what it predicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=PAGES, help="folder or file of text")
    parser.add_argument("--out", type=Path, default=Path("runs/example"), help="folder to make (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="steps of training (default: %(default)s)")
    parser.add_argument("--vocab-size", type=int, default=2000, help="word pieces to learn (default: %(default)s)")
    parser.add_argument("--text", default="the model predicts the [MASK] of a token.", help="text with one [MASK]")
    options = parser.parse_args(arguments)

    # 1. text -> tokenizer and token ids, on the disk
    store = unmask.prepare([options.folder], options.out / "store", vocab_size=options.vocab_size)

    # 2. a recipe and the settings that differ from it; `unmask pretrain --help` lists them all
    config = unmask.load_config(
        "tiny",
        {
            "data.store": str(store.folder),
            "run": str(options.out / "run"),
            "train.steps": options.steps,
            "stream.micro_batch_tokens": 2048,
        },
    )

    # 3. train; a killed run continues with unmask.pretrain(resume=RUN)
    run = unmask.pretrain(config)

    # 4. a folder with the newest checkpoint and its tokenizer, for unmask.Encoder.from_pretrained and transformers
    unmask.export(run, options.out / "model")
    print(f"\n{options.text}")
    for prediction in unmask.fill_mask(run, options.text)[0]:
        print(f"  {prediction.probability:6.1%}  {prediction.token}")


if __name__ == "__main__":
    main()
