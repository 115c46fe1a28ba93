"""Kept pictures found by likeness: by words, a picture, one that is kept, a vector, or several of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from modelmora.domain.catalogue import Look
from modelmora.domain.inference import Call, Content, Image, Text, Vector
from modelmora.domain.models import ModelRef, ModelSpec
from modelmora.domain.outcome import Ok, Outcome, unwrap
from modelmora.domain.pictures.picture import Value
from modelmora.domain.pictures.queries import Like, SearchQuery
from modelmora.domain.pictures.search import Hit, Question
from modelmora.domain.pictures.spaces import Index, IndexState
from modelmora.domain.pictures.weights import combined
from modelmora.errors import CapabilityMissing, ImageNotFound, ModelMoraError, ValidationFailed
from modelmora.ports import Describer, Indexes, Vectors
from modelmora.usecases.embed import Embed
from modelmora.usecases.pictures.deadlines import before
from modelmora.usecases.pictures.spaces import Spaces

WHOLE: frozenset[IndexState] = frozenset({"live", "verifying", "ready", "draining"})
"""Indexes that are asked where a request names their version: every picture has been through them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The best of the pictures that share a value of metadata."""

    value: Value | None
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The answer, of the index of one version of one model (`name@version`), and what it cost in milliseconds."""

    model: str
    hits: tuple[Hit, ...] = ()
    groups: tuple[Group, ...] | None = None
    next_cursor: str | None = None
    embed_ms: float = 0.0
    search_ms: float = 0.0
    total_ms: float = 0.0


class Search:
    """The use case behind every face that searches."""

    def __init__(
        self, embed: Embed, spaces: Spaces, *, vectors: Vectors, indexes: Indexes, describer: Describer, look: Look
    ) -> None:
        self._embed = embed
        self._spaces = spaces
        self._vectors = vectors
        self._indexes = indexes
        self._describer = describer
        self._look = look

    async def __call__(self, query: SearchQuery, *, call: Call) -> Found:
        """Nothing is found where nothing is indexed yet.

        Vectors of the question are made by the version whose index is asked, which is asked by its own name: a switch
        meanwhile mixes nothing. Texts are cut to the model's context. Raises ValidationFailed (another question's
        cursor, a vector of another length, parts that take each other away), ModelNotFound, VersionNotFound,
        CapabilityMissing, ImageNotFound, DependencyUnavailable, DeadlineExceeded, and what embedding raises.
        """
        clock = self._embed.admission.clock
        started, offset = clock(), query.offset()
        model = self._embed.serving(query.model)
        async with before(call.deadline, "the search"):
            index = await self._index(model, query)
            if index is None:
                groups = None if query.group_by is None else ()
                return Found(model=model.key, groups=groups, total_ms=(clock() - started) * 1e3)
            vector = await self._vector(index, query, call)
            embedded = clock()
            hits = await self._vectors.search(index.space.name, _question(query, vector, offset))
        ended = clock()
        return replace(
            _found(query, index.space.key, hits, offset),
            embed_ms=(embedded - started) * 1e3,
            search_ms=(ended - embedded) * 1e3,
            total_ms=(ended - started) * 1e3,
        )

    async def _index(self, model: ModelSpec, query: SearchQuery) -> Index | None:
        """The model's live index, or that of the version which the request names; None where there is none yet."""
        if query.model is not None and ModelRef.parse(query.model).version is not None:
            whole = await self._indexes.all(collection=query.collection)
            named = (one for one in whole if one.space.key == model.key and one.state in WHOLE)
            return next(named, None)
        live = await self._spaces.index_of(query.collection, model.name)
        return live or await self._spaces.refreshed(query.collection, model.name)  # another process may have made it

    async def _vector(self, index: Index, query: SearchQuery, call: Call) -> bytes:
        """The one vector of the question."""
        contents = [part.content for part in query.parts if isinstance(part.content, Text | Image)]
        made = iter(await self._embedded(index, contents, call))
        stored = await self._vectors.vectors(index.space.name, query.likes) if query.likes else {}
        weighted = []
        for part in query.parts:
            match part.content:
                case Like(id_):
                    weighted.append((_stored(stored.get(id_), id_, index), part.weight))
                case Vector(data):
                    weighted.append((_of_length(data, index), part.weight))
                case _:
                    weighted.append((next(made), part.weight))
        return combined(weighted)

    async def _embedded(self, index: Index, contents: Sequence[Content], call: Call) -> list[bytes]:
        """All of them in one call, by the version of the index."""
        if not contents:
            return []
        key = index.space.key
        if any(isinstance(content, Text) for content in contents):
            await self._check_texts(index, call)
        items: list[Outcome[Content]] = [Ok(content) for content in contents]
        answer = await self._embed(key, items, call=replace(call, truncate=True))
        return [unwrap(outcome).vector.data for outcome in answer.outcomes]

    async def _check_texts(self, index: Index, call: Call) -> None:
        """Raises CapabilityMissing where the model takes no texts, naming those of the collection's that do."""
        model = self._embed.serving(index.space.key)
        if (await self._describer.describe(model, deadline=call.deadline)).text is not None:
            return
        able = [name for name in await self._taking_texts(index.space.collection, call) if name != model.name]
        others = f"search by {' or '.join(able)}" if able else "no model that this collection is indexed by does"
        said = f"{model.key} takes no words; {others}, or by a picture, an id or a vector"
        raise CapabilityMissing(
            said, field="model", found=model.name, expected=", ".join(able) or "image, id or vector"
        )

    async def _taking_texts(self, collection: str, call: Call) -> list[str]:
        """The models with a live index that have a text tower."""
        able = []
        for index in await self._indexes.all(collection=collection):
            model = self._look().find(index.space.model, index.space.version)
            if index.state != "live" or model is None:
                continue
            try:
                description = await self._describer.describe(model, deadline=call.deadline)
            except ModelMoraError:  # one that cannot be asked now is not recommended
                continue
            if description.text is not None:
                able.append(model.name)
        return able


def _question(query: SearchQuery, vector: bytes, offset: int) -> Question:
    """One result more than wanted tells whether there is another page."""
    return Question(
        vector=vector,
        limit=query.limit + (query.group_by is None),
        offset=offset,
        filter=query.filter,
        score_threshold=query.score_threshold,
        exact=query.exact,
        group_by=query.group_by,
        group_size=query.group_size,
        exclude=query.likes,
    )


def _found(query: SearchQuery, model: str, hits: Sequence[Hit], offset: int) -> Found:
    if query.group_by is not None:
        same = groupby(hits, key=lambda hit: (type(hit.group), hit.group))
        return Found(model=model, groups=tuple(Group(value=key[1], hits=tuple(each)) for key, each in same))
    more = len(hits) > query.limit
    cursor = query.following(offset + query.limit) if more else None
    return Found(model=model, hits=tuple(hits[: query.limit]), next_cursor=cursor)


def _stored(vector: bytes | None, id_: str, index: Index) -> bytes:
    if vector is None:
        said = f"picture {id_} is not in the index of {index.space.key} in the collection {index.space.collection}"
        raise ImageNotFound(said, field="id", found=id_)
    return vector


def _of_length(data: bytes, index: Index) -> bytes:
    if len(data) != 4 * index.dimension:
        found, expected = f"{len(data) // 4} numbers", f"{index.dimension} numbers"
        raise ValidationFailed(
            f"vectors of {index.space.key} have {expected}", field="vector", found=found, expected=expected
        )
    return data
