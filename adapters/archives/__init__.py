"""Archives in files."""

from adapters.archives.tar import TarReader, TarWriter

__all__ = ["TarReader", "TarWriter"]
