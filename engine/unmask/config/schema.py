"""The settings of a run: one flat dataclass for each component, each field with its unit and range.

The defaults are the recipe `tiny`, the embedded demonstration. It needs no network, no GPU and no account.
"""

from dataclasses import asdict, dataclass, field
from typing import Literal

__all__ = [
    "BUDGETS",
    "DataConfig",
    "KernelsConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "PhaseConfig",
    "RunConfig",
    "TrainConfig",
]


BUDGETS = ("steps", "epochs", "minutes")
"""The settings of `train` of which one ends the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """The text, how it is cut into sequences, and what is masked."""

    store: str | None = None
    """Token store that `unmask prepare` wrote. None: `input` if given, else the docstrings of the installed Python
    packages."""
    input: list[str] = field(default_factory=list)
    """Text to prepare before training, as for `unmask prepare --input`: files, folders and patterns such as 'news/*/'
    of .txt, .md, .jsonl, .json, .csv, .tsv, .parquet, .conll, .conllu (each also .gz, .zst), here or at s3://, gs:// or
    hf://datasets/; data sets; stores; docstrings: for those of the installed Python packages. `name=path` names a
    source."""
    text_field: str = "text"
    """Field of JSON, or column of a table, that holds the text of `input`. Several, as in title,text, are joined by a
    blank line. A number is a column, from 1, of a .csv or .tsv without a header line, or of CoNLL columns."""
    blank_line_documents: bool = False
    """Whether blank lines separate the documents in a text file of `input`. If not, a file is one document."""
    encoding: str = "utf-8"
    """Encoding of the files of `input`, except parquet: utf-8, latin-1, gb18030, utf-16 and others of Python."""
    delimiter: str | None = None
    """Sign between the columns of .csv and .tsv, or the word tab. None: a comma in .csv, a tab in .tsv."""
    drop_duplicates: bool = False
    """Whether of documents of `input` with the same text only the first is kept."""
    split_at: str | None = None
    """Regular expression: a document begins at each line of a text file of `input` in which it is found. None: no such
    lines."""
    segmenter: str | None = None
    """Segmenter that joins the Chinese characters of `input` to words: chinese, rjieba, jieba, spaces or
    module:function. None: each character is a word. A store keeps its own words."""
    tokenizer: str | None = None
    """Folder of an existing WordPiece tokenizer. None: a vocabulary is trained on the text."""
    vocab_size: int = 8192
    """Entries of a vocabulary that is trained here. A store or a given tokenizer keeps its own."""
    lowercase: bool = True
    """Whether a vocabulary that is trained here ignores case. A store or a given tokenizer keeps its own rule."""
    strip_accents: bool = True
    """Whether a vocabulary that ignores case removes accents too. In many scripts they are letters: in those of Hindi,
    Japanese, Thai, Arabic, Korean and others."""
    max_length: int = 128
    """Maximum number of tokens of a sequence, [CLS] and [SEP] included. A longer document is cut into several
    pieces."""
    held_out: float = 0.01
    """Share of the documents that are only evaluated on, chosen by their content; in [0, 0.5]. Every evaluation reads
    the same first `train.evaluate_tokens` of them, so a large store needs a small share."""
    compose: Literal["documents", "doc_sentences", "full_sentences", "mix", "uni", "bm25", "best_fit", "pairs"] = (
        "documents"
    )
    """How documents become sequences. documents: a whole document, or even pieces of a long one. doc_sentences: whole
    sentences of one document. full_sentences: whole sentences across documents. mix: cuts of `max_length` from one
    stream of all documents. uni: the same from one stream for each source. bm25: the next document is the most similar
    one. best_fit: several pieces in a sequence with little room left. pairs: two segments, for `objective.nsp` or
    `objective.sop`."""
    bm25_walk: Literal["path", "star"] = "path"
    """The document that `bm25` compares the next one with: the last of the sequence (path), or its first (star)."""
    bm25_buffer: int = 2048
    """Number of documents from which `bm25` chooses the next one."""
    bm25_query_terms: int = 300
    """Words of a document that `bm25` compares, drawn at random if the document has more."""
    scope: Literal["document", "sequence"] = "document"
    """What a token may attend to if a sequence holds several documents: its own document, or the whole sequence."""
    short_pairs: float = 0.1
    """Share of the documents whose pairs get a random length below the maximum; in [0, 1]."""
    weights: dict[str, float] = field(default_factory=dict)
    """How often an epoch reads each source, by its name: 2 reads it twice, 0.5 half of it, 0 leaves it out. Other
    sources are read once. On the command line: `--data.weights books 2 peps 0.5`."""
    mask_rate: float = 0.15
    """Share of the tokens to predict; in (0, 1)."""
    mask_rate_end: float | None = None
    """Mask rate at the last step, reached linearly from `mask_rate` at the first; in (0, 1). None: the rate stays."""
    mask_split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of these tokens that become [MASK] (with `mac` a similar word), become a random token, and stay; sum 1."""
    masking: Literal["token", "whole_word", "ngram", "span", "mac"] = "token"
    """What is chosen: tokens, whole words, n-grams of words (MacBERT), spans (SpanBERT), or n-grams that become
    similar words instead of [MASK] (MacBERT's MLM as correction)."""
    similar_words: str | None = None
    """Table of similar words for `mac`: lines 'word<TAB>neighbour:similarity neighbour:similarity ...'."""
    mask_on: Literal["host", "device"] = "host"
    """Where masks of `token` and `whole_word` are made: by the loader's workers, or on the model's device. The masks
    are the same."""
    static_masks: int | None = None
    """Number of different masks of a text, which then repeat (BERT's original: 10). None: new masks in each epoch."""
    workers: int = 1
    """Background workers that pack and mask; with 0 the trainer does it between steps. The batches are the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The encoder's sizes (Devlin et al. 2019, arXiv:1810.04805). The vocabulary size comes from the tokenizer."""

    num_layers: int = 2
    """Transformer layers."""
    hidden_size: int = 128
    """Width of the hidden states; a multiple of the number of heads."""
    num_heads: int = 2
    """Attention heads in a layer."""
    intermediate_size: int = 512
    """Width of the feed-forward layer."""
    max_positions: int = 512
    """Rows of the position table: the model cannot read longer sequences."""
    num_segments: int = 2
    """Rows of the segment (token type) table."""
    hidden_dropout: float = 0.0
    """Dropout of embeddings and layer outputs; in [0, 1)."""
    attention_dropout: float = 0.0
    """Dropout of attention probabilities; in [0, 1)."""
    layer_norm_eps: float = 1e-12
    """Added to the variance in layer norm."""
    initializer_range: float = 0.02
    """Standard deviation of the truncated normal distribution of initial weights."""
    activation: Literal["gelu", "gelu_tanh"] = "gelu"
    """Feed-forward activation: the exact GELU, or its tanh approximation."""
    causal: bool = False
    """Whether a token sees only itself and what comes before it in its document."""
    attention_window: int | None = None
    """Tokens that a token sees on either side in a local layer (ModernBERT: 64). None: every layer is global."""
    global_every: int = 3
    """With a window, layers 0, n, 2 n, ... stay global (ModernBERT: 3); 0: every layer is local."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveConfig:
    """Weights of the losses; a weight of 0 leaves the loss out."""

    mlm: float = 1.0
    """Masked language model."""
    nsp: float = 0.0
    """Next sentence prediction; needs `data.compose: pairs`."""
    sop: float = 0.0
    """Sentence order prediction; needs `data.compose: pairs`."""
    clm: float = 0.0
    """Causal language model: each token predicts the next one of its document; needs `model.causal` and excludes the
    other losses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseConfig:
    """A phase: a stretch of steps with a maximum length of its own."""

    share: float
    """Share of the run's steps; in (0, 1]. The shares of all phases sum to 1."""
    max_length: int
    """Maximum number of tokens of a sequence in this phase."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Budget, optimizer, precision and intervals. Intervals are in optimizer steps."""

    steps: int | None = 2100
    """Optimizer steps of the whole run. None: `epochs` or `minutes` decides; give one of the three."""
    epochs: float | None = None
    """Readings of the training data, as 2 or 0.5; the steps follow from the tokens of the store. None: `steps` or
    `minutes` decides."""
    minutes: float | None = None
    """Minutes of training, compilation and evaluations included, after which the learning rate is 0. Such a run does
    not repeat bit for bit. None: `steps` or `epochs` decides."""
    tokens_per_step: int = 2048
    """Token capacity of one optimizer step, padding included; a multiple of `micro_batch_tokens`."""
    micro_batch_tokens: int = 2048
    """Token capacity of one forward and backward pass."""
    max_documents: int | None = None
    """Document slots of a micro-batch. None: enough for short documents."""
    learning_rate: float = 1.5e-3
    """Peak learning rate, reached at the end of the warm-up; then it decays linearly to 0."""
    warmup_steps: int = 100
    """Steps of linear warm-up. A run of fewer steps warms up for a tenth of them."""
    weight_decay: float = 0.01
    """Decoupled weight decay; biases and layer norms have none."""
    beta1: float = 0.9
    """AdamW's decay of the first moment; in [0, 1)."""
    beta2: float = 0.999
    """AdamW's decay of the second moment; in [0, 1)."""
    eps: float = 1e-6
    """AdamW's epsilon."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient; a larger gradient is scaled down."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of activations; auto: bfloat16 if the machine multiplies it fast, else float32. Parameters are float32."""
    log_every: int = 20
    """Steps between rows of log.jsonl."""
    evaluate_every: int = 200
    """Steps between evaluations on held-out text."""
    evaluate_tokens: int = 32768
    """Token capacity of one evaluation."""
    save_every: int = 500
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep."""
    threads: int | None = None
    """CPU threads of PyTorch. None: its own choice, one for each core. On a busy machine, or in a container with few
    cores, fewer are faster. A resumed run repeats its bits only with the same number."""
    tensorboard: bool = False
    """Whether to write TensorBoard events too (extra `tensorboard`)."""
    phases: list[PhaseConfig] = field(default_factory=list)
    """Phases of the run. Empty: one phase at `data.max_length`. The command line can change the phases of a recipe
    (`--train.phases.0.max_length 64`); another number of phases needs a YAML file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelsConfig:
    """The backend of each operation. None: the best that can run (`unmask doctor` lists them).

    A backend that is named here runs, or the run stops with the reasons why it cannot. `reference` is the plain
    definition, for comparison.
    """

    attention: str | None = None
    """Attention within documents."""
    mlm_loss: str | None = None
    """Output projection and cross-entropy at the masked tokens."""
    layer_norm: str | None = None
    """Dropout, residual and layer norm."""
    gelu: str | None = None
    """Activation of the feed-forward layer; on a GPU it also adds the bias before it."""
    linear_gelu: str | None = None
    """Matrix product, bias and activation. By default PyTorch's product and then `gelu`; `triton` fuses the two."""
    masking: str | None = None
    """Masking on the device."""
    embedding: str | None = None
    """Embedding tables, their sum, layer norm and dropout."""
    last_layer_rows: bool = True
    """Whether the last layer computes only the rows that an objective reads. Loss and gradients stay the same."""

    def named(self) -> dict[str, str]:
        """Return the backends that are named, by operation, as `unmask_kernels.using` takes them."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, str)}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Everything that defines a pre-training run."""

    run: str | None = None
    """Directory of the run. None: a new one under runs/."""
    seed: int = 1
    """Seed of initialisation, order, masks and dropout; in [0, 2^63)."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    kernels: KernelsConfig = field(default_factory=KernelsConfig)
