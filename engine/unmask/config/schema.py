"""The settings of a run: one flat dataclass per component, every field with its unit and range.

The defaults are the recipe `tiny`, the embedded demonstration: no network, no GPU, no account.
"""

from dataclasses import asdict, dataclass, field
from typing import Literal

__all__ = [
    "DataConfig",
    "KernelsConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "Phase",
    "RunConfig",
    "TrainConfig",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Where the text comes from, how it is cut, and what is masked."""

    store: str | None = None
    """Folder written by `unmask prepare`; none: `input` if given, else the docstrings of the installed Python
    packages."""
    input: list[str] = field(default_factory=list)
    """What to prepare before training, as `unmask prepare --input` takes it: files and folders of .txt, .md, .jsonl,
    .parquet (each also .gz, .zst), data sets, stores; `name=path` names a source."""
    text_field: str = "text"
    """Field of JSON lines, or column of parquet files, of `input` that holds the text."""
    blank_line_documents: bool = False
    """Blank lines separate the documents of a text file of `input`; else a file is one document."""
    split_at: str | None = None
    """Regular expression of the lines of a text file of `input` at which documents begin; none: no such lines."""
    segmenter: str | None = None
    """What joins the Chinese characters of `input` to words: chinese, rjieba, jieba, spaces or module:function; none:
    each is a word. A store keeps its own."""
    tokenizer: str | None = None
    """Folder of an existing WordPiece tokenizer; none: a vocabulary is trained on the text."""
    vocab_size: int = 8192
    """Entries of a vocabulary trained here; a store or a given tokenizer keeps its own."""
    lowercase: bool = True
    """Whether a vocabulary trained here drops case and accents; a store or a given tokenizer keeps its own."""
    strip_accents: bool = True
    """Whether one that drops case drops accents too, which are letters in many scripts: those of Hindi, Japanese, Thai,
    Arabic, Korean and others."""
    max_length: int = 128
    """Tokens in the longest piece, [CLS] and [SEP] included; a longer document is cut into several."""
    held_out: float = 0.01
    """Share of the documents kept for evaluation and never trained on, chosen by their content; in [0, 0.5]. An
    evaluation reads the first `train.evaluate_tokens` of them, always the same, so a large store needs a small
    share."""
    compose: Literal["documents", "doc_sentences", "full_sentences", "mix", "uni", "bm25", "best_fit", "pairs"] = (
        "documents"
    )
    """How documents become sequences: `documents` are whole or in even pieces; `doc_sentences` and `full_sentences`
    hold whole sentences, of one document or across; `mix` cuts one stream of all documents every `max_length` tokens,
    `uni` one of each source; in `bm25` the next document is the one most like the last; `best_fit` packs pieces;
    `pairs` are for `objective.nsp` or `objective.sop`."""
    bm25_walk: Literal["path", "star"] = "path"
    """What `bm25` compares the next document with: the one before it, or the first of the sequence."""
    bm25_buffer: int = 2048
    """Documents that `bm25` chooses the next one from."""
    bm25_query_terms: int = 300
    """Words of a document that `bm25` compares by, drawn at random from longer ones."""
    scope: Literal["document", "sequence"] = "document"
    """What a token may attend to where a sequence holds several documents: its own, or the whole sequence."""
    short_pairs: float = 0.1
    """Share of the documents whose pairs have a random, shorter length; in [0, 1]."""
    weights: dict[str, float] = field(default_factory=dict)
    """How often an epoch reads each source, by its name: 2 twice, 0.5 half of it, 0 leaves it out; others once.
    On the command line: `--data.weights books 2 peps 0.5`."""
    mask_rate: float = 0.15
    """Share of the tokens to predict; in (0, 1)."""
    mask_rate_end: float | None = None
    """The rate at the last step, reached linearly from `mask_rate` at the first; in (0, 1). None: it stays."""
    mask_split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Of these, the shares that become [MASK] (with `mac` a similar word), random tokens, and stay; sum 1."""
    masking: Literal["token", "whole_word", "ngram", "span", "mac"] = "token"
    """What is chosen: tokens, whole words, n-grams of words (MacBERT), spans (SpanBERT), or n-grams that become
    similar words instead of [MASK] (MacBERT's MLM as correction)."""
    similar_words: str | None = None
    """The table of `mac`: lines 'word<TAB>neighbour:similarity neighbour:similarity ...'."""
    mask_on: Literal["host", "device"] = "host"
    """Where masks of `token` and `whole_word` are made: by the workers, or in one launch where the model is. The same
    masks either way."""
    static_masks: int | None = None
    """Masks of a text that are drawn before they come again (BERT's original: 10); none: anew in each epoch."""
    workers: int = 1
    """Background workers that pack and mask; 0 does it between the steps. The stream is the same for any number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The encoder's shape (Devlin et al. 2019, arXiv:1810.04805); the vocabulary size comes from the tokenizer."""

    num_layers: int = 2
    """Transformer layers."""
    hidden_size: int = 128
    """Width of the hidden states; a multiple of the number of heads."""
    num_heads: int = 2
    """Attention heads in a layer."""
    intermediate_size: int = 512
    """Width of the feed-forward layer."""
    max_positions: int = 512
    """Rows of the position table: the longest piece the model can ever read."""
    num_segments: int = 2
    """Rows of the segment table."""
    hidden_dropout: float = 0.0
    """Dropout of embeddings and layer outputs; in [0, 1)."""
    attention_dropout: float = 0.0
    """Dropout of attention probabilities; in [0, 1)."""
    layer_norm_eps: float = 1e-12
    """Added to the variance in layer norm."""
    initializer_range: float = 0.02
    """Standard deviation of the truncated normal that initialises every matrix."""
    activation: Literal["gelu", "gelu_tanh"] = "gelu"
    """Feed-forward activation: the exact GELU, or its tanh approximation."""
    causal: bool = False
    """Whether a token sees only itself and what comes before it in its document."""
    attention_window: int | None = None
    """Tokens that a local layer sees on either side of each (ModernBERT: 64); None makes every layer global."""
    global_every: int = 3
    """With a window, layers 0, n, 2 n, ... stay global (ModernBERT: 3); 0 for none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveConfig:
    """Weights of the losses; 0 leaves one out."""

    mlm: float = 1.0
    """Masked language model."""
    nsp: float = 0.0
    """Next sentence prediction; needs `data.compose: pairs`."""
    sop: float = 0.0
    """Sentence order prediction; needs `data.compose: pairs`."""
    clm: float = 0.0
    """Causal language model: each token predicts the next one of its document; needs `model.causal`, excludes the
    others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A part of the run with its own maximum length."""

    share: float
    """Share of the steps; in (0, 1], all phases sum to 1."""
    max_length: int
    """Tokens in the longest piece during this phase."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Budget, optimizer, precision, and how often things happen; times are counted in optimizer steps."""

    steps: int = 2100
    """Optimizer steps of the whole run."""
    tokens_per_step: int = 2048
    """Token capacity of one optimizer step over all ranks; a multiple of `micro_batch_tokens`."""
    micro_batch_tokens: int = 2048
    """Token capacity of one forward and backward pass."""
    max_documents: int | None = None
    """Document slots of a micro-batch; none: enough for short documents."""
    learning_rate: float = 1.5e-3
    """Peak learning rate, reached after the warm-up; then linear decay to 0."""
    warmup_steps: int = 100
    """Steps of linear warm-up, at most `steps`."""
    weight_decay: float = 0.01
    """Decoupled weight decay; biases and layer norms have none."""
    beta1: float = 0.9
    """AdamW's decay of the mean of the gradients; in [0, 1)."""
    beta2: float = 0.999
    """AdamW's decay of the mean of their squares; in [0, 1)."""
    eps: float = 1e-6
    """AdamW's epsilon."""
    clip_norm: float = 1.0
    """Largest global norm of the gradients."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Activations; auto: bfloat16 where the machine multiplies it fast. Parameters are float32."""
    log_every: int = 20
    """Steps between rows of log.jsonl."""
    evaluate_every: int = 200
    """Steps between evaluations on held-out text."""
    evaluate_tokens: int = 32768
    """Token capacity of one evaluation."""
    save_every: int = 500
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 2
    """Newest checkpoints that stay."""
    threads: int | None = None
    """CPU threads of PyTorch; none: its own choice. Part of what exact resume needs."""
    tensorboard: bool = False
    """Write TensorBoard events too (extra `tensorboard`)."""
    phases: list[Phase] = field(default_factory=list)
    """Length phases; empty: one phase at `data.max_length`. The command line changes those that there are
    (`--train.phases.0.max_length 64`); another number of them needs a YAML file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelsConfig:
    """Which implementation of each operation runs; none: the best that can (`unmask doctor` says which). One that is
    named runs or stops the run with its reasons; `reference` is the plain definition, to compare with.
    """

    attention: str | None = None
    """Attention bounded by documents."""
    mlm_loss: str | None = None
    """Output projection and cross-entropy at the masked tokens."""
    layer_norm: str | None = None
    """Dropout, residual and layer norm."""
    gelu: str | None = None
    """Activation of the feed-forward layer, and on a GPU the bias before it."""
    linear_gelu: str | None = None
    """Both with the product in front; by default PyTorch's product, then `gelu`, which `triton` replaces as well."""
    masking: str | None = None
    """Masks made on the device."""
    embedding: str | None = None
    """Tables, sum, norm and dropout of the first layer."""
    last_layer_rows: bool = True
    """Whether the last layer works on the rows alone that an objective reads: the same loss and gradients for less."""

    def named(self) -> dict[str, str]:
        """The backends asked for by name, by operation, as `unmask_kernels.using` takes them."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, str)}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Everything that defines a pre-training run."""

    run: str | None = None
    """Directory of the run; none: a new one under runs/."""
    seed: int = 1
    """Seed of initialisation, order, masks and dropout; in [0, 2^63)."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    kernels: KernelsConfig = field(default_factory=KernelsConfig)
