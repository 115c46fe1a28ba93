"""The documentation as a site: the pages of this folder, README as its first, the SDK's reference from its source."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from modelmora import __version__  # noqa: E402 - found by the line above

project = "ModelMora"
copyright = "the ModelMora authors, Apache-2.0"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"ModelMora {__version__}"
html_extra_path = ["asyncapi.yaml"]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
add_module_names = False
nitpicky = False

suppress_warnings = ["misc.highlighting_failure"]  # of answers cut short, and of drawings in text
myst_links_external_new_tab = True

_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
_INCLUDED = re.compile(r":::\{include\} \.\./(\S+)\n:::\n")
_PAGES = {"README.md": "index.md", "SECURITY.md": "security.md", "CONTRIBUTING.md": "contributing.md"}
_PAGES["CHANGELOG.md"] = "changes.md"


def _as_page(app: Sphinx, name: str, source: list[str]) -> None:
    """A page that stands for a file of the repository's first folder has its text, and links lead where they should."""
    text = _INCLUDED.sub(lambda found: _linked((ROOT / found[1]).read_text(), ROOT), source[0])
    source[0] = _linked(text, ROOT / "docs")


def _linked(text: str, folder: Path) -> str:
    """To pages as pages; what else is in the repository is named, since it is not on the site."""

    def link(found: re.Match[str]) -> str:
        file = (folder / found[2]).resolve()
        if not file.is_relative_to(ROOT) or not file.exists():
            return found[0]
        if file.is_relative_to(ROOT / "docs"):
            return f"[{found[1]}]({file.relative_to(ROOT / 'docs')}{found[3] or ''})"
        inside = str(file.relative_to(ROOT))
        if inside in _PAGES:
            return f"[{found[1]}]({_PAGES[inside]}{found[3] or ''})"
        return found[1] if found[1].startswith("`") else f"{found[1]} (`{inside}`)"

    return _LINK.sub(link, text)


def setup(app: Sphinx) -> None:
    """Sphinx asks for it."""
    app.connect("source-read", _as_page)
