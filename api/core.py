"""Where the doors find the use cases, once they are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelmora.errors import DependencyUnavailable

if TYPE_CHECKING:
    from modelmora.usecases.application import Application


@dataclass(slots=True)
class Core:
    """The use cases; until they are up, why not."""

    application: Application | None = None
    why: str = "the service is starting"

    def get(self) -> Application:
        """Raises DependencyUnavailable while the service is not up."""
        if self.application is None:
            raise DependencyUnavailable(self.why, retry_after_s=1.0)
        return self.application
