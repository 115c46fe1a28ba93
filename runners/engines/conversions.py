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
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, cast

import structlog

from modelmora.domain.models import ModelSpec, Task
from modelmora.errors import ModelLoadFailed, from_code
from runners.engines.carried import carried, place_of
from runners.engines.conversion import REPORT, Request
from runners.engines.converted import Converted, open_converted
from runners.engines.kinds import Format, Kind, asked, library, versions
from runners.engines.towers import Exportable
from runners.examinations.decisions import Decisions
from runners.forms import GATE
from runners.provider import AnyProvider

log = structlog.get_logger(__name__)

RULES = "3"
"""Part of every key: what was exported by other rules than today's is exported anew."""

UNDER_WAY = ".part-"
PATIENCE_S = 1_800.0
AGAIN_S = 600.0
"""So long an export that failed is not tried again: it would fail again, after minutes of all cores."""

LINE_BYTES = 2**20
ROOT = Path(__file__).resolve().parents[2]


class PassingTrouble(ModelLoadFailed):
    """An export failed for what is of this machine and this moment, and not of the model."""


class Conversions:
    """The folder of converted models: `<key>/` with a network a task and the report."""

    def __init__(
        self,
        folder: Path | None,
        decisions: Decisions,
        *,
        threads: int,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`folder` None: there is no place for any, and models that ask for an engine are refused. An export that takes
        longer than `patience_s` is ended."""
        self._folder = folder
        self._decisions = decisions
        self._threads = threads
        self._patience_s = patience_s
        self._clock = clock

    async def ensure(self, spec: ModelSpec, provider: object, folder: Path | None) -> None:
        """Exports the model where it asks for an engine and was not exported yet.

        Raises what `report` does, and ModelLoadFailed where its networks are not near enough to torch's in fp32.
        """
        if asked(spec) is not None:
            refuse_far(spec, await self.report(spec, provider, folder))

    async def report(
        self, spec: ModelSpec, provider: object, folder: Path | None, *, threads: int = 0
    ) -> Mapping[str, Any]:
        """How near the networks of a model that asks for an engine are to torch's in fp32; they are made where they
        are not there, in a process of its own, on so many threads (0: the worker's).

        One export runs on a machine at a time; several workers that want the same do it once. Raises ModelLoadFailed
        (the family cannot be exported, the engine cannot take it) and what loading raises. What failed is not tried
        again for a while.
        """
        if (wanted := asked(spec)) is None:
            raise ModelLoadFailed(f"{spec.key} is run by torch: nothing is exported", field="engine")
        place = await asyncio.to_thread(self._place, spec, provider, folder, *wanted)
        if not (place / REPORT).is_file():
            async with _alone(place.parent):
                if not (place / REPORT).is_file():  # meanwhile another worker was faster
                    engine, format_ = wanted
                    request = Request(
                        spec=spec, folder=folder, into=place, engine=engine, format=format_,
                        threads=threads or self._threads,
                    )  # fmt: skip
                    await self._try(place, request)
        return await asyncio.to_thread(_report, spec, place)

    def open(self, spec: ModelSpec, provider: AnyProvider, folder: Path | None, *, threads: int) -> Converted | None:
        """The model as another library runs it; None for one that torch runs.

        Raises ModelLoadFailed where its networks are not there, or not near enough to torch's in fp32.
        """
        wanted = asked(spec)
        if wanted is None:
            return None
        found = self._place(spec, provider, folder, *wanted)
        report = _report(spec, found)
        refuse_far(spec, report)
        tasks = cast("list[Task]", list(report["likeness"]))
        return open_converted(spec, provider.describe(spec, folder), found, *wanted, tasks=tasks, threads=threads)

    def _place(self, spec: ModelSpec, provider: object, folder: Path | None, engine: Kind, format_: Format) -> Path:
        """The folder of the model's networks, by all that they depend on; it need not be there."""
        if not isinstance(provider, Exportable):
            said = f"models of provider {spec.provider} run on torch only, not by engine {engine}"
            raise ModelLoadFailed(f"{spec.key}: {said}", field="engine", found=engine, expected="torch")
        files = provider.files(spec, folder)
        if folder is not None and carried(brought := place_of(folder, engine, format_), files, self._decisions.digest):
            return brought
        if self._folder is None:
            raise ModelLoadFailed(f"{spec.key}: engine {engine} needs a data folder to keep its networks in")
        of_model = self._decisions.key(spec, files, "cpu")
        parts = (RULES, of_model, engine, format_, library(engine).version(), *versions())
        return self._folder / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    async def _try(self, place: Path, request: Request) -> None:
        """Exports, unless that failed a moment ago."""
        failed = place.with_suffix(".failed.json")
        await asyncio.to_thread(self._refuse_again, failed)
        try:
            await self._make(place, request)
        except ModelLoadFailed as error:
            passing = isinstance(error, PassingTrouble)
            told = json.dumps({"at": self._clock(), "detail": error.detail, "passing": passing})
            await asyncio.to_thread(failed.write_text, told, encoding="utf-8")
            raise

    def _refuse_again(self, failed: Path) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads(failed.read_text(encoding="utf-8"))
            left = told["at"] + AGAIN_S - self._clock()
            if 0 < left <= AGAIN_S:
                trouble = PassingTrouble if told.get("passing") else ModelLoadFailed
                raise trouble(str(told["detail"]), retry_after_s=left)

    async def _make(self, place: Path, request: Request) -> None:
        spec, into = request.spec, await asyncio.to_thread(_fresh, place)
        told = {"engine": request.engine, "precision": request.format}
        log.info("model_converting", model=spec.name, version=spec.version, **told)
        try:
            async with asyncio.timeout(self._patience_s):
                report = await _run(replace(request, into=into))
            await asyncio.to_thread(_keep, into, place)
            log.info("model_converted", model=spec.name, version=spec.version, **{k: report[k] for k in _TOLD})
        except TimeoutError:
            said = f"its export for {request.engine} took longer than {self._patience_s:.0f} s and was ended"
            raise PassingTrouble(f"{spec.key}: {said}") from None
        finally:
            shutil.rmtree(into, ignore_errors=True)


def _fresh(place: Path) -> Path:
    """An empty folder beside the place. What earlier exports left when they were killed goes: nobody else exports."""
    for left in place.parent.glob(f"*{UNDER_WAY}*"):
        shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{place.name}{UNDER_WAY}", dir=place.parent))


def _keep(made: Path, place: Path) -> None:
    made.chmod(0o755)
    if place.exists():  # without its report
        shutil.rmtree(place)
    made.replace(place)


def _report(spec: ModelSpec, place: Path) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads((place / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        said = "its exported networks are not there; load it again"
        raise ModelLoadFailed(f"{spec.key}: {said}", retry_after_s=5.0) from cause
    return report


def _lock_file(folder: Path) -> IO[str]:
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / "exporting.lock").open("w")


@contextlib.asynccontextmanager
async def _alone(folder: Path) -> AsyncIterator[None]:
    """One export of this machine at a time: each holds a model several times over. A worker that dies gives its turn
    back. Raises ModelLoadFailed where the file system knows no locks."""
    with await asyncio.to_thread(_lock_file, folder) as file:
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
        await asyncio.shield(process.wait())  # it must not write into a folder that is being removed
        raise
    last = _last(out)
    match last.get("stage"):
        case "report":
            return last
        case "error":
            raise from_code(str(last["code"]), str(last["detail"]))
    log.error("conversion_ended", status=process.returncode, why=err[-2000:].decode(errors="replace"))
    said = f"its export for {request.engine} ended with code {process.returncode}; the runner's log has its last words"
    raise PassingTrouble(f"{request.spec.key}: {said}", retry_after_s=5.0)


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
    except BlockingIOError:
        return False
    except OSError as cause:
        said = f"the data folder's file system has no locks ({cause.strerror}): put it elsewhere, or use engine torch"
        raise ModelLoadFailed(said) from cause
    return True
