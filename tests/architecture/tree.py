"""The files of the repository, as the tests of its shape see them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = (
    "modelmora",
    "api",
    "runners",
    "registry",
    "adapters",
    "subscribers",
    "operations",
    "wiring",
    "load",
    "training",
)
_NOT_OURS = {"__pycache__", "build", "dist", "node_modules"}


def files(directory: Path = ROOT) -> Iterator[Path]:
    """Every file but those of hidden folders (`.ci` is ours), builds and caches."""
    for path in sorted(directory.iterdir()):
        hidden = path.name.startswith(".") and path.name != ".ci"
        if path.is_dir():
            if not hidden and path.name not in _NOT_OURS and path.suffix != ".egg-info":
                yield from files(path)
        else:
            yield path


def modules() -> Iterator[Path]:
    """The product's modules, without generated ones."""
    rooms = (path for room in ROOMS if (ROOT / room).is_dir() for path in files(ROOT / room))
    doors = ROOT.glob("*.py")
    for path in (*doors, *rooms):
        if path.suffix == ".py" and not path.stem.endswith(("_pb2", "_pb2_grpc")):
            yield path
