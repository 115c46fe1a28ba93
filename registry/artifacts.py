"""Where the files of a model are on this machine, and how they get there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from modelmora.domain.models import ModelSpec
from modelmora.errors import ModelLoadFailed, ModelLoading
from modelmora.ports import Fetch
from registry.hub import Hub, Repository

FAMILIES_WITHOUT_FILES = frozenset({"noop"})


class LocalArtifacts:
    """The port `Artifacts` over folders: the bundle's, the operator's, and a cache of the hub's files."""

    def __init__(self, bundled: Path, cache: Path, *, endpoint: str | None = None) -> None:
        self._bundled = bundled
        self._hub = Hub(cache, endpoint=endpoint)

    def locate(self, model: ModelSpec) -> Path | None:
        """See the port; looks at files only, never at the network."""
        scheme, _, rest = model.source.partition(":")
        match scheme:
            case _ if model.provider in FAMILIES_WITHOUT_FILES:
                return None
            case "bundled":
                return self._folder(model, self._bundled / rest)
            case "file":
                return self._folder(model, Path(rest))
            case "hub":
                return self._from_hub(model)
            case _:
                raise ModelLoadFailed(f"{model.key}: {scheme} sources are not served yet; use bundled:, hub: or file:")

    async def fetch(self, model: ModelSpec) -> AsyncGenerator[Fetch, None]:
        """See the port; a consumer that leaves stops the download, and the next one resumes it."""
        licence = None
        try:
            folder = self.locate(model)
        except ModelLoading:
            async with aclosing(self._download(Repository.of(model))) as steps:
                async for step in steps:
                    licence = step.licence
                    yield step
            folder = self.locate(model)
        size = 0 if folder is None else sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        yield Fetch(model=model.key, done_bytes=size, total_bytes=size, licence=licence, finished=True)

    async def _download(self, repository: Repository) -> AsyncGenerator[Fetch, None]:
        steps: asyncio.Queue[Fetch | None] = asyncio.Queue()
        loop, left = asyncio.get_running_loop(), threading.Event()

        def tell(step: Fetch | None) -> None:
            loop.call_soon_threadsafe(steps.put_nowait, step)

        def work() -> None:
            try:
                self._hub.download(repository, tell, left=left)
            finally:
                tell(None)

        download = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            while (step := await steps.get()) is not None:
                yield step
            await download
        finally:
            left.set()
            # Whoever left early does not want to hear how it ended.
            download.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    def _from_hub(self, model: ModelSpec) -> Path:
        folder = self._hub.locate(Repository.of(model))
        if folder is None:
            raise ModelLoading(
                f"{model.key}: its files are not on this machine yet; `modelmora pull {model.name}` fetches them",
                retry_after_s=10.0,
            )
        return folder

    @staticmethod
    def _folder(model: ModelSpec, folder: Path) -> Path:
        if not folder.is_dir():
            there = sorted(path.name for path in folder.parent.glob("*/"))
            beside = f"; beside it: {', '.join(there)}" if there else ""
            raise ModelLoadFailed(f"{model.key}: there is no folder {folder}{beside}")
        return folder
