"""ModelRegistry.yaml: from the file to the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import ValidationError

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.models import MODEL_TYPES, Batching, GroupSpec, ModelSpec
from modelmora.domain.pictures.spaces import IndexSettings
from modelmora.errors import Fault, ValidationFailed
from registry.faults import RegistryError, Wrong, nearest, of_shape, shown
from registry.lines import Document, Place, read
from registry.schema import DeclaredGroup, DeclaredIndex, DeclaredModel, DeclaredRegistry, in_bytes, in_seconds

__all__ = ["Families", "RegistryError", "load"]

DEFAULT_GROUP = "default"

Entries: TypeAlias = Sequence[tuple[Place, dict[str, Any]]]
"""The models as they stand in the file, each with its place."""


@dataclass(frozen=True, slots=True)
class Families:
    """The model families that can be run, and the types of model that each serves."""

    names: Collection[str]
    serves: Callable[[str], Collection[str]]


def load(path: Path, *, families: Families | None = None) -> Catalogue:
    """The catalogue that the file declares; without `families` nothing is said of its providers.

    A `file:` source that is relative starts at the file's folder. Raises RegistryError with every
    fault there is.
    """
    document = read(_text(path))
    faults = [_fault(f"{path.name}:{each.line}: {each.detail}") for each in document.misread]
    if document.value is None and not faults:
        faults = [_fault(f"{path.name}:1: the file is empty; it takes a mapping with version, groups and models")]
    if not faults:
        faults = [wrong.as_fault(path.name, document) for wrong in _everything_wrong(document, families)]
    if faults:
        raise RegistryError(faults)
    return _catalogue(DeclaredRegistry.model_validate(document.value), path.parent)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RegistryError([_fault(f"{path}: there is no such file; MODELMORA_REGISTRY names it")]) from error
    except UnicodeDecodeError as error:
        raise RegistryError([_fault(f"{path}: this is not UTF-8 text")]) from error
    except OSError as error:
        raise RegistryError([_fault(f"{path}: cannot be read: {error.strerror or error}")]) from error


def _fault(detail: str) -> Fault:
    return Fault(ValidationFailed.code, detail, field="registry")


def _everything_wrong(document: Document, families: Families | None) -> list[Wrong]:
    """The faults in the order of the file, one for each place."""
    wrong = list(_between_fields(document, families))
    try:
        DeclaredRegistry.model_validate(document.value)
    except ValidationError as error:
        wrong += of_shape(error, document)
    first: dict[Place, Wrong] = {}
    for each in wrong:
        first.setdefault(each.place, each)
    return sorted(first.values(), key=lambda each: document.line(each.place))


def _between_fields(document: Document, families: Families | None) -> Iterator[Wrong]:
    """What no single field can tell; reads the file as it is, however wrong its shape."""
    value = document.value if isinstance(document.value, dict) else {}
    groups, models = value.get("groups"), value.get("models")
    names = [*(groups if isinstance(groups, dict) else ()), DEFAULT_GROUP]
    entries = [
        (("models", i), m) for i, m in enumerate(models if isinstance(models, list) else ()) if isinstance(m, dict)
    ]
    for place, model in entries:
        if families is not None:
            yield from _not_run(families, place, model)
        yield from _not_indexed(place, model)
        yield from _unknown((*place, "group"), model.get("group"), list(dict.fromkeys(names)), "a group under `groups`")
    yield from _twice(document, entries)
    yield from _several_defaults(document, entries)


def _not_run(families: Families, place: Place, model: dict[str, Any]) -> Iterator[Wrong]:
    """A family that there is not, or that serves no models of this type."""
    provider, type_ = model.get("provider"), model.get("type")
    yield from _unknown((*place, "provider"), provider, sorted(families.names), "a model family that can be run")
    if provider in families.names and type_ in MODEL_TYPES:
        serves = sorted(families.serves(str(provider)))
        if type_ not in serves:
            takes = f"what provider {provider} serves: {' or '.join(serves)}"
            yield Wrong(place=(*place, "type"), found=shown(type_), takes=takes)


def _not_indexed(place: Place, model: dict[str, Any]) -> Iterator[Wrong]:
    """An index of what makes no vectors."""
    type_, index = model.get("type"), model.get("index", False)
    if index is not False and type_ in MODEL_TYPES and type_ != "embedding":
        yield Wrong(place=(*place, "index"), found=f"an index of a {type_} model", takes="an index of embedding models")


def _unknown(place: Place, word: object, known: Collection[str], what: str) -> Iterator[Wrong]:
    if isinstance(word, str) and word not in known:
        yield Wrong(place=place, found=shown(word), takes=f"{what}: {', '.join(known)}", near=nearest(word, known))


def _twice(document: Document, entries: Entries) -> Iterator[Wrong]:
    seen: dict[str, int] = {}
    for place, model in entries:
        key = f"{model.get('name')}@{model.get('version')}"
        if key in seen:
            takes = f"another name or version: {key} is on line {seen[key]} already"
            yield Wrong(place=(*place, "name"), found=f"{key} a second time", takes=takes)
        seen.setdefault(key, document.line((*place, "name")))


def _several_defaults(document: Document, entries: Entries) -> Iterator[Wrong]:
    first: dict[str, Place] = {}
    for place, model in entries:
        if model.get("default") is not True:
            continue
        type_ = str(model.get("type"))
        if type_ in first:
            line = document.line((*first[type_], "default"))
            yield Wrong(
                place=(*place, "default"),
                found=f"a second default of type {type_}",
                takes=f"one default a type: the other is on line {line}",
            )
        first.setdefault(type_, place)


def _catalogue(registry: DeclaredRegistry, folder: Path) -> Catalogue:
    models = tuple(_model(declared, folder) for declared in registry.models)
    groups = {name: _group(name, declared) for name, declared in registry.groups.items()}
    if not groups or any(model.group == DEFAULT_GROUP for model in models):
        groups.setdefault(DEFAULT_GROUP, GroupSpec(name=DEFAULT_GROUP))
    return Catalogue(models, tuple(groups.values()))


def _group(name: str, declared: DeclaredGroup) -> GroupSpec:
    gpu, memory = declared.resources.gpu, declared.resources.memory
    return GroupSpec(
        name=name,
        workers=declared.workers,
        cpu=declared.resources.cpu,
        gpus=tuple(range(gpu)) if isinstance(gpu, int) else tuple(gpu),
        memory_bytes=None if memory is None else in_bytes(memory),
    )


def _model(declared: DeclaredModel, folder: Path) -> ModelSpec:
    own = declared.model_dump(exclude={"batching", "idle_ttl", "source", "index"})
    return ModelSpec(
        **own,
        source=_source(declared.source, folder),
        batching=Batching(**declared.batching.model_dump()),
        idle_ttl_s=None if declared.idle_ttl is None else in_seconds(declared.idle_ttl),
        index=_index(declared.index),
    )


def _index(declared: bool | DeclaredIndex) -> IndexSettings | None:
    if isinstance(declared, bool):
        return IndexSettings() if declared else None
    return IndexSettings(**{**declared.model_dump(), "payload": tuple(declared.payload)})


def _source(source: str, folder: Path) -> str:
    scheme, _, rest = source.partition(":")
    return f"file:{folder.absolute() / Path(rest).expanduser()}" if scheme == "file" else source
