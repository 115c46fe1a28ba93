"""One runner worker: its share of the machine, its models, their families and files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.models import GroupSpec
from modelmora.settings import Settings
from runners import families
from runners.devices import Share, before_torch, share_of
from runners.host import HostSettings, RunnerHost
from wiring import artifacts_of


def own_share(settings: Settings, catalogue: Catalogue, group: GroupSpec, *, index: int) -> Share:
    """What worker `index` (from 1) of a group may use; sets what must be set before torch is imported."""
    share = share_of(group, catalogue.groups, index - 1, memory_fraction=settings.runner.memory_fraction)
    if settings.runner.threads is not None:
        share = replace(share, threads=settings.runner.threads)
    before_torch(share.threads)
    return share


def runner_host(settings: Settings, catalogue: Catalogue, group: GroupSpec, *, index: int, folder: Path) -> RunnerHost:
    """A runner worker of a group, in this process."""
    share = own_share(settings, catalogue, group, index=index)
    host = HostSettings(
        group=group.name,
        index=index,
        directory=folder,
        share=share,
        drain_timeout_s=settings.runner.drain_timeout_s,
        hang_s=settings.runner.hang_s,
        parity=settings.data_dir / "parity",
        engines=settings.data_dir / "engines",
    )
    return RunnerHost(host, catalogue, families.provider, artifacts_of(settings))
