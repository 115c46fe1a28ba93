"""Settings to adapters to use cases: the only package that sees both sides of a port.

`api` puts an API worker together, `runner` a runner worker. This module has what every process needs, the
supervisor included: it imports neither half.
"""

from __future__ import annotations

from pathlib import Path

from modelmora.domain.catalogue import Catalogue
from modelmora.settings import Settings
from registry import declared
from registry.artifacts import FamilyFiles, LocalArtifacts
from runners import families


def load_catalogue(settings: Settings) -> Catalogue:
    """The declared models; raises RegistryError with every fault in the file."""
    known = declared.Families(families.available(), families.serves)
    return declared.load(settings.registry, families=known)


def artifacts_of(settings: Settings) -> LocalArtifacts:
    """The files of models: the bundle's, the operator's, the hub's cache below the data folder."""
    bundled = Path(declared.__file__).parent / "bundled"
    return LocalArtifacts(bundled, settings.data_dir / "models", files=_files)


def _files(provider: str) -> FamilyFiles:
    family = families.provider(provider)
    return FamilyFiles(needed=family.needs_files(), layout=family.layout())
