"""One setting as `modelmora config` prints it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Source = Literal["environment", ".env", "default"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A variable, the value in force and where it comes from; passwords in URLs are masked."""

    variable: str
    value: str
    source: Source
    default: str
    takes: str
    about: str
