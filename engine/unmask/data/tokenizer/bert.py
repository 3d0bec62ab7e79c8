"""BERT's rules for cutting text, and the settings of a tokenizer folder that ask for these rules or for others.

`bert_pipeline` builds the tokenizer around a vocabulary. The settings are those of `tokenizer_config.json` and
`special_tokens_map.json`, and `tokenizer_class` of `config.json`; `tokenizer.json` describes the same things.
A setting is followed, or must agree with `tokenizer.json`, or is refused by its name:

    tokenizer_class             a class that cuts text as BERT's does, or one that uses the tokenizer.json beside it
    do_lower_case, strip_accents, tokenize_chinese_chars, wordpieces_prefix, max_input_chars_per_word
                                followed with a vocab.txt; beside a tokenizer.json they must agree with it
    do_basic_tokenize, clean_text, never_split, split_special_tokens
                                must have the values of BERT's defaults
    pad_token, ... mask_token   the tokens of the five roles

In this file `config` is `tokenizer_config.json`, `named` is `special_tokens_map.json`, and `where` is the folder.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.data.tokenizer.indentation import indentation_pre_tokenizer
from unmask.errors import TokenizerError

if TYPE_CHECKING:
    import tokenizers

__all__ = [
    "LONGEST_WORD",
    "SPECIAL_TOKENS",
    "bert_pipeline",
    "content_of",
    "drops_case",
    "frame_as_bert",
    "pipeline_settings",
    "require_agreement",
    "require_class",
    "require_plain",
    "require_tokenizer_model",
    "roles_of",
]

SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}

LONGEST_WORD = 100
"""Characters of the longest word that is cut into word pieces, as in BERT's tokenization.py (WordpieceTokenizer)."""

