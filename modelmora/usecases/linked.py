"""Pictures named by their URL, brought here before anything else is done with a request's items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from modelmora.domain.inference import Call, Content, Image
from modelmora.domain.links import Link
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import InternalError, ModelMoraError
from modelmora.ports import Pictures


@dataclass(frozen=True, slots=True)
class NoPictures:
    """The port Pictures for a model that takes none: nothing is fetched for it."""

    why: ModelMoraError

    async def fetch(self, urls: Sequence[str], *, call: Call) -> list[Outcome[bytes]]:
        return [Failed(self.why) for _ in urls]


def links(items: Sequence[Outcome[Content | Link]]) -> list[str]:
    """The URLs among the items, in their order."""
    return [item.value.url for item in items if isinstance(item, Ok) and isinstance(item.value, Link)]


async def brought(
    items: Sequence[Outcome[Content | Link]], pictures: Pictures, *, call: Call
) -> list[Outcome[Content]]:
    """The items, same order, with a picture in the place of each link, or the reason why there is none."""
    urls = links(items)
    fetched = await pictures.fetch(urls, call=call) if urls else []
    if len(fetched) != len(urls):
        raise InternalError(f"{len(fetched)} pictures for {len(urls)} URLs")
    arrived = iter(fetched)
    return [_content(item, arrived) for item in items]


def _content(item: Outcome[Content | Link], arrived: Iterator[Outcome[bytes]]) -> Outcome[Content]:
    if isinstance(item, Failed):
        return item
    if not isinstance(item.value, Link):
        return Ok(item.value)
    picture = next(arrived)
    return picture if isinstance(picture, Failed) else Ok(Image(picture.value))
