"""Where words begin: by `##` in alphabetic scripts, by a segmenter in Chinese. Masking then needs no text.

A token starts a word unless

    its spelling continues one (`##ing`), or
    it begins at an ideograph, so does the character before it, and the segmenter put both into one word.

So the tokens of a word are of one script. Letters and digits, and words that mix scripts (`卡拉OK`), are left to
WordPiece whatever the segmenter says. Without a segmenter every ideograph is a word, as in BERT's vocabulary.

    name                what cuts the text
    rjieba, jieba       jieba's dictionary and hidden Markov model (the extra `chinese`); rjieba is 20 times faster
    chinese             rjieba, or jieba if only that is installed
    spaces              white space: for text that is segmented already, such as treebanks
    module:function     your own function: text -> its words in order, which join up to the text
    (an entry point)    the same, under a name that a package registers in the group `unmask.segmenters`

Cost with rjieba: 10 MB of Chinese a second and core.
"""

import importlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import attrgetter
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from unmask.errors import CorpusError
from unmask.imports import import_user_module

__all__ = ["ENTRY_POINTS", "Segmenter", "ideographs", "load_segmenter"]

ENTRY_POINTS = "unmask.segmenters"

# BERT's tokenizer makes each of these a token (tokenization.py, _is_chinese_char)
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
_ANY_IDEOGRAPH = re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in _IDEOGRAPHS) + "]")
_PACKAGED = ("rjieba", "jieba")
_BUILT_IN = (*_PACKAGED, "chinese", "spaces")
_SPACES = re.compile(r"\s+|\S+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Segmenter:
    """A way to cut text into words.

    Attributes:
        name: its name for `load_segmenter`.
        version: the version of its package, empty if there is none. The manifest of a store records both.
        cut: returns the words of a text in order; they join up to the text.
    """

    name: str
    version: str
    cut: Callable[[str], Iterable[str]]

    def __reduce__(self) -> tuple[Any, ...]:
        # a worker process loads it by its name: a function of a package need not pickle
        return load_segmenter, (self.name,)

    @property
    def label(self) -> str:
        """Name and version, for example "rjieba 0.2.2"."""
        return f"{self.name} {self.version}".rstrip()

    def continues(self, text: str, sentences: Sequence[int]) -> NDArray[np.bool_]:
        """Return (len(text),) bool: True for an ideograph that continues the word of the ideograph before it.

        Text is segmented between the offsets `sentences`, ascending; sentences without an ideograph are skipped.

        Raises:
            CorpusError: the words do not join up to the text.
        """
        result = np.zeros(len(text), np.bool_)
        if _ANY_IDEOGRAPH.search(text) is None:
            return result
        ends: list[int] = []
        for start, end in pairwise(sentences):
            sentence = text[start:end]
            if _ANY_IDEOGRAPH.search(sentence) is None:
                continue
            words = list(self.cut(sentence))
            if "".join(words) != sentence:
                raise CorpusError(
                    f"segmenter: the words of {self.name} must join up to the text {sentence[:40]!r}, they give "
                    f"{''.join(words)[:40]!r}; wrap it in a function that keeps every character"
                )
            ends.extend(accumulate(map(len, words), initial=start))
        chinese = ideographs(text)
        result[1:] = chinese[1:] & chinese[:-1]
        begins = np.array(ends, np.int64)
        result[begins[begins < len(text)]] = False
        # a sentence that was skipped has no ideograph to continue
        return result


def ideographs(text: str) -> NDArray[np.bool_]:
    """Return (len(text),) bool: True for the characters that BERT's tokenizer treats as Chinese."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    result = np.zeros(len(codes), np.bool_)
    for first, last in _IDEOGRAPHS:
        result |= (codes >= first) & (codes <= last)
    return result


def load_segmenter(name: str) -> Segmenter:
    """Load a segmenter by one of the names in the table at the head of this file.

    Raises:
        CorpusError: there is no such segmenter, or its package is not installed; the message names the extra.
    """
    if name == "chinese":
        name = next((package for package in _PACKAGED if importlib.util.find_spec(package)), _PACKAGED[0])
    if name == "spaces":
        return Segmenter(name=name, version="", cut=_SPACES.findall)
    if name in _PACKAGED:
        return _packaged(name)
    if ":" in name:
        return _imported(name, name)
    registered = {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    if name in registered:
        return _imported(name, registered[name].value)
    known = ", ".join([*_BUILT_IN, *registered])
    raise CorpusError(f"segmenter: {name!r} is not known; choose {known}, or name a function as module:function")


def _packaged(name: str) -> Segmenter:
    try:
        module = importlib.import_module(name)
    except ImportError:
        raise CorpusError(
            f"segmenter: {name} is not installed; pip install 'unmask[chinese]' brings it, or leave the segmenter out"
        ) from None
    if name == "jieba":
        # it prints about its dictionary on stderr
        module.setLogLevel("WARNING")
    return Segmenter(name=name, version=importlib.metadata.version(name), cut=module.cut)


def _imported(name: str, path: str) -> Segmenter:
    module, _, attribute = path.partition(":")
    try:
        found = import_user_module(module)
    except Exception as error:
        # the module of the user may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise CorpusError(
            f"segmenter: {name} cannot be imported ({reason}); name it as module:function, of a module that is "
            "installed or lies in the current folder"
        ) from None
    try:
        function = attrgetter(attribute)(found)
    except AttributeError:
        where = getattr(found, "__file__", None) or module
        raise CorpusError(
            f"segmenter: {name} does not exist: {where} has no {attribute!r}; name it as module:function"
        ) from None
    if not callable(function):
        raise CorpusError(f"segmenter: {name} must be a function from text to words, it is {function!r}")
    return Segmenter(name=name, version="", cut=cast("Callable[[str], Iterable[str]]", function))
