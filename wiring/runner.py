"""One runner worker: its share of the machine, its models, their families and files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.models import GroupSpec
from modelmora.settings import Settings
from runners import families
from runners.devices import before_torch
from runners.host import HostSettings, RunnerHost, share_of
from wiring import artifacts_of


def runner_host(settings: Settings, catalogue: Catalogue, group: GroupSpec, *, index: int, folder: Path) -> RunnerHost:
    """A runner worker of a group, in this process."""
    share = share_of(group, catalogue.groups, index - 1, memory_fraction=settings.runner.memory_fraction)
    if settings.runner.threads is not None:
        share = replace(share, threads=settings.runner.threads)
    before_torch(share.threads)
    host = HostSettings(
        group=group.name,
        index=index,
        directory=folder,
        share=share,
        drain_timeout_s=settings.runner.drain_timeout_s,
    )
    return RunnerHost(host, catalogue, families.provider, artifacts_of(settings).locate)
