"""unmask: pre-train BERT-style encoders on packed documents.

The public names, each imported when it is first used:

    Encoder, PretrainingModel, EncoderConfig     the model, its heads and its sizes
    pack, PackedBatch, mean_pool                 batches of whole documents, and one vector for each document
    packed_inputs                                batches of the inputs that other encoders take
    Tokenizer, Store                             what makes the ids of texts, and texts that are ids already
    PackedDataset                                a token store as a dataset for other trainers
    drop_in, undo                                this encoder inside a BERT model of transformers, and its own again
    prepare, similar_words, analyse              the commands as functions: text and stores,
    load_config, plan, profile, pretrain, report training,
    augment                                      a training file with variants of its texts,
    load_finetune_config, finetune, TaskModel    fine-tuning on a task, and the model of one,
    evaluate, fill_mask, predict, export         and models
    score                                        predictions of a task
    verify                                       the kernels on the GPU at hand

Importing the package imports nothing else. The model and its batches need only PyTorch and NumPy.

    encoder = unmask.Encoder.from_pretrained("folder")
    batch = unmask.pack([[101, 7592, 102], [101, 2088, 999, 102]])
    hidden = encoder(batch.ids, batch.documents, batch.segments)      # (T, hidden)
"""

import importlib

# Type checkers take this for typing.TYPE_CHECKING. `typing` imports `re`, and `python -m unmask` would look for that in
# the current folder first.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unmask.batch import PackedBatch, pack
    from unmask.commands.analyse import analyse
    from unmask.commands.augment import augment
    from unmask.commands.evaluate import evaluate
    from unmask.commands.export import export
    from unmask.commands.fill_mask import fill_mask
    from unmask.commands.plan import plan
    from unmask.commands.predict import predict
    from unmask.commands.profile import profile
    from unmask.commands.report import report
    from unmask.commands.score import score
    from unmask.commands.tune import tune
    from unmask.commands.verify import verify
    from unmask.config import load_config
    from unmask.data.masking.neighbours import similar_words
    from unmask.data.prepare import prepare
    from unmask.data.store import Store
    from unmask.data.stream.dataset import PackedDataset
    from unmask.data.tokenizer import Tokenizer
    from unmask.hf.drop_in import drop_in, undo
    from unmask.layouts import packed_inputs
    from unmask.model import Encoder, EncoderConfig, PretrainingModel, mean_pool
    from unmask.model.task_model import TaskModel
    from unmask.tasks.finetune import finetune
    from unmask.tasks.load import load_finetune_config
    from unmask.train.pretrain import pretrain

__all__ = [
    "Encoder",
    "EncoderConfig",
    "PackedBatch",
    "PackedDataset",
    "PretrainingModel",
    "Store",
    "TaskModel",
    "Tokenizer",
    "__version__",
    "analyse",
    "augment",
    "drop_in",
    "evaluate",
    "export",
    "fill_mask",
    "finetune",
    "load_config",
    "load_finetune_config",
    "mean_pool",
    "pack",
    "packed_inputs",
    "plan",
    "predict",
    "prepare",
    "pretrain",
    "profile",
    "report",
    "score",
    "similar_words",
    "tune",
    "undo",
    "verify",
]

__version__ = "0.1.0"

_HOMES = {
    "Encoder": "unmask.model",
    "EncoderConfig": "unmask.model",
    "PackedBatch": "unmask.batch",
    "PackedDataset": "unmask.data.stream.dataset",
    "PretrainingModel": "unmask.model",
    "Store": "unmask.data.store",
    "TaskModel": "unmask.model.task_model",
    "Tokenizer": "unmask.data.tokenizer",
    "analyse": "unmask.commands.analyse",
    "augment": "unmask.commands.augment",
    "drop_in": "unmask.hf.drop_in",
    "evaluate": "unmask.commands.evaluate",
    "export": "unmask.commands.export",
    "fill_mask": "unmask.commands.fill_mask",
    "finetune": "unmask.tasks.finetune",
    "load_config": "unmask.config",
    "load_finetune_config": "unmask.tasks.load",
    "mean_pool": "unmask.model",
    "pack": "unmask.batch",
    "packed_inputs": "unmask.layouts",
    "plan": "unmask.commands.plan",
    "predict": "unmask.commands.predict",
    "prepare": "unmask.data.prepare",
    "pretrain": "unmask.train.pretrain",
    "profile": "unmask.commands.profile",
    "report": "unmask.commands.report",
    "score": "unmask.commands.score",
    "similar_words": "unmask.data.masking.neighbours",
    "tune": "unmask.commands.tune",
    "undo": "unmask.hf.drop_in",
    "verify": "unmask.commands.verify",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'unmask' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
