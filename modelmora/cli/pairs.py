"""Options of the form NAME=VALUE."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click

from modelmora.client import Metric, ModelMoraError


def values(option: str, given: Iterable[str]) -> dict[str, Any]:
    """Values are JSON where they can be read as such, else texts. Raises UsageError for what has no `=`."""
    found: dict[str, Any] = {}
    for one in given:
        name, text = _split(option, one, "NAME=VALUE")
        found[name] = _value(text)
    return found


def metrics(option: str, given: Iterable[str]) -> list[Metric]:
    """Each as NAME=NUMBER:DATASET; raises UsageError for what is none."""
    found: list[Metric] = []
    for one in given:
        name, text = _split(option, one, "NAME=NUMBER:DATASET")
        number, _, dataset = text.partition(":")
        try:
            found.append(Metric(name=name, value=float(number), dataset=dataset))
        except (ValueError, ModelMoraError) as cause:
            raise click.UsageError(f"{option} {one}: {cause}; give it as NAME=NUMBER:DATASET") from cause
    return found


def reference(text: str) -> tuple[str, str]:
    """The two halves of `name@version`; raises UsageError for anything else."""
    name, _, version = text.partition("@")
    if not name or not version:
        raise click.UsageError(f"{text}: name a version, as NAME@VERSION; `modelmora versions NAME` lists them")
    return name, version


def _split(option: str, given: str, form: str) -> tuple[str, str]:
    name, equals, text = given.partition("=")
    if not name or not equals:
        raise click.UsageError(f"{option} {given}: give it as {form}")
    return name, text


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
