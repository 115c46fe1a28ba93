"""Settings to adapters to use cases: the only package that sees both sides of a port.

`api` puts an API worker together, `runner` a runner worker. This module has what every process needs, the
supervisor included: it imports neither half.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from adapters.objects.files import FileObjects
from modelmora.domain.catalogue import Catalogue
from modelmora.ports import Objects
from modelmora.settings import Settings
from registry import declared
from registry.artifacts import FamilyFiles, LocalArtifacts
from registry.weight_cache import WeightCache
from runners import families


def load_catalogue(settings: Settings) -> Catalogue:
    """The declared models; raises RegistryError with every fault in the file."""
    known = declared.Families(families.available(), families.serves)
    return declared.load(settings.registry, families=known)


def artifacts_of(settings: Settings) -> LocalArtifacts:
    """The files of models: the bundle's, the operator's, and below the data folder caches of the others."""
    bundled, limit = Path(declared.__file__).parent / "bundled", settings.weights.max_bytes
    weights = WeightCache(settings.data_dir / "weights", objects_of(settings), limit_bytes=limit or 0)
    return LocalArtifacts(bundled, settings.data_dir / "models", files=_files, weights=weights)


def objects_of(settings: Settings) -> Objects:
    """Where registered files are kept; nothing is asked of it yet."""
    url = urlsplit(settings.objects.url or (settings.data_dir / "objects").as_uri())
    if url.scheme == "file":
        return FileObjects(Path(unquote(url.path)))
    from adapters.objects.s3 import S3Objects  # noqa: PLC0415 - its client takes long to import, and most have none

    secure = url.scheme == "s3+https"
    host = f"{url.hostname}:{url.port or (443 if secure else 80)}"
    key, secret = unquote(url.username or ""), unquote(url.password or "")
    return S3Objects(host, url.path.strip("/"), access_key=key, secret_key=secret, secure=secure)


def _files(provider: str) -> FamilyFiles:
    family = families.provider(provider)
    return FamilyFiles(needed=family.needs_files(), layout=family.layout())
