"""Pictures and registrations for tests: short to make, told apart at a glance."""

from __future__ import annotations

import hashlib
import io
from datetime import UTC, datetime, timedelta
from typing import Any

from PIL import Image as Pillow
from PIL import ImageDraw

from modelmora.domain.pictures.picture import Facts, Picture
from modelmora.domain.pictures.way import Step, Verdict
from modelmora.ports import Registration

SPACE = "shapes-clip@1.0.0"
START = datetime(2030, 1, 1, tzinfo=UTC)


class Time:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def picture(name: str, **told: Any) -> Picture:
    """One whose id is `name` and whose content is, unless told, named by it."""
    facts = Facts(
        filename=told.pop("filename", f"{name}.png"), tags=told.pop("tags", ()), metadata=told.pop("metadata", {})
    )
    values: dict[str, Any] = {
        "id": name,
        "sha256": digest(name),
        "object": f"s3://pictures/{name}",
        "content_type": "image/png",
        "bytes": 100,
        "facts": facts,
        "created_at": START,
        "changed_at": START,
    }
    return Picture(**{**values, **told})


def coming(name: str, **told: Any) -> Registration:
    """A picture as an upload brings it."""
    own: dict[str, Any] = {
        key: told.pop(key) for key in ("announce", "hold_s", "origin", "claim", "spaces") if key in told
    }
    values: dict[str, Any] = {"picture": picture(name, **told), "spaces": (SPACE,), **own}
    return Registration(**values)


def step(name: str, state: Any = "indexed", *, space: str = SPACE, seq: int = 1, **told: Any) -> Step:
    event = told.pop("event", None)
    return Step(picture_id=name, space=space, seq=seq, verdict=Verdict(state=state, **told), event=event)


def drawing(colour: str = "red", shape: str = "circle", *, size: int = 96, format_: str = "PNG") -> bytes:
    """A picture file with one shape on white."""
    canvas = Pillow.new("RGB", (size, size), "white")
    draw, box = ImageDraw.Draw(canvas), (size // 4, size // 4, 3 * size // 4, 3 * size // 4)
    if shape == "circle":
        draw.ellipse(box, fill=colour)
    else:
        draw.rectangle(box, fill=colour)
    file = io.BytesIO()
    canvas.save(file, format_)
    return file.getvalue()
