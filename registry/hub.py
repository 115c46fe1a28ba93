"""Model files from a Hugging Face hub: found in the local cache, or downloaded into it."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from modelmora.domain.layout import Layout
from modelmora.domain.models import ModelSpec
from modelmora.errors import DependencyUnavailable, ModelLoadFailed, ModelMoraError
from modelmora.ports import Fetch

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo


@dataclass(frozen=True, slots=True)
class Repository:
    """`hub:ORGANISATION/NAME@REVISION` taken apart, and the files of it that are wanted."""

    model: ModelSpec
    name: str
    revision: str
    layout: Layout

    @classmethod
    def of(cls, model: ModelSpec, layout: Layout | None) -> Repository:
        """The repository of a `hub:` model; raises ModelLoadFailed for a family that takes nothing from there."""
        name, _, revision = model.source.removeprefix("hub:").partition("@")
        if layout is None:
            said = f"models of provider {model.provider} do not come from the hub; use `source: file:PATH`"
            raise ModelLoadFailed(f"{model.key}: {said}", field="source")
        return cls(model, name, revision or "main", layout)


class Hub:
    """One hub (None: the public one, or HF_ENDPOINT) and the folder that keeps what came from it."""

    def __init__(self, cache: Path, *, endpoint: str | None = None) -> None:
        self._cache = cache
        self._endpoint = endpoint

    def locate(self, repository: Repository) -> Path | None:
        """The folder of a whole download, without asking the network."""
        layout = repository.layout
        config = self._root(repository, layout.config) if layout.config is not None else None
        weights = [root for name in layout.weights if (root := self._root(repository, name)) is not None]
        # Weights are downloaded last: where they are, everything is.
        return next((root for root in weights if layout.config is None or root == config), None)

    def download(self, repository: Repository, tell: Callable[[Fetch], None], *, left: threading.Event) -> None:
        """Downloads what is wanted, telling each step; stops with an error once `left` is set. Blocks."""
        with _translated(repository):
            info = self._info(repository)
            sizes = {each.rfilename: each.size or 0 for each in info.siblings or ()}
            files = list(_wanted(repository, sizes))
            licence = getattr(info.card_data, "license", None)
            steps = _Steps(repository.model.key, {name: sizes[name] for name in files}, licence, tell)
            steps.told(0)
            for name in files:
                self._download_file(repository, name, _bar(steps.told, left))
                steps.finish(name)

    def _download_file(self, repository: Repository, name: str, bar: type[Any]) -> None:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415 - half a second that only a download has to pay

        hf_hub_download(
            repository.name,
            name,
            revision=repository.revision,
            cache_dir=self._cache,
            endpoint=self._endpoint,
            tqdm_class=bar,
        )

    def _info(self, repository: Repository) -> ModelInfo:
        from huggingface_hub import HfApi  # noqa: PLC0415 - as above

        api = HfApi(endpoint=self._endpoint)
        return api.model_info(repository.name, revision=repository.revision, files_metadata=True, timeout=30)

    def _root(self, repository: Repository, name: str) -> Path | None:
        """The folder that the repository's file lies in, by its path there."""
        found = self._cached(repository, name)
        return found.parents[len(PurePath(name).parts) - 1] if found is not None else None

    def _cached(self, repository: Repository, name: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - as above

        found = try_to_load_from_cache(repository.name, name, cache_dir=self._cache, revision=repository.revision)
        return Path(found) if isinstance(found, str) else None


class _Steps:
    """Adds up the bytes of all files; a file that was here already counts as well."""

    def __init__(self, model: str, sizes: dict[str, int], licence: str | None, tell: Callable[[Fetch], None]) -> None:
        self._model = model
        self._sizes = sizes
        self._licence = licence
        self._tell = tell
        self._finished = 0

    def told(self, of_this_file: int) -> None:
        """So many bytes of the file that is on its way have come."""
        total = sum(self._sizes.values())
        done = min(self._finished + of_this_file, total)
        self._tell(Fetch(model=self._model, done_bytes=done, total_bytes=total, licence=self._licence))

    def finish(self, name: str) -> None:
        self._finished += self._sizes[name]
        self.told(0)


def _wanted(repository: Repository, there: dict[str, int]) -> Iterator[str]:
    """The files to download, the weights last."""
    layout = repository.layout
    weights = next((name for name in layout.weights if name in there), None)
    config = [] if layout.config is None else [layout.config]
    for names in (config, layout.weights):
        if names and not any(name in there for name in names):
            raise ModelLoadFailed(
                f"{repository.model.key}: {repository.name} has no {' or '.join(names)}, "
                f"so {repository.model.provider} cannot run it; check `source` in the registry"
            )
    yield from config
    yield from (name for name in layout.optional if name in there)
    yield str(weights)


def _bar(told: Callable[[int], None], left: threading.Event) -> type[Any]:
    """A progress bar that shows nothing and tells how far one file is."""
    from huggingface_hub.utils.tqdm import tqdm  # noqa: PLC0415 - as above

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]  # not typed there
            self._come = int(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            if left.is_set():
                raise InterruptedError("nobody waits for this download any more")
            self._come += int(n or 0)
            told(self._come)

        def update_transfer(self, n: float) -> None:
            """Present so that the hub's other protocol uses one bar, not two."""

    return Bar


@contextmanager
def _translated(repository: Repository) -> Iterator[None]:
    try:
        yield
    except ModelMoraError:
        raise
    except Exception as error:
        raise _translation(repository, error) from error


def _translation(repository: Repository, error: Exception) -> ModelMoraError:
    from huggingface_hub import errors  # noqa: PLC0415 - as above

    key, name, revision = repository.model.key, repository.name, repository.revision
    match error:
        case errors.GatedRepoError():
            return ModelLoadFailed(f"{key}: {name} is given out on conditions; accept them at the hub and set HF_TOKEN")
        case errors.RepositoryNotFoundError():
            return ModelLoadFailed(f"{key}: the hub has no repository {name}, or it is private: then set HF_TOKEN")
        case errors.RevisionNotFoundError():
            return ModelLoadFailed(f"{key}: {name} has no revision {revision}; check `source` in the registry")
        case OSError(errno=errno.ENOSPC | errno.EACCES | errno.EROFS | errno.EPERM):
            return ModelLoadFailed(f"{key}: its files cannot be written: {error.strerror}: {error.filename}")
        case _:
            return DependencyUnavailable(
                f"{key}: {name} could not be fetched from the hub ({type(error).__name__}); try again, "
                "or put its files into a folder and declare `source: file:PATH`"
            )
