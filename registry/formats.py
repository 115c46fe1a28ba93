"""Which family a folder of files belongs to, and what in it would execute: the core tells it to whoever asks."""

from modelmora.imports.formats import Sniffed, refuse_executable, sniff

__all__ = ["Sniffed", "refuse_executable", "sniff"]
