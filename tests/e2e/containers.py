"""An image built and run by buildah and podman, without a daemon and without a registry of images."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.support import wait_until

ROOT = Path(__file__).resolve().parents[2]
PODMAN = ("podman", "--cgroup-manager", "cgroupfs", "--runtime", "runc")
LIMITS = ("--ulimit", "nofile=1024:20000", "--ulimit", "nproc=4096:4096")


@dataclass(frozen=True, slots=True)
class Engine:
    """A store of images of its own below `folder`."""

    folder: Path
    environment: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        conf = self.folder / "storage.conf"
        conf.write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{self.folder / "graph"}"\nrunroot = "{self.folder / "run"}"\n'
        )
        (self.folder / "bentoml").mkdir()
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MODELMORA_", "BENTOML_"))}
        own = {
            "CONTAINERS_STORAGE_CONF": str(conf),
            "BUILDAH_ISOLATION": "chroot",
            "BENTOML_HOME": str(self.folder / "bentoml"),
        }
        object.__setattr__(self, "environment", {**kept, **own})

    def run(self, *command: str, within_s: float = 120.0, **more: str) -> str:
        """What it prints; fails with what it says."""
        ran = subprocess.run(
            command, cwd=ROOT, env={**self.environment, **more}, capture_output=True, text=True, timeout=within_s,
            check=False,
        )  # fmt: skip
        assert ran.returncode == 0, f"{' '.join(command)}: {ran.stdout[-3000:]}{ran.stderr[-3000:]}"
        return ran.stdout

    def inspect(self, image: str) -> dict[str, Any]:
        (found,) = json.loads(self.run(*PODMAN, "image", "inspect", image))
        return dict(found)


@dataclass(slots=True)
class Container:
    """One that runs, with the network of this machine."""

    engine: Engine
    name: str

    @staticmethod
    def start(
        engine: Engine, image: str, name: str, env: Mapping[str, str], command: Sequence[str] = (), *, volume: str = ""
    ) -> Container:
        """`volume`: the name of one that others use, too; else it has its own."""
        variables = [part for key, value in env.items() for part in ("-e", f"{key}={value}")]
        if volume:
            variables += ["-v", f"{volume}:/var/lib/modelmora"]
        engine.run(
            *PODMAN, "run", "-d", "--name", name, "--network=host", *LIMITS, *variables, f"localhost/{image}", *command
        )
        return Container(engine, name)

    def podman(self, *command: str, within_s: float = 120.0) -> str:
        return self.engine.run(*PODMAN, *command, within_s=within_s)

    def log(self) -> str:
        ran = subprocess.run(
            (*PODMAN, "logs", self.name), env=dict(self.engine.environment), capture_output=True, text=True, check=False
        )
        return ran.stdout + ran.stderr

    def state(self) -> dict[str, Any]:
        (found,) = json.loads(self.podman("inspect", self.name))
        return dict(found["State"])

    def wait_ready(self, url: str, within_s: float = 120.0) -> None:
        def ready() -> bool:
            assert self.state()["Running"], self.log()[-3000:]
            try:
                return httpx.get(f"{url}/readyz", timeout=2).status_code == 200
            except httpx.HTTPError:
                return False

        wait_until(ready, within_s=within_s, what=f"{self.name} at {url}")

    def processes(self) -> list[tuple[int, str]]:
        """Its processes as this machine numbers them, and their commands; without what ends meanwhile."""
        lines = self.podman("top", self.name, "hpid", "args").splitlines()[1:]
        told = [line.split(maxsplit=1) for line in lines]
        return [(int(number), command) for number, command in told if number.isdigit()]

    def remove(self) -> None:
        subprocess.run(
            (*PODMAN, "rm", "-f", "-t", "5", "-v", self.name), env=dict(self.engine.environment), capture_output=True,
            timeout=60, check=False,
        )  # fmt: skip
