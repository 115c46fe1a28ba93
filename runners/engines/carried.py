"""Networks that a model's own folder brings, exported elsewhere: where torch is not installed there are no others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelmora.domain.models import ModelSpec
from modelmora.errors import ModelLoadFailed
from runners.engines.kinds import Format, Kind

FOLDER = "exported"
REPORT = "report.json"
FILES = "files"
"""In the report: the digests of what it was exported from, by name."""


def place_of(folder: Path, engine: Kind, format_: Format) -> Path:
    """Where a model's folder has them."""
    return folder / FOLDER / f"{engine}-{format_}"


def carried(place: Path, files: Sequence[Path], digest: Callable[[Path], str]) -> bool:
    """Whether networks lie there that were made of what lies beside them."""
    try:
        report: Any = json.loads((place / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    made_of = report.get(FILES) if isinstance(report, dict) else None
    return isinstance(made_of, dict) and made_of == {file.name: digest(file) for file in files}


def put_down(place: Path, files: Sequence[Path], digest: Callable[[Path], str]) -> None:
    """From now on they count as made of these files."""
    report = json.loads((place / REPORT).read_text(encoding="utf-8"))
    report[FILES] = {file.name: digest(file) for file in files}
    (place / REPORT).write_text(json.dumps(report, indent=2), encoding="utf-8")


def make(spec: ModelSpec, folder: Path, say: Callable[[str], object]) -> Path:
    """The folder, made anew. Raises ModelLoadFailed where a network is not near enough to torch's in fp32, and what
    exporting raises."""
    from runners import families  # noqa: PLC0415 - those and torch are not needed to find what was made
    from runners.engines.conversion import Request, convert  # noqa: PLC0415
    from runners.engines.conversions import refuse_far  # noqa: PLC0415
    from runners.engines.kinds import asked  # noqa: PLC0415
    from runners.engines.towers import Exportable  # noqa: PLC0415
    from runners.examinations.decisions import Decisions  # noqa: PLC0415

    provider, wanted = families.provider(spec.provider), asked(spec)
    if wanted is None or not isinstance(provider, Exportable):
        raise ModelLoadFailed(f"{spec.key} asks for no engine, or its family runs on torch only", field="engine")
    place = place_of(folder, *wanted)
    place.mkdir(parents=True, exist_ok=True)
    report: Mapping[str, Any] = {}
    for step in convert(Request(spec=spec, folder=folder, into=place, engine=wanted[0], format=wanted[1], threads=0)):
        say(json.dumps(step))
        report = step
    refuse_far(spec, report)
    put_down(place, provider.files(spec, folder), Decisions(None).digest)
    return place
