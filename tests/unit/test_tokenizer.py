"""The tokenizer is open_clip's to the last id, and takes milliseconds where that takes seconds."""

from __future__ import annotations

import random
import string
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from modelmora.domain.preprocess import TextPreprocess
from modelmora.errors import DependencyUnavailable, InvalidInput, LimitExceeded, ValidationFailed
from runners.inputs.tokenizer import ClipTokenizer, clip_tokenizer, prepare_text

START, END = 49406, 49407
CLIP = TextPreprocess(tokenizer="clip-bpe", context_length=77)

CORNERS = [
    "",
    " ",
    "\n\t \r\n",
    "a photo of a cat",
    "A PHOTO OF A CAT",
    "don't can't we'll they've I'm he'd it's THEY'RE rock'n'roll ''s 's",
    "it\u2019s \u2018quoted\u2019 \u201cdouble\u201d",
    "'\u017f long s after an apostrophe, K for Kelvin: \u212a",
    "12345 3.14 1,000,000 \u00bd \u2167 \u0663\u0664",
    "caf\u00e9 cafe\u0301 na\u00efve \u0130stanbul STRASSE stra\u00dfe",
    "\u4e00\u53ea\u732b \u732b\u304c\u597d\u304d \uace0\uc591\uc774 \u0e41\u0e21\u0e27 \u0642\u0637\u0629",
    "\U0001f600\U0001f3fd\u200d\U0001f469\u200d\U0001f680 \U0001f1e9\U0001f1ea \u2764\ufe0f",
    "&amp; &amp;amp; &lt;b&gt; &#39; &nbsp; &eacute; &notanentity; & &#x110000;",
    "<b>bold</b> &lt;i&gt;",
    "schÃ¶n cafÃ© â€œquotesâ€\x9d Ã±",
    "null\x00 bell\x07 escape\x1b[31mred\x1b[0m delete\x7f",
    "soft\u00adhyphen zero\u200bwidth bom\ufeff line\u2028separator nel\u0085",
    "\uff21\uff22\uff23 \uff11\uff12 \ufb01ne",
    "\ud800 lone surrogate",
    "<start_of_text>a cat<end_of_text>",
    "<START_OF_TEXT> !<start_of_text> x<end_of_text>y <end_of_text><end_of_text>",
    "<\u017ftart_of_text>",
    "!!!! ???? ...... ---- ____ :-) ;) <3 #tag @user $5 50% a_b C++ 1st",
    "http://example.org/a?b=c&d=e",
    "supercalifragilisticexpialidocious " * 3,
    "a" * 300,
]

