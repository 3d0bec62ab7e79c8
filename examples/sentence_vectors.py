"""Train a SentenceTransformer and encode texts with it, with the stock encoder and with that of unmask.

    pip install 'unmask[examples]'
    python examples/sentence_vectors.py
    python examples/sentence_vectors.py --model FOLDER           # a BERT of your own

Halves of a review should be near each other. `unmask.drop_in` finds the BERT inside the SentenceTransformer; `compare`
in made_here.py calls it.
"""

import torch
from datasets import Dataset
from made_here import MAX_LENGTH, arguments, compare, reviews
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer


def main(given: list[str] | None = None) -> tuple[float, float]:
    """Train and encode with both, and return how many times as fast ours is in each."""
    options = arguments(__doc__, given)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    texts = [text for text, _ in reviews(options.steps * options.batch)]
    halves = [text.split(" .") for text in texts]
    pairs = Dataset.from_dict(
        {
            "anchor": [" .".join(one[: (len(one) + 1) // 2]) for one in halves],
            "positive": [" .".join(one[len(one) // 2 :]) for one in halves],
        }
    )

    def make() -> SentenceTransformer:
        transformer = Transformer(str(options.model), max_seq_length=MAX_LENGTH)
        return SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension())], device=device)

    def train(model: SentenceTransformer, steps: int) -> float:
        settings = SentenceTransformerTrainingArguments(
            str(options.out / "trained"),
            max_steps=steps,
            per_device_train_batch_size=options.batch,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=device == "cpu",
        )
        loss = MultipleNegativesRankingLoss(model)
        return SentenceTransformerTrainer(model, settings, train_dataset=pairs, loss=loss).train().training_loss

    def encode(model: SentenceTransformer, steps: int) -> float:
        vectors = model.encode(texts[: steps * options.batch], batch_size=options.batch, convert_to_tensor=True)
        return float(vectors.norm(dim=1).mean())

    print("training")
    trained = compare(make, train, steps=options.steps, texts=2 * options.batch)
    print("encode")
    encoded = compare(make, encode, steps=options.steps, texts=options.batch)
    return trained, encoded


if __name__ == "__main__":
    main()
