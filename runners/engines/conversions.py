"""Networks exported for other libraries: made once, kept by content, refused where they are not near enough."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import structlog

from modelmora.domain.models import ModelSpec
from modelmora.errors import ModelLoadFailed, from_code
from runners.engines.conversion import REPORT, Request
from runners.engines.converted import Converted, open_converted
from runners.engines.kinds import Format, Kind, asked, library
from runners.engines.towers import Exportable
from runners.examinations.decisions import Decisions
from runners.precision import GATE
from runners.provider import AnyProvider

log = structlog.get_logger(__name__)

LINE_BYTES = 2**20
ROOT = Path(__file__).resolve().parents[2]


class Conversions:
    """The folder of converted models: `<key>/` with a network a task and the report."""

    def __init__(self, folder: Path | None, decisions: Decisions, *, threads: int) -> None:
        """`folder` None: there is no place for any, and models that ask for an engine are refused."""
        self._folder = folder
        self._decisions = decisions
        self._threads = threads

    async def ensure(self, spec: ModelSpec, provider: object, folder: Path | None) -> None:
        """Exports the model where it asks for an engine and was not exported yet, in a process of its own.

        Several workers that want the same do it once. Raises ModelLoadFailed (the family cannot be exported, the engine
        cannot take it) and what loading raises; says nothing of how near it came: see `open`.
        """
        wanted = asked(spec)
        if wanted is None:
            return
        place = await asyncio.to_thread(self._place, spec, provider, folder, *wanted)
        if not (place / REPORT).is_file():
            async with _alone(place):
                if not (place / REPORT).is_file():  # meanwhile another worker was faster
                    await self._make(place, spec, folder, *wanted)

    def open(self, spec: ModelSpec, provider: AnyProvider, folder: Path | None, *, threads: int) -> Converted | None:
        """The model as another library runs it; None for one that torch runs.

        Raises ModelLoadFailed where its networks are not near enough to torch's in fp32, with how near they are.
        """
        wanted = asked(spec)
        if wanted is None:
            return None
        found = self._place(spec, provider, folder, *wanted)
        try:
            report = json.loads((found / REPORT).read_text(encoding="utf-8"))
        except (OSError, ValueError) as cause:
            said = "its exported networks are not there; load it again"
            raise ModelLoadFailed(f"{spec.key}: {said}", retry_after_s=5.0) from cause
        refuse_far(spec, report)
        return open_converted(spec, provider.describe(spec, folder), found, *wanted, threads=threads)

    def _place(self, spec: ModelSpec, provider: object, folder: Path | None, engine: Kind, format_: Format) -> Path:
        """The folder of the model's networks, by all that they depend on; it need not be there."""
        if not isinstance(provider, Exportable):
            said = f"models of provider {spec.provider} run on torch only, not by engine {engine}"
            raise ModelLoadFailed(f"{spec.key}: {said}", field="engine", found=engine, expected="torch")
        if self._folder is None:
            raise ModelLoadFailed(f"{spec.key}: engine {engine} needs a data folder to keep its networks in")
        of_model = self._decisions.key(spec, provider.files(spec, folder), "cpu")
        parts = (of_model, engine, format_, library(engine).version())
        return self._folder / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    async def _make(self, place: Path, spec: ModelSpec, folder: Path | None, engine: Kind, format_: Format) -> None:
        into = Path(tempfile.mkdtemp(prefix=f"{place.name}.", dir=place.parent))
        request = Request(spec=spec, folder=folder, into=into, engine=engine, format=format_, threads=self._threads)
        log.info("model_converting", model=spec.name, version=spec.version, engine=engine, precision=format_)
        try:
            report = await _run(request)
            await asyncio.to_thread(_keep, into, place)
            log.info("model_converted", model=spec.name, version=spec.version, **{k: report[k] for k in _TOLD})
        finally:
            shutil.rmtree(into, ignore_errors=True)


def _keep(made: Path, place: Path) -> None:
    made.chmod(0o755)
    made.replace(place)


@contextlib.asynccontextmanager
async def _alone(place: Path) -> AsyncIterator[None]:
    """One worker of this machine at a time; one that dies gives its turn back."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as file:
        while not _locked(file.fileno()):  # noqa: ASYNC110 - another process holds it: nobody here could tell
            await asyncio.sleep(0.5)
        yield


_TOLD = ("engine", "precision", "likeness")


def refuse_far(spec: ModelSpec, report: Mapping[str, Any]) -> None:
    """Raises ModelLoadFailed below the gate, naming the tower and its lowest cosine."""
    for task, near in report["likeness"].items():
        if not near["lowest"] >= GATE:  # also what is not a number
            said = (
                f"{report['engine']} {report['precision']} is not near enough to fp32: its lowest cosine over the "
                f"samples of {task} is {near['lowest']:.4f}, and the gate is {GATE}; use another precision or engine"
            )
            raise ModelLoadFailed(f"{spec.key}: {said}", field="precision")


async def _run(request: Request) -> dict[str, Any]:
    """The report of a conversion; ends its process when nobody waits any more."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__.replace("conversions", "conversion"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        limit=LINE_BYTES,
    )
    try:
        out, err = await process.communicate(request.to_json().encode())
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
    last = _last(out)
    match last.get("stage"):
        case "report":
            return last
        case "error":
            raise from_code(str(last["code"]), str(last["detail"]))
    log.error("conversion_ended", code=process.returncode, said=err[-2000:].decode(errors="replace"))
    said = f"its export for {request.engine} ended with code {process.returncode}; the runner's log has its last words"
    raise ModelLoadFailed(f"{request.spec.key}: {said}", retry_after_s=5.0)


def _last(out: bytes) -> dict[str, Any]:
    """The last line that is ours; libraries write there too."""
    for line in reversed(out.splitlines()):
        with contextlib.suppress(ValueError):
            told = json.loads(line)
            if isinstance(told, dict) and "stage" in told:
                return told
    return {}


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
