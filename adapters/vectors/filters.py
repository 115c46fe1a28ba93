"""Filters as Qdrant takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapters.vectors.payloads import SEQ, word_of
from modelmora.domain.pictures.picture import Value
from modelmora.domain.pictures.search import Filter, Range
from modelmora.domain.pictures.spaces import point_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime


class Filters:
    """Makes filters with the models of the library, which take long to import and are therefore given."""

    def __init__(self, models: Any) -> None:
        self._models = models

    def of(self, asked: Filter, *, exclude: Sequence[str] = ()) -> Any | None:
        """None where everything is taken."""
        m = self._models
        must = [self._one_of("tags", [tag]) for tag in asked.all_tags]
        if asked.any_tags:
            must.append(self._one_of("tags", asked.any_tags))
        must += [self._wanted(key, value) for key, value in asked.metadata.items()]
        if asked.ids:
            must.append(m.HasIdCondition(has_id=[point_id(id_) for id_ in asked.ids]))
        if asked.created_after is not None or asked.created_before is not None:
            must.append(self._between(asked.created_after, asked.created_before))
        none = [self._one_of("tags", asked.no_tags)] if asked.no_tags else []
        if exclude:
            none.append(m.HasIdCondition(has_id=[point_id(id_) for id_ in exclude]))
        return m.Filter(must=must or None, must_not=none or None) if must or none else None

    def not_newer(self, seq: int) -> Any:
        """Points of that `seq` or a lower one: what an upsert may replace."""
        m = self._models
        return m.Filter(must=[m.FieldCondition(key=SEQ, range=m.Range(lte=seq))])

    def _between(self, after: datetime | None, before: datetime | None) -> Any:
        m = self._models
        return m.FieldCondition(key="created_at", range=m.DatetimeRange(gte=after, lt=before))

    def _one_of(self, key: str, words: Sequence[str]) -> Any:
        m = self._models
        return m.FieldCondition(key=key, match=m.MatchAny(any=list(words)))

    def _wanted(self, key: str, value: Value | tuple[Value, ...] | Range) -> Any:
        m = self._models
        match value:
            case Range(gt=gt, gte=gte, lt=lt, lte=lte):
                return m.FieldCondition(key=f"metadata.{key}", range=m.Range(gt=gt, gte=gte, lt=lt, lte=lte))
            case tuple():
                return self._one_of(f"values.{key}", [word_of(each) for each in value])
        return self._one_of(f"values.{key}", [word_of(value)])
