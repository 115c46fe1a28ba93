"""A kept picture with its ways: what every face shows of one."""

from __future__ import annotations

from dataclasses import dataclass

from modelmora.domain.pictures.picture import Picture, PictureState
from modelmora.domain.pictures.way import Way, shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """`duplicate`: of one that was brought, the collection had a picture of these bytes, and it is that one."""

    picture: Picture
    ways: tuple[Way, ...] = ()
    duplicate: bool = False

    @property
    def state(self) -> PictureState:
        return shown(self.ways, deleted=self.picture.deleted_at is not None)

    @property
    def spaces(self) -> tuple[str, ...]:
        """The versions (`name@version`) that index it, or will."""
        return tuple(way.space for way in self.ways if way.state not in ("superseded", "tombstoned"))

    @property
    def under_way(self) -> bool:
        """Whether it will be found without anybody doing anything more."""
        return self.state in ("registered", "embedding", "retrying")
