"""The settings of a run: one group for each component, which the component itself takes as its configuration.

    data          the text, its tokenizer and its store              train.store
    stream        lengths, micro-batches, held-out share, workers    data.stream
    composition   how documents become sequences                     composition.strategy
    masking       what is predicted                                  masking.strategy
    model         the encoder's sizes                                model.Encoder (`config.encoder`)
    init          the checkpoint that the weights come from          train.initial
    distillation  the teacher, and what is learnt of it              distillation (`config.distillation`)
    objective     weights of the losses                              objectives
    optimizer     the optimizer and its schedule                     train.optim, train.schedule
    train         budget, precision, intervals                       train.trainer
    kernels       the backend of each operation                      unmask_kernels

The defaults of a run are the recipe `tiny`, the embedded demonstration. It needs no network, no GPU and no account.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, asdict, dataclass, replace
from fractions import Fraction
from typing import Literal

from unmask.config.backends import BACKENDS
from unmask.config.distillation import GeneralDistillationConfig
from unmask.config.encoder import EncoderConfig
from unmask.config.rules import disagreements
from unmask.config.settings import Checked, between_commas, setting
from unmask.errors import ConfigError
from unmask.limits import JOINING, SHORTEST

__all__ = [
    "BUDGETS",
    "CompositionConfig",
    "DataConfig",
    "InitConfig",
    "KernelsConfig",
    "MaskingConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PhaseConfig",
    "RunConfig",
    "StreamConfig",
    "TrainConfig",
]

BUDGETS = ("steps", "epochs", "minutes")
"""The settings of `train` of which one ends the run."""

# a weight is the nearest fraction with at most this denominator, so that 0.1 is 1/10 exactly
_DENOMINATOR = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig(Checked):
    """The text and its tokenizer: a store that `unmask prepare` made, or text to prepare first."""

    store: str | None = setting(
        None,
        "Token store that `unmask prepare` wrote: a folder, or an address such as s3://bucket/store. None: `input` if "
        "given, else the docstrings of the installed Python packages.",
    )
    cache_folder: str | None = setting(
        None, "Folder that keeps the shards of a store at an address. None: the user's cache, `~/.cache/unmask`."
    )
    cache_gb: float | None = setting(
        None,
        "Most gigabytes of shards in it; those that were used least recently go first. None: as many as there are.",
        gt=0,
    )
    cache_patience: float = setting(
        60.0, "Seconds without a byte after which a file of a store at an address is given up.", gt=0
    )
    input: list[str] = setting(
        list,
        "Text to prepare before training, as for `unmask prepare --input`: files, folders and patterns such as "
        "'news/*/' of .txt, .md, .jsonl, .json, .csv, .tsv, .parquet, .conll, .conllu (each also .gz, .zst), here or "
        "at s3://, gs:// or hf://datasets/; data sets; stores; docstrings: for those of the installed Python "
        "packages. `name=path` names a source.",
    )
    text_field: str = setting(
        "text",
        "Field of JSON, or column of a table, that holds the text of `input`. Several, as in title,text, are joined "
        "by a blank line. A number is a column, from 1, of a .csv or .tsv without a header line, or of CoNLL columns.",
        by_commas=True,
    )
    blank_line_documents: bool = setting(
        False, "Whether blank lines separate the documents in a text file of `input`. If not, a file is one document."
    )
    encoding: str = setting(
        "utf-8",
        "Encoding of the files of `input`, except parquet: utf-8, latin-1, gb18030, utf-16 and others of Python.",
    )
    delimiter: str | None = setting(
        None, "Sign between the columns of .csv and .tsv, or the word tab. None: a comma in .csv, a tab in .tsv."
    )
    drop_duplicates: bool = setting(False, "Whether of documents of `input` with the same text only the first is kept.")
    split_at: str | None = setting(
        None,
        "Regular expression: a document begins at each line of a text file of `input` in which it is found. None: no "
        "such lines.",
    )
    segmenter: str | None = setting(
        None,
        "Segmenter that joins the Chinese characters of `input` to words: chinese, rjieba, jieba, spaces or "
        "module:function. None: each character is a word. A store keeps its own words.",
    )
    tokenizer: str | None = setting(
        None,
        "Existing tokenizer, WordPiece or WordLevel: a folder, a tokenizer.json, a vocab.txt, a run, or ORG/NAME of "
        "the Hugging Face Hub. None: a vocabulary is trained on the text.",
    )
    vocab_size: int = setting(
        8192, "Entries of a vocabulary that is trained here. A store or a given tokenizer keeps its own.", ge=100
    )
    lowercase: bool | None = setting(
        None,
        "Whether the tokenizer ignores case. None: one that is trained here does; a given one does what its files "
        "say, or what the entries of a vocab.txt alone show.",
    )
    strip_accents: bool = setting(
        True,
        "Whether a vocabulary that ignores case removes accents too. In many scripts they are letters: in those of "
        "Hindi, Japanese, Thai, Arabic, Korean and others.",
    )
    keep_indentation: bool = setting(
        False,
        "Whether a vocabulary that is trained here has words for a line break with the indentation after it: for "
        "source code.",
    )
    allow_unknown: bool = setting(
        False, "Whether text is taken of which more than 10% becomes unknown tokens, of which a model learns nothing."
    )

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        if self.store is not None and self.input:
            yield "store", "and input are both set; give the prepared store or the text, not both"


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamConfig(Checked):
    """How sequences fill micro-batches, and which documents are held out."""

    max_length: int = setting(
        128,
        "Maximum number of tokens of a sequence (L), [CLS] and [SEP] included. A longer document is cut into several "
        "pieces.",
        ge=SHORTEST,
    )
    micro_batch_tokens: int = setting(2048, "Token capacity of one forward and backward pass (T).", ge=1)
    max_documents: int | None = setting(
        None,
        "Document slots of a micro-batch (S). None: as many as the lengths in the corpus need.",
        ge=1,
        le=2**31 - 1,
    )
    held_out_fraction: float = setting(
        0.01,
        "Share of the documents that are only evaluated on, chosen by their content. Every evaluation reads the same "
        "first `train.evaluate_tokens` of them, so a large store needs a small share.",
        ge=0,
        le=0.5,
    )
    workers: int = setting(
        1,
        "Background workers that pack and mask; with 0 the trainer does it between steps. The batches are the same.",
        ge=0,
        le=256,
        hint="two are enough for most",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class CompositionConfig(Checked):
    """How the documents of a block become sequences."""

    strategy: Literal["documents", "doc_sentences", "full_sentences", "mix", "uni", "bm25", "best_fit", "pairs"] = (
        setting(
            "documents",
            "How. documents: a whole document, or even pieces of a long one. doc_sentences: whole sentences of one "
            "document. full_sentences: whole sentences across documents. mix: cuts of `stream.max_length` from one "
            "stream of all documents. uni: the same from a stream for each source. bm25: the next document is the "
            "most similar one. best_fit: several pieces in a sequence with little room left. pairs: two segments, for "
            "`objective.nsp` or `objective.sop`.",
        )
    )
    scope: Literal["document", "sequence"] = setting(
        "document",
        "What a token may attend to if a sequence holds several documents: its own document, or the whole sequence.",
    )
    weights: dict[str, float] = setting(
        dict,
        "How often an epoch reads each source, by its name: 2 reads it twice, 0.5 half of it, 0 leaves it out. Other "
        "sources are read once. On the command line: `--composition.weights books 2 peps 0.5`.",
    )
    short_pairs: float = setting(
        0.1, "Share of the documents whose pairs get a random length below the maximum (BERT: 0.1).", ge=0, le=1
    )
    bm25_walk: Literal["path", "star"] = setting(
        "path",
        "The document that bm25 compares the next one with: the last of the sequence (path), or its first (star).",
    )
    bm25_buffer: int = setting(2048, "Number of documents from which bm25 chooses the next one.", ge=1)
    bm25_query_terms: int = setting(
        300, "Words of a document that bm25 compares, drawn at random if the document has more.", ge=1
    )

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        for source, weight in self.weights.items():
            if not 0 <= weight <= 1e6:
                yield f"weights.{source}", f"must be at least 0 and at most 1000000, got {weight:g}"

    @property
    def joins(self) -> bool:
        """Whether a sequence may hold pieces of several documents."""
        return self.strategy in JOINING

    @property
    def expensive(self) -> bool:
        """Whether composing takes so long that one process does it ahead for all workers."""
        return self.strategy == "bm25"

    def held_out(self) -> "CompositionConfig":
        """Return the composition of evaluation: every document by itself, or pairs, whatever training composes."""
        return replace(
            self,
            strategy="pairs" if self.strategy == "pairs" else "documents",
            scope="document",
            weights={name: 0.0 for name, weight in self.weights.items() if weight == 0},
        )

    def source_weights(self, sources: Sequence[str]) -> list[Fraction]:
        """Return the weight of each source, in the order of `sources`.

        Raises:
            ConfigError: a weight of a source that is not there.
        """
        for name in self.weights:
            if name not in sources:
                close = difflib.get_close_matches(name, sources, n=1, cutoff=0.5)
                hint = (
                    f"; did you mean {close[0]}?"
                    if close
                    else f"; the store has {', '.join(map(between_commas, sources))}"
                )
                raise ConfigError(f"stream: composition.weights names {name!r}, which is no source of the store{hint}")
        return [Fraction(self.weights.get(name, 1)).limit_denominator(_DENOMINATOR) for name in sources]


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskingConfig(Checked):
    """What is predicted (Devlin et al. 2019; Joshi et al. 2020; Cui et al. 2021)."""

    strategy: Literal["token", "whole_word", "ngram", "span", "mac"] = setting(
        "token",
        "What is chosen: tokens, whole words, n-grams of words (MacBERT), spans (SpanBERT), or n-grams that become "
        "similar words instead of [MASK] (mac: MacBERT's masked language model as correction).",
    )
    rate: float = setting(0.15, "Share of the tokens to predict.", gt=0, le=1, hint="BERT masks 0.15")
    rate_end: float | None = setting(
        None,
        "Mask rate at the last step, or after `rate_steps`; it is reached linearly from `rate` at the first step. "
        "None: the rate stays.",
        gt=0,
        le=1,
    )
    rate_steps: int | None = setting(
        None,
        "Steps in which the mask rate goes from `rate` to `rate_end`; then it stays there. None: all steps of the run.",
        ge=1,
    )
    split: tuple[float, float, float] = setting(
        (0.8, 0.1, 0.1),
        "Shares of these tokens that become [MASK] (with mac a similar word), become a random token, and stay; sum 1.",
    )
    similar_words: str | None = setting(
        None, "Table of similar words for `mac`: lines 'word<TAB>neighbour:similarity neighbour:similarity ...'."
    )
    place: Literal["host", "device"] = setting(
        "host",
        "Where masks of `token` and `whole_word` are made: by the loader's workers on the host, or on the model's "
        "device. The masks are the same.",
    )
    static_masks: int | None = setting(
        None,
        "Number of different masks of a text, which then repeat (BERT's original: 10). None: new masks in each epoch.",
        ge=1,
    )

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        if min(self.split) < 0 or abs(sum(self.split) - 1) > 1e-6:
            yield "split", f"must be three shares that sum to 1, got {list(self.split)}"
        if self.static_masks is not None and self.rate_end is not None:
            yield (
                "static_masks",
                "and rate_end are both set, but masks that repeat cannot follow a schedule; choose one of them",
            )
        if self.place == "device":
            yield from (("place", f"is 'device', which {problem}; set it to 'host'") for problem in self._on_device())

    def _on_device(self) -> Iterator[str]:
        """Yield the problems of masking on the device, where only tokens, words and document keys are known."""
        if self.strategy not in ("token", "whole_word"):
            yield f"masks by 'token' and 'whole_word', not strategy {self.strategy!r}"
        if self.static_masks is not None or self.rate_end is not None:
            yield f"draws new masks at one rate, not {'static_masks' if self.rate_end is None else 'rate_end'}"


@dataclass(frozen=True, kw_only=True, slots=True)
class InitConfig(Checked):
    """The initial checkpoint: a model that the run starts from. Without one, all weights are new."""

    from_: str | None = setting(
        None,
        "Run (its newest whole checkpoint), checkpoint, Hugging Face BERT folder, or ORG/NAME of the Hugging Face Hub. "
        "Weights, the sizes in `model` and the tokenizer come from it; the optimizer starts anew. None: new weights.",
    )
    vocabulary: Literal["keep", "extend", "replace"] = setting(
        "keep",
        "Tokenizer of the text. keep: the checkpoint's. extend: one that has more entries after the checkpoint's. "
        "replace: any. A new entry starts from the mean of the pieces that the checkpoint's tokenizer cuts it into.",
    )

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        if self.from_ == "":
            yield (
                "from",
                "must name the model to start from, is empty; give a run, a checkpoint or a Hugging Face folder as "
                "--init.from FOLDER",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveConfig(Checked):
    """Weights of the losses; a weight of 0 leaves the loss out."""

    mlm: float = setting(1.0, "Masked language model.", ge=0)
    nsp: float = setting(0.0, "Next sentence prediction; needs `composition.strategy: pairs`.", ge=0)
    sop: float = setting(0.0, "Sentence order prediction; needs `composition.strategy: pairs`.", ge=0)
    clm: float = setting(
        0.0,
        "Causal language model: each token predicts the next one of its document; needs `model.causal` and excludes "
        "the other losses.",
        ge=0,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig(Checked):
    """The optimizer and the schedule of its learning rate."""

    name: Literal["adamw", "lamb", "stable_adamw", "muon"] = setting(
        "adamw",
        "How parameters are updated. adamw. lamb: by a share of their size, for large batches. stable_adamw: AdamW, "
        "with a lower rate for a parameter whose gradient has suddenly grown. muon: the matrices of the layers by "
        "Muon, the rest by AdamW.",
    )
    learning_rate: float = setting(
        1.5e-3, "Peak learning rate, reached at the end of the warm-up; then it decays as `schedule` says.", gt=0
    )
    warmup_steps: int = setting(
        100, "Steps of linear warm-up. A run of fewer steps warms up for a tenth of them.", ge=0
    )
    schedule: Literal["linear", "cosine", "polynomial", "wsd"] = setting(
        "linear",
        "Decay of the learning rate. linear: on a line over the whole run, as in BERT. cosine, polynomial: from the "
        "end of the warm-up. wsd: it stays at its peak and falls on a line at the end (warm-up, stable, decay).",
    )
    power: float = setting(2.0, "Power of the schedule `polynomial`; 1 is a line.", gt=0)
    decay_share: float = setting(0.2, "Share of the run in which the schedule `wsd` decays.", gt=0, le=1)
    final_share: float = setting(0.0, "Learning rate at the end of the run, as a share of the peak.", ge=0, lt=1)
    weight_decay: float = setting(0.01, "Decoupled weight decay; biases and layer norms have none.", ge=0)
    beta1: float = setting(0.9, "Decay of the first moment.", ge=0, lt=1)
    beta2: float = setting(0.999, "Decay of the second moment.", ge=0, lt=1)
    eps: float = setting(1e-6, "Added to the root of the second moment; 1e-6 as in BERT.", gt=0)
    bias_correction: bool = setting(
        True, "Whether the moments are corrected for their start at zero; BERT's own optimizer does not correct them."
    )
    momentum: float = setting(0.95, "Decay of the momentum of `muon`.", ge=0, lt=1)
    clip_norm: float = setting(1.0, "Largest global norm of the gradient; a larger gradient is scaled down.", gt=0)
    ema_decay: float | None = setting(
        None,
        "Decay of a moving average of the weights, such as 0.999, which is evaluated and exported in their place. "
        "None: no average.",
        gt=0,
        lt=1,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseConfig(Checked):
    """A phase: a stretch of steps with a maximum length of its own."""

    share: float = setting(MISSING, "Share of the run's steps. The shares of all phases sum to 1.", gt=0, le=1)
    max_length: int = setting(MISSING, "Maximum number of tokens of a sequence in this phase.", ge=SHORTEST)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(Checked):
    """Budget, precision and intervals. Intervals are in optimizer steps."""

    steps: int | None = setting(
        2100,
        "Optimizer steps of the whole run. None: `epochs` or `minutes` decides; give one of the three.",
        ge=1,
    )
    epochs: float | None = setting(
        None,
        "Readings of the training data, as 2 or 0.5; the steps follow from the tokens of the store. None: `steps` or "
        "`minutes` decides.",
        gt=0,
        le=10**7,
    )
    minutes: float | None = setting(
        None,
        "Minutes of training, compilation and evaluations included, after which the learning rate is 0. Such a run "
        "does not repeat bit for bit. None: `steps` or `epochs` decides.",
        gt=0,
        le=10**7,
    )
    tokens_per_step: int = setting(
        2048,
        "Token capacity of one optimizer step, padding included; a multiple of `stream.micro_batch_tokens`.",
        ge=1,
    )
    first_tokens_per_step: int | None = setting(
        None,
        "Token capacity of the first step, from which it grows to `tokens_per_step`, a multiple of it. None: all steps "
        "have the same.",
        ge=1,
    )
    growth_steps: int = setting(
        1000, "Steps in which the tokens of a step grow from `first_tokens_per_step`.", ge=1, le=10**9
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = setting(
        "auto", "Where to train. auto: a CUDA device if there is one, else the CPU. mps: the GPU of an Apple computer."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto",
        "Dtype of activations; auto: bfloat16 if the machine multiplies it fast, else float32. float16 scales the loss "
        "and is for GPUs without bfloat16. Parameters are float32.",
    )
    compile: bool = setting(
        False,
        "Whether torch.compile makes one graph of the forward pass, and one of the backward pass. It takes a minute or "
        "more before the first step of each phase. Results round differently.",
    )
    graph: Literal["auto", "never", "require"] = setting(
        "auto",
        "Whether steps are recorded as CUDA graphs, which one call of the host replays. auto: on a CUDA device, if "
        "everything in the step can be recorded; if not, the run says why. require: the same, or the run is refused.",
    )
    parallel: Literal["ddp", "fsdp"] = setting(
        "ddp",
        "How several processes hold the model. ddp: each holds all of it. fsdp: each holds a part of the parameters, "
        "gradients and moments (FSDP2), for models that do not fit on one device; it sends more.",
    )
    activation_checkpointing: bool = setting(
        False,
        "Whether to keep only the input of each layer, and compute the layer again in the backward pass: less memory, "
        "about a third more time, the same bits.",
    )
    log_every: int = setting(20, "Steps between rows of log.jsonl.", ge=1)
    evaluate_every: int = setting(200, "Steps between evaluations on held-out text.", ge=1)
    evaluate_tokens: int = setting(32768, "Token capacity of one evaluation.", ge=1)
    save_every: int = setting(500, "Steps between checkpoints; the last step is always saved.", ge=1)
    keep_checkpoints: int = setting(2, "Number of newest checkpoints to keep.", ge=1)
    threads: int | None = setting(
        None,
        "CPU threads of PyTorch. None: its own choice, one for each core. On a busy machine, or in a container with "
        "few cores, fewer are faster. A resumed run repeats its bits only with the same number.",
        ge=1,
        le=4096,
    )
    timeout_seconds: float = setting(
        600.0,
        "Seconds for which a process of a run with several may keep the others waiting in training. Then all of them "
        "end, with a message that names it.",
        gt=0,
        le=10**6,
    )
    spike_guard: float | None = setting(
        None,
        "Go back to the checkpoint before a spike of the loss, and leave out the data of the spike. A row of the log "
        "is high if its loss is above the median of the 32 rows before by so many times their median absolute "
        "deviation. None: no guard.",
        gt=0,
        hint="6 is a good start",
    )
    spike_rows: int = setting(3, "High rows of the log one after the other that make a spike.", ge=1, le=100)
    spike_limit: int = setting(3, "Spikes that a run goes back from; at the next one it stops.", ge=1)
    log_gradient_norms: bool = setting(
        False, "Whether a row of the log has the gradient norms of the embeddings, of each layer and of the heads too."
    )
    tensorboard: bool = setting(False, "Whether to write TensorBoard events too (extra `tensorboard`).")
    wandb: bool = setting(
        False,
        "Whether to send the log to Weights & Biases too (extra `wandb`); WANDB_MODE=offline keeps it in the run "
        "directory.",
    )
    trackio: bool = setting(False, "Whether to send the log to trackio too (extra `trackio`).")
    mlflow: bool = setting(
        False, "Whether to send the log to MLflow too (extra `mlflow`), to the address in MLFLOW_TRACKING_URI."
    )
    phases: list[PhaseConfig] = setting(
        list,
        "Phases of the run. Empty: one phase at `stream.max_length`. A file has them as `phases: [{share: 0.9, "
        "max_length: 128}, {share: 0.1, max_length: 512}]`; the command line can change those of a recipe, counted "
        "from 0 (`--train.phases.0.max_length 64`).",
    )

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if not given:
            yield "steps", "and epochs and minutes are all None; give one of them"
        if len(given) > 1:
            yield (
                given[0],
                f"and {given[1]} are given together, but one of them ends a run; leave one of them out, or make it "
                "None",
            )
        if self.minutes is not None and len(self.phases) > 1:
            yield (
                "minutes",
                f"is {self.minutes:g} but phases has {len(self.phases)} phases, which are shares of the steps; give "
                "steps or epochs, or phases [] for one phase at stream.max_length",
            )
        kept = (self.keep_checkpoints - 1) * self.save_every
        if self.spike_guard is not None and kept < self.spike_rows * self.log_every:
            enough = 1 + -(-self.spike_rows * self.log_every // self.save_every)
            yield (
                "spike_guard",
                f"needs a checkpoint from before a spike of spike_rows, {self.spike_rows}, times log_every, "
                f"{self.log_every}, steps, got keep_checkpoints {self.keep_checkpoints} of save_every "
                f"{self.save_every}; give keep_checkpoints {enough} or more",
            )
        shares = [phase.share for phase in self.phases]
        if shares and abs(sum(shares) - 1) > 1e-6:
            yield "phases", f"must have shares above 0 that sum to 1, got {shares} (sum {sum(shares):g})"


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelsConfig(Checked):
    """The backend of each operation. None: the best that can run (`unmask doctor` lists them).

    A backend that is named here runs, or the run stops with the reasons why it cannot. `reference` is the plain
    definition, for comparison.
    """

    attention: str | None = setting(None, "Attention within documents.")
    mlm_loss: str | None = setting(None, "Output projection and cross-entropy at the masked tokens.")
    layer_norm: str | None = setting(None, "Dropout, residual and layer norm.")
    gelu: str | None = setting(None, "Activation of the feed-forward layer; on a GPU it also adds the bias before it.")
    linear_gelu: str | None = setting(
        None,
        "Matrix product, bias and activation. By default PyTorch's product and then `gelu`; `triton` fuses the two.",
    )
    masking: str | None = setting(None, "Masking on the device.")
    embedding: str | None = setting(None, "Embedding tables, their sum, layer norm and dropout.")
    optimizer: str | None = setting(None, "The update of all parameters.")
    distill: str | None = setting(None, "The losses by which a student learns from a teacher.")
    last_layer_rows: bool = setting(
        True,
        "Whether the last layer computes only the rows that an objective reads. Loss and gradients stay the same.",
    )
    tuned: Literal["auto", "never"] = setting(
        "auto",
        "Whether the run uses what `unmask tune` found to be faster on this machine. Results round differently. A "
        "resumed run goes on with what it began with.",
    )

    verify: Literal["tell", "auto", "never", "require"] = setting(
        "tell",
        "What to do on a GPU where kernels of the run are not verified. tell: say so in one line. auto: verify them "
        "before the first step, as `unmask verify` does, for at most two minutes, and train with what passes. require: "
        "the same, but train only if everything passes.",
    )

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        for operation, backend in self.named().items():
            known = BACKENDS[operation]
            if backend not in known:
                close = difflib.get_close_matches(backend, known, n=1, cutoff=0.5)
                yield (
                    operation,
                    f"must be one of {', '.join(known)}, got {backend!r}"
                    + (f"; did you mean {close[0]}?" if close else "; `unmask doctor` says which of them run here"),
                )

    def named(self) -> dict[str, str]:
        """Return the backends that are named, by operation, as `unmask_kernels.using` takes them."""
        return {name: value for name, value in asdict(self).items() if name in BACKENDS and value is not None}


def _tiny() -> EncoderConfig:
    return EncoderConfig(
        num_layers=2, hidden_size=128, num_heads=2, intermediate_size=512, hidden_dropout=0.0, attention_dropout=0.0
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig(Checked):
    """Everything that defines a pre-training run. Groups that contradict each other are refused (`config.rules`)."""

    run: str | None = setting(
        None, "Directory of the run. None: a new one under runs/. Under torchrun write --run-dir, since it has a --run."
    )
    seed: int = setting(1, "Seed of initialisation, order, masks and dropout; below 2^63.", ge=0)
    data: DataConfig = setting(DataConfig, "the text and its tokenizer")
    stream: StreamConfig = setting(StreamConfig, "lengths, micro-batches, held-out documents")
    composition: CompositionConfig = setting(CompositionConfig, "how documents become sequences")
    masking: MaskingConfig = setting(MaskingConfig, "what is predicted")
    model: EncoderConfig = setting(_tiny, "the encoder's sizes")
    init: InitConfig = setting(InitConfig, "the checkpoint to start from")
    distillation: GeneralDistillationConfig = setting(
        GeneralDistillationConfig, "the teacher, and what is learnt of it"
    )
    objective: ObjectiveConfig = setting(ObjectiveConfig, "weights of the losses")
    optimizer: OptimizerConfig = setting(OptimizerConfig, "the optimizer and its learning rate")
    train: TrainConfig = setting(TrainConfig, "budget, precision, intervals")
    kernels: KernelsConfig = setting(KernelsConfig, "the backend of each operation")

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        if self.seed >= 2**63:
            yield "seed", f"must be below 2^63, got {self.seed}"
        yield from disagreements(self)
