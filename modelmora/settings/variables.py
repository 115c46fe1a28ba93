"""The variables there are and the variables that were given."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotenv.parser import parse_stream
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource

from modelmora.errors import Fault, ValidationFailed
from modelmora.settings.explained import Source
from modelmora.settings.faults import SettingsError

PREFIX = "MODELMORA_"
OF_CLIENTS = frozenset({"MODELMORA_URL", "MODELMORA_CONTROL_URL", "MODELMORA_TOKEN"})
"""Read by the SDK and the CLI; a server passes them over."""

_OF_KUBERNETES = re.compile(r"MODELMORA(_[A-Z0-9]+)*_(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP)(_\w+)?)")
_OF_KUBERNETES_VALUE = re.compile(r"(tcp|udp|sctp)://\S+")


@dataclass(frozen=True, slots=True)
class Variable:
    """One setting: its name in the environment and its place in the tree."""

    name: str
    path: tuple[str, ...]
    field: FieldInfo

    @property
    def takes(self) -> str:
        extra = self.field.json_schema_extra
        return str(extra["takes"]) if isinstance(extra, dict) else ""

    @property
    def about(self) -> str:
        return self.field.description or ""


@dataclass(frozen=True, slots=True)
class Given:
    """A value that somebody wrote down, and where."""

    value: str
    source: Source


def declared(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[Variable]:
    """The variables of a settings class, in the order they are written."""
    for name, field in model.model_fields.items():
        here = (*path, name)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from declared(kind, here)
        else:
            yield Variable(PREFIX + "_".join(here).upper(), here, field)


def given(settings: type[BaseSettings], environ: Mapping[str, str] | None, env_file: Path | None) -> dict[str, Given]:
    """Our variables that are set to something, by name; the environment wins over the file."""
    found = {name: Given(value, ".env") for name, value in _from_file(settings, env_file)}
    for name, value in (os.environ if environ is None else environ).items():
        if value:
            found[name.upper()] = Given(value, "environment")
    return {name: each for name, each in found.items() if _is_ours(name, each.value)}


def nested(settings: type[BaseSettings], values: Mapping[str, Given]) -> dict[str, Any]:
    """The values in the shape of the settings class."""
    source = EnvSettingsSource(settings)
    source.env_vars = {name.lower(): each.value for name, each in values.items()}
    return source()


def _is_ours(name: str, value: str) -> bool:
    """Kubernetes gives each pod such variables for every Service, also one that is called `modelmora-http`."""
    kubernetes = _OF_KUBERNETES.fullmatch(name) or (name.endswith("_PORT") and _OF_KUBERNETES_VALUE.fullmatch(value))
    return name.startswith(PREFIX) and name not in OF_CLIENTS and not kubernetes


def _from_file(settings: type[BaseSettings], env_file: Path | None) -> Iterator[tuple[str, str]]:
    if env_file is None or not env_file.is_file():
        return iter(())
    try:
        with env_file.open(encoding="utf-8") as lines:
            unread = [each.original for each in parse_stream(lines) if each.error]
        variables = DotEnvSettingsSource(settings, env_file=env_file).env_vars
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([_unreadable(f"{env_file}: cannot be read as UTF-8 text: {error}")]) from error
    if unread:
        details = (f"{env_file}:{each.line}: got {each.string.strip()!r}, takes NAME=value" for each in unread)
        raise SettingsError([_unreadable(detail) for detail in details])
    return ((name.upper(), value) for name, value in variables.items() if value)


def _unreadable(detail: str) -> Fault:
    return Fault(ValidationFailed.code, detail, field=".env")
