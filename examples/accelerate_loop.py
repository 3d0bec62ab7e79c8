"""Fine-tune a classifier in a loop with accelerate, with the stock encoder and with that of unmask.

    pip install 'unmask[examples]'
    python examples/accelerate_loop.py
    accelerate launch examples/accelerate_loop.py                # several processes

`unmask.drop_in(model)` comes before `accelerator.prepare`; `compare` in made_here.py calls it.
"""

import torch
from accelerate import Accelerator
from made_here import arguments, classifier, compare, examples
from torch.utils.data import DataLoader
from transformers import BertForSequenceClassification, DataCollatorWithPadding


def main(given: list[str] | None = None) -> float:
    """Train both and return how many times as fast ours is."""
    options = arguments(__doc__, given)
    tokenizer, make = classifier(options.model)
    dataset = examples(tokenizer, options.steps * options.batch)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())

    def train(model: BertForSequenceClassification, steps: int) -> float:
        loader = DataLoader(dataset, batch_size=options.batch, collate_fn=DataCollatorWithPadding(tokenizer))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
        prepared, optimizer, loader = accelerator.prepare(model.train(), optimizer, loader)
        for _, batch in zip(range(steps), loader, strict=False):
            loss = prepared(**batch).loss
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return float(loss.detach())

    return compare(make, train, steps=options.steps, texts=options.batch)


if __name__ == "__main__":
    main()
