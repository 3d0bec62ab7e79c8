"""Fine-tune a classifier in the Trainer of transformers, with the stock encoder and with that of unmask.

    pip install 'unmask[examples]'
    python examples/huggingface_trainer.py
    python examples/huggingface_trainer.py --model FOLDER        # a BERT of your own

`unmask.drop_in(model)` is the only line that differs; `compare` in made_here.py calls it.
"""

import torch
from made_here import arguments, classifier, compare, examples
from transformers import BertForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments


def main(given: list[str] | None = None) -> float:
    """Train both and return how many times as fast ours is."""
    options = arguments(__doc__, given)
    tokenizer, make = classifier(options.model)
    dataset = examples(tokenizer, options.steps * options.batch)

    def train(model: BertForSequenceClassification, steps: int) -> float:
        settings = TrainingArguments(
            str(options.out / "trained"),
            max_steps=steps,
            per_device_train_batch_size=options.batch,
            learning_rate=3e-4,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        collator = DataCollatorWithPadding(tokenizer)
        return Trainer(model, settings, train_dataset=dataset, data_collator=collator).train().training_loss

    return compare(make, train, steps=options.steps, texts=options.batch)


if __name__ == "__main__":
    main()
