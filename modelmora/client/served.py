"""What every answer of the SDK says beside its content."""

from __future__ import annotations

from dataclasses import dataclass, field

from modelmora.domain.inference import Timings


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Which version of which model answered, and the server's own times.

    `timings` and `total_ms` are of the whole request, or of this item of a stream, and 0 where the server said nothing.
    They do not count in `==`.
    """

    model: str
    version: str
    timings: Timings = field(default=Timings(), compare=False)
    total_ms: float = field(default=0.0, compare=False)

    @property
    def key(self) -> str:
        """`name@version`."""
        return f"{self.model}@{self.version}"