PIECES = [
    *string.ascii_letters,
    *string.digits,
    *string.punctuation,
    *"  \t\n\r\x0b\x0c",
    *("'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "the ", "photo ", " of ", "cat", "ing ", "  ", "1234"),
    *("&amp;", "&lt;", "&#39;", "&quot;", "&eacute;", "&amp;gt;", "&", ";"),
    *("Ã©", "Ã¶", "â€™", "â€œ", "Â", "ä½ ", "é", "ß", "İ", "ﬁ", "Å", "Å"),
    *("猫", "図", "かな", "고", "ไทย", "قط", "חתול", "कुत्ता", "Ж", "Ω"),
    *("😀", "🏽", "\u200d", "\ufe0f", "🇩🇪", "→", "½", "²", "Ⅷ", "٣", "\u0301", "\u00a0", "\u00ad", "\u2028", "\ufeff"),
    *("\x00", "\x07", "\x1b[1m", "\x7f", "\x85", "\u017f", "\u212a", "<start_of_text>", "<end_of_text>", "</w>"),
]


def random_text(chance: random.Random) -> str:
    if chance.random() < 0.2:
        return "".join(
            chr(chance.choice((chance.randrange(0x20, 0x250), chance.randrange(0x20, 0xD800)))) for _ in range(12)
        )
    return "".join(chance.choices(PIECES, k=chance.randrange(1, 40)))


@pytest.fixture(scope="module")
def tokenizer() -> ClipTokenizer:
    return ClipTokenizer()


def test_10_000_texts_have_the_ids_that_open_clip_gives_them(tokenizer: ClipTokenizer) -> None:
    from open_clip import SimpleTokenizer

    reference, chance = SimpleTokenizer(), random.Random(20240501)
    texts = CORNERS + [random_text(chance) for _ in range(10_000 - len(CORNERS))]
    expected = reference(texts, context_length=77).numpy()
    for text, ids in zip(texts, expected, strict=True):
        found = tokenizer.encode(text, context_length=77, truncate=True)
        assert (found == ids).all(), repr(text)
        assert tokenizer.count(text) == len(reference.encode(text)) + 2


def test_a_text_is_bracketed_and_padded_with_zeros(tokenizer: ClipTokenizer) -> None:
    ids = tokenizer.encode("a photo of a cat", context_length=10, truncate=False)
    assert ids.tolist() == [START, 320, 1125, 539, 320, 2368, END, 0, 0, 0]
    assert ids.dtype == np.int32


def test_an_empty_text_is_start_and_end(tokenizer: ClipTokenizer) -> None:
    assert tokenizer.encode("", context_length=4, truncate=False).tolist() == [START, END, 0, 0]


def test_a_text_too_long_for_the_model_says_by_how_much(tokenizer: ClipTokenizer) -> None:
    with pytest.raises(ValidationFailed, match="12 tokens") as refused:
        tokenizer.encode("cat " * 10, context_length=11, truncate=False)
    fault = refused.value.as_fault(3)
    assert (fault.index, fault.field, fault.found, fault.expected) == (3, "text", "12 tokens", "<= 11 tokens")


def test_a_text_that_just_fits_is_taken(tokenizer: ClipTokenizer) -> None:
    assert tokenizer.encode("cat " * 10, context_length=12, truncate=False)[-1] == END


def test_a_truncated_text_still_ends_with_the_end(tokenizer: ClipTokenizer) -> None:
    ids = tokenizer.encode("cat " * 10, context_length=5, truncate=True)
    assert ids.tolist() == [START, 2368, 2368, 2368, END]


def test_20_000_random_letters_are_refused_in_milliseconds(tokenizer: ClipTokenizer) -> None:
    letters = "".join(random.Random(0).choices(string.ascii_letters, k=20_000))
    started = time.perf_counter()
    with pytest.raises(LimitExceeded, match="20,000 characters, more than 2,000"):
        tokenizer.encode(letters, context_length=77, truncate=True)
    assert time.perf_counter() - started < 0.05


def test_20_000_letters_take_no_quadratic_time_where_they_are_allowed(tokenizer: ClipTokenizer) -> None:
    letters = "".join(random.Random(0).choices(string.ascii_letters, k=20_000))
    started = time.perf_counter()
    assert tokenizer.count(letters, max_chars=20_000) > 5_000
    assert time.perf_counter() - started < 1.0


@pytest.mark.parametrize("kind", ["clip-bpe", "runner", "bytes"])
def test_the_character_limit_holds_for_every_tokenizer(kind: str) -> None:
    how = TextPreprocess(tokenizer=kind, context_length=77)  # type: ignore[arg-type] # parametrised over the literal
    with pytest.raises(LimitExceeded):
        prepare_text("x" * 11, how, truncate=True, max_chars=10)


def test_the_limit_may_be_raised() -> None:
    assert prepare_text("cat " * 1000, CLIP, truncate=True, max_chars=4000)[-1] == END


@pytest.mark.parametrize("kind", ["runner", "bytes"])
def test_other_tokenizers_get_the_utf_8(kind: str) -> None:
    how = TextPreprocess(tokenizer=kind, context_length=0)  # type: ignore[arg-type] # parametrised over the literal
    assert prepare_text("né", how, truncate=False).tobytes() == "né".encode()


def test_text_that_is_no_unicode_is_invalid_where_bytes_are_wanted() -> None:
    with pytest.raises(InvalidInput, match="character 2"):
        prepare_text("ab\ud800", TextPreprocess(tokenizer="bytes", context_length=0), truncate=False)


def test_many_threads_get_the_same_ids(tokenizer: ClipTokenizer) -> None:
    texts = [random_text(random.Random(seed)) for seed in range(200)]
    alone = [tokenizer.encode(text, context_length=77, truncate=True).tolist() for text in texts]
    with ThreadPoolExecutor(8) as threads:
        together = list(
            threads.map(lambda t: tokenizer.encode(t, context_length=77, truncate=True).tolist(), texts * 5)
        )
    assert together == alone * 5


def test_the_tokenizer_of_a_process_is_made_once() -> None:
    assert clip_tokenizer() is clip_tokenizer()


def test_a_missing_vocabulary_is_named(tmp_path: Path) -> None:
    with pytest.raises(DependencyUnavailable, match=r"absent\.txt\.gz"):
        ClipTokenizer(tmp_path / "absent.txt.gz")


def test_a_vocabulary_that_is_not_clips_is_refused(tmp_path: Path) -> None:
    import gzip

    with gzip.open(tmp_path / "short.gz", "wt") as file:
        file.write("#version\na b\n")
    with pytest.raises(DependencyUnavailable, match="merges of CLIP"):
        ClipTokenizer(tmp_path / "short.gz")


def test_tokenising_needs_no_torch() -> None:
    code = (
        "import sys; from runners.inputs.tokenizer import clip_tokenizer; assert clip_tokenizer().count('a cat') == 4;"
        "assert not {'torch', 'open_clip', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
