"""Finds where words begin: by `##` in alphabetic scripts, by a segmenter in Chinese, so masking needs no text later.

A token starts a word unless

    its spelling continues one (`##ing`), or
    it begins at an ideograph, so does the character before it, and the segmenter put both into one word.

A word is therefore a run of tokens of one script: what a segmenter says about letters and digits, or about a word of
both (`卡拉OK`), is left to WordPiece. Without a segmenter every ideograph is a word, as in BERT's vocabulary.

    name                what cuts the text
    rjieba, jieba       jieba's dictionary and hidden Markov model (the extra `chinese`); rjieba is 20 times faster
    chinese             rjieba, or jieba where only that is installed
    spaces              white space: text that was segmented before, as treebanks are
    module:function     any function of your own, text -> its words in order, which join up to the text
    (an entry point)    the same under a name that a package registers in the group `unmask.segmenters`

Cost with rjieba: 10 MB of Chinese a second and core.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from unmask.errors import CorpusError
from unmask.imports import import_user_module

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ENTRY_POINTS", "Segmenter", "ideographs", "load_segmenter"]

ENTRY_POINTS = "unmask.segmenters"

# what BERT's tokenizer sets apart, a token each (tokenization.py, _is_chinese_char)
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
    """What cuts text into words.

    Args:
        name: how to load it again, with `load_segmenter`.
        version: of the package behind it, empty where there is none; the manifest of a store records both.
        cut: text to its words in order; they join up to the text.
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
        """Returns which characters are ideographs that continue the word of the ideograph before them, (len(text),).

        Args:
            text: the text.
            sentences: offsets between which to segment, ascending; sentences without an ideograph are passed over.

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
            place = start
            ends.append(start)
            for word in words:
                place += len(word)
                ends.append(place)
        chinese = ideographs(text)
        result[1:] = chinese[1:] & chinese[:-1]
        begins = np.array(ends, np.int64)
        result[begins[begins < len(text)]] = False
        # a sentence that was passed over has no ideograph to continue
        return result


def ideographs(text: str) -> NDArray[np.bool_]:
    """Returns which characters are Chinese as BERT's tokenizer sees it, (len(text),)."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    result = np.zeros(len(codes), np.bool_)
    for first, last in _IDEOGRAPHS:
        result |= (codes >= first) & (codes <= last)
    return result


def load_segmenter(name: str) -> Segmenter:
    """Loads the segmenter of this name; the table at the head of this file says which there are.

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
        # it tells about its dictionary on stderr
        module.setLogLevel("WARNING")
    return Segmenter(name=name, version=importlib.metadata.version(name), cut=module.cut)


def _imported(name: str, path: str) -> Segmenter:
    module, _, attribute = path.partition(":")
    try:
        found = import_user_module(module)
    except Exception as error:
        # whatever the user's own module raises
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
            f"segmenter: {name} is not there: {where} has no {attribute!r}; name it as module:function"
        ) from None
    if not callable(function):
        raise CorpusError(f"segmenter: {name} must be a function from text to words, it is {function!r}")
    return Segmenter(name=name, version="", cut=cast("Callable[[str], Iterable[str]]", function))
