"""What is done with what is registered."""

from modelmora.usecases.registry.models import RegistryModels
from modelmora.usecases.registry.trace import Actor
from modelmora.usecases.registry.versions import Registration, RegistryVersions

__all__ = ["Actor", "Registration", "RegistryModels", "RegistryVersions"]
