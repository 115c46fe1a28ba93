"""Labels that a caller names, and the texts that stand for them (zero-shot; Radford et al. 2021, section 3.1.4)."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from modelmora.errors import Fault, InputError, LimitExceeded, ValidationFailed

PLACE = "{}"
TEMPLATE = "a photo of a {}."
MOST_LABELS = 1_000
MOST_TEMPLATES = 100
MOST_SHOWN = 20


@dataclass(frozen=True, slots=True)
class LabelSet:
    """Labels and the templates that make texts of them; `checked` makes one."""

    labels: tuple[str, ...]
    templates: tuple[str, ...]

    @classmethod
    def checked(cls, labels: Sequence[str], templates: Sequence[str]) -> LabelSet:
        """Without templates the usual one. Raises LimitExceeded (too many), ValidationFailed (empty, alike, no place
        for the label), naming each (`labels[3]`)."""
        _check_count("labels", len(labels), MOST_LABELS)
        _check_count("templates", len(templates), MOST_TEMPLATES)
        faults = [*_empty(labels), *_alike(labels), *_placeless(templates)]
        if faults:
            raise refused(faults)
        return cls(tuple(labels), tuple(templates) or (TEMPLATE,))

    def texts(self) -> Iterator[tuple[int, str]]:
        """Every label in every template, with the label's index, label by label."""
        for index, label in enumerate(self.labels):
            for template in self.templates:
                yield index, template.replace(PLACE, label)

    def digest(self) -> str:
        """Equal for equal sets alone."""
        return hashlib.sha256(repr((self.labels, self.templates)).encode()).hexdigest()


def refused(faults: Sequence[Fault], kind: type[InputError] = ValidationFailed) -> InputError:
    """The error of the whole set: what the first fault says, how many there are, and the first of them."""
    first = faults[0]
    detail = f"{first.field}: {first.detail}"
    if len(faults) > 1:
        detail = f"{len(faults)} things are wrong with the labels; the first: {detail}"
    return kind(
        detail, field=first.field, found=first.found, expected=first.expected, faults=tuple(faults[:MOST_SHOWN])
    )


def _check_count(field: str, count: int, most: int) -> None:
    if count > most:
        raise LimitExceeded(
            f"{count:,} {field} in one request", field=field, found=str(count), expected=f"at most {most}"
        )


def _empty(labels: Sequence[str]) -> Iterator[Fault]:
    for index, label in enumerate(labels):
        if not label.strip():
            yield _fault("the label is empty", index, "labels", repr(label[:20]), "a text")


def _alike(labels: Sequence[str]) -> Iterator[Fault]:
    """Two that a model reads as one text would have to share its score."""
    first: dict[str, int] = {}
    for index, label in enumerate(labels):
        earlier = first.setdefault(_as_read(label), index)
        if earlier != index and label.strip():
            said = f"the label is labels[{earlier}] again (case and spaces make no difference)"
            yield _fault(said, index, "labels", repr(label[:80]), "labels that differ")


def _as_read(label: str) -> str:
    """As CLIP's tokenizers clean a text (open_clip/tokenizer.py, `_clean_lower`)."""
    return " ".join(unicodedata.normalize("NFC", label).split()).lower()


def _placeless(templates: Sequence[str]) -> Iterator[Fault]:
    for index, template in enumerate(templates):
        if template.count(PLACE) != 1:
            yield _fault(
                "the template has not one place for the label", index, "templates", repr(template[:80]), "one {}"
            )


def _fault(detail: str, index: int, field: str, found: str, expected: str) -> Fault:
    return Fault("validation", detail, field=f"{field}[{index}]", found=found, expected=expected)
