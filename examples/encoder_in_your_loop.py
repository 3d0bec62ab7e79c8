"""Train the encoder in a plain PyTorch loop: who acts in a sentence, a pet or a wild animal?

    python examples/encoder_in_your_loop.py                        # a new small encoder, seconds on a CPU
    python examples/encoder_in_your_loop.py --model FOLDER         # a BERT folder with its tokenizer

The sentences are made here. The same words stand in both classes ("the cat saw the wolf", "the cat was seen by the
wolf"), so the encoder has to read their order. Pairs of animals that are tested are never trained on.
"""

import argparse
import random
from pathlib import Path

import torch
from torch import Tensor, nn

import unmask
from unmask.data.tokenizer import Tokenizer

PETS = ["cat", "dog", "hamster", "rabbit", "parrot", "pony"]
WILD = ["wolf", "bear", "lynx", "otter", "raven", "boar"]
VERBS = [("saw", "seen"), ("heard", "heard"), ("met", "met"), ("chased", "chased"), ("watched", "watched")]


def sentences(held_out: bool) -> list[tuple[str, int]]:
    """Return sentences and classes: 1 if a pet acts, 0 if a wild animal does."""
    made = []
    for number, (pet, wild) in enumerate((pet, wild) for pet in PETS for wild in WILD):
        if (number % 7 == 0) == held_out:
            for past, passive in VERBS:
                for actor, other, label in ((pet, wild, 1), (wild, pet, 0)):
                    made.append((f"the {actor} {past} the {other}", label))
                    made.append((f"the {other} was {passive} by the {actor}", label))
    return made


class Classifier(nn.Module):
    """An encoder with a linear layer on the [CLS] of each document."""

    def __init__(self, encoder: unmask.Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, classes)

    def forward(self, batch: unmask.PackedBatch) -> Tensor:
        """Return logits, (S, classes)."""
        first = batch.documents.first_rows()
        cls = self.encoder(batch.ids, batch.documents, batch.segments, rows=first)
        return self.head(self.encoder.pool(cls))


def main(arguments: list[str] | None = None) -> float:
    """Train, print the accuracy on the held-out sentences, and return it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a BERT to start from (default: a new small one)")
    parser.add_argument("--steps", type=int, default=300, help="steps of training (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="sentences in a batch (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, help="default: 1e-3 for a new encoder, 5e-5 for a given one")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    random.seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    training, tested = sentences(held_out=False), sentences(held_out=True)
    if options.model is None:
        tokenizer = Tokenizer.train([text for text, _ in training], vocab_size=200)
        config = unmask.EncoderConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=64,
            num_layers=2,
            num_heads=2,
            intermediate_size=256,
            max_positions=32,
        )
        encoder, rate = unmask.Encoder(config), 1e-3
    else:
        tokenizer = Tokenizer.load(options.model)
        encoder, rate = unmask.Encoder.from_pretrained(options.model, dropout=0.1, pooler=True), 5e-5
    model = Classifier(encoder, classes=2).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate or rate)

    def batch_of(rows: list[tuple[str, int]]) -> tuple[unmask.PackedBatch, Tensor]:
        ids = tokenizer.encode_batch([text for text, _ in rows])
        documents = [[tokenizer.cls_id, *one, tokenizer.sep_id] for one in ids]
        return unmask.pack(documents).to(device), torch.tensor([label for _, label in rows], device=device)

    model.train()
    for step in range(1, options.steps + 1):
        batch, labels = batch_of(random.sample(training, options.batch))
        loss = nn.functional.cross_entropy(model(batch), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == options.steps:
            print(f"step {step}  loss {float(loss.detach()):.3f}")

    model.eval()
    with torch.inference_mode():
        batch, labels = batch_of(tested)
        accuracy = float((model(batch).argmax(-1) == labels).float().mean())
    print(f"accuracy on {len(tested)} sentences with other pairs of animals: {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
