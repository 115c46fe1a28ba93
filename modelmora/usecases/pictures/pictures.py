"""Kept pictures as they are looked up: their records with their ways, their bytes, their thumbnails."""

from __future__ import annotations

import time
from dataclasses import dataclass

import structlog

from modelmora.domain.pictures.filters import read_id
from modelmora.domain.registry.pages import Page
from modelmora.errors import ModelMoraError
from modelmora.ports import PictureFiles, PictureLooks, PictureQuery, PictureRecords
from modelmora.usecases.admission import Limits
from modelmora.usecases.pictures.kept import Kept

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Bytes to show, of which kind, and the content they are of: what they are asked for by again."""

    data: bytes
    content_type: str
    sha256: str
    filename: str


class KeptPictures:
    """What a door may look up."""

    def __init__(self, records: PictureRecords, files: PictureFiles, looks: PictureLooks, *, limits: Limits) -> None:
        self._records = records
        self._files = files
        self._looks = looks
        self._limits = limits

    async def get(self, id_: str) -> Kept:
        """Raises ImageNotFound."""
        picture = await self._records.get(read_id(id_, field="id"))
        ways = await self._records.ways([picture.id])
        return Kept(picture=picture, ways=ways.get(picture.id, ()))

    async def find(self, query: PictureQuery) -> Page[Kept]:
        """Raises ValidationFailed for a cursor of another order."""
        page = await self._records.find(query)
        ways = await self._records.ways([picture.id for picture in page.items]) if page.items else {}
        return Page(tuple(Kept(picture=one, ways=ways.get(one.id, ())) for one in page.items), page.next_cursor)

    async def content(self, id_: str) -> Shown:
        """The picture's own bytes; raises ImageNotFound."""
        picture = (await self.get(id_)).picture
        data = await self._files.get(picture.object, max_bytes=self._limits.image_bytes)
        return Shown(
            data=data, content_type=picture.content_type, sha256=picture.sha256, filename=picture.facts.filename
        )

    async def thumbnail(self, id_: str, *, unless: str | None = None) -> Shown | None:
        """A small WebP, made where there is none yet (an event brought the picture); None where the content is
        `unless`. Raises ImageNotFound."""
        picture = (await self.get(id_)).picture
        if picture.sha256 == unless:
            return None
        data = await self._files.thumbnail(picture.sha256) or await self._made(picture.object, picture.sha256)
        return Shown(data=data, content_type="image/webp", sha256=picture.sha256, filename="")

    async def _made(self, object_: str, sha256: str) -> bytes:
        content = await self._files.get(object_, max_bytes=self._limits.image_bytes)
        look = await self._looks.look(content, deadline=time.monotonic() + self._limits.timeout_ms / 1e3)
        try:
            await self._files.put_thumbnail(sha256, look.thumbnail)
        except ModelMoraError as error:  # it is made again the next time
            log.warning("thumbnail_not_kept", sha256=sha256, code=error.code)
        return look.thumbnail
