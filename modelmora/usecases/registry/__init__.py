"""What is done with what is registered."""

from modelmora.usecases.registry.audit import RegistryAudit, Verified
from modelmora.usecases.registry.files import Collected, RegistryFiles
from modelmora.usecases.registry.models import Amendment, RegistryModels
from modelmora.usecases.registry.once import Claim, Idempotency
from modelmora.usecases.registry.registry import Registry
from modelmora.usecases.registry.trace import Actor
from modelmora.usecases.registry.versions import Registration, RegistryVersions

__all__ = [
    "Actor",
    "Amendment",
    "Claim",
    "Collected",
    "Idempotency",
    "Registration",
    "Registry",
    "RegistryAudit",
    "RegistryFiles",
    "RegistryModels",
    "RegistryVersions",
    "Verified",
]
