"""Processes that find neither torch nor what needs it; open_clip is there, unimportable, for its vocabulary."""

from __future__ import annotations

from pathlib import Path

MISSING = ("torch", "torchvision", "timm", "transformers", "segment_anything", "tensorflow", "openvino", "nncf")

_SITE = f"""
import sys

class _Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {MISSING!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, _Missing())
"""


def path_without_torch(folder: Path) -> str:
    """A folder for PYTHONPATH."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITE)
    return str(folder)
