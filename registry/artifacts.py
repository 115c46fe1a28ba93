"""Where the files of a model are on this machine, and how they get there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from modelmora.domain.layout import Layout
from modelmora.domain.models import ModelSpec
from modelmora.errors import ModelLoadFailed, ModelLoading
from modelmora.ports import Fetch
from registry.hub import Hub, Repository
from registry.weight_cache import WeightCache


@dataclass(frozen=True, slots=True)
class FamilyFiles:
    """What a family takes: files at all, and which of a hub's repository (None: nothing comes from there)."""

    needed: bool = True
    layout: Layout | None = None


class LocalArtifacts:
    """The port `Artifacts` over folders: the bundle's, the operator's, and caches of the hub's and registered files."""

    def __init__(
        self,
        bundled: Path,
        cache: Path,
        *,
        files: Callable[[str], FamilyFiles],
        weights: WeightCache,
        endpoint: str | None = None,
    ) -> None:
        """`files` says what the models of a provider take; `endpoint` is another hub than the public one."""
        self._bundled = bundled
        self._files = files
        self._hub = Hub(cache, endpoint=endpoint)
        self._weights = weights

    def locate(self, model: ModelSpec) -> Path | None:
        """See the port; looks at files only, never at the network."""
        scheme, _, rest = model.source.partition(":")
        match scheme:
            case _ if not self._files(model.provider).needed:
                return None
            case "bundled":
                return self._folder(model, self._bundled / rest)
            case "file":
                return self._folder(model, Path(rest))
            case "hub":
                return self._from_hub(model)
            case "object":
                return self._weights.place(rest)
            case _:
                raise ModelLoadFailed(f"{model.key}: {scheme} is no source; use bundled:, hub:, file: or object:")

    @asynccontextmanager
    async def using(self, model: ModelSpec) -> AsyncIterator[Path | None]:
        """As `locate`; a registered version's files are fetched and checked first, and stay until the block ends.

        Raises DependencyUnavailable, ArtifactCorrupt.
        """
        scheme, _, rest = model.source.partition(":")
        if scheme != "object":
            yield self.locate(model)
            return
        async with self._weights.using(rest) as folder:
            yield folder

    async def fetch(self, model: ModelSpec) -> AsyncGenerator[Fetch, None]:
        """See the port; a consumer that leaves stops the download, and the next one resumes it."""
        licence = None
        try:
            async with self.using(model) as folder:
                pass  # one that was registered is here now
        except ModelLoading:
            async with aclosing(self._download(self._repository(model))) as steps:
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
        folder = self._hub.locate(self._repository(model))
        if folder is None:
            raise ModelLoading(
                f"{model.key}: its files are not on this machine yet; `modelmora pull {model.name}` fetches them",
                retry_after_s=10.0,
            )
        return folder

    def _repository(self, model: ModelSpec) -> Repository:
        return Repository.of(model, self._files(model.provider).layout)

    @staticmethod
    def _folder(model: ModelSpec, folder: Path) -> Path:
        if not folder.is_dir():
            there = sorted(path.name for path in folder.parent.glob("*/"))
            beside = f"; beside it: {', '.join(there)}" if there else ""
            raise ModelLoadFailed(f"{model.key}: there is no folder {folder}{beside}")
        return folder
