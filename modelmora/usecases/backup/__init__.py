"""All that is kept into one file, and back."""

from modelmora.usecases.backup.backup import Backup
from modelmora.usecases.backup.restore import Restore

__all__ = ["Backup", "Restore"]
