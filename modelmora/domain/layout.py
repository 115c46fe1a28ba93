"""Which files of a repository a model family needs."""

from __future__ import annotations

from dataclasses import dataclass

TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
)


@dataclass(frozen=True, slots=True)
class Layout:
    """The configuration (None: there is none), and of `weights` the first one there is; `optional` are taken along
    where they are."""

    config: str | None
    weights: tuple[str, ...]
    optional: tuple[str, ...] = ()
