"""Events about models: a runner has one in memory, or let it go."""

from __future__ import annotations

from datetime import datetime

from modelmora.domain.events.data import EventData, ModelLoaded, ModelUnloaded
from modelmora.domain.events.envelope import Event
from modelmora.domain.events.types import MODEL_LOADED, MODEL_UNLOADED, TYPES


def loaded(told: ModelLoaded, *, source: str, id_: str, time: datetime, topic: str) -> Event:
    """`ModelLoaded`; events of one model are ordered, whatever its versions."""
    subject = f"{told.model}@{told.version}"
    return _event(MODEL_LOADED, told, told.model, subject, source=source, id_=id_, time=time, topic=topic)


def unloaded(told: ModelUnloaded, *, source: str, id_: str, time: datetime, topic: str) -> Event:
    """`ModelUnloaded`."""
    subject = f"{told.model}@{told.version}"
    return _event(MODEL_UNLOADED, told, told.model, subject, source=source, id_=id_, time=time, topic=topic)


def _event(
    name: str, told: EventData, key: str, subject: str, *, source: str, id_: str, time: datetime, topic: str
) -> Event:
    return Event(
        id=id_,
        source=source,
        type=TYPES.written(name),
        topic=topic,
        key=key,
        time=time,
        data=told.model_dump(mode="json"),
        subject=subject,
    )
