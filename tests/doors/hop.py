"""Both sides of the hop in one process: hosts on Unix sockets, and a handle that finds them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Self

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.inference import Call, Content, Embedded, Text
from modelmora.domain.models import Batching, GroupSpec, ModelSpec
from modelmora.domain.outcome import Outcome
from modelmora.ports import Footprint
from runners import families
from runners.devices import Share
from runners.handle import RunnerHandle
from runners.hop.errands import Errands, HandleSettings
from runners.hop.fleet import Fleet
from runners.host import HostSettings, RunnerHost
from runners.inference import RunnerInference
from runners.provider import AnyProvider
from tests.families import Family
from tests.folders import Folders


def own(**batching: Any) -> ModelSpec:
    """A model of the family that a `Hop` has."""
    return ModelSpec(
        name="own",
        version="1.0.0",
        type="embedding",
        provider="family",
        source="bundled:own",
        batching=Batching(**batching),
    )


def call(*, within_s: float = 30.0) -> Call:
    return Call(request_id="r", deadline=time.monotonic() + within_s)


class Hop:
    """Hosts of these models in this process and a handle that finds them, from entering the block to its end.

    `family` may be exchanged; other providers are the real ones. `known` are the footprints that the API has.
    """

    def __init__(
        self,
        directory: Path,
        *models: ModelSpec,
        budget_bytes: int = 0,
        known: Callable[[str], Awaitable[Sequence[Footprint]]] | None = None,
    ) -> None:
        self.directory = directory
        self.family = Family()
        self.hosts: list[RunnerHost] = []
        self.fleet = Fleet({"default": directory}, known=known)
        settings = HandleSettings(decode_threads=1, max_in_flight=64, max_pixels=10_000, max_text_chars=2_000)
        self.handle = RunnerHandle(self.fleet, {"default": 1})
        self.errands = Errands(self.fleet, settings)
        self.inference = RunnerInference(self.errands)
        self._catalogue = Catalogue(models, (GroupSpec(),))
        self._share = Share(threads=1, budget_bytes=budget_bytes)

    async def __aenter__(self) -> Self:
        await self.fleet.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for gate in (self.family.running, self.family.loading, self.family.closing):
            gate.open()
        self.errands.close()
        await self.handle.close()
        for host in self.hosts:
            await host.stop()

    async def host(self, index: int = 1) -> RunnerHost:
        """One more worker."""
        settings = HostSettings(
            group="default", index=index, directory=self.directory, share=self._share, drain_timeout_s=5.0
        )
        host = RunnerHost(settings, self._catalogue, self._provider, Folders(lambda _: self.directory))
        self.hosts.append(host)
        await host.start()
        return host

    async def texts(self, spec: ModelSpec, *texts: str, within_s: float = 30.0) -> list[Outcome[Embedded]]:
        """What becomes of texts that are asked for together."""
        items: list[Content] = [Text(text) for text in texts]
        return await self.inference.embed(spec, "embed_text", items, call=call(within_s=within_s))

    def _provider(self, name: str) -> AnyProvider:
        return self.family if name == "family" else families.provider(name)
