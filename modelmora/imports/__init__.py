"""Models that lie on this machine: what their files are, who can run them, and what in them would execute code.

For whoever registers one (the SDK and the command line) and for the server that checks what came. It reads, and runs
nothing of what it reads.
"""

from modelmora.imports.files import LocalFile
from modelmora.imports.formats import Sniffed, refuse_executable, sniff
from modelmora.imports.source import Import, read_import

__all__ = ["Import", "LocalFile", "Sniffed", "read_import", "refuse_executable", "sniff"]
