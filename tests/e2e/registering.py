"""Versions of the bundled model, registered over REST as a user's script would do it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import httpx
from safetensors.torch import load_file, save_file

from tests.e2e.serving import ROOT
from tests.support import wait_until

BUNDLED = ROOT / "registry" / "bundled" / "shapes-clip"
WEIGHTS, PROJECTION = "open_clip_model.safetensors", "visual.proj"


def turned(folder: Path) -> Path:
    """The bundled model, but each vector of a picture points the opposite way."""
    shutil.copytree(BUNDLED, folder)
    weights = load_file(folder / WEIGHTS)
    weights[PROJECTION] = -weights[PROJECTION]
    save_file(weights, folder / WEIGHTS)
    return folder


def register(url: str, name: str, version: str, folder: Path = BUNDLED, **more: Any) -> dict[str, Any]:
    """Files, model and version; the entry as it is once it was validated."""
    with httpx.Client(base_url=url, timeout=120) as http:
        files = [
            _put(http, path, str(path.relative_to(folder))) for path in sorted(folder.rglob("*")) if path.is_file()
        ]
        made = http.post("/api/v1/models", json={"name": name, "type": "embedding"})
        assert made.status_code in (201, 409), made.text
        asked = {"version": version, "files": files, "provider": "open_clip", **more}
        entry = http.post(f"/api/v1/models/{name}/versions", json=asked)
        assert entry.status_code == 201, entry.text
        wait_until(lambda: _settled(http, name, version), within_s=240, what="validation")
        return _version(http, name, version)


def _settled(http: httpx.Client, name: str, version: str) -> bool:
    """It was validated; the first that passes is made current a moment later."""
    state = _version(http, name, version)["state"]
    named = http.get(f"/api/v1/models/{name}").json()["current"] is not None
    return state != "registered" and (named or state != "approved")


def _version(http: httpx.Client, name: str, version: str) -> dict[str, Any]:
    found: dict[str, Any] = http.get(f"/api/v1/models/{name}/versions/{version}").raise_for_status().json()
    return found


def _put(http: httpx.Client, path: Path, name: str) -> dict[str, Any]:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with path.open("rb") as file:
        http.put(f"/api/v1/artifacts/{digest}", content=file).raise_for_status()
    return {"path": name, "bytes": path.stat().st_size, "sha256": digest}
