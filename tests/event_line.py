"""The line of events over fakes: what takes pictures in, and deliveries to give to it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.events.codec import to_kept_parts
from modelmora.domain.events.images import registered, removed
from modelmora.domain.models import GroupSpec, ModelSpec
from modelmora.domain.pictures.picture import Picture
from modelmora.domain.pictures.spaces import Space
from modelmora.domain.pictures.way import RetryRule
from modelmora.ids import new_id
from modelmora.ports import Delivery
from modelmora.usecases.pictures.indexing import Embeds, Indexing, Teller
from modelmora.usecases.pictures.ingest import Ingest, IngestSettings
from modelmora.usecases.pictures.remove import Remove
from modelmora.usecases.pictures.spaces import Spaces
from tests.fakes import CLIP, Clock, World
from tests.pictures import Time, picture
from tests.pictures_fakes import TOPIC, FakeDatabase, FakeFiles, FakeLooks, FakeVectors

SPACE = Space(model=CLIP.name, version=CLIP.version)
KEY = SPACE.key
TRIES = 3


class Line:
    """Every part of it, and its fakes; `specs` are the models that are served, by `embed` where that is set."""

    def __init__(self, *specs: ModelSpec) -> None:
        self.time, self.clock = Time(), Clock()
        self.database = FakeDatabase(self.time)
        self.vectors, self.files, self.looks = FakeVectors(), FakeFiles(), FakeLooks()
        self.world = World(catalogue=Catalogue(specs or (CLIP,), (GroupSpec(),)))
        self.embed: Embeds | None = None
        self.draws = 1.0
        self.offset = 0
        self.rise()

    def rise(self) -> None:
        """A process that begins, over what the one before has left."""
        database = self.database
        self.spaces = Spaces(
            lambda: self.world.catalogue, database.indexes, self.vectors, now=self.time, clock=self.clock
        )
        self.remove = Remove(
            database.pictures, database.indexes, vectors=self.vectors, files=self.files, source="/test"
        )
        self.indexing = Indexing(
            self.embed or self.world.embed(),
            self.spaces,
            vectors=self.vectors,
            records=database.pictures,
            teller=Teller(source="/test", topic=TOPIC, new_id=new_id, clock=self.time),
            rule=RetryRule(tries=TRIES),
            draw=lambda: self.draws,
        )
        self.ingest = Ingest(
            self.indexing,
            self.spaces,
            self.remove,
            records=database.pictures,
            files=self.files,
            letters=database.dead_letters,
            looks=self.looks,
            settings=IngestSettings(image_bytes=4_096),
            now=self.time,
        )

    def stored(self, name: str, **told: Any) -> Picture:
        """A picture whose bytes are its name and lie in the store."""
        data = told.pop("data", name.encode())
        object_ = self.files.lie(data)
        return picture(name, **{"object": object_, "sha256": hashlib.sha256(data).hexdigest(), **told})

    def announced(self, one: Picture, *, id_: str | None = None) -> Delivery:
        """As our own relay carries it."""
        event = registered(one, source="/producer", id_=id_ or new_id(), time=self.time(), topic=TOPIC)
        return self.delivery(*to_kept_parts(event))

    def coming(self, *names: str) -> list[Delivery]:
        """Announcements of stored pictures."""
        return [self.announced(self.stored(name), id_=name) for name in names]

    def gone(self, one: Picture) -> Delivery:
        """The event of a removal."""
        event = removed(one, source="/producer", id_=new_id(), time=self.time(), topic=TOPIC)
        return self.delivery(*to_kept_parts(event))

    def foreign(self, *, id_: str = "f", type_: str = "com.modelmora.image.registered.v1", **data: Any) -> Delivery:
        """As somebody else writes it: nothing but what the contract needs, and what is told."""
        told = {"image_id": id_, "object": f"s3://pictures/{id_}", **data}
        event = {"specversion": "1.0", "id": new_id(), "source": "/theirs", "type": type_, "data": told}
        return self.delivery(id_.encode(), json.dumps(event).encode(), ())

    def delivery(self, key: bytes, value: bytes, headers: Any = ()) -> Delivery:
        self.offset += 1
        return Delivery(topic=TOPIC, partition=0, offset=self.offset, key=key, value=value, headers=tuple(headers))

    def serve(self, *specs: ModelSpec) -> None:
        """From now on these are the models."""
        self.world.catalogue = replace(self.world.catalogue, models=specs)
        self.spaces.forget()
        self.rise()

    def indexed(self, space: Space = SPACE) -> list[str]:
        return self.vectors.ids_in(space.name)

    def codes(self) -> list[str]:
        """Of the dead letters, in the order in which they came."""
        return [letter.code for letter in self.database.store.letters.values()]
