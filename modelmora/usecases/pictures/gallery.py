"""All that is done with kept pictures, in one value."""

from __future__ import annotations

from dataclasses import dataclass

from modelmora.usecases.pictures.indexes import IndexBook
from modelmora.usecases.pictures.letters import Letters
from modelmora.usecases.pictures.pictures import KeptPictures
from modelmora.usecases.pictures.remove import Remove
from modelmora.usecases.pictures.search import Search
from modelmora.usecases.pictures.upload_stream import UploadStream


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """What a door may ask of kept pictures."""

    upload: UploadStream
    search: Search
    pictures: KeptPictures
    remove: Remove
    letters: Letters
    indexes: IndexBook
