"""What an operator may set: environment variables `MODELMORA_<GROUP>_<NAME>`, or the same lines in `.env`."""

from modelmora.settings.explained import Explained
from modelmora.settings.faults import SettingsError
from modelmora.settings.root import Settings

__all__ = ["Explained", "Settings", "SettingsError"]
