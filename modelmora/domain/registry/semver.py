"""Semantic versions: what is one, and which comes first (semver.org 2.0.0, 11)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering

from modelmora.domain.models import SEMVER_PATTERN
from modelmora.errors import ValidationFailed

_SEMVER = re.compile(SEMVER_PATTERN)
LONGEST = 128


@total_ordering
@dataclass(frozen=True, slots=True)
class SemVer:
    """A version as it was written; two that differ in their build alone are different and equally high."""

    text: str

    def __post_init__(self) -> None:
        if len(self.text) > LONGEST or not _SEMVER.fullmatch(self.text):
            raise ValidationFailed(
                f"{self.text[:LONGEST]!r} is not a semantic version",
                field="version",
                found=self.text[:LONGEST],
                expected="MAJOR.MINOR.PATCH, such as 1.4.0 or 2.0.0-rc.1",
            )

    def __str__(self) -> str:
        return self.text

    def __lt__(self, other: SemVer) -> bool:
        return self.precedence < other.precedence

    @property
    def precedence(self) -> tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]:
        """Sorts as the standard says: a release after its pre-releases, numbers before words; builds do not count."""
        core, _, before = self.text.partition("+")[0].partition("-")
        parts = tuple(_part(part) for part in before.split(".")) if before else ()
        return tuple(int(number) for number in core.split(".")), not before, parts


def _part(text: str) -> tuple[bool, int, str]:
    return (False, int(text), "") if text.isdigit() else (True, 0, text)


def rank(version: SemVer) -> str:
    """Text that sorts, byte by byte, as versions do; of those equally high the build decides.

    A number is its length, then its digits; a word follows every number, and a release every pre-release of its own.
    """
    core, release, before = version.precedence
    numbers = "".join(_sized(number) for number in core)
    parts = "".join(f"2{word}\x01" if is_word else f"1{_sized(number)}" for is_word, number, word in before)
    return f"{numbers}{'~' if release else '-'}{parts}\x01{version.text.partition('+')[2]}"


def _sized(number: int) -> str:
    digits = str(number)
    return f"{len(digits):03d}{digits}"
