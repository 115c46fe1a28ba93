"""All use cases of kept pictures over fakes, put together as the wiring does it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace

from modelmora.domain.inference import Call
from modelmora.domain.models import ModelSpec
from modelmora.domain.outcome import Ok, Outcome, unwrap
from modelmora.domain.pictures.queries import Part, PartContent, SearchQuery
from modelmora.domain.pictures.spaces import IndexSettings, Space
from modelmora.domain.pictures.way import RetryRule
from modelmora.ids import new_id
from modelmora.usecases.application import Application
from modelmora.usecases.decoding import Decoding
from modelmora.usecases.embed import Embed
from modelmora.usecases.pictures.arrivals import Arrival, Receiving, Terms
from modelmora.usecases.pictures.filling import Filling
from modelmora.usecases.pictures.gallery import Gallery
from modelmora.usecases.pictures.indexes import IndexBook
from modelmora.usecases.pictures.indexing import Indexing, Teller
from modelmora.usecases.pictures.kept import Kept
from modelmora.usecases.pictures.letters import Letters
from modelmora.usecases.pictures.pictures import KeptPictures
from modelmora.usecases.pictures.reindex import Reindex
from modelmora.usecases.pictures.remove import Remove
from modelmora.usecases.pictures.search import Found, Search
from modelmora.usecases.pictures.spaces import Spaces
from modelmora.usecases.pictures.upload import Upload, UploadSettings
from modelmora.usecases.pictures.upload_stream import UploadStream
from tests.fakes import CATALOGUE, CLIP, VIT, World
from tests.pictures import Time
from tests.pictures_fakes import TOPIC, FakeDatabase, FakeFiles, FakeLeases, FakeLooks, FakeVectors

SOURCE = "/modelmora/test"
SYNC_S, LONG_S = 30.0, 1e9
ASKING = replace(VIT, index=IndexSettings())
"""A second model whose vectors are kept, beside the default one."""
TWO = replace(CATALOGUE, models=tuple(ASKING if model is VIT else model for model in CATALOGUE.models))
CLIP_SPACE = Space(model=CLIP.name, version=CLIP.version)


def calling(**told: object) -> Call:
    return replace(Call(request_id="r-1", deadline=LONG_S), **told)  # type: ignore[arg-type] # a call's own fields


def newer(version: str = "2.0.0", *, of: ModelSpec = CLIP) -> ModelSpec:
    """The next version of a model."""
    return replace(of, version=version, default=False)


@dataclass(slots=True)
class Kit:
    """A gallery, and what it stands on. Nothing of the indexes is remembered: each look is a new one."""

    world: World = field(default_factory=World)
    time: Time = field(default_factory=Time)
    vectors: FakeVectors = field(default_factory=FakeVectors)
    files: FakeFiles = field(default_factory=FakeFiles)
    looks: FakeLooks = field(default_factory=FakeLooks)
    leases: FakeLeases = field(default_factory=FakeLeases)
    rule: RetryRule = field(default_factory=RetryRule)
    sync_s: float = SYNC_S
    ttl_s: int | None = None
    database: FakeDatabase = field(init=False)
    _spaces: Spaces | None = None
    _book: IndexBook | None = None

    def __post_init__(self) -> None:
        self.database = FakeDatabase(self.time)

    @property
    def spaces(self) -> Spaces:
        if self._spaces is None:
            steps = itertools.count(step=10)
            self._spaces = Spaces(
                lambda: self.world.catalogue,
                self.database.indexes,
                self.vectors,
                now=self.time,
                clock=lambda: float(next(steps)),
            )
        return self._spaces

    def embed(self) -> Embed:
        """Of the catalogue as it is now."""
        return self.world.embed()

    def indexing(self) -> Indexing:
        return Indexing(
            self.embed(),
            self.spaces,
            vectors=self.vectors,
            records=self.database.pictures,
            teller=Teller(source=SOURCE, topic=TOPIC, new_id=new_id, clock=self.time),
            rule=self.rule,
            draw=lambda: 1.0,
        )

    def upload(self) -> Upload:
        receiving = Receiving(
            self.looks, self.files, limits=self.world.limits, ttl_s=self.ttl_s, new_id=new_id, clock=self.time
        )
        return Upload(
            receiving,
            self.indexing(),
            self.spaces,
            records=self.database.pictures,
            capacity=self.world.capacity,
            limits=self.world.limits,
            settings=UploadSettings(source=SOURCE, sync_s=self.sync_s),
        )

    def search(self) -> Search:
        return Search(
            self.embed(),
            self.spaces,
            vectors=self.vectors,
            indexes=self.database.indexes,
            describer=self.world.describer,
            look=lambda: self.world.catalogue,
        )

    @property
    def book(self) -> IndexBook:
        if self._book is None:
            self._book = IndexBook(
                self.database.indexes,
                self.vectors,
                self.spaces,
                records=self.database.pictures,
                embed=self.embed(),
                describer=self.world.describer,
                clock=self.time,
            )
        return self._book

    def remove(self) -> Remove:
        return Remove(
            self.database.pictures, self.database.indexes, vectors=self.vectors, files=self.files, source=SOURCE
        )

    def reindex(self) -> Reindex:
        filling = Filling(
            self.indexing(),
            vectors=self.vectors,
            records=self.database.pictures,
            files=self.files,
            limits=self.world.limits,
        )
        return Reindex(
            self.book,
            filling,
            self.embed(),
            indexes=self.database.indexes,
            vectors=self.vectors,
            records=self.database.pictures,
            leases=self.leases,
            holder="one",
            limits=self.world.limits,
            clock=self.time,
        )

    def pictures(self) -> KeptPictures:
        return KeptPictures(self.database.pictures, self.files, self.looks, limits=self.world.limits)

    def gallery(self, *, window_items: int = 4, window_bytes: int = 2**20) -> Gallery:
        decoding = Decoding(self.world.capacity)
        return Gallery(
            upload=UploadStream(self.upload(), decoding, window_items=window_items, window_bytes=window_bytes),
            search=self.search(),
            pictures=self.pictures(),
            remove=self.remove(),
            letters=Letters(self.database.dead_letters, source=SOURCE),
            indexes=self.book,
        )

    def application(self) -> Application:
        return replace(self.world.application(), gallery=self.gallery())

    async def bring(
        self, *contents: bytes, terms: Terms | None = None, call: Call | None = None
    ) -> list[Outcome[Kept]]:
        """Pictures named by their content."""
        terms = terms or Terms()
        arrivals = [Arrival(content=Ok(one), filename=f"{one.decode()}.png") for one in contents]
        told = [terms.of(arrival, index) for index, arrival in enumerate(arrivals)]
        return await self.upload()(told, terms, call=call or calling())

    async def kept(self, *contents: bytes, **terms: object) -> list[str]:
        """Their ids; each was taken."""
        outcomes = await self.bring(*contents, terms=Terms(**terms))  # type: ignore[arg-type] # its own fields
        return [unwrap(outcome).picture.id for outcome in outcomes]

    async def find(self, *contents: PartContent, call: Call | None = None, **more: object) -> Found:
        parts = tuple(Part(content=content) for content in contents)
        query = SearchQuery(parts=parts, **more)  # type: ignore[arg-type] # its own fields
        return await self.search()(query, call=call or calling())

    async def fill(self, rounds: int = 50) -> None:
        """Re-indexes until nothing is left to do, while time goes on."""
        work = self.reindex()
        for _ in range(rounds):
            if not await work.round():
                self.time.pass_(5)
                if not await work.round():
                    return
        raise AssertionError("it does not end")


async def arriving(arrivals: Sequence[Arrival]) -> AsyncGenerator[Arrival, None]:
    for arrival in arrivals:
        yield arrival