_MPNET = {"pad": "<pad>", "unk": "[UNK]", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
# models whose tokenizer is BERT's pipeline around a vocab.txt, with their tokens for the five roles
_LIKE_BERT = dict.fromkeys(
    (
        *("Bert", "DistilBert", "Electra", "MobileBert", "ConvBert", "SqueezeBert", "LayoutLM", "Lxmert", "RetriBert"),
        *("DPRContextEncoder", "DPRQuestionEncoder", "DPRReader"),
    ),
    SPECIAL_TOKENS,
) | {"MPNet": _MPNET}
# the settings of folders from early versions of this project; their do_lower_case counts for BERT's normalizer alone
_ONCE_SAVED = {
    *("tokenizer_class", "do_lower_case", "strip_accents", "tokenize_chinese_chars", "model_max_length"),
    *(f"{role}_token" for role in SPECIAL_TOKENS),
}
# classes that take tokenizer.json as it is
_THE_FILE_ITSELF = ("TokenizersBackend", "PreTrainedTokenizer")


def bert_pipeline(
    vocabulary: Mapping[str, int],
    special_tokens: Mapping[str, str],
    *,
    lowercase: bool,
    strip_accents: bool | None = None,
    chinese_characters: bool = True,
    prefix: str = "##",
    longest_word: int = LONGEST_WORD,
    keep_indentation: bool = False,
) -> tokenizers.Tokenizer:
    """Build BERT's tokenizer: cleaning, CJK spacing, case, punctuation, WordPiece, `[CLS] a [SEP] b [SEP]`.

    Args:
        vocabulary: token to id.
        special_tokens: the token of each of the roles pad, unk, cls, sep, mask. [CLS] and [SEP] are put around text if
            all five are in the vocabulary.
        lowercase: whether to drop case.
        strip_accents: whether to drop accents. Default: as `lowercase`.
        chinese_characters: whether every CJK character is a word.
        prefix: begins a word piece that continues a word.
        longest_word: characters of the longest word that is cut into word pieces; a longer one becomes [UNK].
        keep_indentation: whether a line break with the indentation after it is a word (`indentation.py`).
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    backend = Tokenizer(
        models.WordPiece(
            dict(vocabulary),
            unk_token=special_tokens["unk"],
            continuing_subword_prefix=prefix,
            max_input_chars_per_word=longest_word,
        )
    )
    backend.normalizer = normalizers.BertNormalizer(
        # it would make spaces of line breaks
        clean_text=not keep_indentation,
        handle_chinese_chars=chinese_characters,
        strip_accents=strip_accents,
        lowercase=lowercase,
    )
    backend.pre_tokenizer = indentation_pre_tokenizer() if keep_indentation else pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=prefix)
    in_order = sorted(vocabulary.keys() & special_tokens.values(), key=vocabulary.__getitem__)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in in_order])
    if len(in_order) == len(special_tokens):
        frame_as_bert(backend, special_tokens)
    return backend


def frame_as_bert(backend: tokenizers.Tokenizer, special_tokens: Mapping[str, str]) -> None:
    """Set the template to `[CLS] a [SEP]` and `[CLS] a [SEP] b [SEP]`, unless it gives that already."""
    from tokenizers import processors

    cls, sep = (backend.token_to_id(special_tokens[role]) for role in ("cls", "sep"))
    one, two = backend.encode("a"), backend.encode("a", "a")
    plain = backend.encode("a", add_special_tokens=False).ids
    rest = [*plain, sep]
    if (one.ids, two.ids) == ([cls, *rest], [cls, *rest, *rest]) and sum(two.type_ids) == len(rest):
        return
    backend.post_processor = processors.TemplateProcessing(
        single=f"{special_tokens['cls']} $A {special_tokens['sep']}",
        pair=f"{special_tokens['cls']} $A {special_tokens['sep']} $B:1 {special_tokens['sep']}:1",
        special_tokens=[(special_tokens["cls"], cls), (special_tokens["sep"], sep)],
    )


def require_tokenizer_model(backend: tokenizers.Tokenizer, where: str = "") -> None:
    """Refuse a tokenizer whose model is neither WordPiece nor WordLevel; `where` is the file that holds it."""
    from tokenizers import models

    if not isinstance(backend.model, (models.WordPiece, models.WordLevel)):
        place = f"{where}: " if where else ""
        raise TokenizerError(
            f"tokenizer: {place}WordPiece or WordLevel is needed, got {type(backend.model).__name__}; leave "
            "the tokenizer out to train one"
        )


def drops_case(backend: tokenizers.Tokenizer) -> bool:
    """Return whether the normalizer makes small letters of capitals."""
    return backend.normalizer is not None and "A" not in str(backend.normalizer.normalize_str("A"))


def roles_of(name: str, config: Mapping[str, Any], named: Mapping[str, Any], where: Path) -> dict[str, str]:
    """Return the token of each role: from the settings, else that of the class `name`.

    Raises:
        TokenizerError: the two files name different tokens, or a value is no token.
    """
    found = dict(_LIKE_BERT.get(_model(name), SPECIAL_TOKENS))
    for role in found:
        key = f"{role}_token"
        said = [content_of(source[key], key, where) for source in (config, named) if source.get(key) is not None]
        if len(set(said)) > 1:
            raise TokenizerError(
                f"tokenizer: {where} names two tokens as {key}, {said[0]!r} in tokenizer_config.json and {said[1]!r} "
                "in special_tokens_map.json; make them agree"
            )
        found[role] = said[0] if said else found[role]
    return found


def content_of(token: object, key: str, where: Path) -> str:
    """Return the text of a token that settings hold as a string or as an object with its `content`."""
    content = token.get("content") if isinstance(token, Mapping) else token
    if not isinstance(content, str) or not content:
        raise TokenizerError(
            f"tokenizer: {key} of {where} must be a token or an object with its content, got {token!r}"
        )
    return content


def require_class(name: str, config: Mapping[str, Any], where: Path, *, whole: bool) -> None:
    """Refuse a folder whose class cuts text in another way.

    Args:
        name: the class, empty if no setting names one.
        whole: whether a `tokenizer.json` says how text is cut.
    """
    mapped = config.get("auto_map")
    own = bool(mapped.get("AutoTokenizer")) if isinstance(mapped, Mapping) else bool(mapped)
    fits = not name or _model(name) in _LIKE_BERT or (whole and name.removesuffix("Fast") in _THE_FILE_ITSELF)
    if fits and not own:
        return
    said = f"tokenizer_class {name!r}" if not fits else "auto_map, code of its own"
    if whole:
        remedy = (
            "if its tokenizer.json alone is to decide, set tokenizer_class to 'PreTrainedTokenizerFast' and remove "
            "auto_map"
        )
    else:
        remedy = (
            "a vocab.txt does not say how that class cuts text; give a tokenizer.json beside the tokenizer_class "
            "'PreTrainedTokenizerFast', or set it to 'BertTokenizer' if BERT's rules are meant, and remove auto_map"
        )
    raise TokenizerError(f"tokenizer: {where} names {said}, which is not followed here; {remedy}")


def require_plain(
    config: Mapping[str, Any], where: Path, kept: Collection[str], special: Collection[str], *, basic: bool
) -> None:
    """Refuse settings that BERT's pipeline cannot follow.

    Args:
        kept: the added tokens, which are never cut.
        special: the special tokens in `kept`, without those of the five roles.
        basic: whether text is cut at punctuation.
    """
    if config.get("do_basic_tokenize") is False and basic:
        raise TokenizerError(
            f"tokenizer: {where} says do_basic_tokenize false, which is not followed here: text would be cut at white "
            "space alone; remove the setting, or give a tokenizer.json whose pre_tokenizer is WhitespaceSplit"
        )
    if config.get("clean_text") is False:
        raise TokenizerError(
            f"tokenizer: {where} says clean_text false, but control characters are always removed here; remove the "
            "setting"
        )
    if config.get("split_special_tokens") and special:
        raise TokenizerError(
            f"tokenizer: {where} says split_special_tokens, but added special tokens such as {next(iter(special))!r} "
            "are kept whole here; remove the setting, or the tokens from additional_special_tokens and its like"
        )
    never = config.get("never_split") or []
    words = [never] if isinstance(never, str) else list(never)
    lost = [str(word) for word in words if word not in kept]
    if lost:
        raise TokenizerError(
            f"tokenizer: {where} says never_split {', '.join(lost[:3])}, which is not followed here; name these tokens "
            "as additional_special_tokens, or in added_tokens.json, to keep them whole"
        )


def pipeline_settings(config: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Return the arguments of `bert_pipeline` that the settings give; `lowercase` is None if they do not say it."""
    prefix = config.get("wordpieces_prefix", "##")
    longest = config.get("max_input_chars_per_word", 100)
    if not isinstance(prefix, str) or not prefix:
        raise TokenizerError(f"tokenizer: wordpieces_prefix of {where} must be a string such as '##', got {prefix!r}")
    if type(longest) is not int or longest < 1:
        raise TokenizerError(
            f"tokenizer: max_input_chars_per_word of {where} must be a number of at least 1, got {longest!r}"
        )
    return {
        # null is no value of this flag
        "lowercase": _flag(config, "do_lower_case", where, default=True) if "do_lower_case" in config else None,
        "strip_accents": _flag(config, "strip_accents", where),
        "chinese_characters": _flag(config, "tokenize_chinese_chars", where, default=True),
        "prefix": prefix,
        "longest_word": longest,
    }


def require_agreement(
    config: Mapping[str, Any], where: Path, backend: tokenizers.Tokenizer, description: Mapping[str, Any]
) -> None:
    """Refuse settings that contradict the `tokenizer.json` beside them: programs would disagree on which to follow.

    `backend` is the tokenizer in `tokenizer.json`, `description` its JSON.
    """
    model, normalizer = description["model"], description["normalizer"] or {}
    found: dict[str, object] = {}
    if model["type"] == "WordPiece":
        found["wordpieces_prefix"] = model["continuing_subword_prefix"]
        found["max_input_chars_per_word"] = model["max_input_chars_per_word"]
    if normalizer.get("type") == "BertNormalizer":
        accents = normalizer["strip_accents"]
        found["do_lower_case"] = normalizer["lowercase"]
        found["strip_accents"] = normalizer["lowercase"] if accents is None else accents
        found["tokenize_chinese_chars"] = normalizer["handle_chinese_chars"]
    elif config.keys() != _ONCE_SAVED:
        found["do_lower_case"] = drops_case(backend)
    for key, value in found.items():
        asked = config.get(key)
        if asked is not None and asked != value:
            other = "mend that file"
            if (where / "vocab.txt").is_file():
                other = "remove tokenizer.json, so that vocab.txt and the settings decide"
            raise TokenizerError(
                f"tokenizer: {where} says {key} {_said(asked)} in tokenizer_config.json, but its tokenizer.json says "
                f"{_said(value)}; remove the setting if tokenizer.json is right, else {other}"
            )


def _model(name: str) -> str:
    return name.removesuffix("Fast").removesuffix("Tokenizer")


def _flag(config: Mapping[str, Any], key: str, where: Path, default: bool | None = None) -> bool | None:
    value = config.get(key, default)
    if not (isinstance(value, bool) or (value is None and default is None)):
        raise TokenizerError(f"tokenizer: {key} of {where} must be true or false, got {_said(value)}")
    return value


def _said(value: object) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
