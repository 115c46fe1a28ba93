"""The registry of one API worker: its use cases over the database, the object store and the runners."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from adapters.database import Database
from modelmora.domain.catalogue import Catalogue
from modelmora.domain.models import ModelSpec
from modelmora.ids import new_id
from modelmora.ports import DesiredModels, ModelHost, Objects
from modelmora.usecases.registry.audit import RegistryAudit
from modelmora.usecases.registry.declaration import declare
from modelmora.usecases.registry.declared import Refused
from modelmora.usecases.registry.files import RegistryFiles
from modelmora.usecases.registry.models import RegistryModels
from modelmora.usecases.registry.once import Idempotency
from modelmora.usecases.registry.registry import Registry
from modelmora.usecases.registry.roster import SETTLED_S, Roster
from modelmora.usecases.registry.swap import Swap
from modelmora.usecases.registry.validation import Validation
from modelmora.usecases.registry.versions import RegistryVersions


def now() -> datetime:
    return datetime.now(UTC)


def registry_of(
    database: Database,
    objects: Objects,
    roster: Roster,
    host: ModelHost,
    *,
    desired: DesiredModels | None = None,
    new_id: Callable[[], str] = new_id,
    clock: Callable[[], datetime] = now,
    drain_s: float = SETTLED_S,
) -> Registry:
    """Everything that a door may ask of the registry; `desired` None: the database's."""
    models = RegistryModels(database.models, new_id=new_id, clock=clock)
    versions = RegistryVersions(
        database.models,
        database.versions,
        together=database.together,
        lineages=database.lineage,
        objects=objects,
        holds=database.holds,
        new_id=new_id,
        clock=clock,
        groups=[group.name for group in roster.now.groups],
    )
    holder = f"{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(4)}"
    return Registry(
        models=models,
        versions=versions,
        files=RegistryFiles(objects, database.holds, database.leases, clock=clock),
        audit=RegistryAudit(database.audit),
        once=Idempotency(database.idempotency),
        swap=Swap(models, versions, roster, host, desired or database.desired, drain_s=drain_s),
        validation=Validation(models, versions, roster, host, database.leases, holder=holder),
    )


async def follow_registry(database: Database, declared: Catalogue) -> Roster:
    """What is declared becomes entries; the roster knows everything that there is now. Raises DependencyUnavailable."""
    refused = await declare_in(database, declared.models)
    keys = [one.key for one in refused]
    roster = Roster(declared, database.models, database.versions, database.audit, refused=keys)
    await roster.refresh()
    return roster


async def declare_in(
    database: Database,
    specs: Sequence[ModelSpec],
    *,
    new_id: Callable[[], str] = new_id,
    clock: Callable[[], datetime] = now,
) -> tuple[Refused, ...]:
    """See `declare`."""
    return await declare(
        specs,
        models=database.models,
        versions=database.versions,
        together=database.together,
        new_id=new_id,
        clock=clock,
    )
