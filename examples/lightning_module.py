"""Fine-tune a classifier with Lightning, with the stock encoder and with that of unmask.

    pip install 'unmask[examples]'
    python examples/lightning_module.py

`unmask.drop_in(model)` is the only line that differs; `compare` in made_here.py calls it.
"""

import pytorch_lightning as lightning
import torch
from made_here import arguments, classifier, compare, examples
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import BertForSequenceClassification, DataCollatorWithPadding


class Classifier(lightning.LightningModule):
    """A model of transformers as a LightningModule."""

    def __init__(self, model: BertForSequenceClassification) -> None:
        super().__init__()
        self.model = model.train()
        self.last_loss = 0.0

    def training_step(self, batch: dict[str, Tensor], number: int) -> Tensor:
        """Return the loss of a batch."""
        loss = self.model(**batch).loss
        self.last_loss = float(loss.detach())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=3e-4)


def main(given: list[str] | None = None) -> float:
    """Train both and return how many times as fast ours is."""
    options = arguments(__doc__, given)
    tokenizer, make = classifier(options.model)
    loader = DataLoader(
        examples(tokenizer, options.steps * options.batch),
        batch_size=options.batch,
        collate_fn=DataCollatorWithPadding(tokenizer),
    )

    def train(model: BertForSequenceClassification, steps: int) -> float:
        module = Classifier(model)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = lightning.Trainer(max_steps=steps, gradient_clip_val=1.0, enable_model_summary=False, **quiet)
        trainer.fit(module, loader)
        return module.last_loss

    return compare(make, train, steps=options.steps, texts=options.batch)


if __name__ == "__main__":
    main()
