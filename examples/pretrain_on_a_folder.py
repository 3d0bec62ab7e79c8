"""Pre-train a small BERT on a folder of text, then let it fill in a masked word.

    python examples/pretrain_on_a_folder.py                            # the pages of this project, about a minute
    python examples/pretrain_on_a_folder.py texts/ --steps 5000        # text of your own: .txt, .md, .jsonl, .parquet

It makes three things in the folder `--out`: `store`, the text as token ids; `run`, the log and the checkpoints; and
`model`, a folder that `unmask.Encoder.from_pretrained` and `transformers` load.
"""

import argparse
from pathlib import Path

import torch

import unmask
from unmask.data.tokenizer import Tokenizer

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

    # 4. the newest checkpoint is a model folder with its tokenizer
    checkpoint = max((run / "checkpoints").glob("step-*"))
    model, tokenizer = unmask.PretrainingModel.from_pretrained(checkpoint), Tokenizer.load(checkpoint)
    model.save_pretrained(options.out / "model", pad_id=tokenizer.pad_id)
    tokenizer.save(options.out / "model")
    print(f"\n{options.text}")
    for token, probability in predict(model, tokenizer, options.text):
        print(f"  {probability:6.1%}  {token}")


@torch.inference_mode()
def predict(model: unmask.PretrainingModel, tokenizer: Tokenizer, text: str, top: int = 5) -> list[tuple[str, float]]:
    """Return the most probable tokens for the [MASK] of a text, and their probabilities."""
    (ids,) = tokenizer.encode_batch([text], special_tokens=True)
    batch = unmask.pack([[tokenizer.cls_id, *ids, tokenizer.sep_id]])
    place = (batch.ids == tokenizer.mask_id).nonzero().flatten()
    hidden = model.eval()(batch, rows=place)  # (1, D): the encoder's last layer computes this row only
    best = model.mlm_logits(hidden).softmax(-1)[0].topk(top)
    return [(tokenizer.token(int(token)), float(p)) for token, p in zip(best.indices, best.values, strict=True)]


if __name__ == "__main__":
    main()
