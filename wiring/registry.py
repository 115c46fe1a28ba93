"""The registry of one API worker: its use cases over the database, the object store and the runners."""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime

from adapters.database import Database
from api.calls import new_id
from modelmora.domain.catalogue import Catalogue
from modelmora.ports import ModelHost, Objects
from modelmora.usecases.registry.audit import RegistryAudit
from modelmora.usecases.registry.declaration import declare
from modelmora.usecases.registry.files import RegistryFiles
from modelmora.usecases.registry.models import RegistryModels
from modelmora.usecases.registry.once import Idempotency
from modelmora.usecases.registry.registry import Registry
from modelmora.usecases.registry.roster import Roster
from modelmora.usecases.registry.swap import Swap
from modelmora.usecases.registry.validation import Validation
from modelmora.usecases.registry.versions import RegistryVersions


def registry_of(database: Database, objects: Objects, roster: Roster, host: ModelHost) -> Registry:
    """Everything that a door may ask of the registry."""
    models = RegistryModels(database.models, new_id=new_id, clock=_now)
    versions = RegistryVersions(
        database.models,
        database.versions,
        together=database.together,
        lineages=database.lineage,
        objects=objects,
        holds=database.holds,
        new_id=new_id,
        clock=_now,
        groups=[group.name for group in roster.now.groups],
    )
    holder = f"{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(4)}"
    return Registry(
        models=models,
        versions=versions,
        files=RegistryFiles(objects, database.holds, database.leases, clock=_now),
        audit=RegistryAudit(database.audit),
        once=Idempotency(database.idempotency),
        swap=Swap(models, versions, roster, host, database.desired),
        validation=Validation(models, versions, roster, host, database.leases, holder=holder),
    )


async def follow_registry(database: Database, declared: Catalogue) -> Roster:
    """What is declared becomes entries; the roster knows everything that there is now. Raises DependencyUnavailable."""
    refused = await declare(
        declared.models,
        models=database.models,
        versions=database.versions,
        together=database.together,
        new_id=new_id,
        clock=_now,
    )
    keys = [one.key for one in refused]
    roster = Roster(declared, database.models, database.versions, database.audit, refused=keys)
    await roster.refresh()
    return roster


def _now() -> datetime:
    return datetime.now(UTC)
