"""Filters as Qdrant takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
        must = [self._match("tags", tag) for tag in asked.all_tags]
        if asked.any_tags:
            must.append(m.FieldCondition(key="tags", match=m.MatchAny(any=list(asked.any_tags))))
        must += [self._wanted(f"metadata.{key}", value) for key, value in asked.metadata.items()]
        if asked.ids:
            must.append(m.HasIdCondition(has_id=[point_id(id_) for id_ in asked.ids]))
        if asked.created_after is not None or asked.created_before is not None:
            must.append(self._between(asked.created_after, asked.created_before))
        none = [self._match("tags", tag) for tag in asked.no_tags]
        if exclude:
            none.append(m.HasIdCondition(has_id=[point_id(id_) for id_ in exclude]))
        return m.Filter(must=must or None, must_not=none or None) if must or none else None

    def not_newer(self, seq: int) -> Any:
        """Points of that `seq` or a lower one: what an upsert may replace."""
        m = self._models
        return m.Filter(must=[m.FieldCondition(key="provenance.seq", range=m.Range(lte=seq))])

    def _between(self, after: datetime | None, before: datetime | None) -> Any:
        m = self._models
        return m.FieldCondition(key="created_at", range=m.DatetimeRange(gte=after, lt=before))

    def _match(self, key: str, value: Value) -> Any:
        m = self._models
        if isinstance(value, float):
            return m.FieldCondition(key=key, range=m.Range(gte=value, lte=value))
        return m.FieldCondition(key=key, match=m.MatchValue(value=value))

    def _wanted(self, key: str, value: Value | tuple[Value, ...] | Range) -> Any:
        m = self._models
        match value:
            case Range(gt=gt, gte=gte, lt=lt, lte=lte):
                return m.FieldCondition(key=key, range=m.Range(gt=gt, gte=gte, lt=lt, lte=lte))
            case tuple():
                return m.Filter(should=[self._match(key, each) for each in value])
        return self._match(key, value)
