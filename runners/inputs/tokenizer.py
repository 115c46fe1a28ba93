"""Texts to token ids, as open_clip's SimpleTokenizer does it, without torch and without its quadratic time."""

from __future__ import annotations

import gzip
import html
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import ftfy
import numpy as np
import regex
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from modelmora.errors import DependencyUnavailable, InvalidInput, LimitExceeded, ValidationFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modelmora.domain.preprocess import TextPreprocess

MAX_CHARS = 2_000

_MERGES = 49152 - 256 - 2
_START, _END = "<start_of_text>", "<end_of_text>"
# open_clip's own pattern for the same engine: cutting words here and not in `tokenizers` keeps every corner of
# Unicode equal to it.
_WORDS = regex.compile(
    rf"{_START}|{_END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE
)


def prepare_text(
    text: str, how: TextPreprocess, *, truncate: bool, max_chars: int = MAX_CHARS
) -> NDArray[np.int32] | NDArray[np.uint8]:
    """int32 (context_length,) token ids, or uint8 (n,) UTF-8 where the runner tokenises or wants the bytes.

    Raises LimitExceeded (characters, before anything else), ValidationFailed (tokens), InvalidInput (not Unicode).
    """
    _check_length(text, max_chars)
    if how.tokenizer == "clip-bpe":
        return clip_tokenizer().encode(text, context_length=how.context_length, truncate=truncate, max_chars=max_chars)
    try:
        return np.frombuffer(text.encode(), dtype=np.uint8)
    except UnicodeEncodeError as cause:
        raise InvalidInput(f"the text is not valid Unicode at character {cause.start}", field="text") from cause


@cache
def clip_tokenizer() -> ClipTokenizer:
    """The one tokenizer of this process, made at first use."""
    return ClipTokenizer()


class ClipTokenizer:
    """CLIP's byte-pair encoding: the ids of open_clip's SimpleTokenizer. Safe to share between threads."""

    def __init__(self, vocabulary: Path | None = None) -> None:
        """Reads open_clip's gzipped merges; raises DependencyUnavailable when they are not there."""
        merges = _read_merges(vocabulary or _open_clip_file())
        letters = ByteLevel.alphabet()
        tokens = _ordered(letters)
        tokens += [letter + "</w>" for letter in tokens]
        tokens += ["".join(pair) for pair in merges]
        ids = {token: number for number, token in enumerate(tokens)}
        self.start, self.end = len(tokens), len(tokens) + 1
        self._special = {_START: self.start, _END: self.end}
        self._bpe = Tokenizer(BPE(vocab=ids, merges=merges, end_of_word_suffix="</w>"))
        self._bpe.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)

    def encode(
        self, text: str, *, context_length: int, truncate: bool, max_chars: int = MAX_CHARS
    ) -> NDArray[np.int32]:
        """int32 (context_length,): start, the text's ids, end, then zeros.

        Raises LimitExceeded (characters) and ValidationFailed (tokens, unless `truncate`: then the last one is the
        end, as in open_clip).
        """
        ids = self._bracketed(text, max_chars)
        if len(ids) > context_length:
            if not truncate:
                raise _too_long(len(ids), context_length)
            ids = [*ids[: context_length - 1], self.end]
        padded = np.zeros(context_length, dtype=np.int32)
        padded[: len(ids)] = ids
        return padded

    def count(self, text: str, *, max_chars: int = MAX_CHARS) -> int:
        """How many tokens `encode` needs for the text, start and end among them."""
        return len(self._bracketed(text, max_chars))

    def _bracketed(self, text: str, max_chars: int) -> list[int]:
        _check_length(text, max_chars)
        return [self.start, *self._ids(_WORDS.findall(_clean(text))), self.end]

    def _ids(self, words: list[str]) -> Iterator[int]:
        """Ids word by word; the two specials count where they are words of their own, as in open_clip."""
        begin = 0
        for place, word in enumerate(words):
            if word in self._special:
                yield from self._plain(words[begin:place])
                yield self._special[word]
                begin = place + 1
        yield from self._plain(words[begin:])

    def _plain(self, words: list[str]) -> list[int]:
        return self._bpe.encode(words, is_pretokenized=True, add_special_tokens=False).ids if words else []


def _too_long(found: int, context_length: int) -> ValidationFailed:
    return ValidationFailed(
        f"the text has {found} tokens, the model takes {context_length}; shorten it or ask to truncate",
        field="text",
        found=f"{found} tokens",
        expected=f"<= {context_length} tokens",
    )


def _check_length(text: str, max_chars: int) -> None:
    if len(text) > max_chars:
        raise LimitExceeded(
            f"the text has {len(text):,} characters, more than {max_chars:,}; shorten it",
            field="text",
            found=f"{len(text)} characters",
            expected=f"<= {max_chars} characters",
        )


def _clean(text: str) -> str:
    """What open_clip does before it cuts words: mend mojibake, undo HTML entities twice, one space, lower case."""
    if not (text.isascii() and text.isprintable() and "&" not in text):  # else there is nothing to mend
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def _ordered(letters: list[str]) -> list[str]:
    """The 256 byte letters in the order of CLIP's vocabulary: bytes that print first, the stand-ins after them."""
    return sorted(letters, key=lambda letter: (ord(letter) > 255, ord(letter)))


def _read_merges(file: Path) -> list[tuple[str, str]]:
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            pairs = [line.split() for _, line in zip(range(_MERGES + 1), lines, strict=False)][1:]
    except (OSError, EOFError, UnicodeDecodeError) as cause:
        raise DependencyUnavailable(f"the vocabulary {file.name} cannot be read: {cause}") from cause
    if len(pairs) != _MERGES or any(len(pair) != 2 for pair in pairs):
        raise DependencyUnavailable(f"the vocabulary {file.name} has not the {_MERGES} merges of CLIP")
    return [(first, second) for first, second in pairs]


def _open_clip_file() -> Path:
    """Where open_clip keeps its vocabulary, found without importing it (that would bring torch)."""
    spec = importlib.util.find_spec("open_clip")
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise DependencyUnavailable("texts cannot be tokenised: install open-clip-torch, which has CLIP's vocabulary")
    return Path(folders[0]) / "bpe_simple_vocab_16e6.txt.gz"
