"""Fine-tune a classifier on several processes with DistributedDataParallel, with the stock encoder and that of unmask.

    pip install 'unmask[examples]'
    torchrun --nproc_per_node 2 examples/ddp_torchrun.py

`unmask.drop_in(model)` comes before DistributedDataParallel; `compare` in made_here.py calls it.
"""

import contextlib
import io
import os

import torch
import torch.distributed as dist
from made_here import arguments, classifier, compare, examples
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler
from transformers import BertForSequenceClassification, DataCollatorWithPadding


def main(given: list[str] | None = None) -> float:
    """Train both and return how many times as fast ours is."""
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
    options = arguments(__doc__, given) if rank == 0 else None
    # the others wait for the folder that rank 0 makes
    dist.broadcast_object_list(shared := [options])
    options = shared[0]
    tokenizer, make = classifier(options.model)
    dataset = examples(tokenizer, options.steps * options.batch * world_size)

    def train(model: BertForSequenceClassification, steps: int) -> float:
        parallel = DistributedDataParallel(model.to(device).train())
        optimizer = torch.optim.AdamW(parallel.parameters(), lr=3e-4)
        loader = DataLoader(
            dataset,
            batch_size=options.batch,
            sampler=DistributedSampler(dataset),
            collate_fn=DataCollatorWithPadding(tokenizer),
        )
        for _, batch in zip(range(steps), loader, strict=False):
            loss = parallel(**{name: values.to(device) for name, values in batch.items()}).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    with contextlib.nullcontext() if rank == 0 else contextlib.redirect_stdout(io.StringIO()):
        ratio = compare(make, train, steps=options.steps, texts=options.batch * world_size)
    dist.destroy_process_group()
    return ratio


if __name__ == "__main__":
    main()
