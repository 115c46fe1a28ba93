"""All that is done with what is registered, in one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelmora.usecases.registry.audit import RegistryAudit
from modelmora.usecases.registry.files import RegistryFiles
from modelmora.usecases.registry.models import RegistryModels
from modelmora.usecases.registry.once import Idempotency
from modelmora.usecases.registry.versions import RegistryVersions

if TYPE_CHECKING:  # both look at what is served, which looks at the registry
    from modelmora.usecases.registry.swap import Swap
    from modelmora.usecases.registry.validation import Validation


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """What a door may ask of the registry."""

    models: RegistryModels
    versions: RegistryVersions
    files: RegistryFiles
    audit: RegistryAudit
    once: Idempotency
    swap: Swap
    validation: Validation
